"""One task for all heartbeats: who was silent is pinged, who stays silent is ended."""

from __future__ import annotations

import heapq
import itertools
from typing import Final, Protocol

import trio

__all__ = ["Heartbeat", "Rhythm", "Sweeper"]

# Everybody who came at once is due at once: between so many the loop may do other things.
_BATCH: Final = 64


class Rhythm(Protocol):
    """The settings that count: seconds of silence before a ping, and for its answer."""

    @property
    def ping_interval_seconds(self) -> float: ...

    @property
    def ping_timeout_seconds(self) -> float: ...


class Heartbeat(Protocol):
    """A connection as the sweeper sees it."""

    # When the peer's last byte came, on Trio's clock.
    @property
    def last_heard(self) -> float: ...

    # Whether it is we who are not reading: silence then says nothing of the peer.
    @property
    def holds_peer(self) -> bool: ...

    def ask(self) -> None:
        """Send a ping."""

    def silent(self) -> None:
        """Hear that nothing came since the ping."""


class _Entry:
    __slots__ = ("asked", "heartbeat")

    def __init__(self, heartbeat: Heartbeat) -> None:
        self.heartbeat: Heartbeat | None = heartbeat
        self.asked = -1.0


class Sweeper:
    """Looks only at who is due: a heap by time, in which who spoke meanwhile is put back.

    ``rhythm`` may be replaced while running; each connection takes it up when it is next due.
    """

    def __init__(self, rhythm: Rhythm) -> None:
        self.rhythm = rhythm
        self._due: list[tuple[float, int, _Entry]] = []
        self._count = itertools.count()
        self._entries: dict[Heartbeat, _Entry] = {}
        self._came = trio.Event()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, heartbeat: Heartbeat) -> None:
        entry = self._entries[heartbeat] = _Entry(heartbeat)
        self._put(heartbeat.last_heard + self.rhythm.ping_interval_seconds, entry)
        if self._due[0][2] is entry:
            self._came.set()

    def discard(self, heartbeat: Heartbeat) -> None:
        """Forget a connection; its place in the heap goes when its time comes, or in a rebuild."""
        entry = self._entries.pop(heartbeat, None)
        if entry is not None:
            entry.heartbeat = None
            # A flood of short connections must not leave a heap of the dead behind.
            if len(self._due) > 2 * len(self._entries) + _BATCH:
                self._due = [place for place in self._due if place[2].heartbeat is not None]
                heapq.heapify(self._due)

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            self._came = trio.Event()
            with trio.move_on_at(self._due[0][0] if self._due else float("inf")):
                await self._came.wait()
                # Somebody came, and may be due first: the next round sees.
                continue
            await self._sweep()

    async def _sweep(self) -> None:
        while True:
            now = trio.current_time()
            for _ in range(_BATCH):
                if not self._due or self._due[0][0] > now:
                    return
                self._visit(heapq.heappop(self._due)[2], now)
            await trio.lowlevel.checkpoint()

    def _visit(self, entry: _Entry, now: float) -> None:
        heartbeat = entry.heartbeat
        if heartbeat is None:
            return
        rhythm = self.rhythm
        heard = now if heartbeat.holds_peer else heartbeat.last_heard
        if heard + rhythm.ping_interval_seconds > now:
            entry.asked = -1.0
            self._put(heard + rhythm.ping_interval_seconds, entry)
        elif entry.asked <= heard:
            entry.asked = now
            heartbeat.ask()
            self._put(now + rhythm.ping_timeout_seconds, entry)
        else:
            del self._entries[heartbeat]
            entry.heartbeat = None
            heartbeat.silent()

    def _put(self, due: float, entry: _Entry) -> None:
        heapq.heappush(self._due, (due, next(self._count), entry))
