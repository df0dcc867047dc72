"""A lock that is taken at once while it is free."""

from __future__ import annotations

import trio

__all__ = ["Mutex"]


class Mutex:
    """A `trio.Lock` that is taken without a checkpoint while it is free; who waits comes in order.

    A task that takes a `trio.Lock` always lets the others run before it goes on. If fifty tasks
    need the lock in one round of the scheduler, they therefore take fifty rounds, also where what
    they do under the lock does not wait.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = trio.Lock()

    async def __aenter__(self) -> None:
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()

    async def __aexit__(self, *_exception: object) -> None:
        self._lock.release()
