"""Kill daemons and their Redis, again and again, under clients that move from daemon to daemon.

It is the long form of `tests/e2e/test_cluster.py`: every round is one fault, and at the end every
client must have got every message once, in one order. README.md says more.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from failovers import run_failovers

from tests.e2e.chatd_process import ChatdStarter
from tests.e2e.cluster import (
    Cluster,
    Fault,
    cut_a_daemon_off,
    kill_a_daemon,
    kill_the_engine,
    live_through,
    stop_the_engine,
)

EVERY = 10
"""Of so many rounds, one stops Redis and one cuts a daemon off from it."""


def chosen(cluster: Cluster, rounds: int, seconds: float) -> list[Fault]:
    """Return the fault of each round."""
    kills: list[Fault] = [partial(kill_a_daemon, cluster), partial(kill_the_engine, cluster)]
    faults = [random.choice(kills) for _ in range(rounds)]
    for number in range(EVERY // 2 - 1, rounds, EVERY):
        faults[number] = partial(stop_the_engine, cluster, seconds)
    for number in range(EVERY - 1, rounds, EVERY):
        faults[number] = partial(cut_a_daemon_off, cluster, seconds)
    return faults


async def run(rounds: int, nodes: int, seconds: float) -> str:
    """Play the rounds; return what happened, as a sentence."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        async with trio.open_nursery() as nursery:
            starter = ChatdStarter(Path(folder), nursery)
            cluster = Cluster(Path(folder), starter, nursery)
            try:
                await cluster.open(nodes)
                faults = chosen(cluster, rounds, seconds)
                roamers = await live_through(cluster, faults, calm_seconds=1.5)
            finally:
                cluster.redis.kill()
                await starter.aclose()
                nursery.cancel_scope.cancel()
    said = sum(len(roamer.said) for roamer in roamers)
    recovered = sum(roamer.recovered for roamer in roamers)
    lost = sum(roamer.lost for roamer in roamers)
    slowest = max(roamer.slowest for roamer in roamers)
    return (
        f"{rounds} rounds in {time.monotonic() - began:.0f} s: {said} messages acknowledged, each "
        f"of {len(roamers)} clients got all of them once, in one order; the slowest answer took "
        f"{slowest:.2f} s; clients recovered {recovered} times, and {lost} times they did not and "
        "resumed by position"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill daemons and their Redis under load.")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=10, help="how long Redis is stopped, or a daemon cut off"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of faults")
    parser.add_argument(
        "--failovers", type=int, metavar="N", help="instead: let a replica of Redis take over"
    )
    parser.add_argument("--replicas", type=int, default=1, help="history.replicas, in failovers")
    parser.add_argument(
        "--down-after", type=float, default=2, help="how long a Redis is away before a failover"
    )
    parser.add_argument(
        "--isolate",
        action="store_true",
        help="cut off the primary Redis and its daemon, too: as root, with network namespaces",
    )
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    if arguments.failovers:
        play = partial(run_failovers, isolate=arguments.isolate)
        print(trio.run(play, arguments.failovers, arguments.replicas, arguments.down_after))
        return 0
    print(trio.run(run, arguments.rounds, arguments.nodes, arguments.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
