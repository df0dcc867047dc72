"""Run the benchmarks one after the other, print the ratios to the peers, and write JSON.

The figures of three runs are what bench/report.py writes into docs/performance.md, so each shape
has one or two rounds in a run. The JSON goes into the folder of the peers, or where --output says.

    python bench/everything.py            # all shapes beside the peers: about 11 minutes
    python bench/everything.py --growth   # what must not grow: about 6 minutes
    python bench/everything.py --quick    # does all of it work? Its numbers mean little
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from results import Record, Result, from_json, table
from servers import BENCH, cache_folder, versions

# Of chatd and its peers, those that are measured with each number of receivers. The other peers are
# measured once, with 500.
SERVERS = {
    "websocket": "sends node-ws socketify chatd-off chatd-on",
    "socketio": "node-socketio chatd-sio-off chatd-sio-on",
}
OTHERS = {
    "websocket": "picows websockets chatd-on chatd-on-log --base picows websockets",
    "socketio": "python-socketio chatd-sio-on",
}

# A hung script is stopped after so many times what it usually takes, on a busy machine.
PATIENCE = 4
INSTALLING_SECONDS = 300
ENDING_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Run:
    """A script with its arguments, and about how many seconds it takes on two cores."""

    command: str
    seconds: int


def fan_out(protocol: str, shape: str, seconds: int, servers: Mapping[str, str] = SERVERS) -> Run:
    return Run(f"fanout.py --protocol {protocol} {shape} --servers {servers[protocol]}", seconds)


LONG = "--in-flight 1 8 64 --rounds 2 --warm-up 0.3 --seconds 0.8"
SHORT = "--in-flight 1 8 64 --rounds 1 --warm-up 0.2 --seconds 0.5"
JOINED = "chatd-on chatd-sio-on 'chatd-on, a room each' 'chatd-sio-on, a room each'"
MANY_ROOMS = "node-rooms chatd-off chatd-on chatd-sio-on"

SHAPES = (
    fan_out("websocket", f"--receivers 500 {LONG}", 50),
    fan_out("socketio", f"--receivers 500 {LONG}", 35),
    Run("offers.py", 3),
    Run("rooms.py --rooms 50 --seconds 1 --rounds 2", 30),
    Run(f"joins.py --shapes node-ws node-socketio {JOINED} --rounds 1", 25),
    Run("memory.py --rounds 1", 30),
    Run("idle.py", 105),
    Run("slow_reader.py --rounds 2", 22),
    Run("cluster.py --seconds 1 --rounds 2", 70),
    Run("comebacks.py --rounds 1", 12),
    Run("protocols.py --seconds 1 --rounds 1", 15),
    Run("latency.py --seconds 1 --rounds 1", 30),
    fan_out("websocket", f"--receivers 500 {SHORT}", 14, OTHERS),
    fan_out("socketio", f"--receivers 500 {SHORT}", 8, OTHERS),
    fan_out("websocket", f"--receivers 10 {SHORT}", 14),
    fan_out("socketio", f"--receivers 10 {SHORT}", 10),
    fan_out("websocket", f"--receivers 100 {SHORT}", 15),
    fan_out("socketio", f"--receivers 100 {SHORT}", 11),
    fan_out("websocket", f"--receivers 5000 {SHORT}", 42),
    fan_out("socketio", f"--receivers 5000 {SHORT}", 45),
    Run("rooms.py --rooms 1000 --seconds 1 --rounds 1", 25),
    Run(f"rooms.py --rooms 500 --members 10 --seconds 1 --rounds 1 --servers {MANY_ROOMS}", 60),
)

# What must not grow: the cost of a delivery with the number of receivers, of a message with that of
# rooms, of a connect with that of clients, and the time of a start with that of messages.
SIZES = "10 100 1000 10000"
GROWING = "sends node-ws chatd-on"
TALKING = "node-rooms chatd-off chatd-on"
GROWTH = (
    *(
        Run(
            f"fanout.py --servers {GROWING} --receivers {receivers} --in-flight 1 --rounds 1",
            seconds,
        )
        for receivers, seconds in ((100, 9), (1000, 12), (10_000, 45))
    ),
    Run(
        f"rooms.py --servers {TALKING} --rooms {SIZES} --speaking 10 --rounds 1",
        80,
    ),
    Run(f"joins.py --shapes node-socketio chatd-on chatd-sio-on --present {SIZES} --rounds 1", 120),
    Run("startup.py", 30),
)

QUICK = (
    fan_out("websocket", "--receivers 10 --in-flight 1 8 64 --quick", 15),
    fan_out("socketio", "--receivers 10 --in-flight 1 8 64 --quick", 10),
    fan_out("websocket", "--receivers 500 --in-flight 1 8 64 --quick", 30),
    fan_out("socketio", "--receivers 500 --in-flight 1 8 64 --quick", 20),
    Run("offers.py --receivers 50 --rounds 1", 2),
    Run("rooms.py --rooms 20 --seconds 0.3 --rounds 1", 15),
    Run("joins.py --connects 200 --rounds 1", 25),
    Run("memory.py --connections 100 200 --rounds 1", 12),
    Run("idle.py --connections 200 --interval 2", 15),
    Run("slow_reader.py --receivers 50 --rounds 1", 12),
    Run("cluster.py --seconds 0.3 --rounds 1", 25),
    Run("comebacks.py --clients 50 --rounds 1", 8),
    Run("protocols.py --seconds 0.3 --rounds 1", 10),
    Run("latency.py --seconds 0.3 --rounds 1", 15),
    Run("startup.py --messages 10000 --rounds 1", 15),
)


def results_of(run: Run) -> list[Result] | None:
    """Run a script; return its results, or None if it failed, which it has explained."""
    script, *arguments = shlex.split(run.command)
    command = [sys.executable, str(BENCH / script), *arguments, "--json"]
    limit = PATIENCE * run.seconds + INSTALLING_SECONDS
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            print(f"{run.command} did not finish within {limit} s", file=sys.stderr)
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
            f"{run.command}",
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
        print(f"failed: {run.command}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
