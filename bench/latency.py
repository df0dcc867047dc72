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
from collections import defaultdict

from fanout import SPARE_DESCRIPTORS, allow_descriptors, cores
from receivers import DIALECTS, BenchError, Receivers
from results import as_json, results, table
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


def load(port: int, pid: int, dialect: str, count: int, capacity: float) -> list[float]:
    """Return the capacity, which is measured if it is 0, and for each share its percentiles."""
    gc.disable()  # there are no reference cycles here, and a collection would add latency
    receivers = Receivers([port], DIALECTS[dialect], count, MESSAGE_BYTES)
    receivers.exchange(IN_FLIGHT, 0.5)
    if not capacity:
        phase = receivers.measure([pid], IN_FLIGHT, SECONDS)
        capacity = phase.messages / phase.seconds
    found = [capacity]
    for share in SHARES:
        receivers.settle()
        receivers.latencies.clear()
        receivers.send_at(capacity * share, SECONDS)
        sorted_ns = sorted(receivers.latencies)
        found += [sorted_ns[int(len(sorted_ns) * part)] / 1e6 for part in PERCENTILES.values()]
    return found


def measure(server: Server, count: int, capacity: float) -> tuple[float, list[float]]:
    """Return the capacity, and the percentiles in milliseconds."""
    server_core, load_core = cores()
    with running(server, server_core) as handle:
        command = [sys.executable, __file__, "--load", str(handle.port), str(handle.pid)]
        command += ["--dialect", server.dialect, "--receivers", str(count)]
        with pinned(load_core):
            done = subprocess.run(
                [*command, "--capacity", str(capacity)],
                capture_output=True,
                text=True,
                timeout=LIMIT_SECONDS,
                check=False,
            )
        if done.returncode:
            words = f"{done.stderr.strip()}\n{handle.last_lines()}"
            raise ServerError(f"{server.name}: the run is void\n{words}")
    capacity, *found = json.loads(done.stdout)
    return capacity, found


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure latency at a given rate.")
    parser.add_argument("--receivers", type=int, default=RECEIVERS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true", help="print the latencies as JSON")
    parser.add_argument(
        "--load", type=int, nargs=2, metavar=("PORT", "PID"), help=argparse.SUPPRESS
    )
    parser.add_argument("--dialect", choices=DIALECTS, help=argparse.SUPPRESS)
    parser.add_argument("--capacity", type=float, default=0.0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    latencies: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    try:
        if given.load:
            port, pid = given.load
            print(json.dumps(load(port, pid, given.dialect, given.receivers, given.capacity)))
            return 0
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        allow_descriptors(given.receivers + SPARE_DESCRIPTORS)
        for _ in range(given.rounds):
            for group in GROUPS:
                capacity = 0.0
                for server in (SERVERS[name] for name in group):
                    capacity, measured = measure(server, given.receivers, capacity)
                    names = [
                        f"{share:.0%} of capacity, {p}" for share in SHARES for p in PERCENTILES
                    ]
                    for name, value in zip(names, measured, strict=True):
                        latencies[name][server.name].append(value)
    except (BenchError, ServerError, OSError) as error:
        print(f"latency: {error}", file=sys.stderr)
        return 1
    found = []
    for name, by_server in latencies.items():
        for group in GROUPS:
            own = {server: by_server[server] for server in group}
            found += results(f"fan-out to {given.receivers} at {name}", "ms", own, group[:1])
    print(as_json(found) if given.json else table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
