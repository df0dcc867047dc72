"""Measure event streams beside plain WebSockets: a delivery's CPU time, an idle one's memory.

Each round starts a daemon for the WebSockets and one for the streams, in turn. A plain WebSocket
sends each message when all receivers have the one before. Every client has an address of its own
in 127.0.0.0/8, so that it is a guest of its own.

    python bench/streams.py
    python bench/streams.py --connections 200 --rounds 3
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from fanout import SPARE_DESCRIPTORS, allow_descriptors, cores
from memory import SETTLE_SECONDS, WARM_UP, resident
from receivers import RECV_BYTES, TEXT, BenchError, client_frame, connect, cpu_ns
from servers import Server, ServerError, chatd, running

STALL_SECONDS = 5.0
END = b"<end>"  # of each message's text

Opener = Callable[[int, int], socket.socket]


def opened(port: int, index: int, request: str, status: bytes, last: bytes) -> socket.socket:
    """Send a request and read the answer until ``last``."""
    connection = socket.create_connection(
        ("127.0.0.1", port), timeout=10, source_address=(f"127.1.{index >> 8}.{index & 255}", 0)
    )
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(request.encode())
    answer = b""
    while last not in answer:
        data = connection.recv(RECV_BYTES)
        answer += data
        if not data or not answer.startswith(b"HTTP/1.1 " + status):
            raise BenchError(f"the server refused it: {answer!r}")
    return connection


def plain(port: int, index: int) -> socket.socket:
    """Open a plain WebSocket, and read its greeting."""
    request = (
        f"GET /?nick=n{index} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n"
    )
    return opened(port, index, request, b"101", b"#lobby.")


def stream(port: int, index: int) -> socket.socket:
    """Open an event stream, and read its head and its first block."""
    request = (
        f"GET /rooms/lobby?nick=n{index} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        "Accept: text/event-stream\r\n\r\n"
    )
    return opened(port, index, request, b"200", b"\nid: ")


@dataclass(frozen=True, slots=True)
class Figures:
    """KiB of an idle connection, and microseconds of CPU of a delivery."""

    memory: float
    delivery: float


def measure(opener: Opener, count: int, seconds: float, core: int | None) -> Figures:
    server = Server("chatd", "text", chatd("log.messages=false", 'history.store="memory"'))
    with running(server, core) as daemon:
        held = [opener(daemon.port, index) for index in range(WARM_UP)]
        time.sleep(SETTLE_SECONDS)
        before = resident(daemon.pid)
        held += [opener(daemon.port, index) for index in range(WARM_UP, WARM_UP + count)]
        time.sleep(SETTLE_SECONDS)
        memory = (resident(daemon.pid) - before) / count / 1024
        sender = connect(daemon.port, "/?nick=sender")[0]
        receivers = Receivers([*held, sender])
        receivers.exchange(sender, seconds / 2)
        cpu = cpu_ns([daemon.pid])
        messages = receivers.exchange(sender, seconds)
        time.sleep(0.05)
        cpu = cpu_ns([daemon.pid]) - cpu
        for each in (*held, sender):
            each.close()
        return Figures(memory, cpu / messages / len(receivers.has) / 1000)


class Receivers:
    """All connections, and how many messages each has."""

    def __init__(self, connections: list[socket.socket]) -> None:
        self.sockets = {connection.fileno(): connection for connection in connections}
        self.has = dict.fromkeys(self.sockets, 0)
        self.sent = 0
        self.epoll = select.epoll()
        for descriptor in self.sockets:
            self.epoll.register(descriptor, select.EPOLLIN)

    def exchange(self, sender: socket.socket, seconds: float) -> int:
        """Send one message after the other; return how many."""
        first, until = self.sent, time.monotonic() + seconds
        while time.monotonic() < until:
            text = b"x" * 64 + END
            sender.sendall(client_frame(TEXT, text, os.urandom(4)))
            self.sent += 1
            missing = len(self.has)
            while missing:
                ready = self.epoll.poll(STALL_SECONDS)
                if not ready:
                    raise BenchError(f"{missing} receivers lack a message")
                for descriptor, _ in ready:
                    came = self.sockets[descriptor].recv(RECV_BYTES).count(END)
                    self.has[descriptor] += came
                    missing -= came
        if set(self.has.values()) != {self.sent}:
            raise BenchError("a message was lost or repeated")
        return self.sent - first


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure event streams beside WebSockets.")
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    given = parser.parse_args()
    openers = {"plain WebSocket": plain, "event stream": stream}
    figures: dict[str, list[Figures]] = {name: [] for name in openers}
    try:
        allow_descriptors(given.connections + WARM_UP + SPARE_DESCRIPTORS)
        for _ in range(given.rounds):
            for name, opener in openers.items():
                measured = measure(opener, given.connections, given.seconds, cores()[0])
                figures[name].append(measured)
    except (BenchError, ServerError, OSError) as error:
        print(f"streams: {error}", file=sys.stderr)
        return 1
    base = figures["plain WebSocket"]
    print(f"{'':18}{'KiB idle':>10}{'µs CPU a delivery':>20}{'min':>8}{'max':>8}{'ratio':>8}")
    for name, found in figures.items():
        costs = [each.delivery for each in found]
        pairs = zip(costs, base, strict=True)
        ratio = median(own / other.delivery for own, other in pairs)
        print(
            f"{name:18}{median(each.memory for each in found):10.1f}{median(costs):20.3f}"
            f"{min(costs):8.3f}{max(costs):8.3f}{ratio:8.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
