"""What test clients have in common whose events are objects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, overload

from chatd import client
from chatd.testing.buffer import EventBuffer

__all__ = ["EventClient"]


class EventClient(ABC):
    """A test's client whose events are those of `chatd.client`."""

    room: str | None

    def __init__(
        self,
        take: Callable[[], Awaitable[client.AnyEvent]],
        take_nowait: Callable[[], client.AnyEvent],
    ) -> None:
        self._events: EventBuffer[client.AnyEvent] = EventBuffer(take, take_nowait)

    @property
    @abstractmethod
    def nick(self) -> str:
        """The client's present nick."""

    @overload
    async def next(self, kind: Literal["message"]) -> client.Message: ...
    @overload
    async def next(self, kind: Literal["joined"]) -> client.Joined: ...
    @overload
    async def next(self, kind: Literal["left"]) -> client.Left: ...
    @overload
    async def next(self, kind: Literal["nick"]) -> client.NickChange: ...
    @overload
    async def next(self, kind: Literal["presence"]) -> client.Presence: ...
    @overload
    async def next(self, kind: Literal["notice"]) -> client.Notice: ...
    @overload
    async def next(self, kind: Literal["epoch"]) -> client.Epoch: ...
    @overload
    async def next(self, kind: Literal["bye"]) -> client.Bye: ...
    @overload
    async def next(self, kind: Literal["lost"]) -> client.Lost: ...
    @overload
    async def next(self, kind: Literal["reconnected"]) -> client.Reconnected: ...
    @overload
    async def next(self, kind: Literal["gap"]) -> client.Gap: ...
    @overload
    async def next(self, kind: str | None = None) -> client.AnyEvent: ...
    async def next(self, kind: str | None = None) -> Any:
        """Wait for an event and take it. Others that come first stay for later calls.

        Args:
            kind: The event's ``on``, such as ``"message"``. By default the very next event.

        Returns:
            The event.

        Raises:
            AssertionError: None came within an hour of a virtual clock, 10 seconds of a real one.
            chatd.client.Closed: The client is closed, and has no more events.
        """
        return await self._events.next(self.nick, kind)

    @overload
    def waiting(self, kind: Literal["message"]) -> Sequence[client.Message]: ...
    @overload
    def waiting(self, kind: str | None = None) -> Sequence[client.AnyEvent]: ...
    def waiting(self, kind: str | None = None) -> Any:
        """Return the events that came and were not taken. They stay.

        Args:
            kind: The events' ``on``. By default all events.
        """
        return self._events.waiting(kind)

    async def texts(self, count: int) -> list[str | None]:
        """Take the next messages and return their texts, None for a deleted one.

        Args:
            count: How many messages.

        Raises:
            AssertionError: One of them did not come in time, as for `next`.
        """
        return [(await self.next("message")).text for _ in range(count)]

    def _room(self, room: str | None) -> str:
        if (found := room or self.room) is None:
            raise ValueError(f"{self.nick} is in no room: join one, or name it")
        return found
