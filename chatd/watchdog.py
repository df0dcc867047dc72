"""The watchdog: systemd is told that the daemon lives when an event could have gone through.

A loop that turns is no proof: a task of the bus may hang while it does. So a probe goes the way of
every event, and the sign of life is given when it has come out.

::

    0         T/2        3T/4        T = WatchdogSec=
    |----------|----------|----------|
    sign       probe      late: the  systemd kills
               sent       tree is
                          logged

While a thread is inside the store's call, the disk is what is waited for: the sign is given all the
same, for a restart would not make it quicker. What ``/readyz`` says then is the bus's to know.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Final

import trio

from chatd.bus import Bus
from chatd.logs import Log
from chatd.systemd import Notifier
from chatd.tasks import task_tree

__all__ = ["Watchdog"]


class Watchdog:
    """``run`` feeds a watchdog of so many seconds, until the bus is closed and after."""

    def __init__(self, bus: Bus, notifier: Notifier, log: Log, *, seconds: float) -> None:
        self._bus = bus
        self._notifier = notifier
        self._log = log
        self._interval: Final = seconds / 2
        self._sent = math.inf  # when the probe that is under way was sent
        self._told = False

    async def run(self) -> None:
        """Feed it until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._probe)
            while True:
                await trio.sleep(self._interval / 4)
                self._look()

    async def _probe(self) -> None:
        while True:
            self._sent = trio.current_time()
            # Closed: the drain's last moments have a deadline of their own.
            with suppress(trio.ClosedResourceError):
                await self._bus.probe()
            self._sent = math.inf
            self._told = False
            self._notifier.watchdog()
            await trio.sleep(self._interval)

    def _look(self) -> None:
        late = trio.current_time() - self._sent
        if late < self._interval / 2:
            return
        if self._bus.stalled_for:
            self._notifier.watchdog()
        elif not self._told:
            self._told = True
            self._log.emit("hang", seconds=round(late, 3), tasks=task_tree())
