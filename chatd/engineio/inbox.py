"""The inbox of a session whose messages wait for ``async for``."""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

__all__ = ["Inbox"]

# What may wait untaken before reading does; a message more is always taken.
_BYTES: Final = 65536
_MESSAGES: Final = 64


class Inbox:
    """Messages in the order they came. Reading waits while it is full, and goes on after its end.

    A receiver, as ``session`` has it.
    """

    __slots__ = ("_ended", "_messages", "_moved", "_size")

    def __init__(self) -> None:
        self._messages: deque[str | bytes] = deque()
        self._size = 0
        self._ended = False
        self._moved = trio.Event()

    async def received(self, message: str | bytes) -> None:
        self._messages.append(message)
        self._size += len(message)
        self._move()
        while (self._size > _BYTES or len(self._messages) > _MESSAGES) and not self._ended:
            await self._moved.wait()

    def ended(self, reason: str) -> None:
        self._ended = True
        self._move()

    async def next(self) -> str | bytes:
        """Wait for the next message. Raises StopAsyncIteration behind the last."""
        await trio.lowlevel.checkpoint()
        while not self._messages:
            if self._ended:
                raise StopAsyncIteration
            await self._moved.wait()
        message = self._messages.popleft()
        self._size -= len(message)
        self._move()
        return message

    def _move(self) -> None:
        self._moved.set()
        self._moved = trio.Event()
