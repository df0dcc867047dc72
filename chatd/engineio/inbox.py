"""A bounded queue of messages that a client sent and that are not handled yet.

Bounded in items and in bytes. At a bound the task that reads from the client waits, so that nothing
more is read from it and TCP holds the client back.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

import trio

from chatd.changed import Changed

__all__ = ["Inbox", "MessageInbox"]

# The bounds for a session's messages that wait for ``async for``.
_MESSAGES: Final = 64
_MESSAGE_BYTES: Final = 65536

T = TypeVar("T")


class Inbox(Generic[T]):
    """A queue with one task that fills it and one that takes from it.

    At most ``max_items`` items and ``max_bytes`` bytes wait. An empty queue has room for one item
    of any size: it is in memory already.
    """

    __slots__ = ("_bytes", "_changed", "_closed", "_items", "_max_bytes", "_max_items")

    def __init__(self, max_items: int, max_bytes: int) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        # Not a deque: an empty one takes 760 bytes, and every idle connection has one.
        self._items: list[tuple[T, int]] = []
        self._bytes = 0
        self._closed = False
        self._changed = Changed()

    def __len__(self) -> int:
        return len(self._items)

    def full(self, size: int) -> bool:
        """Return whether an item of ``size`` bytes has to wait."""
        if not self._items or self._closed:
            return False
        return len(self._items) >= self._max_items or self._bytes + size > self._max_bytes

    async def room(self, size: int) -> None:
        """Wait until there is room for an item of ``size`` bytes, or until ``close``."""
        while self.full(size):
            await self._changed.wait()

    def put(self, item: T, size: int = 0) -> None:
        """Append an item. The bounds are not checked: ``room`` comes first."""
        self._items.append((item, size))
        self._bytes += size
        self._changed.notify()

    def take(self) -> T | None:
        """Remove and return the oldest item; None if there is none."""
        if not self._items:
            return None
        item, size = self._items.pop(0)
        self._bytes -= size
        self._changed.notify()
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
            await self._changed.wait()
        return item

    def close(self) -> None:
        """Release all waiting tasks. The items stay."""
        self._closed = True
        self._changed.notify()


class MessageInbox(Inbox[str | bytes]):
    """The receiver of a session whose messages wait for ``async for``."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(_MESSAGES, _MESSAGE_BYTES)

    async def received(self, message: str | bytes) -> None:
        """Accept a message as soon as there is space for it."""
        await self.room(len(message))
        self.put(message, len(message))

    def ended(self, reason: str) -> None:
        """End the iteration after the last message."""
        self.close()
