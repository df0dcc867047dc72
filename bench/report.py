"""Write the results of one or more runs of everything.py into docs/performance.md.

The first table has the figures that chatd is to reach, with the peer's in the same run; the second
one has everything that was measured. Each figure is the median of the runs.

    python bench/report.py RESULTS.json RESULTS.json RESULTS.json
    python bench/report.py --print RESULTS.json
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from results import Result, from_json
from servers import BENCH

PAGE = BENCH.parent / "docs" / "performance.md"
BEGIN, END = "<!-- written by bench/report.py -->", "<!-- end -->"


@dataclass(frozen=True, slots=True)
class Goal:
    """A ratio to a peer that chatd is to reach; without a base, a value.

    Attributes:
        shape: The load.
        unit: The unit of the figure.
        server: The server that is to reach it.
        base: The peer.
        most: The goal.
    """

    shape: str
    unit: str
    server: str
    base: str
    most: float


DELIVERY = "µs a delivery"
GOALS = (
    Goal("fan-out to 500, 1 in flight", DELIVERY, "chatd-off", "sends", 1.18),
    Goal("fan-out to 500, 1 in flight", DELIVERY, "chatd-off", "node-ws", 0.70),
    Goal("fan-out to 500, 1 in flight", DELIVERY, "chatd-on", "node-ws", 0.78),
    Goal("fan-out to 500, 1 in flight", DELIVERY, "chatd-sio-off", "node-socketio", 0.58),
    Goal("fan-out to 500, 1 in flight", DELIVERY, "chatd-sio-on", "node-socketio", 0.62),
    Goal("fan-out to 500, 64 in flight", DELIVERY, "chatd-off", "socketify", 0.20),
    Goal("fan-out to 500, 64 in flight", DELIVERY, "chatd-on", "socketify", 0.20),
    Goal("in and out, 50 connections", DELIVERY, "chatd-off", "node-rooms", 1.3),
    Goal("in and out, 50 connections", DELIVERY, "chatd-on", "node-rooms", 1.8),
    Goal("in and out, 50 connections", "ms, p99", "chatd-off", "node-rooms", 0.5),
    Goal("in and out, 50 connections", "ms, p99", "chatd-on", "node-rooms", 0.5),
    Goal("connect and join", "µs a connect", "chatd-on", "node-socketio", 1.0),
    Goal("connect and join", "µs a connect", "chatd-on, a room each", "node-socketio", 1.0),
    Goal("connect and join", "µs a connect", "chatd-sio-on", "node-socketio", 1.0),
    Goal("connect and join", "µs a connect", "chatd-sio-on, a room each", "node-socketio", 1.0),
    Goal("idle connection, memory", "KiB a connection", "chatd-text", "node-socketio", 0.60),
    Goal("idle connection, memory", "KiB a connection", "chatd-socketio", "node-socketio", 0.95),
    Goal("10000 idle connections, a ping each 25 s", "% of a core", "chatd-text", "", 2),
    Goal("10000 idle connections, a ping each 25 s", "% of a core", "chatd-socketio", "", 2),
    Goal("a slow reader among 500", "ms, p99", "with", "without", 1.2),
    Goal(
        "2 nodes, 10 clients at each, 1 in flight", "µs a message", "chatd-redis", "node-redis", 0.8
    ),
    Goal(
        "2 nodes, 100 clients at each, 1 in flight",
        "µs a message",
        "chatd-redis",
        "node-redis",
        0.6,
    ),
    Goal(
        "2 nodes, 10 clients at each, 64 in flight",
        "µs a message",
        "chatd-redis",
        "node-redis",
        0.6,
    ),
)

Runs = dict[tuple[str, str, str], list[Result]]
"""By shape, unit and server: the result of each run."""


def gathered(files: Iterable[Path]) -> Runs:
    found: Runs = defaultdict(list)
    for file in files:
        for each in from_json(file.read_text(encoding="utf-8")):
            found[each.shape, each.unit, each.server].append(each)
    return found


def goals(found: Runs) -> list[str]:
    lines = [
        "| load | unit | chatd | | peer | | ratio | goal |",
        "| --- | --- | --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for goal in GOALS:
        own = found.get((goal.shape, goal.unit, goal.server))
        if not own:
            continue
        value = median(each.median for each in own)
        peers = found.get((goal.shape, goal.unit, goal.base), [])
        peer = ratio = ""
        reached = value <= goal.most
        if peers:
            peer = f"{median(each.median for each in peers):.3g}"
            times = median(each.ratios[goal.base] for each in own)
            ratio, reached = f"{times:.2f}", times <= goal.most
        wanted = f"{goal.most:.2f}" if goal.base else f"{goal.most:g}"
        lines.append(
            f"| {goal.shape} | {goal.unit} | {goal.server} | {value:.3g} | {goal.base} | {peer} "
            f"| {ratio} | {wanted}{'' if reached else ' (not reached)'} |"
        )
    return lines


def everything(found: Runs) -> list[str]:
    lines = ["| load | unit | server | median | lowest | highest | ratios |"]
    lines.append("| --- | --- | --- | ---: | ---: | ---: | --- |")
    for (shape, unit, server), runs in found.items():
        values = [value for each in runs for value in each.values]
        ratios = ", ".join(
            f"{median(each.ratios[base] for each in runs):.2f} of {base}" for base in runs[0].ratios
        )
        lines.append(
            f"| {shape} | {unit} | {server} | {median(values):.3g} | {min(values):.3g} "
            f"| {max(values):.3g} | {ratios} |"
        )
    return lines


def section(found: Runs, runs: int) -> str:
    times = "one run" if runs == 1 else f"the medians of {runs} runs"
    return "\n".join(
        [
            BEGIN,
            "### A whole run",
            "",
            f"The figures that chatd is to reach, {times} of `make bench`:",
            "",
            *goals(found),
            "",
            "All shapes:",
            "",
            *everything(found),
            END,
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write results into docs/performance.md.")
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS.json")
    parser.add_argument("--print", action="store_true", help="print the section, write nothing")
    given = parser.parse_args(arguments)
    try:
        written = section(gathered(given.results), len(given.results))
    except (OSError, ValueError, TypeError) as error:
        print(f"report: these are no results of everything.py: {error}", file=sys.stderr)
        return 1
    if given.print:
        print(written)
        return 0
    page = PAGE.read_text(encoding="utf-8")
    before, begins, rest = page.partition(BEGIN)
    _, ends, after = rest.partition(END)
    if not (begins and ends):
        print(f"report: {PAGE} has no lines {BEGIN!r} and {END!r}", file=sys.stderr)
        return 1
    PAGE.write_text(f"{before}{written}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
