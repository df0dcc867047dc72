"""A lock that is taken at once while it is free."""

from __future__ import annotations

import trio

__all__ = ["Mutex"]


class Mutex:
    """A `trio.Lock` that is taken without a checkpoint while it is free.

    Tasks that have to wait for it get it in order. A task that takes a `trio.Lock` always lets the
    others run before it goes on. So if fifty tasks need the lock in one round of the scheduler,
    they take fifty rounds, even if none of them waits for anything while it holds the lock.
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
