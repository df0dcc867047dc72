"""Timers: one task calls everything that is due at a time, and sleeps until then.

A daemon has one `Timers` for keep-alives, heartbeats, token expiry and everything else that waits
for a time. A timer costs a heap entry and no task. An exception in one timer never reaches another.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Final, TypeAlias

import trio
from trio.lowlevel import ParkingLot

from chatd.logs import Log

__all__ = ["STALL_SECONDS", "Fire", "Timer", "Timers", "ping_due"]

Fire: TypeAlias = Callable[[float], float | None]
"""Called with the current time when it is due. Returns when to be called next, None for never."""

# Connections that were accepted together are due together: other tasks run after each batch.
_BATCH: Final = 64

STALL_SECONDS: Final = 1.0
"""Timers are this late only if the loop was blocked. What clients sent meanwhile is then read
before timers fire, so that no client is taken for silent."""

# The shortest time between two calls of a timer: a due time that is not later than now, because of
# rounding for example, must not make the loop spin.
_LEAST_SECONDS: Final = 0.001

# 0.1 s of Engine.IO's 25 s: as late as a ping may be on a good network.
_STEPS: Final = 256

# After a stall nearly every socket may be readable, and in each round of the scheduler some 200 of
# them are read (wire/poller.py). A round in which nothing is left to read takes 10 µs.
_ROUNDS: Final = 256


def ping_due(heard: float, interval: float) -> float:
    """Return when to ping a peer that was heard last at ``heard``: up to 1/256 before the interval.

    Connections that were opened at about the same time are due at the same moment. So the loop
    wakes up ten times a second for the pings of any number of connections, and not for each.
    """
    step = interval / _STEPS
    return max(heard, math.floor((heard + interval) / step) * step)


class Timer:
    """One callback of a `Timers`, until it returns None, raises, or is cancelled.

    ``fire`` is None once it has ended: what it belonged to can then be freed.
    """

    __slots__ = ("_ended", "fault", "fire")

    def __init__(
        self,
        fire: Fire,
        fault: Callable[[Exception], None] | None,
        ended: Callable[[], None],
    ) -> None:
        self.fire: Fire | None = fire
        self.fault = fault
        self._ended = ended

    def cancel(self) -> None:
        """Never call it again. Does nothing once the timer has ended."""
        if self.fire is not None:
            self.fire = self.fault = None
            self._ended()


class Timers:
    """Timers in a heap by due time. ``len()`` is how many have not ended."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._active = 0
        self._sleeper = ParkingLot()

    def __len__(self) -> int:
        return self._active

    def add(
        self, due: float, fire: Fire, fault: Callable[[Exception], None] | None = None
    ) -> Timer:
        """Call ``fire`` at ``due``, on Trio's clock, and again whenever it says.

        Args:
            due: The time of the first call. One that has passed means at once.
            fire: The callback.
            fault: Called with the exception if ``fire`` raises one, which ends the timer. It logs
                the exception and ends what the timer belongs to. By default it is only logged.
        """
        timer = Timer(fire, fault, self._forget)
        self._active += 1
        self._push(due, timer)
        if self._heap[0][2] is timer:
            self._sleeper.unpark()
        return timer

    async def run(self) -> None:
        """Fire timers until cancelled."""
        while True:
            # Most timers are deadlines that are met: they are cancelled before they are due.
            while self._heap and self._heap[0][2].fire is None:
                heapq.heappop(self._heap)
            due = self._heap[0][0] if self._heap else float("inf")
            with trio.move_on_at(due):
                await self._sleeper.park()
                continue  # an earlier timer was added
            if trio.current_time() - due > STALL_SECONDS:
                for _ in range(_ROUNDS):
                    await trio.lowlevel.checkpoint()
            await self._fire_due()

    async def _fire_due(self) -> None:
        while True:
            now = trio.current_time()
            for _ in range(_BATCH):
                if not self._heap or self._heap[0][0] > now:
                    return
                self._fire(heapq.heappop(self._heap)[2], now)
            await trio.lowlevel.checkpoint()

    def _fire(self, timer: Timer, now: float) -> None:
        if timer.fire is None:
            return
        fault = timer.fault or self._report
        try:
            due = timer.fire(now)
        except Exception as error:  # the timer's boundary
            timer.cancel()
            try:
                fault(error)
            except Exception as another:  # the same
                self._report(another)
            return
        if due is None:
            timer.cancel()
        elif timer.fire is not None:  # not cancelled meanwhile
            self._push(max(due, now + _LEAST_SECONDS), timer)

    def _report(self, error: Exception) -> None:
        self._log.fault(error, detail="a timer")

    def _push(self, due: float, timer: Timer) -> None:
        heapq.heappush(self._heap, (due, next(self._numbers), timer))

    def _forget(self) -> None:
        """Count a timer as ended. Its heap entry goes when it is due, or in a rebuild."""
        self._active -= 1
        # A flood of short connections must not leave a heap of ended timers behind.
        if len(self._heap) > 2 * self._active + _BATCH:
            self._heap = [entry for entry in self._heap if entry[2].fire is not None]
            heapq.heapify(self._heap)
