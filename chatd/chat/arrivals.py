"""New clients come in at the pace at which they can be served.

After a restart or an outage, thousands of clients come back within a second, and each of them joins
its rooms at once. If all were let in, each would wait until nearly all had been served. So while
some clients are coming in, the opening handshakes of others are held back: those that are let in
are answered soon, and the others have not asked for anything yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Final

import trio

from chatd.changed import Changed

if TYPE_CHECKING:
    from chatd.chat.connection import Connection

__all__ = ["Arrivals"]

MOST: Final = 64
"""How many clients come in at the same time: some 0.25 s of one core's time."""

FEWEST: Final = 16
"""How many they are at least, however long the machine takes to serve them: clients of one address
that connect and do nothing delay others by a few seconds at most."""

JOIN_SECONDS: Final = 0.5
"""If a join takes longer, fewer clients come in at the same time from then on; if it takes less
than half as long, more."""

GREETING_SECONDS: Final = 0.25
"""How long a client counts as coming in if it does not join a room: clients that connect and do
nothing hold back others only for a moment."""

PATIENCE_SECONDS: Final = 8.0
"""How long an opening handshake is held back at most. The client is then told to try again."""


class Arrivals:
    """The clients that are coming in.

    A client is coming in from its opening handshake until its first `join` has been answered, or
    for `GREETING_SECONDS`. While a client joins a room, it is coming in too.

    Attributes:
        waiting: How many opening handshakes are held back.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._handshakes: deque[float] = deque()
        """Until when each client without a connection counts, on Trio's clock; in their order."""
        self._greeted: dict[Connection, float] = {}
        """The same, for the connections that have not joined a room yet."""
        self._joining = 0
        self._most: float = MOST
        self._turn = trio.Lock()
        self._changed = Changed()

    async def admit(self) -> bool:
        """Wait until a client may come in. Return False if that takes too long.

        Clients come in in the order of these calls.
        """
        # Without a lock, where nobody waits: see `chatd.mutex`.
        admitted = not self.waiting and self._coming_in() < self._most
        if admitted or await self._wait():
            self._handshakes.append(trio.current_time() + GREETING_SECONDS)
            return True
        return False

    async def _wait(self) -> bool:
        """Wait for the client's turn. Return False if that takes too long."""
        self.waiting += 1
        try:
            with trio.move_on_after(PATIENCE_SECONDS):
                async with self._turn:
                    while self._coming_in() >= self._most:
                        with trio.move_on_at(self._next_end()):
                            await self._changed.wait()
                return True
            return False
        finally:
            self.waiting -= 1

    def connected(self, connection: Connection) -> None:
        """Record that a client whose handshake was admitted has a connection now."""
        if self._handshakes:
            self._handshakes.popleft()
        self._greeted[connection] = trio.current_time() + GREETING_SECONDS

    @contextmanager
    def joining(self, connection: Connection) -> Iterator[None]:
        """Count a client as coming in for the duration of the block, in which it joins a room.

        How long that takes decides how many clients come in at the same time, unless the block
        raises: a join that waited for a store which is away says nothing about the pace.
        """
        self._greeted.pop(connection, None)
        self._joining += 1
        began = trio.current_time()
        try:
            yield
            self._adapt(trio.current_time() - began)
        finally:
            self._joining -= 1
            self._changed.notify()

    def _adapt(self, seconds: float) -> None:
        """Let fewer clients in at the same time after a slow join, and more after a fast one."""
        if seconds > JOIN_SECONDS:
            self._most = max(FEWEST, self._most * 0.9)
        elif seconds < JOIN_SECONDS / 2:
            self._most = min(MOST, self._most + 1)

    def gone(self, connection: Connection) -> None:
        """Record that a connection has ended."""
        if self._greeted.pop(connection, None) is not None:
            self._changed.notify()

    def _coming_in(self) -> int:
        now = trio.current_time()
        while self._handshakes and self._handshakes[0] <= now:
            self._handshakes.popleft()
        while self._greeted and (first := next(iter(self._greeted.items())))[1] <= now:
            del self._greeted[first[0]]
        return len(self._handshakes) + len(self._greeted) + self._joining

    def _next_end(self) -> float:
        """Return until when the first of the clients counts that do not join a room."""
        ends = [*islice(self._handshakes, 1), *islice(self._greeted.values(), 1)]
        return min(ends, default=trio.current_time() + GREETING_SECONDS)
