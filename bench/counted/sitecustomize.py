"""What the daemon needs while its instructions are counted. See ../instructions.py.

Python imports this module at its start. On SIGUSR2 the process calls a function of the C library
that nothing else calls: callgrind writes its counts when that function begins. And Python's clock
is slowed down by as much as Valgrind slows down Python, if the environment says so.
"""

from __future__ import annotations

import os
import signal
import time

unslowed = time.perf_counter
SLOWER = float(os.environ.get("CHATD_BENCH_SLOWER", "1"))


def perf_counter() -> float:
    return unslowed() / SLOWER


def mark(*_: object) -> None:
    os.getloadavg()


time.perf_counter = perf_counter
signal.signal(signal.SIGUSR2, mark)
