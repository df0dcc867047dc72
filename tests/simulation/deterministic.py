"""Make a run repeatable: the same seed gives the same run, whatever the machine does meanwhile."""

from __future__ import annotations

import os
import random
from collections.abc import Generator
from contextlib import contextmanager
from unittest.mock import patch

import trio
from trio._core import _run

__all__ = ["deterministic"]


@contextmanager
def deterministic(seed: int) -> Generator[None]:
    """Take chance out of everything that runs in the block, one call of `trio.run`.

    * Trio shuffles the tasks that are ready, but by a generator that is seeded here.
    * Ids, keys and secrets come from a generator too.
    * The bus and the fan-out measure their slices by Trio's clock, which is virtual.

    What is left is the order of sets, which depends on addresses in memory and, for strings, on
    ``PYTHONHASHSEED``. It is seen only where several subscribers are served in one step.
    """
    source = random.Random(seed)
    with (
        patch.object(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", new=True),
        patch.object(os, "urandom", source.randbytes),
        patch.object(random, "_urandom", source.randbytes),
        patch("chatd.bus.bus.perf_counter", trio.current_time),
        patch("chatd.bus.fanout.perf_counter", trio.current_time),
        patch("chatd.journal.memory.perf_counter", trio.current_time),
    ):
        random.seed(seed)
        _run._r.seed(seed)
        yield
