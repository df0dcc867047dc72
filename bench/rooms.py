"""Measure rooms in which everybody speaks: the server's CPU time for one delivery, and the latency.

Each room has one message in flight: when all of its members have it, the next member says the next
one. With one member a room, this is the cost of a message in and out. With ``--speaking`` only so
many rooms have one in flight, one after the other, and the others are idle.

    python bench/rooms.py   # in and out over 50 and 1,000 connections; 500 rooms of 10
    python bench/rooms.py --rooms 10 100 1000 10000 --speaking 10 --servers chatd-on
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from fanout import SPARE_DESCRIPTORS, allow_descriptors, checkout_named, cores
from receivers import (
    CLOSE,
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
from servers import SERVERS, Server, ServerError, node, pinned, running

SHAPES = ((50, 1), (1000, 1), (500, 10))
ROUNDS = 3
WARM_UP_SECONDS = 0.5
SECONDS = 1.5
SETTLE_SECONDS = 0.1
STALL_SECONDS = 5.0
LIMIT_SECONDS = 120.0
MESSAGE_BYTES = 64
MASK = bytes(4)
NUMBER = re.compile(rb"(\d{8}) x")

PEER = Server("node-rooms", "socketio", node("socketio-rooms-server.mjs"), ("socket.io",))
NAMES = ("chatd-off", "chatd-on", "chatd-sio-off", "chatd-sio-on")
KNOWN = {PEER.name: PEER, **{name: SERVERS[name] for name in NAMES}}


@dataclass(slots=True)
class Room:
    """A room, and the message that is in flight in it."""

    members: list[socket.socket]
    number: int = -1
    missing: int = 0
    sent_at: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """What one server needed."""

    messages: int
    deliveries: int
    server_cpu_ns: int
    load_busy: float
    p50_us: float
    p99_us: float


class Talk:
    """All rooms, in which everybody speaks in turn."""

    def __init__(self, port: int, name: str, rooms: int, members: int, speaking: int) -> None:
        self._dialect = DIALECTS[name]
        self._speaking = min(speaking or rooms, rooms)
        self._epoll = select.epoll()
        self._room_of: dict[int, Room] = {}
        self._sockets: dict[int, socket.socket] = {}
        self._rest: dict[int, bytes] = {}
        self._rooms: deque[Room] = deque()
        self._under_way = 0
        self.messages = 0
        self.latencies: list[int] = []
        for number in range(rooms):
            room = Room([])
            for _ in range(members):
                target, opening = self._way_in(name, f"room-{number}")
                connection, rest = connect(port, target, opening)
                descriptor = connection.fileno()
                room.members.append(connection)
                self._room_of[descriptor] = room
                self._sockets[descriptor] = connection
                self._rest[descriptor] = rest
                self._epoll.register(descriptor, select.EPOLLIN)
            self._rooms.append(room)

    def _way_in(self, name: str, room: str) -> tuple[str, Sequence[tuple[bytes, bytes | None]]]:
        """Return the target and the opening that lead into a room."""
        if name == "text":
            return f"/?room={room}", [(b"Hello", None)]
        (opened, _), *rest = self._dialect.opening
        return self._dialect.target, [(opened, f'40{{"room":"{room}"}}'.encode()), *rest]

    def talk(self, seconds: float) -> None:
        """Let the rooms talk for so long, and wait for the messages in flight."""
        stop = time.perf_counter() + seconds
        going_on = True
        while going_on or self._under_way:
            while going_on and self._under_way < self._speaking:
                self._say()
            ready = self._epoll.poll(STALL_SECONDS)
            if not ready:
                raise BenchError(
                    f"nothing arrived for {STALL_SECONDS:g} s in {self._under_way} rooms"
                )
            for descriptor, _ in ready:
                self._read(descriptor)
            going_on = time.perf_counter() < stop

    def _say(self) -> None:
        room = self._rooms.popleft()  # which has been silent the longest
        room.number += 1
        room.missing = len(room.members)
        text = self._dialect.message(room.number, MESSAGE_BYTES)
        self._under_way += 1
        room.sent_at = time.perf_counter_ns()
        room.members[room.number % len(room.members)].sendall(client_frame(TEXT, text, MASK))

    def _read(self, descriptor: int) -> None:
        connection, room = self._sockets[descriptor], self._room_of[descriptor]
        data = connection.recv(65536)
        if not data:
            raise BenchError("the server closed a connection")
        buffer, at = self._rest[descriptor] + data, 0
        while frame := server_frame(buffer, at):
            opcode, payload, at = frame
            if opcode == TEXT and (found := NUMBER.search(payload)) is not None:
                self._arrived(room, int(found[1]))
            elif opcode == TEXT and (answer := self._dialect.answers.get(payload)) is not None:
                connection.sendall(client_frame(TEXT, answer, MASK))
            elif opcode == PING:
                connection.sendall(client_frame(PONG, payload, MASK))
            elif opcode == CLOSE:
                raise BenchError(f"the server closed a connection: {payload!r}")
        self._rest[descriptor] = buffer[at:]

    def _arrived(self, room: Room, number: int) -> None:
        if number != room.number or not room.missing:
            raise BenchError(f"message {number} arrived where {room.number} was under way")
        room.missing -= 1
        if not room.missing:
            self.latencies.append(time.perf_counter_ns() - room.sent_at)
            self.messages += 1
            self._under_way -= 1
            self._rooms.append(room)

    def measure(self, pid: int, seconds: float, members: int) -> Measured:
        time.sleep(SETTLE_SECONDS)
        self.latencies.clear()
        messages, meter = self.messages, Meter([pid])
        self.talk(seconds)
        busy = meter.load_busy()
        time.sleep(SETTLE_SECONDS)
        messages = self.messages - messages
        sorted_ns = sorted(self.latencies)
        return Measured(
            messages=messages,
            deliveries=messages * members,
            server_cpu_ns=meter.server_ns(),
            load_busy=busy,
            p50_us=sorted_ns[len(sorted_ns) // 2] / 1000,
            p99_us=sorted_ns[len(sorted_ns) * 99 // 100] / 1000,
        )


def load(arguments: argparse.Namespace) -> int:
    """Put load on one server, and print the measurements."""
    gc.disable()  # there are no reference cycles here, and a collection would add latency
    (rooms,) = arguments.rooms
    try:
        talk = Talk(arguments.load, arguments.dialect, rooms, arguments.members, arguments.speaking)
        talk.talk(WARM_UP_SECONDS)
        print(json.dumps(asdict(talk.measure(arguments.pid, arguments.seconds, arguments.members))))
    except (BenchError, OSError) as error:
        print(f"rooms: {error}", file=sys.stderr)
        return 1
    return 0


def measure(server: Server, rooms: int, members: int, speaking: int, seconds: float) -> Measured:
    server_core, load_core = cores()
    with running(server, server_core) as handle:
        command = [sys.executable, __file__, "--load", str(handle.port), "--pid", str(handle.pid)]
        command += ["--dialect", server.dialect, "--rooms", str(rooms), "--members", str(members)]
        command += ["--speaking", str(speaking), "--seconds", str(seconds)]
        with pinned(load_core):
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
            )
        if done.returncode:
            words = f"{done.stderr.strip()}\n{handle.last_lines()}"
            raise ServerError(f"{server.name}: the run is void\n{words}")
    return Measured(**json.loads(done.stdout))


def shape(rooms: int, members: int, speaking: int) -> str:
    """Return the name of a shape."""
    what = f"in and out, {rooms} connections" if members == 1 else f"{rooms} rooms of {members}"
    return f"{what}, {speaking} of them speaking" if speaking else what


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure rooms in which everybody speaks.")
    parser.add_argument("--rooms", type=int, nargs="+", help="shapes with so many rooms")
    parser.add_argument("--members", type=int, default=1, help="of each room, with --rooms")
    parser.add_argument("--speaking", type=int, default=0, help="rooms at a time (default: all)")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement")
    parser.add_argument("--servers", nargs="+", choices=KNOWN, default=list(KNOWN))
    parser.add_argument(
        "--checkout",
        action="append",
        default=[],
        type=checkout_named,
        metavar="NAME=FOLDER",
        help="run another checkout's chatd too, as chatd-on@NAME and so on",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--load", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--pid", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--dialect", choices=DIALECTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.load is not None:
        return load(given)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    shapes = [(rooms, given.members) for rooms in given.rooms] if given.rooms else list(SHAPES)
    servers = [KNOWN[name] for name in given.servers]
    for server in list(servers):
        if server.ours:
            servers += [
                replace(server, name=f"{server.name}@{name}", checkout=folder)
                for name, folder in given.checkout
            ]
    figures = Figures()
    try:
        allow_descriptors(max(rooms * members for rooms, members in shapes) + SPARE_DESCRIPTORS)
        for _ in range(given.rounds):
            for rooms, members in shapes:
                name = shape(rooms, members, given.speaking)
                for server in servers:
                    found = measure(server, rooms, members, given.speaking, given.seconds)
                    cost = found.server_cpu_ns / found.deliveries / 1000
                    figures.add(name, "µs a delivery", server.name, cost, found.load_busy)
                    figures.add(name, "ms, p99", server.name, found.p99_us / 1000, found.load_busy)
    except ServerError as error:
        print(f"rooms: {error}", file=sys.stderr)
        return 1
    figures.print([PEER.name], json=given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
