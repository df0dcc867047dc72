"""Measure what a client that stops reading costs the others: their latency with and without it.

Each round has two phases on a fresh chatd, with one message in flight to all receivers: first
without, then with one more connection that never reads. A phase sends much more than the kernel and
the send queue hold for that connection, so its overflow and its close (4001) are included.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median

from fanout import SPARE_DESCRIPTORS, allow_descriptors, cores
from receivers import DIALECTS, Phase, Receivers, connect
from results import Figures
from servers import SERVERS, Running, ServerError, pinned, running

MESSAGE_BYTES = 8000
PART_SECONDS = 4.0
LIMIT_SECONDS = 60.0


def load(port: int, pid: int, count: int) -> list[Phase]:
    """Run the receivers; return the phase without the slow reader and the phase with it."""
    receivers = Receivers([port], DIALECTS["text"], count, MESSAGE_BYTES)
    receivers.exchange(1, 0.5)
    without = receivers.measure([pid], 1, PART_SECONDS)
    slow, _ = connect(port, "/")
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    receivers.exchange(1, 0.1)
    with_it = receivers.measure([pid], 1, PART_SECONDS)
    slow.close()
    return [without, with_it]


def measure(handle: Running, count: int, core: int | None) -> tuple[Phase, Phase]:
    command = [sys.executable, __file__, "--load", str(handle.port), str(handle.pid)]
    command += ["--receivers", str(count)]
    with pinned(core):
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
        )
    if process.returncode:
        raise ServerError(f"{process.stderr.strip()}\n{handle.last_lines()}")
    without, with_it = (Phase(**phase) for phase in json.loads(process.stdout))
    return without, with_it


def closed_as_too_slow(log: Path) -> bool:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return any('"code":4001' in line for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what a slow reader costs the others.")
    parser.add_argument("--receivers", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--load", type=int, nargs=2, metavar=("PORT", "PID"), help=argparse.SUPPRESS
    )
    parser.add_argument("--json", action="store_true", help="print the latencies as JSON")
    given = parser.parse_args()
    try:
        if given.load:
            port, pid = given.load
            print(json.dumps([asdict(phase) for phase in load(port, pid, given.receivers)]))
            return 0
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        allow_descriptors(given.receivers + SPARE_DESCRIPTORS)
        server_core, load_core = cores()
        ratios = []
        figures = Figures()
        shape = f"a slow reader among {given.receivers}"
        say = partial(print, file=sys.stderr if given.json else sys.stdout)
        say(f"{given.receivers} receivers, one in flight, {MESSAGE_BYTES} bytes; p50 and p99 in ms")
        for number in range(given.rounds):
            with running(SERVERS["chatd-on"], server_core) as handle:
                without, with_it = measure(handle, given.receivers, load_core)
                slow = "4001" if closed_as_too_slow(handle.log) else "never full"
            ratios.append(with_it.p99_us / without.p99_us)
            for name, phase in (("without", without), ("with", with_it)):
                figures.add(shape, "ms, p99", name, phase.p99_us / 1000, phase.load_busy)
            say(
                f"round {number + 1}: without {without.p50_us / 1000:6.2f} "
                f"{without.p99_us / 1000:6.2f}  with {with_it.p50_us / 1000:6.2f} "
                f"{with_it.p99_us / 1000:6.2f}  p99 ratio {ratios[-1]:.2f}  slow reader: {slow}"
            )
        say(f"p99 ratio, median of {len(ratios)}: {median(ratios):.2f}")
        if given.json:
            figures.print(["without"], json=True)
    except ServerError as error:
        print(f"slow_reader: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
