"""The inbox: what one connection's clients asked for and no handler has begun on yet.

Bounded in packets and in bytes; at a bound who reads waits, and with it the peer.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import trio

__all__ = ["Inbox"]

T = TypeVar("T")


class Inbox(Generic[T]):
    """A queue with one reader and one who fills it.

    ``max_items`` packets and ``max_bytes`` may wait. One item is always taken where none waits,
    whatever its size: it is in memory already.
    """

    __slots__ = ("_bytes", "_closed", "_items", "_max_bytes", "_max_items", "_room")

    def __init__(self, max_items: int, max_bytes: int) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._closed = False
        self._room: trio.Event | None = None

    def __len__(self) -> int:
        return len(self._items)

    def full(self, size: int) -> bool:
        """Tell whether an item of ``size`` bytes would have to wait."""
        if not self._items or self._closed:
            return False
        return len(self._items) >= self._max_items or self._bytes + size > self._max_bytes

    async def room(self, size: int) -> None:
        """Wait until an item of ``size`` bytes has room, or nobody comes any more."""
        while self.full(size):
            self._room = self._room or trio.Event()
            await self._room.wait()

    def put(self, item: T, size: int = 0) -> None:
        """Take an item, room or not: who must wait has waited."""
        self._items.append((item, size))
        self._bytes += size

    def take(self) -> T:
        """Give the oldest item. Raises IndexError where there is none."""
        item, size = self._items.popleft()
        self._bytes -= size
        self._tell()
        return item

    def close(self) -> None:
        """Keep nobody waiting any more: who fills it is gone. What is in it stays."""
        self._closed = True
        self._tell()

    def _tell(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None
