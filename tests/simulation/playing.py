"""Play a schedule, and find a shorter one that breaks the same promise."""

from __future__ import annotations

import gzip
import random
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Final
from unittest.mock import patch

import trio
from msgspec import Struct
from trio.testing import MockClock

from tests.simulation.actions import VALUES, Actions
from tests.simulation.alone import InMemory, OnFile
from tests.simulation.clustered import NODES, Clustered, Forgetful
from tests.simulation.deterministic import deterministic
from tests.simulation.steps import Step, draw
from tests.simulation.world import PROTOCOLS

__all__ = ["STORES", "Failure", "failure_of", "play", "schedule", "shortest"]

STORES: Final[dict[str, type[Actions]]] = {
    "memory": InMemory,
    "sqlite": OnFile,
    "cluster": Forgetful,
    "replicated": Clustered,
}
"""The worlds by their names."""

STEPS: Final = 120


def schedule(seed: int, store: str) -> list[Step]:
    """Return the schedule of a seed. Everybody connects first."""
    chance = random.Random(seed)
    nodes = range(NODES if issubclass(STORES[store], Clustered) else 1)
    opening = [
        Step(
            "connect",
            (("client", str(number)), ("node", str(chance.choice(nodes))), ("recover", "no")),
        )
        for number in range(len(PROTOCOLS))
    ]
    return [
        *opening,
        Step("settle"),
        *draw(chance, STORES[store], {**VALUES, "node": nodes}, STEPS),
    ]


class Failure(Struct):
    """A broken promise, and everything that happened until then."""

    violation: BaseException
    trace: list[str]

    @property
    def promise(self) -> str:
        """What was broken, without the details of this run."""
        return f"{type(self.violation).__name__} {str(self.violation).partition(':')[0]}"


def play(steps: Sequence[Step], seed: int, store: str) -> Actions:
    """Play a schedule and return the world at its end.

    Args:
        steps: The schedule.
        seed: Decides in which order tasks run.
        store: One of `STORES`.

    Raises:
        Violation: A promise was broken.
    """
    world = STORES[store]()
    _play(world, steps, seed)
    return world


def failure_of(steps: Sequence[Step], seed: int, store: str) -> Failure | None:
    """Return how a schedule fails; None if every promise is kept."""
    world = STORES[store]()
    try:
        _play(world, steps, seed)
    except Exception as violation:  # also what the simulation itself did not expect
        return Failure(violation, world.trace)
    return None


def _play(world: Actions, steps: Sequence[Step], seed: int) -> None:
    with (
        deterministic(seed),
        # In the loop instead of threads, whose time the virtual clock would not wait for.
        patch.object(trio.to_thread, "run_sync", _run_inline),
        # Each daemon compresses the page's files: a fifth of the time of a run.
        patch.object(gzip, "compress", _compress),
    ):
        trio.run(world.play, steps, clock=MockClock(autojump_threshold=0))


_compress: Final = cache(gzip.compress)


async def _run_inline(
    sync_fn: Callable[..., Any], *args: Any, **_options: Any
) -> Any:  # whatever it returns
    await trio.lowlevel.checkpoint()
    return sync_fn(*args)


def shortest(
    steps: Sequence[Step], failure: Failure, seed: int, store: str, seconds: float
) -> tuple[list[Step], Failure]:
    """Return the shortest schedule that was found to break the same promise, and its failure.

    Parts are taken out greedily, halves first, single steps last, until none can go or the time is
    over.
    """
    ends = time.monotonic() + seconds
    still = partial(failure_of, seed=seed, store=store)
    rest = list(steps)
    size = max(1, len(rest) // 2)
    while True:
        removed = False
        start = 0
        while start < len(rest):
            if time.monotonic() > ends:
                return rest, failure
            shorter = rest[:start] + rest[start + size :]
            found = still(shorter)
            if found is not None and found.promise == failure.promise:
                rest, failure, removed = shorter, found, True
            else:
                start += size
        if size == 1 and not removed:
            return rest, failure
        size = max(1, size // 2)
