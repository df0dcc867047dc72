"""Measure the resident memory of an idle connection, beside Node's socket.io where there is Node.

Every server runs as a fresh process. Clients connect and do nothing. The figure is the growth of
the server's resident memory (VmRSS) while 2,000 connections are added, divided by 2,000; and, on
the way, while the first 500 and 1,000 are. There are 100 connections before, so that imports and
the first memory pools are not counted.

    python bench/memory.py
    python bench/memory.py --checkout ../old --servers chatd-text --rounds 5
"""

from __future__ import annotations

import argparse
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fanout import SPARE_DESCRIPTORS, allow_descriptors
from receivers import DIALECTS, BenchError, Dialect, connect
from results import Figures
from servers import BENCH, SERVERS, Server, ServerError, chatd, running

CONNECTIONS = (500, 1000, 2000)
WARM_UP = 100
SETTLE_SECONDS = 1.0
UNIT = "KiB a connection"

# All chatd's clients are members of one room, as they are where everybody uses the defaults.
IDLE = {
    server.name: server
    for server in (
        Server("chatd-text", "text", chatd()),
        Server("chatd-socketio", "socketio-chat", chatd()),
        SERVERS["node-socketio"],
    )
}


def resident(pid: int) -> int:
    """Return a process's resident memory in bytes: VmRSS of proc_pid_status(5)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def opened(dialect: Dialect, port: int, count: int) -> list[socket.socket]:
    return [connect(port, dialect.target, dialect.opening)[0] for _ in range(count)]


def measure(server: Server, counts: Sequence[int]) -> list[float]:
    """Return the KiB of one idle connection, with each of these numbers of connections."""
    dialect = DIALECTS[server.dialect]
    with running(server, None) as daemon:
        held = opened(dialect, daemon.port, WARM_UP)
        time.sleep(SETTLE_SECONDS)
        before = resident(daemon.pid)
        found: list[float] = []
        for count in counts:
            held += opened(dialect, daemon.port, WARM_UP + count - len(held))
            time.sleep(SETTLE_SECONDS)
            found.append((resident(daemon.pid) - before) / count / 1024)
        for each in held:
            each.close()
    return found


def shape(connections: int) -> str:
    return f"{connections} idle connections, memory"


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the memory of an idle connection.")
    parser.add_argument("--connections", type=int, nargs="+", default=list(CONNECTIONS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--servers", nargs="+", choices=IDLE, default=list(IDLE))
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--checkout",
        type=Path,
        default=BENCH.parent,
        metavar="FOLDER",
        help="the checkout whose chatd is measured (default: this one)",
    )
    given = parser.parse_args()
    servers = [replace(IDLE[name], checkout=given.checkout.resolve()) for name in given.servers]
    if shutil.which("npm") is None:
        servers = [server for server in servers if server.ours]
    figures = Figures()
    counts = sorted(given.connections)
    try:
        allow_descriptors(counts[-1] + WARM_UP + SPARE_DESCRIPTORS)
        for _ in range(given.rounds):
            for server in servers:
                for count, value in zip(counts, measure(server, counts), strict=True):
                    figures.add(shape(count), UNIT, server.name, value)
    except (BenchError, ServerError, OSError) as error:
        print(f"memory: {error}", file=sys.stderr)
        return 1
    figures.print(["node-socketio"], json=given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
