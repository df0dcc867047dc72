"""Run the benchmarks one after the other, print the ratios to the peers, and write JSON.

The JSON is for a later comparison; it goes into the folder of the peers, or where --output says.

    python bench/everything.py           # half an hour on a free machine
    python bench/everything.py --quick   # does all of it work? Its numbers mean little
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from results import Result, as_json, from_json, table
from servers import BENCH, cache_folder

RECEIVERS = (10, 100, 500, 5000)
IN_FLIGHT = ("--in-flight", "1", "8", "64")
PHASES = ("--rounds", "3", "--warm-up", "0.3", "--seconds", "0.8")
# Of the peers that are measured with 500 receivers only.
OFTEN = {
    "websocket": ("node-ws", "chatd-off", "chatd-on"),
    "socketio": ("node-socketio", "chatd-sio-off", "chatd-sio-on"),
}
ONCE = ("--rounds", "1")

Run = tuple[str, ...]


def runs(*, quick: bool) -> list[Run]:
    """Return the scripts and their arguments."""
    found: list[Run] = []
    for protocol, often in OFTEN.items():
        for receivers in RECEIVERS:
            servers = () if receivers == 500 else ("--servers", *often)
            shape = ("--protocol", protocol, "--receivers", str(receivers), *servers)
            found.append(("fanout.py", *shape, *IN_FLIGHT, *(("--quick",) if quick else PHASES)))
    if quick:
        return [
            *found,
            ("rooms.py", "--rooms", "20", *ONCE),
            ("protocols.py", "--seconds", "0.3", *ONCE),
            ("joins.py", "--connects", "200", *ONCE),
            ("comebacks.py", "--clients", "50", *ONCE),
            ("latency.py", *ONCE),
            ("memory.py", "--connections", "200", *ONCE),
            ("idle.py", "--connections", "200", "--interval", "2"),
            ("slow_reader.py", "--receivers", "50", *ONCE),
            ("cluster.py", "--seconds", "0.5", *ONCE),
        ]
    return [
        *found,
        ("rooms.py",),
        ("protocols.py",),
        ("joins.py",),
        ("comebacks.py",),
        ("latency.py",),
        ("memory.py",),
        ("idle.py",),
        ("slow_reader.py",),
        ("cluster.py",),
        *GROWTH,
    ]


# What must not grow: the cost of a delivery with the number of receivers, of a message with that of
# rooms, and of a connect with that of clients.
SIZES = ("10", "100", "1000", "10000")
GROWTH: tuple[Run, ...] = (
    *(
        ("fanout.py", "--servers", "chatd-on", "--receivers", receivers, "--in-flight", "1", *ONCE)
        for receivers in ("1000", "10000")
    ),
    ("rooms.py", "--servers", "chatd-on", "--rooms", *SIZES, "--speaking", "10", *ONCE),
    ("joins.py", "--shapes", "chatd-on", "chatd-sio-on", "--present", *SIZES, *ONCE),
)


def results_of(run: Run) -> list[Result] | None:
    """Run a script; return its results, or None if it failed, which it has explained."""
    command = [sys.executable, str(BENCH / run[0]), *run[1:], "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return None if done.returncode else from_json(done.stdout)


def collect(all_runs: Sequence[Run]) -> tuple[list[Result], list[str]]:
    """Return the results, and the runs that failed."""
    found: list[Result] = []
    failed: list[str] = []
    for run in all_runs:
        print(f"{time.strftime('%H:%M:%S')} {' '.join(run)}", file=sys.stderr)
        measured = results_of(run)
        if measured is None:
            failed.append(" ".join(run))
        else:
            found += measured
    return found, failed


def main() -> int:
    parser = argparse.ArgumentParser(description="Run all benchmarks beside the peers.")
    parser.add_argument("--quick", action="store_true", help="short rounds: does it work?")
    parser.add_argument("--output", type=Path, help="the file for the JSON")
    given = parser.parse_args()
    output = given.output or cache_folder() / f"results-{time.strftime('%Y%m%d-%H%M%S')}.json"
    found, failed = collect(runs(quick=given.quick))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(as_json(found) + "\n", encoding="utf-8")
    print(table(found))
    print(f"\nThe results are in {output}. bench/report.py writes them into docs/performance.md.")
    for run in failed:
        print(f"failed: {run}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
