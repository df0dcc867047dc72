"""Measure what idle connections cost: the server's CPU time while clients only answer its pings.

All clients connect, and then do nothing but answer for one interval, in which each gets one ping.
The figures are the server's CPU time as a share of one core, and for one ping and its pong; and the
resident memory of a connection.

    python bench/idle.py
    python bench/idle.py --connections 2000 --interval 5 --servers chatd-socketio
"""

from __future__ import annotations

import argparse
import select
import socket
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import memory
from fanout import SPARE_DESCRIPTORS, allow_descriptors, cores
from memory import resident
from receivers import (
    DIALECTS,
    PING,
    PONG,
    TEXT,
    BenchError,
    Meter,
    client_frame,
    connect,
    server_frame,
)
from results import Figures
from servers import BENCH, Server, ServerError, chatd, running

CONNECTIONS = 10_000
WARM_UP = 100
SETTLE_SECONDS = 3.0
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

    def __init__(self, server: Server, port: int) -> None:
        self._dialect = DIALECTS[server.dialect]
        self._port = port
        self._answers = self._dialect.answers
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._rest: dict[int, bytes] = {}
        self.pongs = 0

    def connect(self, count: int) -> None:
        """Connect more clients, which answer meanwhile."""
        for _ in range(count):
            sock, rest = connect(self._port, self._dialect.target, self._dialect.opening)
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


@dataclass(frozen=True, slots=True)
class Idle:
    """What idle connections cost.

    Attributes:
        share: The server's CPU time as a share of one core.
        ping_us: Its CPU time for one ping and its pong, in microseconds.
        kib: The resident memory of a connection, in KiB.
        load_busy: The share of a core that the clients used.
    """

    share: float
    ping_us: float
    kib: float
    load_busy: float


def measure(server: Server, count: int, interval: float) -> Idle:
    core, _ = cores()
    with running(server, core) as daemon:
        clients = Clients(server, daemon.port)
        try:
            clients.connect(WARM_UP)
            clients.answer(SETTLE_SECONDS)
            before = resident(daemon.pid)
            clients.connect(count - WARM_UP)
            clients.answer(SETTLE_SECONDS)
            kib = (resident(daemon.pid) - before) / 1024 / (count - WARM_UP)
            pongs, meter, began = clients.pongs, Meter([daemon.pid]), time.monotonic()
            clients.answer(interval)
            cpu, seconds = meter.server_ns(), time.monotonic() - began
            pongs = clients.pongs - pongs
        finally:
            clients.close()
    if not pongs:
        raise BenchError(f"{server.name} sent no ping in {seconds:.0f} s")
    return Idle(cpu / 1e9 / seconds, cpu / 1000 / pongs, kib, meter.load_busy())


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
    figures = Figures()
    pings = f"{given.connections} idle connections, a ping each {given.interval:g} s"
    try:
        allow_descriptors(given.connections + SPARE_DESCRIPTORS)
        for name in given.servers:
            server = replace(known[name], checkout=given.checkout.resolve())
            found = measure(server, given.connections, given.interval)
            busy = found.load_busy
            figures.add(pings, "% of a core", name, found.share * 100, busy)
            figures.add("one of these pings and its pong", "µs", name, found.ping_us, busy)
            figures.add(memory.shape(given.connections), memory.UNIT, name, found.kib)
    except (BenchError, ServerError, OSError) as error:
        print(f"idle: {error}", file=sys.stderr)
        return 1
    figures.print([], json=given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
