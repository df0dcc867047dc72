"""The load: many WebSocket receivers in one process, one of which sends everything.

It connects, sends numbered messages with a given number in flight, checks that every receiver gets
each of them once and in order, and reads the server's CPU clock around the measured phase.
fanout.py starts it on a core of its own; the result is JSON on stdout.

It uses plain sockets and epoll, because a load that costs more than the server measures itself. A
broadcast sends every receiver the same bytes, which makes checking cheap: the frame that arrives
first is parsed, its number checked and its bytes appended to one stream; for all other receivers a
`recv` and one comparison with that stream (a memcmp) check every byte. Everything else (a ping, a
notice, a partial frame before one) is parsed frame by frame.

In flight: message n + k is sent when every receiver, including the sender, has message n. With
k = 1 the server never has two messages to combine. Each message is one `send` of its own.
"""

from __future__ import annotations

import argparse
import base64
import gc
import json
import os
import re
import select
import socket
import sys
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

RECV_BYTES = 65536
STALL_SECONDS = 5.0  # messages in flight are lost if nothing arrives for this long
SETTLE_SECONDS = 0.05  # includes work that a server postpones (garbage collection, checkpoints)
LATENCY_RECEIVERS = 50  # evenly spread: reading the clock for each delivery would slow the load
NANOSECONDS = 1_000_000_000

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA


class BenchError(Exception):
    """The run is void: a delivery was lost, repeated, out of order or altered, or a peer left."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a client speaks to a server, so that every server delivers the text `NUMBER xxx…`."""

    sent: tuple[bytes, bytes]  # what a client puts before and after the text
    delivered: tuple[bytes, re.Pattern[bytes]]  # what a receiver finds before and after it
    target: str = "/"
    sender_target: str = "/"
    # The handshake: the start of each message from the server, and the client's reply, if any.
    opening: Sequence[tuple[bytes, bytes | None]] = ()
    answers: Mapping[bytes, bytes] = field(
        default_factory=dict
    )  # replies to messages that may arrive at any time

    def message(self, number: int, size: int) -> bytes:
        before, behind = self.sent
        return before + self.text(number, size) + behind

    def text(self, number: int, size: int) -> bytes:
        return b"%08d " % number + b"x" * (size - 9)

    def number(self, payload: bytes, size: int) -> int | None:
        """Return the number of a delivered message, or None for a greeting or a notice."""
        before, behind = self.delivered
        match = re.match(re.escape(before) + rb"(\d{8}) ", payload)
        if match is None:
            return None
        number = int(match[1])
        end = len(before) + size
        as_sent = payload[len(before) : end] == self.text(number, size)
        if not as_sent or behind.fullmatch(payload, end) is None:
            raise BenchError(f"message {number} was altered: {payload!r}")
        return number


def socketio(behind: bytes, greeting: bytes | None = None) -> Dialect:
    """Return the dialect of a Socket.IO client that starts on WebSocket and awaits a greeting."""
    event = b'42["chat message","'
    return Dialect(
        sent=(event, b'"]'),
        delivered=(event, re.compile(behind)),
        target="/socket.io/?EIO=4&transport=websocket",
        sender_target="/socket.io/?EIO=4&transport=websocket",
        opening=(
            (b"0{", b"40"),
            (b"40{", None),
            *(() if greeting is None else ((greeting, None),)),
        ),
        answers={b"2": b"3"},
    )


NOTHING = re.compile(rb"")

DIALECTS = {
    # chatd's plain text protocol puts the nick before the text.
    "text": Dialect(
        sent=(b"", b""), delivered=(b"sender: ", NOTHING), sender_target="/?nick=sender"
    ),
    # An echo server receives the prefix from the client, so that it delivers the same bytes.
    "echo": Dialect(sent=(b"sender: ", b""), delivered=(b"sender: ", NOTHING)),
    # Socket.IO 5 on Engine.IO 4: `io.emit("chat message", text)`.
    "socketio": socketio(behind=rb'"\]'),
    # chatd's own: it adds an object that describes the message, and an offset. A client is in the
    # room once `hello` arrives.
    "socketio-chat": socketio(behind=rb'",\{"[^{}]+\},"[^"]+"\]', greeting=b'42["hello"'),
}


