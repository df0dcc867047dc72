"""Timers: one task calls everything that is due at a time, and sleeps until then.

A daemon has one `Timers` for keep-alives, heartbeats, token expiry and everything else that waits
for a time. A timer costs no task, and timers that are due at the same moment share a heap entry. An
exception in one timer never reaches another.

To wake up costs more than a ping. So pings, and the checks for their answers, are due at *ticks*:
a ping at the last tick before its time, a check at the first one after it. The time between two
ticks is a second, or a half, a quarter and so on of one, so ticks of different intervals coincide.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Final, TypeAlias

import trio
from trio.lowlevel import ParkingLot

from chatd.logs import Log

__all__ = ["STALL_SECONDS", "Fire", "Timer", "Timers", "check_due", "ping_due"]

Fire: TypeAlias = Callable[[float], float | None]
"""Called when it is due. Returns when to be called next, None for never.

Its argument is the due time, or the current time if the loop was busy or blocked at the due time.
"""

# Connections that were accepted together are due together: other tasks run after each batch.
_BATCH: Final = 64

STALL_SECONDS: Final = 1.0
"""Timers are this late only if the loop was blocked. What clients sent meanwhile is then read
before timers fire, so that no client is taken for silent."""

# A timer is called with its due time if it is no later than this.
_LATE_SECONDS: Final = 0.005

# The shortest time between two calls of a timer: a due time that is not later than now, because of
# rounding for example, must not make the loop spin.
_LEAST_SECONDS: Final = 0.001

# After a stall nearly every socket may be readable, and in each round of the scheduler some 200 of
# them are read (wire/poller.py). A round in which nothing is left to read takes 10 µs.
_ROUNDS: Final = 256

# The ticks are at most this far apart, and at most this part of an interval: with the 25 s of
# Engine.IO, once a second for any number of connections.
_TICK_SECONDS: Final = 1.0
_TICK_PART: Final = 1 / 25


def ping_due(heard: float, interval: float) -> float:
    """Return when to ping a peer that was heard last at ``heard``: at a tick.

    That is up to a second, and up to 4 % of the interval, before the interval is over.
    """
    tick = _tick(interval)
    return math.floor((heard + interval) / tick) * tick


def check_due(since: float, timeout: float) -> float:
    """Return when to check whether a peer has answered in time: at a tick.

    That is up to a second, and up to 4 % of the time limit, after the limit.
    """
    tick = _tick(timeout)
    return math.ceil((since + timeout) / tick) * tick


def _tick(interval: float) -> float:
    """Return the time between two ticks: a power of two, so that sums of ticks are exact."""
    _, exponent = math.frexp(interval * _TICK_PART)
    return min(_TICK_SECONDS, math.ldexp(0.5, exponent))


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
        # The due times, and the timers of each.
        self._heap: list[float] = []
        self._due: dict[float, list[Timer]] = {}
        # How many timers are in these lists, and how many have not ended.
        self._waiting = 0
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
        if not self._heap or due < self._heap[0]:
            self._sleeper.unpark()
        self._push(due, timer)
        return timer

    async def run(self) -> None:
        """Fire timers until cancelled."""
        while True:
            due = self._next()
            with trio.move_on_at(due):
                await self._sleeper.park()
                continue  # an earlier timer was added
            if trio.current_time() - due > STALL_SECONDS:
                for _ in range(_ROUNDS):
                    await trio.lowlevel.checkpoint()
            await self._fire_due()

    def _next(self) -> float:
        """Return when the next timer is due. Timers that were cancelled do not count.

        Most timers are deadlines that are met: they are cancelled before they are due.
        """
        while self._heap:
            timers = self._due[self._heap[0]]
            while timers:
                if timers[-1].fire is not None:
                    return self._heap[0]
                timers.pop()
                self._waiting -= 1
            self._pop()
        return math.inf

    async def _fire_due(self) -> None:
        now, left = trio.current_time(), _BATCH
        while self._heap and self._heap[0] <= now:
            due, timers = self._pop()
            for timer in timers:
                if not left:
                    await trio.lowlevel.checkpoint()
                    now, left = trio.current_time(), _BATCH
                left -= 1
                self._fire(timer, due if now - due <= _LATE_SECONDS else now)

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
        timers = self._due.get(due)
        if timers is None:
            self._due[due] = [timer]
            heapq.heappush(self._heap, due)
        else:
            timers.append(timer)
        self._waiting += 1

    def _pop(self) -> tuple[float, list[Timer]]:
        due = heapq.heappop(self._heap)
        timers = self._due.pop(due)
        self._waiting -= len(timers)
        return due, timers

    def _forget(self) -> None:
        """Count a timer as ended. It leaves its list when it is due, or now with others."""
        self._active -= 1
        # A flood of short connections must not leave many ended timers behind.
        if self._waiting > 2 * self._active + _BATCH:
            waiting = self._due.items()
            lists = ((due, [each for each in timers if each.fire]) for due, timers in waiting)
            self._due = {due: timers for due, timers in lists if timers}
            self._heap = sorted(self._due)  # which is a heap
            self._waiting = sum(map(len, self._due.values()))
