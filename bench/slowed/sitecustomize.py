"""Slows down Python's clock by as much as Valgrind slows down Python. See ../instructions.py."""

from __future__ import annotations

import time

SLOWER = 50

unslowed = time.perf_counter


def perf_counter() -> float:
    return unslowed() / SLOWER


time.perf_counter = perf_counter
