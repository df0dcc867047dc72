"""One task for all heartbeats: looks only at who is due, in a heap by time."""

from __future__ import annotations

import heapq
import itertools
from typing import Final, Protocol

import trio

__all__ = ["STALL_SECONDS", "Beating", "Heartbeats"]

# Everybody who came at once is due at once: between so many the loop may do other things.
_BATCH: Final = 64


STALL_SECONDS: Final = 1.0
"""So late only a loop is that stood still. What came meanwhile is read before anybody is called
silent."""

# A socket that can be read is found in one round of the scheduler, and read in the next.
_ROUNDS: Final = 3


class Beating(Protocol):
    """A session as it is seen here."""

    def beat(self, now: float) -> float | None:
        """Do what is due; give when to look again, on Trio's clock. None: never."""


class _Place:
    __slots__ = ("beating",)

    def __init__(self, beating: Beating) -> None:
        self.beating: Beating | None = beating


class Heartbeats:
    """Calls each ``beat`` when it is due, and not for each sign of life."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, _Place]] = []
        self._count = itertools.count()
        self._places: dict[Beating, _Place] = {}
        self._came = trio.Event()

    def __len__(self) -> int:
        return len(self._places)

    def add(self, beating: Beating, due: float) -> None:
        place = self._places[beating] = _Place(beating)
        self._put(due, place)
        if self._due[0][2] is place:
            self._came.set()

    def discard(self, beating: Beating) -> None:
        """Forget it; its place in the heap goes when its time comes, or in a rebuild."""
        place = self._places.pop(beating, None)
        if place is not None:
            place.beating = None
            # A flood of short sessions must not leave a heap of the dead behind.
            if len(self._due) > 2 * len(self._places) + _BATCH:
                self._due = [entry for entry in self._due if entry[2].beating is not None]
                heapq.heapify(self._due)

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            self._came = trio.Event()
            with trio.move_on_at(self._due[0][0] if self._due else float("inf")):
                await self._came.wait()
                # Somebody came, and may be due first: the next round sees.
                continue
            if self._due and trio.current_time() - self._due[0][0] > STALL_SECONDS:
                for _ in range(_ROUNDS):
                    await trio.lowlevel.checkpoint()
            await self._beat()

    async def _beat(self) -> None:
        while True:
            now = trio.current_time()
            for _ in range(_BATCH):
                if not self._due or self._due[0][0] > now:
                    return
                place = heapq.heappop(self._due)[2]
                if place.beating is not None:
                    due = place.beating.beat(now)
                    if due is not None and place.beating is not None:
                        self._put(due, place)
            await trio.lowlevel.checkpoint()

    def _put(self, due: float, place: _Place) -> None:
        heapq.heappush(self._due, (due, next(self._count), place))
