"""Other clocks for a program, which Python imports at its start: see `tests.e2e.clocks`.

Read from the environment: CLOCK_FILE has by how many days the wall clock runs ahead; CLOCK_RATE is
how fast time passes, and CLOCK_BEGAN when it began to, by the wall clock in ns.
"""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import trio

DAYS = Path(os.environ["CLOCK_FILE"])
RATE = int(os.environ["CLOCK_RATE"])
BEGAN = int(os.environ["CLOCK_BEGAN"])

wall_ns, boot = time.time_ns, time.clock_gettime


class Hastened(trio.abc.Clock):
    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return time.perf_counter() * RATE

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return (deadline - self.current_time()) / RATE


def time_ns() -> int:
    days = float(DAYS.read_text())
    return BEGAN + (wall_ns() - BEGAN) * RATE + int(days * 86_400e9)


def clock_gettime(clock: int) -> float:
    return boot(clock) * RATE


time.time_ns = time_ns
time.clock_gettime = clock_gettime
trio.run = partial(trio.run, clock=Hastened())  # type: ignore[assignment]
