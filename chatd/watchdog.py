"""The watchdog: notifies systemd each time that a probe has passed through the bus.

A running event loop proves nothing, because a task of the bus may hang meanwhile. So a probe takes
the way of every event, and systemd is notified when it comes out.

::

    0         T/2        3T/4        T = WatchdogSec=
    |----------|----------|----------|
    notify     send a     late: log  systemd kills
               probe      the tasks

While a thread is inside a call of the store's, the disk is slow and a restart would not help:
systemd is notified all the same. ``/readyz`` reports it.
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
    """Notifies systemd in time for ``WatchdogSec=seconds``, also after the bus is closed."""

    def __init__(self, bus: Bus, notifier: Notifier, log: Log, *, seconds: float) -> None:
        self._bus = bus
        self._notifier = notifier
        self._log = log
        self._interval: Final = seconds / 2
        self._sent = math.inf  # when the probe that has not come out was sent
        self._reported = False

    async def run(self) -> None:
        """Notify until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._probe)
            while True:
                await trio.sleep(self._interval / 4)
                self._check()

    async def _probe(self) -> None:
        while True:
            self._sent = trio.current_time()
            # The bus is closed at the end of a drain, which has its own deadline.
            with suppress(trio.ClosedResourceError):
                await self._bus.probe()
            self._sent = math.inf
            self._reported = False
            self._notifier.watchdog()
            await trio.sleep(self._interval)

    def _check(self) -> None:
        late = trio.current_time() - self._sent
        if late < self._interval / 2:
            return
        if self._bus.stalled_for:
            self._notifier.watchdog()
        elif not self._reported:
            self._reported = True
            self._log.emit("hang", seconds=round(late, 3), tasks=task_tree())
