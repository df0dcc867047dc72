"""Measure latency at a given rate: half of what the peer can do, and a quarter and three quarters.

One of 100 clients sends, all receive. How many messages a second the peer can take is measured
first, with 8 in flight. Then each server gets the same numbers of messages a second, evenly,
whether or not the last ones have arrived.

    python bench/latency.py
    python bench/latency.py --receivers 500 --rounds 5
"""

from __future__ import annotations

import argparse
import gc
import json
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass

from fanout import SPARE_DESCRIPTORS, allow_descriptors, cores
from receivers import DIALECTS, BenchError, Meter, Receivers
from results import Figures
from servers import SERVERS, Server, ServerError, pinned, running

RECEIVERS = 100
ROUNDS = 3
SECONDS = 2.0
SHARES = (0.25, 0.5, 0.75)
MESSAGE_BYTES = 64
IN_FLIGHT = 8
LIMIT_SECONDS = 60.0

# The first is the peer of the others.
GROUPS = (("node-ws", "chatd-off", "chatd-on"), ("node-socketio", "chatd-sio-off", "chatd-sio-on"))
PERCENTILES = {"p50": 0.5, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Measured:
    """The latency at one share of the capacity, in milliseconds by percentile."""

    latencies: dict[str, float]
    load_busy: float


def load(
    port: int, pid: int, dialect: str, count: int, capacity: float, seconds: float
) -> tuple[float, list[Measured]]:
    """Return the capacity, which is measured if it is 0, and what was measured at each share."""
    gc.disable()  # there are no reference cycles here, and a collection would add latency
    receivers = Receivers([port], DIALECTS[dialect], count, MESSAGE_BYTES)
    receivers.exchange(IN_FLIGHT, 0.5)
    if not capacity:
        phase = receivers.measure([pid], IN_FLIGHT, seconds)
        capacity = phase.messages / phase.seconds
    found: list[Measured] = []
    for share in SHARES:
        receivers.settle()
        receivers.latencies.clear()
        meter = Meter([pid])
        receivers.send_at(capacity * share, seconds)
        busy = meter.load_busy()
        sorted_ns = sorted(receivers.latencies)
        latencies = {
            name: sorted_ns[int(len(sorted_ns) * part)] / 1e6 for name, part in PERCENTILES.items()
        }
        found.append(Measured(latencies, busy))
    return capacity, found


def measure(
    server: Server, count: int, capacity: float, seconds: float
) -> tuple[float, list[Measured]]:
    """Return what `load` returns of one server."""
    server_core, load_core = cores()
    with running(server, server_core) as handle:
        command = [sys.executable, __file__, "--load", str(handle.port), str(handle.pid)]
        command += ["--dialect", server.dialect, "--receivers", str(count)]
        command += ["--seconds", str(seconds), "--capacity", str(capacity)]
        with pinned(load_core):
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
            )
        if done.returncode:
            words = f"{done.stderr.strip()}\n{handle.last_lines()}"
            raise ServerError(f"{server.name}: the run is void\n{words}")
    capacity, measured = json.loads(done.stdout)
    return capacity, [Measured(**each) for each in measured]


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure latency at a given rate.")
    parser.add_argument("--receivers", type=int, default=RECEIVERS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement")
    parser.add_argument("--json", action="store_true", help="print the latencies as JSON")
    parser.add_argument(
        "--load", type=int, nargs=2, metavar=("PORT", "PID"), help=argparse.SUPPRESS
    )
    parser.add_argument("--dialect", choices=DIALECTS, help=argparse.SUPPRESS)
    parser.add_argument("--capacity", type=float, default=0.0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    figures = Figures()
    try:
        if given.load:
            port, pid = given.load
            capacity, measured = load(
                port, pid, given.dialect, given.receivers, given.capacity, given.seconds
            )
            print(json.dumps([capacity, [asdict(each) for each in measured]]))
            return 0
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        allow_descriptors(given.receivers + SPARE_DESCRIPTORS)
        for _ in range(given.rounds):
            for group in GROUPS:
                capacity = 0.0
                for server in (SERVERS[name] for name in group):
                    capacity, measured = measure(server, given.receivers, capacity, given.seconds)
                    for share, each in zip(SHARES, measured, strict=True):
                        for percentile, value in each.latencies.items():
                            shape = f"{share:.0%} of the messages that {group[0]} can take"
                            unit = f"ms, {percentile}"
                            figures.add(shape, unit, server.name, value, each.load_busy)
    except (BenchError, ServerError, OSError) as error:
        print(f"latency: {error}", file=sys.stderr)
        return 1
    figures.print([group[0] for group in GROUPS], json=given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
