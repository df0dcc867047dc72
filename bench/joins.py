"""Measure a storm of joins: the server's CPU time for one connect with a join, beside its peers.

1,000 clients connect, 50 of them at a time, and stay. A connect ends with the greeting of plain
text, ``hello`` of chatd's Socket.IO, the CONNECT reply of a Socket.IO peer, or the 101 of ``ws``;
the peers have no rooms to join. Each round starts every server in turn as a fresh process. There
are 150 connections before, so that what happens only once is not counted.

    python bench/joins.py
    python bench/joins.py --checkout old=../old --rounds 5
"""

from __future__ import annotations

import argparse
import base64
import os
import select
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fanout import SPARE_DESCRIPTORS, allow_descriptors, checkout_named, cores
from receivers import (
    CLOSE,
    DIALECTS,
    TEXT,
    BenchError,
    Dialect,
    Meter,
    client_frame,
    server_frame,
)
from results import Figures
from servers import SERVERS, Server, ServerError, running

CONNECTS = 1000
AT_A_TIME = 50
PRESENT = 150
ROUNDS = 3
SETTLE_SECONDS = 0.5
STALL_SECONDS = 30.0
MASK = bytes(4)
BASE = "node-socketio"  # which has no rooms to join


@dataclass(frozen=True, slots=True)
class Shape:
    """A server, and whether each client joins a room of its own."""

    server: Server
    own_rooms: bool = False

    @property
    def name(self) -> str:
        return f"{self.server.name}, a room each" if self.own_rooms else self.server.name


def shapes(checkouts: Sequence[tuple[str, Path]]) -> list[Shape]:
    found = [Shape(SERVERS["node-ws"]), Shape(SERVERS["node-socketio"])]
    for name in ("chatd-off", "chatd-on", "chatd-sio-off", "chatd-sio-on"):
        server = SERVERS[name]
        versions = [server]
        versions += [replace(server, name=f"{name}@{n}", checkout=each) for n, each in checkouts]
        found += [Shape(version, own) for version in versions for own in (False, True)]
    return found


@dataclass(slots=True)
class Client:
    """A client on its way in, and the messages that it has yet to see."""

    socket: socket.socket
    request: bytes
    steps: list[tuple[bytes, bytes | None]]
    received: bytes = b""
    accepted: bool = False
    greeting: bytes = b""  # the last message that it had to see

    def read(self) -> bool:
        """Read and answer what arrived; return whether the client is in."""
        data = self.socket.recv(65536)
        if not data:
            raise BenchError(
                f"the server ended a connection without Close: {self.received[:200]!r}"
            )
        self.received += data
        if not self.accepted:
            head, found, rest = self.received.partition(b"\r\n\r\n")
            if not found:
                return False
            if not head.startswith(b"HTTP/1.1 101 "):
                raise BenchError(f"the server refused the upgrade: {head[:300]!r}")
            self.accepted, self.received = True, rest
        while self.steps and (frame := server_frame(self.received, 0)) is not None:
            opcode, payload, end = frame
            self.received = self.received[end:]
            if opcode == CLOSE:
                raise BenchError(f"the server closed a connection: {payload!r}")
            start, answer = self.steps[0]
            if opcode == TEXT and payload.startswith(start):
                del self.steps[0]
                self.greeting = payload
                if answer is not None:
                    self.socket.sendall(client_frame(TEXT, answer, MASK))
        return not self.steps


def clients(shape: Shape, port: int, numbers: range) -> Iterator[Client]:
    """Connect clients one after the other."""
    dialect = DIALECTS[shape.server.dialect]
    for number in numbers:
        if shape.server.dialect == "text":
            target = f"/?room=room-{number}" if shape.own_rooms else dialect.target
            yield connecting(port, target, [(b"Hello", None)])
        else:
            auth = f'{{"room":"room-{number}"}}' if shape.own_rooms else ""
            yield connecting(port, dialect.target, opening(dialect, auth))


def opening(dialect: Dialect, auth: str) -> list[tuple[bytes, bytes | None]]:
    """Return the opening of a Socket.IO client that sends this JSON with its CONNECT."""
    if not dialect.opening:
        return []
    (opened, connect), *rest = dialect.opening
    return [(opened, (connect or b"") + auth.encode()), *rest]


def connecting(port: int, target: str, steps: list[tuple[bytes, bytes | None]]) -> Client:
    """Begin to connect a client."""
    key = base64.b64encode(os.urandom(16)).decode()
    request = (
        f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(("127.0.0.1", port))
    return Client(sock, request.encode(), steps)


def let_in(arriving: Iterator[Client]) -> list[Client]:
    """Connect all clients, so many at a time; return them."""
    epoll = select.epoll()
    under_way: dict[int, Client] = {}
    entered: list[Client] = []
    try:
        while True:
            while len(under_way) < AT_A_TIME and (client := next(arriving, None)) is not None:
                under_way[client.socket.fileno()] = client
                epoll.register(client.socket, select.EPOLLOUT)
            if not under_way:
                return entered
            ready = epoll.poll(STALL_SECONDS)
            if not ready:
                raise BenchError(f"{len(under_way)} clients were not let in")
            for descriptor, _ in ready:
                client = under_way[descriptor]
                if client.request:
                    client.socket.sendall(client.request)
                    client.request = b""
                    epoll.modify(descriptor, select.EPOLLIN)
                elif client.read():
                    epoll.unregister(descriptor)
                    entered.append(under_way.pop(descriptor))
    finally:
        epoll.close()


def measure(shape: Shape, count: int, present: int) -> tuple[float, float]:
    """Return the server's CPU time for one connect in microseconds, and the load's share."""
    core, _ = cores()
    held: list[Client] = []
    with running(shape.server, core) as server:
        try:
            held += let_in(clients(shape, server.port, range(present)))
            time.sleep(SETTLE_SECONDS)
            meter = Meter([server.pid])
            held += let_in(clients(shape, server.port, range(present, present + count)))
            busy = meter.load_busy()
            time.sleep(SETTLE_SECONDS)
            return meter.server_ns() / 1000 / count, busy
        finally:
            for client in held:
                client.socket.close()


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the CPU time of a connect and a join.")
    parser.add_argument("--connects", type=int, default=CONNECTS)
    parser.add_argument(
        "--present", type=int, nargs="+", default=[PRESENT], help="connected before"
    )
    parser.add_argument("--shapes", nargs="+", metavar="SHAPE", help="some of those in the table")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--checkout",
        action="append",
        default=[],
        type=checkout_named,
        metavar="NAME=FOLDER",
        help="run another checkout's chatd too, as chatd-on@NAME and so on",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()
    measured = [
        shape for shape in shapes(given.checkout) if not given.shapes or shape.name in given.shapes
    ]
    figures = Figures()
    try:
        allow_descriptors(given.connects + max(given.present) + SPARE_DESCRIPTORS)
        for _ in range(given.rounds):
            for present in given.present:
                name = "connect and join" if present == PRESENT else f"connect beside {present}"
                for shape in measured:
                    cost, busy = measure(shape, given.connects, present)
                    figures.add(name, "µs a connect", shape.name, cost, busy)
    except (BenchError, ServerError, OSError) as error:
        print(f"joins: {error}", file=sys.stderr)
        return 1
    figures.print([BASE], json=given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
