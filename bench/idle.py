"""Measure what idle connections cost: the server's CPU time while clients only answer its pings.

All clients connect, and then do nothing but answer. The first interval of pings is not counted. The
figure is the server's CPU time as a share of one core, and for one ping and its pong.

    python bench/idle.py
    python bench/idle.py --connections 2000 --interval 5 --servers chatd-socketio
"""

from __future__ import annotations

import argparse
import select
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

from fanout import SPARE_DESCRIPTORS, allow_descriptors, cores
from receivers import (
    DIALECTS,
    PING,
    PONG,
    TEXT,
    BenchError,
    client_frame,
    connect,
    cpu_ns,
    server_frame,
)
from results import as_json, results, table
from servers import BENCH, Server, ServerError, chatd, running

CONNECTIONS = 10_000
INTERVAL_SECONDS = 25.0  # the default of Engine.IO; the clients of plain WebSocket get the same
MASK = bytes(4)
DIALECT_OF = {"chatd-text": "text", "chatd-socketio": "socketio-chat"}


def servers(connections: int, interval: float) -> dict[str, Server]:
    settings = (
        f"limits.connections={connections + SPARE_DESCRIPTORS}",
        f"engineio.ping_interval_seconds={interval}",
        f"websocket.ping_interval_seconds={interval}",
        f"websocket.ping_timeout_seconds={min(20.0, interval)}",
    )
    return {name: Server(name, spoken, chatd(*settings)) for name, spoken in DIALECT_OF.items()}


class Clients:
    """Connections that answer pings."""

    def __init__(self, server: Server, port: int, count: int) -> None:
        dialect = DIALECTS[server.dialect]
        self._answers = dialect.answers
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._rest: dict[int, bytes] = {}
        self.pongs = 0
        for _ in range(count):
            sock, rest = connect(port, dialect.target, dialect.opening)
            self._sockets[sock.fileno()] = sock
            self._rest[sock.fileno()] = rest
            self._epoll.register(sock, select.EPOLLIN)
            self.answer(0)

    def answer(self, seconds: float) -> None:
        """Answer every ping that arrives within this time."""
        ends = time.monotonic() + seconds
        while True:
            for descriptor, _ in self._epoll.poll(max(0.0, ends - time.monotonic())):
                self._read(descriptor)
            if time.monotonic() >= ends:
                return

    def _read(self, descriptor: int) -> None:
        sock = self._sockets[descriptor]
        data = sock.recv(65536)
        if not data:
            raise BenchError("the server closed a connection")
        buffer, at = self._rest[descriptor] + data, 0
        while frame := server_frame(buffer, at):
            opcode, payload, at = frame
            if opcode == PING:
                sock.sendall(client_frame(PONG, payload, MASK))
                self.pongs += 1
            elif (answer := self._answers.get(payload)) is not None:
                sock.sendall(client_frame(TEXT, answer, MASK))
                self.pongs += 1
        self._rest[descriptor] = buffer[at:]

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._epoll.close()


def measure(server: Server, count: int, interval: float) -> tuple[float, float]:
    """Return the share of a core, and the CPU time for one ping and pong in microseconds."""
    core, _ = cores()
    with running(server, core) as daemon:
        clients = Clients(server, daemon.port, count)
        try:
            clients.answer(interval)
            pongs, cpu, began = clients.pongs, cpu_ns([daemon.pid]), time.monotonic()
            clients.answer(2 * interval)
            cpu, seconds = cpu_ns([daemon.pid]) - cpu, time.monotonic() - began
            pongs = clients.pongs - pongs
        finally:
            clients.close()
    if not pongs:
        raise BenchError(f"{server.name} sent no ping in {seconds:.0f} s")
    return cpu / 1e9 / seconds, cpu / 1000 / pongs


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the CPU time of idle connections.")
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--interval", type=float, default=INTERVAL_SECONDS, help="between pings")
    parser.add_argument("--servers", nargs="+", choices=DIALECT_OF, default=list(DIALECT_OF))
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--checkout",
        type=Path,
        default=BENCH.parent,
        metavar="FOLDER",
        help="the checkout whose chatd is measured (default: this one)",
    )
    given = parser.parse_args()
    known = servers(given.connections, given.interval)
    shares: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    try:
        allow_descriptors(given.connections + SPARE_DESCRIPTORS)
        for name in given.servers:
            server = replace(known[name], checkout=given.checkout.resolve())
            share, cost = measure(server, given.connections, given.interval)
            shares[name], costs[name] = [share * 100], [cost]
    except (BenchError, ServerError) as error:
        print(f"idle: {error}", file=sys.stderr)
        return 1
    shape = f"{given.connections} idle connections, a ping each {given.interval:g} s"
    found = results(shape, "% of a core", shares, [])
    found += results("one of these pings and its pong", "µs", costs, [])
    print(as_json(found) if given.json else table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