@dataclass(frozen=True, slots=True)
class Phase:
    """The results of one measured phase."""

    in_flight: int
    messages: int
    deliveries: int
    seconds: float
    server_cpu_ns: int  # of all processes of the server
    server_system_share: float  # of it, by ticks
    beside_cpu_ns: int  # of the processes that it uses, such as a store
    load_cpu_ns: int
    p50_us: float
    p99_us: float
    other_frames: int

    @property
    def load_busy(self) -> float:
        """The share of a core that the load used."""
        return self.load_cpu_ns / NANOSECONDS / self.seconds


def cpu_ns(pids: Sequence[int]) -> int:
    """Return the CPU time of processes, including ended threads, in nanoseconds.

    This is clock_getcpuclockid(3), which Python does not wrap. The clock's number is computed as in
    the kernel's include/linux/posix-timers_types.h (CPUCLOCK_SCHED = 2, for a process).
    """
    return sum(time.clock_gettime_ns((~pid << 3) | 2) for pid in pids)


class Meter:
    """The CPU time of a server and of the load, which is this process, since it was made."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._began, self._load = time.perf_counter(), time.process_time()
        self._server = cpu_ns(pids)

    def server_ns(self) -> int:
        """Return the server's CPU time in nanoseconds."""
        return cpu_ns(self._pids) - self._server

    def load_busy(self) -> float:
        """Return the share of a core that the load used."""
        return (time.process_time() - self._load) / (time.perf_counter() - self._began)


def system_ticks(pids: Sequence[int]) -> tuple[int, int]:
    """Return (user, system) CPU time in clock ticks: fields 14 and 15 of proc_pid_stat(5)."""
    user = system = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        user, system = user + int(fields[11]), system + int(fields[12])
    return user, system


