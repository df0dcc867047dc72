"""Run the benchmarks one after the other, print the ratios to the peers, and write JSON.

The JSON is for a later comparison; it goes into the folder of the peers, or where --output says.

    python bench/everything.py           # some 15 minutes on a free machine
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

RECEIVERS = (10, 100, 500)
IN_FLIGHT = ("--in-flight", "1", "8", "64")

Run = tuple[str, ...]


def runs(*, quick: bool) -> list[Run]:
    """Return the scripts and their arguments."""
    short = ("--quick",) if quick else ()
    found: list[Run] = []
    for protocol in ("websocket", "socketio"):
        for receivers in RECEIVERS:
            shape = ("--protocol", protocol, "--receivers", str(receivers))
            found.append(("fanout.py", *shape, *IN_FLIGHT, *short))
    found += [
        ("joins.py", *(("--rounds", "1", "--connects", "200") if quick else ())),
        ("memory.py", *(("--rounds", "1", "--connections", "200") if quick else ())),
        ("idle.py", *(("--connections", "200", "--interval", "2") if quick else ())),
        ("slow_reader.py", *(("--rounds", "1", "--receivers", "50") if quick else ())),
    ]
    return found


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
    print(f"\nThe results are in {output}.")
    for run in failed:
        print(f"failed: {run}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
