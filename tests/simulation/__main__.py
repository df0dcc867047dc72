"""Run the simulation: ``python -m tests.simulation --seeds 5000``, or one seed, or a schedule."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tests.simulation.playing import STORES, Failure, failure_of, schedule, shortest
from tests.simulation.steps import Step, read_steps

SHRINK_SECONDS = 120.0
TRACE_LINES = 60


def main() -> int:
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this seed alone, and show what happens")
    parser.add_argument("--seeds", type=int, default=500, help="how many seeds to play")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--store", choices=[*STORES], default="memory", help="where the history is")
    parser.add_argument("--steps", type=Path, help="play the schedule in this file")
    parser.add_argument("--processes", type=int, help="by default one for each core")
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    given = parser.parse_args()
    if given.steps is not None or given.seed is not None:
        seed = given.seed or 0
        steps = (
            schedule(seed, given.store)
            if given.steps is None
            else read_steps(given.steps.read_text())
        )
        failure = failure_of(steps, seed, given.store)
        if failure is None:
            print("All promises are kept.")
            return 0
        report(steps, failure, seed, given.store, whole=given.trace)
        return 1
    return many(given.first, given.seeds, given.store, given.processes)


def many(first: int, count: int, store: str, processes: int | None) -> int:
    """Play many seeds in several processes; report the first one that fails."""
    began = time.monotonic()
    failed: list[int] = []
    with ProcessPoolExecutor(processes) as pool:
        seeds = range(first, first + count)
        for seed, promise in zip(
            seeds, pool.map(partial(promise_broken, store=store), seeds, chunksize=10), strict=True
        ):
            if promise is not None:
                failed.append(seed)
                print(f"seed {seed}: {promise}", flush=True)
    seconds = time.monotonic() - began
    print(f"{count} seeds on {store} in {seconds:.0f} s, {len(failed)} failed")
    if failed:
        steps = schedule(failed[0], store)
        failure = failure_of(steps, failed[0], store)
        if failure is not None:
            report(steps, failure, failed[0], store, whole=False)
    return 1 if failed else 0


def promise_broken(seed: int, store: str) -> str | None:
    failure = failure_of(schedule(seed, store), seed, store)
    return None if failure is None else str(failure.violation)[:300]


def report(steps: list[Step], failure: Failure, seed: int, store: str, *, whole: bool) -> None:
    """Print the shortest schedule that fails in the same way, and its end."""
    short, failure = shortest(steps, failure, seed, store, SHRINK_SECONDS)
    print(
        f"\n{failure.violation!r}\n\n# seed {seed} on {store}: {len(short)} of {len(steps)} steps"
    )
    print("\n".join(map(str, short)))
    print("\n# what happened" if whole else f"\n# the last {TRACE_LINES} things that happened")
    print("\n".join(failure.trace if whole else failure.trace[-TRACE_LINES:]))
    print(f"\nTo play it again: make simulate SEED={seed} STORE={store}")


if __name__ == "__main__":
    sys.exit(main())