def client_frame(opcode: int, payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    else:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    repeated = (mask * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return head + mask + masked.to_bytes(size, "big")


def server_frame(buffer: bytes, start: int) -> tuple[int, bytes, int] | None:
    """Return (opcode, payload, end) of the frame at `start`, or None if it is incomplete."""
    if len(buffer) < start + 2:
        return None
    first, size = buffer[start], buffer[start + 1]
    body = start + 2
    extended = {126: 2, 127: 8}.get(size, 0)
    if extended:
        if len(buffer) < body + extended:
            return None
        size = int.from_bytes(buffer[body : body + extended], "big")
        body += extended
    if len(buffer) < body + size:
        return None
    if not first & 0x80:
        raise BenchError("a fragmented message arrived")
    return first & 0x7F, buffer[body : body + size], body + size


def connect(
    port: int,
    target: str,
    opening: Sequence[tuple[bytes, bytes | None]] = (),
    subprotocols: Sequence[str] = (),
) -> tuple[socket.socket, bytes]:
    """Open one WebSocket; return it and the bytes received after the 101 and the opening."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    key = base64.b64encode(os.urandom(16)).decode()
    offered = "".join(f"Sec-WebSocket-Protocol: {name}\r\n" for name in subprotocols)
    connection.sendall(
        f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
        f"Sec-WebSocket-Version: 13\r\n{offered}\r\n".encode()
    )
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = connection.recv(RECV_BYTES)
        if not data:
            raise BenchError(f"the server closed the connection during the handshake: {answer!r}")
        answer += data
    head, _, rest = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101 "):
        raise BenchError(f"the server refused the upgrade: {answer[:300]!r}")
    for start, answering in opening:
        while (frame := server_frame(rest, 0)) is None:
            data = connection.recv(RECV_BYTES)
            if not data:
                raise BenchError(f"the server closed the connection before {start!r}: {rest!r}")
            rest += data
        opcode, payload, end = frame
        if opcode != TEXT or not payload.startswith(start):
            raise BenchError(f"the server sent {payload!r}, not {start!r}")
        rest = rest[end:]
        if answering is not None:
            connection.sendall(client_frame(TEXT, answering, os.urandom(4)))
    connection.settimeout(None)
    return connection, rest


class Receivers:
    """All connections to one server, and how much of the stream each has received.

    A server may be several processes, each with a port: they get the connections in turn.
    """

    def __init__(self, ports: Sequence[int], dialect: Dialect, count: int, size: int) -> None:
        self.dialect = dialect
        self.size = size
        self.mask = os.urandom(4)
        self.epoll = select.epoll()
        self.sockets: dict[int, socket.socket] = {}
        self.order: dict[int, int] = {}  # the receiver's number by descriptor, for error messages
        self.positions: dict[int, int] = {}  # how many bytes of the stream each has
        self.tails: dict[int, bytes] = {}  # partial frames that do not continue the stream
        self.stream = bytearray()  # the frame of every message, as first delivered
        self.ends: list[int] = []  # where each message ends in it
        self.sent_at: list[int] = []
        self.complete = 0  # messages that every receiver has
        self.other_frames = 0
        self.latencies: list[int] = []
        # The sender is in the middle of the connections, and thus of a fan-out in their order.
        for index in range(count):
            sends = index == count // 2
            target = dialect.sender_target if sends else dialect.target
            connection, rest = connect(ports[index % len(ports)], target, dialect.opening)
            descriptor = connection.fileno()
            self.sockets[descriptor] = connection
            self.order[descriptor] = index
            self.positions[descriptor] = 0
            if sends:
                self.sender = connection
            if rest:
                self.parse(descriptor, rest)
            self.epoll.register(descriptor, select.EPOLLIN)
        step = max(1, count // LATENCY_RECEIVERS)
        # How many messages each receiver whose latency is measured has.
        self.timed = {fd: 0 for fd, index in self.order.items() if index % step == 0}

    def parse(self, descriptor: int, data: bytes) -> None:
        """Parse bytes that do not simply continue the stream, frame by frame."""
        index = self.order[descriptor]
        if not data:
            raise BenchError(f"receiver {index}: the server closed the connection")
        count = bisect_right(self.ends, self.positions[descriptor])
        start = self.ends[count - 1] if count else 0
        buffer = self.tails.pop(descriptor, b"")
        buffer = buffer or bytes(self.stream[start : self.positions[descriptor]])
        buffer += data
        at = 0
        while frame := server_frame(buffer, at):
            opcode, payload, end = frame
            if opcode == TEXT:
                number = self.dialect.number(payload, self.size)
                if number is None:
                    self.other_frames += 1
                    if (answer := self.dialect.answers.get(payload)) is not None:
                        framed = client_frame(TEXT, answer, self.mask)
                        self.sockets[descriptor].sendall(framed)
                elif number != count:
                    raise BenchError(f"receiver {index} got message {number}, not {count}")
                else:
                    self.keep(index, number, buffer[at:end])
                    count += 1
            elif opcode == PING:
                pong = client_frame(PONG, payload, self.mask)
                self.sockets[descriptor].sendall(pong)
            elif opcode == CLOSE:
                code, reason = int.from_bytes(payload[:2], "big"), payload[2:]
                raise BenchError(f"receiver {index} was closed: {code} {reason!r}")
            elif opcode != PONG:
                raise BenchError(f"receiver {index} got a frame with opcode {opcode}")
            at = end
        position = self.ends[count - 1] if count else 0
        rest = buffer[at:]
        if rest and self.stream.startswith(rest, position):
            position += len(rest)
        elif rest:
            self.tails[descriptor] = rest
        self.positions[descriptor] = position

    def keep(self, index: int, number: int, frame: bytes) -> None:
        """Append a message's frame to the stream, or compare it with the one already there."""
        if number < len(self.ends):
            start = self.ends[number - 1] if number else 0
            if self.stream[start : self.ends[number]] != frame:
                raise BenchError(f"receiver {index} got message {number} with different bytes")
        elif number >= len(self.sent_at):
            raise BenchError(f"receiver {index} got message {number} before it was sent")
        else:
            self.stream += frame
            self.ends.append(len(self.stream))

    def receive(self, timeout: float) -> bool:
        """Read once from each readable receiver; return whether there was one."""
        positions, tails, timed, sockets = self.positions, self.tails, self.timed, self.sockets
        is_next = self.stream.startswith
        events = self.epoll.poll(timeout)
        for descriptor, _ in events:
            data = sockets[descriptor].recv(RECV_BYTES)
            position = positions[descriptor]
            if data and is_next(data, position) and descriptor not in tails:
                positions[descriptor] = position + len(data)
            else:
                self.parse(descriptor, data)
            if descriptor in timed:
                now = time.perf_counter_ns()
                had = timed[descriptor]
                timed[descriptor] = has = bisect_right(self.ends, positions[descriptor])
                self.latencies += [now - sent for sent in self.sent_at[had:has]]
        lowest = min(positions.values())
        while self.complete < len(self.ends) and self.ends[self.complete] <= lowest:
            self.complete += 1
        return bool(events)

    def exchange(self, in_flight: int, seconds: float) -> None:
        """Send for `seconds`, then wait until every receiver has every message."""
        stop = time.perf_counter_ns() + int(seconds * NANOSECONDS)
        while True:
            if time.perf_counter_ns() < stop:
                while len(self.sent_at) - self.complete < in_flight:
                    self.send()
            elif self.complete == len(self.sent_at):
                return
            if not self.receive(STALL_SECONDS):
                raise BenchError(self.missing())

    def send(self) -> None:
        """Send the next message."""
        number = len(self.sent_at)
        frame = client_frame(TEXT, self.dialect.message(number, self.size), self.mask)
        self.sent_at.append(time.perf_counter_ns())
        self.sender.sendall(frame)

    def send_at(self, rate: float, seconds: float) -> None:
        """Send so many messages a second, whatever has arrived; wait until everybody has them."""
        began = time.perf_counter()
        stalled = began + seconds + STALL_SECONDS
        sent = 0
        while sent < rate * seconds or self.complete < len(self.sent_at):
            now = time.perf_counter()
            if now > stalled:
                raise BenchError(self.missing())
            while sent < min(rate * (now - began), rate * seconds):
                self.send()
                sent += 1
            due = began + sent / rate if sent < rate * seconds else stalled
            self.receive(max(0.0, due - time.perf_counter()))

    def missing(self) -> str:
        total = len(self.sent_at)
        have = {fd: bisect_right(self.ends, position) for fd, position in self.positions.items()}
        short = {self.order[fd]: count for fd, count in have.items() if count < total}
        examples = ", ".join(f"receiver {i} has {n}" for i, n in list(short.items())[:5])
        return (
            f"nothing arrived for {STALL_SECONDS:g} s; {len(short)} of {len(have)} receivers lack "
            f"some of {total} messages ({examples})"
        )

    def settle(self) -> None:
        """Wait a moment in which no message may arrive: a repeated one would."""
        until = time.perf_counter() + SETTLE_SECONDS
        while (left := until - time.perf_counter()) > 0:
            self.receive(left)

    def measure(
        self, pids: Sequence[int], in_flight: int, seconds: float, *, beside: Sequence[int] = ()
    ) -> Phase:
        self.settle()
        self.latencies.clear()
        first, others = len(self.sent_at), self.other_frames
        user, system = system_ticks(pids)
        used = cpu_ns(beside)
        started, load, server = time.perf_counter(), time.process_time_ns(), cpu_ns(pids)
        self.exchange(in_flight, seconds)
        elapsed, load = time.perf_counter() - started, time.process_time_ns() - load
        self.settle()
        server, used = cpu_ns(pids) - server, cpu_ns(beside) - used
        user_after, system_after = system_ticks(pids)
        messages = len(self.sent_at) - first
        latencies = sorted(self.latencies)
        ticks = user_after - user + system_after - system
        return Phase(
            in_flight=in_flight,
            messages=messages,
            deliveries=messages * len(self.sockets),
            seconds=elapsed,
            server_cpu_ns=server,
            server_system_share=(system_after - system) / ticks if ticks else 0.0,
            beside_cpu_ns=used,
            load_cpu_ns=load,
            p50_us=latencies[len(latencies) // 2] / 1000,
            p99_us=latencies[len(latencies) * 99 // 100] / 1000,
            other_frames=self.other_frames - others,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the load of fanout.py against one server.")
    parser.add_argument("--port", type=int, nargs="+", required=True)
    parser.add_argument(
        "--pid", type=int, nargs="+", required=True, help="of the server, to read its CPU clock"
    )
    parser.add_argument(
        "--beside", type=int, nargs="*", default=[], help="the pids of what the server uses"
    )
    parser.add_argument("--dialect", choices=DIALECTS, required=True)
    parser.add_argument("--receivers", type=int, default=500)
    parser.add_argument("--bytes", type=int, default=64, help="of a message's text")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--warm-up", type=float, default=0.6, help="seconds before each phase")
    parser.add_argument("--seconds", type=float, default=1.2, help="of each measured phase")
    arguments = parser.parse_args()
    gc.disable()  # there are no reference cycles here, and a collection would add latency
    try:
        receivers = Receivers(
            arguments.port, DIALECTS[arguments.dialect], arguments.receivers, arguments.bytes
        )
        # When everybody has the first message, everybody is in the room.
        receivers.exchange(1, 0.001)
        phases = []
        for in_flight in arguments.in_flight:
            receivers.exchange(in_flight, arguments.warm_up)
            phases.append(
                receivers.measure(
                    arguments.pid, in_flight, arguments.seconds, beside=arguments.beside
                )
            )
    except (BenchError, OSError) as error:
        print(f"receivers: {error}", file=sys.stderr)
        return 1
    print(json.dumps([asdict(phase) for phase in phases]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
