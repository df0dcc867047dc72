"""Measure a fan-out by polling, and one to clients of several protocols in one room.

One member says a message, and the next when all have it: the server's CPU time for one delivery.

    python bench/protocols.py
    python bench/protocols.py --seconds 5 --servers chatd-on
"""

from __future__ import annotations

import argparse
import signal
import sys
import time

from fanout import cores
from members import ANSWERS, Member, add_members, exchange
from receivers import BenchError, Meter
from results import Figures
from servers import SERVERS, Server, ServerError, pinned, running

ROUNDS = 3
SECONDS = 1.5
WARM_UP_MESSAGES = 20
TEXT = "x" * 55  # with the number and a space before it 64 bytes, as in fanout.py

# The protocol that speaks is the last one.
SHAPES = {
    "fan-out to 100 by polling": {"polling": 100},
    "fan-out to 100 of each of four protocols": {
        "json": 100,
        "socketio": 100,
        "polling": 100,
        "text": 100,
    },
}
PEER = "node-socketio"  # which has one protocol
NAMES = (PEER, "chatd-off", "chatd-on")


def measure(server: Server, counts: dict[str, int], seconds: float) -> tuple[float, float]:
    """Return the server's CPU time for one delivery in microseconds, and the load's share."""
    server_core, load_core = cores()
    members: list[Member] = []
    speaking = list(counts)[-1]
    answers = ANSWERS[speaking] if server.ours else 0
    with running(server, server_core) as daemon, pinned(load_core):
        try:
            for protocol, count in counts.items():
                add_members(members, protocol, daemon.port, count)
            # The member in the middle speaks.
            members[len(members) // 2], members[-1] = members[-1], members[len(members) // 2]
            for number in range(WARM_UP_MESSAGES):
                exchange(members, f"{number:08} {TEXT}", answers)
            messages, meter, ends = 0, Meter([daemon.pid]), time.monotonic() + seconds
            while time.monotonic() < ends:
                exchange(members, f"{messages + WARM_UP_MESSAGES:08} {TEXT}", answers)
                messages += 1
            return meter.server_ns() / 1000 / messages / len(members), meter.load_busy()
        finally:
            for member in members:
                member.close()


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure polling, and protocols together.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement")
    parser.add_argument("--servers", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    figures = Figures()
    try:
        for _ in range(given.rounds):
            for name, counts in SHAPES.items():
                for server in (SERVERS[each] for each in given.servers):
                    if server.ours or len(counts) == 1:
                        cost, busy = measure(server, counts, given.seconds)
                        figures.add(name, "µs a delivery", server.name, cost, busy)
    except (BenchError, ServerError, OSError) as error:
        print(f"protocols: {error}", file=sys.stderr)
        return 1
    figures.print([PEER], json=given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
