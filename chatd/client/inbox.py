"""What the application has still to take: bounded, in order; it never holds up the connection."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import trio

__all__ = ["Inbox"]

_T = TypeVar("_T")


class Inbox(Generic[_T]):
    """A queue of at most ``most`` events, whose writer decides what does not fit."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._events: deque[_T] = deque()
        self._takers = trio.lowlevel.ParkingLot()
        self._roomy = trio.Event()
        self._ended: Exception | None = None

    def __len__(self) -> int:
        return len(self._events)

    def fits(self, count: int) -> bool:
        """Tell whether ``count`` more may be put."""
        return len(self._events) + count <= self.most

    def put(self, event: _T) -> None:
        """Put an event; the caller has asked `fits`."""
        self._events.append(event)
        self._takers.unpark()

    def end(self, fault: Exception) -> None:
        """Take no more; who has taken all that is there gets ``fault``."""
        self._ended = fault
        self._takers.unpark_all()

    async def half_empty(self) -> None:
        """Wait until half of it is free."""
        while len(self._events) > self.most // 2:
            self._roomy = trio.Event()
            await self._roomy.wait()

    async def take(self) -> _T:
        """Wait for the next event. Raises what `end` was given."""
        await trio.lowlevel.checkpoint()
        while not self._events and self._ended is None:
            await self._takers.park()
        return self.take_nowait()

    def take_nowait(self) -> _T:
        """Take the next event. Raises trio.WouldBlock, or what `end` was given."""
        if not self._events:
            raise trio.WouldBlock if self._ended is None else self._ended
        event = self._events.popleft()
        if len(self._events) <= self.most // 2:
            self._roomy.set()
        return event
