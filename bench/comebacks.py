"""Measure a storm of comebacks: the CPU time of one client that comes back after a restart.

500 Socket.IO clients are in one room and leave. 20 messages are sent, and the server is started
again on the same store. Then all come back, 50 at a time, with their session and the position up
to which they have everything, and are sent what they missed. A comeback ends with ``hello``, which
says that the client was recovered. The peer keeps nothing: its clients only connect again.

    python bench/comebacks.py
    python bench/comebacks.py --clients 2000 --rounds 1
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator

from fanout import SPARE_DESCRIPTORS, allow_descriptors, cores
from joins import BASE, SETTLE_SECONDS, Client, connecting, let_in, opening
from members import Member, add_members, exchange
from receivers import DIALECTS, BenchError, Meter
from results import Figures
from servers import SERVERS, Server, ServerError, fresh_folder, running_in

CLIENTS = 500
WARM_UP = 50
MISSED = 20
ROUNDS = 3
NAMES = (BASE, "chatd-sio-on")


def arriving(server: Server, port: int, auths: list[str]) -> Iterator[Client]:
    """Connect a Socket.IO client with each of these, one after the other."""
    dialect = DIALECTS[server.dialect]
    for auth in auths:
        yield connecting(port, dialect.target, opening(dialect, auth))


def leave(clients: list[Client]) -> None:
    for client in clients:
        client.socket.close()


def coming_back(client: Client) -> str:
    """Return what a client of chatd's comes back with."""
    hello = json.loads(client.greeting.removeprefix(b"42"))[1]
    joined = hello["joined"]
    since = {"epoch": joined["epoch"], "seq": joined["seq"]}
    return json.dumps({"session": hello["session"], "since": since})


def measure(server: Server, count: int) -> tuple[float, float]:
    """Return the server's CPU time for one comeback in microseconds, and the load's share."""
    core, _ = cores()
    count += WARM_UP
    auths = [""] * count
    with fresh_folder() as folder:
        if server.ours:
            with running_in(folder, server, core) as daemon:
                clients = let_in(arriving(server, daemon.port, auths))
                auths = [coming_back(client) for client in clients]
                leave(clients)
                say(daemon.port)
        with running_in(folder, server, core) as daemon:
            back = let_in(arriving(server, daemon.port, auths[:WARM_UP]))
            time.sleep(SETTLE_SECONDS)
            meter = Meter([daemon.pid])
            back += let_in(arriving(server, daemon.port, auths[WARM_UP:]))
            busy = meter.load_busy()
            time.sleep(SETTLE_SECONDS)
            used = meter.server_ns()
            leave(back)
    lost = sum(b'"recovered":true' not in client.greeting for client in back)
    if server.ours and lost:
        raise BenchError(f"{lost} of {len(back)} clients were not recovered")
    return used / 1000 / (count - WARM_UP), busy


def say(port: int) -> None:
    """Say what the others miss."""
    members: list[Member] = []
    add_members(members, "socketio", port, 1)
    for number in range(MISSED):
        exchange(members, f"missed {number}", answers=1)
    members[0].close()


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the CPU time of a comeback.")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()
    figures = Figures()
    shape = f"comeback with {MISSED} missed messages"
    try:
        allow_descriptors(given.clients + WARM_UP + SPARE_DESCRIPTORS)
        for _ in range(given.rounds):
            for server in (SERVERS[name] for name in NAMES):
                cost, busy = measure(server, given.clients)
                figures.add(shape, "µs a client", server.name, cost, busy)
    except (BenchError, ServerError, OSError) as error:
        print(f"comebacks: {error}", file=sys.stderr)
        return 1
    figures.print([BASE], json=given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
