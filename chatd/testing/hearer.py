"""Somebody who is told the chat's events as objects, and a test that takes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, overload

from chatd import client
from chatd.testing.mailbox import Mailbox

__all__ = ["Hearer"]


class Hearer(ABC):
    """A client whose events are those of `chatd.client`."""

    room: str | None

    def __init__(
        self,
        take: Callable[[], Awaitable[client.AnyEvent]],
        take_nowait: Callable[[], client.AnyEvent],
    ) -> None:
        self._mailbox: Mailbox[client.AnyEvent] = Mailbox(take, take_nowait)

    @property
    @abstractmethod
    def nick(self) -> str: ...

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
        """Take the next event of ``kind`` (its ``on``), or the very next one.

        Others that come first stay for later calls. Raises AssertionError where none comes: within
        an hour of a virtual clock, 10 seconds of a real one.
        """
        return await self._mailbox.next(self.nick, kind)

    @overload
    def waiting(self, kind: Literal["message"]) -> Sequence[client.Message]: ...
    @overload
    def waiting(self, kind: str | None = None) -> Sequence[client.AnyEvent]: ...
    def waiting(self, kind: str | None = None) -> Any:
        """Give, and leave, the events that have come and were not taken."""
        return self._mailbox.waiting(kind)

    async def texts(self, count: int) -> list[str | None]:
        """Take the next ``count`` messages; gives what they say."""
        return [(await self.next("message")).text for _ in range(count)]

    def _room(self, room: str | None) -> str:
        if (found := room or self.room) is None:
            raise ValueError(f"{self.nick} is in no room: join one, or name it")
        return found
