"""Run the benchmarks one after the other, print the ratios to the peers, and write JSON.

The figures of three runs are what bench/report.py writes into docs/performance.md, so each shape
has one or two rounds in a run. The JSON goes into the folder of the peers, or where --output says.

    python bench/everything.py            # all shapes beside the peers: about 12 minutes
    python bench/everything.py --growth   # what must not grow: about 6 minutes
    python bench/everything.py --quick    # does all of it work? Its numbers mean little
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from results import Record, Result, from_json, table
from servers import BENCH, cache_folder, versions

IN_FLIGHT = ("--in-flight", "1", "8", "64")
ONCE = ("--rounds", "1")
TWICE = ("--rounds", "2")

# Of chatd and its peers, those that are measured with each number of receivers. The other peers are
# measured once, with 500.
SERVERS = {
    "websocket": ("sends", "node-ws", "socketify", "chatd-off", "chatd-on"),
    "socketio": ("node-socketio", "chatd-sio-off", "chatd-sio-on"),
}
OTHERS = {"websocket": ("picows", "websockets", "chatd-on-log"), "socketio": ("python-socketio",)}

# A hung script is stopped after so many times what it usually takes, on a busy machine.
PATIENCE = 4
INSTALLING_SECONDS = 300
ENDING_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Run:
    """A script, its arguments, and about how many seconds it takes on two cores."""

    arguments: tuple[str, ...]
    seconds: int

    def __str__(self) -> str:
        return " ".join(self.arguments)


def fan_out(
    protocol: str, receivers: int, servers: Sequence[str], *others: str, seconds: int
) -> Run:
    shape = ("--protocol", protocol, "--receivers", str(receivers), "--servers", *servers)
    return Run(("fanout.py", *shape, *others), seconds)


SHORT = ("--warm-up", "0.2", "--seconds", "0.5", *IN_FLIGHT)
LONG = ("--warm-up", "0.3", "--seconds", "0.8", *IN_FLIGHT)

SHAPES = (
    fan_out("websocket", 500, SERVERS["websocket"], *LONG, *TWICE, seconds=55),
    fan_out("socketio", 500, SERVERS["socketio"], *LONG, *TWICE, seconds=45),
    Run(("rooms.py", "--rooms", "50", "--seconds", "1", *TWICE), 35),
    Run(
        (
            "joins.py",
            *ONCE,
            "--shapes",
            "node-ws",
            "node-socketio",
            "chatd-on",
            "chatd-sio-on",
            "chatd-on, a room each",
            "chatd-sio-on, a room each",
        ),
        30,
    ),
    Run(("memory.py", *ONCE), 35),
    Run(("idle.py",), 110),
    Run(("slow_reader.py", *TWICE), 25),
    Run(("cluster.py", "--seconds", "1", *TWICE), 75),
    Run(("comebacks.py", *ONCE), 15),
    Run(("protocols.py", "--seconds", "1", *ONCE), 20),
    Run(("latency.py", "--seconds", "1", *ONCE), 35),
    fan_out("websocket", 500, OTHERS["websocket"], *SHORT, *ONCE, seconds=15),
    fan_out("socketio", 500, OTHERS["socketio"], *SHORT, *ONCE, seconds=10),
    *(
        fan_out(protocol, receivers, servers, *SHORT, *ONCE, seconds=seconds)
        for receivers, seconds in ((10, 12), (100, 14), (5000, 40))
        for protocol, servers in SERVERS.items()
    ),
    Run(("rooms.py", "--rooms", "1000", "--seconds", "1", *ONCE), 25),
    Run(("rooms.py", "--rooms", "500", "--members", "10", "--seconds", "1", *ONCE), 60),
)

# What must not grow: the cost of a delivery with the number of receivers, of a message with that of
# rooms, of a connect with that of clients, and a start with that of messages.
SIZES = ("10", "100", "1000", "10000")
GROWTH = (
    *(
        fan_out("websocket", receivers, ("node-ws", "sends", "chatd-on"), "--in-flight", "1",
                *ONCE, seconds=seconds)
        for receivers, seconds in ((100, 10), (1000, 15), (10000, 45))
    ),
    Run(("rooms.py", "--servers", "node-rooms", "chatd-on", "--rooms", *SIZES,
         "--speaking", "10", *ONCE), 60),
    Run(("joins.py", "--shapes", "node-socketio", "chatd-on", "chatd-sio-on",
         "--present", *SIZES, *ONCE), 110),
    Run(("startup.py",), 400),
)  # fmt: skip

QUICK = (
    *(
        fan_out(protocol, receivers, servers, *IN_FLIGHT, "--quick", seconds=seconds)
        for receivers, seconds in ((10, 10), (500, 20))
        for protocol, servers in SERVERS.items()
    ),
    Run(("rooms.py", "--rooms", "20", "--seconds", "0.3", *ONCE), 15),
    Run(("protocols.py", "--seconds", "0.3", *ONCE), 10),
    Run(("joins.py", "--connects", "200", *ONCE), 25),
    Run(("comebacks.py", "--clients", "50", *ONCE), 8),
    Run(("latency.py", "--seconds", "0.3", *ONCE), 15),
    Run(("memory.py", "--connections", "200", *ONCE), 10),
    Run(("idle.py", "--connections", "200", "--interval", "2"), 15),
    Run(("slow_reader.py", "--receivers", "50", *ONCE), 12),
    Run(("cluster.py", "--seconds", "0.3", *ONCE), 25),
    Run(("startup.py", "--messages", "10000"), 15),
)


def results_of(run: Run) -> list[Result] | None:
    """Run a script; return its results, or None if it failed, which it has explained."""
    command = [sys.executable, str(BENCH / run.arguments[0]), *run.arguments[1:], "--json"]
    limit = PATIENCE * run.seconds + INSTALLING_SECONDS
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            print(f"{run} did not finish within {limit} s", file=sys.stderr)
            process.send_signal(signal.SIGINT)  # so that it ends its servers
            try:
                process.communicate(timeout=ENDING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            return None
    return None if process.returncode else from_json(output)


def collect(runs: Sequence[Run]) -> tuple[list[Result], list[Run]]:
    """Return the results, and the runs that failed. An interrupt ends it early."""
    found: list[Result] = []
    failed: list[Run] = []
    left = sum(run.seconds for run in runs)
    began = time.monotonic()
    for number, run in enumerate(runs, 1):
        print(
            f"{time.strftime('%H:%M:%S')} {number}/{len(runs)}, about {left / 60:.0f} min left: "
            f"{run}",
            file=sys.stderr,
        )
        left -= run.seconds
        try:
            measured = results_of(run)
        except KeyboardInterrupt:
            failed += runs[number - 1 :]
            break
        if measured is None:
            failed.append(run)
        else:
            found += measured
    print(f"It took {(time.monotonic() - began) / 60:.1f} minutes.", file=sys.stderr)
    return found, failed


def setting() -> str:
    """Return what was measured, and where: the machine, the programs and their versions."""
    node = shutil.which("node")
    asked = [node, "--version"] if node else ["echo", "no Node.js"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    peers = ", ".join(
        f"{name} {version}"
        for name, version in versions().items()
        if name in {"ws", "socket.io", "socketify", "picows", "websockets", "python-socketio"}
    )
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}, Node.js {answer.removeprefix('v')}; {peers}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Run all benchmarks beside the peers.")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="short rounds: does it work?")
    which.add_argument("--growth", action="store_true", help="what must not grow, instead")
    parser.add_argument("--output", type=Path, help="the file for the JSON")
    given = parser.parse_args()
    kind = "quick" if given.quick else "growth" if given.growth else "results"
    output = given.output or cache_folder() / f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    found, failed = collect({"quick": QUICK, "growth": GROWTH, "results": SHAPES}[kind])
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(Record(setting(), found).as_json() + "\n", encoding="utf-8")
    print(table(found))
    print(f"\nThe results are in {output}. bench/report.py writes them into docs/performance.md.")
    for run in failed:
        print(f"failed: {run}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
