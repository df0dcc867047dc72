"""The events that the program has not taken yet: bounded and in order."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import trio

__all__ = ["Inbox"]

_T = TypeVar("_T")


class Inbox(Generic[_T]):
    """A queue of at most ``most`` events. Its writer never waits: it decides what does not fit."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._events: deque[_T] = deque()
        self._waiting = trio.lowlevel.ParkingLot()
        self._half_empty = trio.Event()
        self._ended: Exception | None = None

    def __len__(self) -> int:
        return len(self._events)

    def fits(self, count: int) -> bool:
        """Return whether ``count`` more may be put."""
        return len(self._events) + count <= self.most

    def put(self, event: _T) -> None:
        """Add an event. The caller has checked that it `fits`."""
        self._events.append(event)
        self._waiting.unpark()

    def end(self, fault: Exception) -> None:
        """Make `take` raise ``fault`` once all events are taken."""
        self._ended = fault
        self._waiting.unpark_all()

    async def half_empty(self) -> None:
        """Wait until at least half of the queue is free."""
        while len(self._events) > self.most // 2:
            self._half_empty = trio.Event()
            await self._half_empty.wait()

    async def take(self) -> _T:
        """Wait for the next event and return it, or raise what `end` was given."""
        await trio.lowlevel.checkpoint()
        while not self._events and self._ended is None:
            await self._waiting.park()
        return self.take_nowait()

    def take_nowait(self) -> _T:
        """Return the next event, or raise trio.WouldBlock, or what `end` was given."""
        if not self._events:
            raise trio.WouldBlock if self._ended is None else self._ended
        event = self._events.popleft()
        if len(self._events) <= self.most // 2:
            self._half_empty.set()
        return event
