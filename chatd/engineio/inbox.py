"""A bounded queue of messages that a client sent and that are not handled yet.

Bounded in bytes: in what the messages take in memory. At the bound the task that reads from the
client waits, so that nothing more is read from it and TCP holds the client back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

import trio

from chatd.changed import Changed

__all__ = ["Inbox", "MessageInbox"]

# What a string or bytes object and its place in the queue take, besides their content.
_MESSAGE_BYTES: Final = 128

T = TypeVar("T")


class Inbox(Generic[T]):
    """A queue with one task that fills it and one that takes from it.

    An empty queue has room for one item of any size: it is in memory already.

    Args:
        max_bytes: At most this many bytes wait.
        paused: Called with True when the filling task has to wait for room, and with False when it
            goes on.

    Attributes:
        changed: Notified when an item was put or taken, and at ``close``.
    """

    __slots__ = ("_bytes", "_closed", "_items", "_max_bytes", "_paused", "changed")

    def __init__(self, max_bytes: int, paused: Callable[[bool], None]) -> None:
        self._max_bytes = max_bytes
        self._paused = paused
        # None while it is empty: an empty deque takes 760 bytes, and every idle connection has one.
        self._items: deque[tuple[T, int]] | None = None
        self._bytes = 0
        self._closed = False
        self.changed = Changed()

    def __len__(self) -> int:
        return len(self._items) if self._items is not None else 0

    @property
    def idle(self) -> bool:
        """Whether the queue is empty and its task waits for the next item, which it will take."""
        return self._items is None and self.changed.awaited

    def full(self, size: int) -> bool:
        """Return whether an item of ``size`` bytes has to wait."""
        return self._bytes > 0 and self._bytes + size > self._max_bytes and not self._closed

    async def room(self, size: int) -> None:
        """Wait until there is room for an item of ``size`` bytes, or until ``close``."""
        if not self.full(size):
            return
        self._paused(True)
        while self.full(size):
            await self.changed.wait()
        self._paused(False)

    def put(self, item: T, size: int) -> None:
        """Append an item. The bound is not checked: ``room`` comes first."""
        if self._items is None:
            self._items = deque()
        self._items.append((item, size))
        self._bytes += size
        self.changed.notify()

    def put_first(self, item: T, size: int) -> None:
        """Put an item in front of all others. The bound is not checked."""
        if self._items is None:
            self._items = deque()
        self._items.appendleft((item, size))
        self._bytes += size
        self.changed.notify()

    def take(self) -> T | None:
        """Remove and return the oldest item; None if there is none."""
        items = self._items
        if items is None:
            return None
        item, size = items.popleft()
        if not items:
            self._items = None
        self._bytes -= size
        self.changed.notify()
        return item

    async def next(self) -> T:
        """Wait for the oldest item, and remove and return it.

        Raises:
            StopAsyncIteration: The queue is closed and empty.
        """
        await trio.lowlevel.checkpoint()
        while (item := self.take()) is None:
            if self._closed:
                raise StopAsyncIteration
            await self.changed.wait()
        return item

    def close(self) -> None:
        """Release all waiting tasks. The items stay."""
        self._closed = True
        self.changed.notify()


class MessageInbox(Inbox[str | bytes]):
    """The receiver of a session whose messages wait for ``async for``."""

    __slots__ = ()

    def received(self, message: str | bytes) -> Awaitable[None] | None:
        """Accept a message as soon as there is space for it."""
        size = len(message) + _MESSAGE_BYTES
        if self.full(size):
            return self._put_later(message, size)
        self.put(message, size)
        return None

    async def _put_later(self, message: str | bytes, size: int) -> None:
        await self.room(size)
        self.put(message, size)

    def ended(self, reason: str) -> None:
        """End the iteration after the last message."""
        self.close()
