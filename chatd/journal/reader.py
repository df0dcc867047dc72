"""Connections that only read, in threads of their own, so that no read holds up a commit."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import trio

from chatd.journal import Unavailable, schema

__all__ = ["Reader"]

_T = TypeVar("_T")

_CONNECTIONS: Final = 2
"""One slow read must not hold up the pages of those who join; more only fight for the GIL."""

_STEPS: Final = 10_000
"""Instructions of SQLite's machine between two looks at the clock: about 0.2 ms."""

_BUSY_MS: Final = 1000
"""Readers wait for a lock only while the log is recovered or removed."""


class _Watched:
    """A connection and the time at which what it does now is given up."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.deadline = 0.0
        connection.execute("PRAGMA query_only = ON")
        connection.set_progress_handler(lambda: time.monotonic() > self.deadline, _STEPS)


class Reader:
    """Runs queries, each for ``seconds`` at most."""

    def __init__(
        self, path: Path, factory: type[sqlite3.Connection], *, seconds: float = 2.0
    ) -> None:
        self._path = path
        self._factory = factory
        self._seconds = seconds
        self._idle: list[_Watched] = []
        self._limiter = trio.CapacityLimiter(_CONNECTIONS)
        self._closed = False

    async def rows(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Give all rows of the query, which has a LIMIT of its own. Raises `Unavailable`."""
        return await self._in_thread(lambda store: store.execute(query, values).fetchall())

    async def run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do several queries on one and the same state of the store. Raises `Unavailable`."""

        def snapshot(store: sqlite3.Connection) -> _T:
            store.execute("BEGIN")
            try:
                return work(store)
            finally:
                store.execute("ROLLBACK")

        return await self._in_thread(snapshot)

    async def _in_thread(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        return await trio.to_thread.run_sync(self._watch, work, limiter=self._limiter)

    def _watch(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        if self._closed:
            raise Unavailable("the store is closed")
        watched: _Watched | None = None
        try:
            # pop and append are single steps, also between threads.
            watched = self._idle.pop() if self._idle else self._open()
            watched.deadline = time.monotonic() + self._seconds
            done = work(watched.connection)
        except sqlite3.Error as error:
            if watched is not None:
                watched.connection.close()
            raise Unavailable(f"the store cannot be read: {error}") from error
        if self._closed:
            watched.connection.close()
        else:
            self._idle.append(watched)
        return done

    def _open(self) -> _Watched:
        connection = schema.connect(self._path, self._factory, busy_ms=_BUSY_MS)
        try:
            return _Watched(connection)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Close what is idle; what still reads is closed when it is done."""
        self._closed = True
        while self._idle:
            self._idle.pop().connection.close()
