"""Measure the loop that offers a block to many outboxes, beside a bare loop of `send`.

Both loops run in this process and send the same frame to the same TCP sockets, in turn. Then the
other ends are read, which is not measured. So the difference is what chatd adds to `send` for each
receiver: it looks whether the connection has ended and whether something waits, and counts.

    python bench/offers.py
"""

from __future__ import annotations

import argparse
import gc
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import trio
from fanout import SPARE_DESCRIPTORS, allow_descriptors
from results import Figures

from chatd.bus import Group, fan_out
from chatd.wire import frames
from chatd.wire.outbox import Outbox
from chatd.wire.transport import Peer, SocketTransport

BOUND = 1024 * 1024  # of an outbox, in bytes; nothing waits here
BASE = "send"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the offers of a fan-out alone.")
    parser.add_argument("--receivers", type=int, default=500)
    parser.add_argument("--bytes", type=int, default=64, help="of a message's text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passes", type=int, default=60, help="of both loops in a round")
    parser.add_argument("--json", action="store_true", help="print the costs as JSON")
    given = parser.parse_args()
    allow_descriptors(2 * given.receivers + SPARE_DESCRIPTORS)
    figures = Figures()
    shape = f"offers to {given.receivers}, the loop alone"
    frame = frames.text(b"sender: " + b"x" * given.bytes)
    for _ in range(given.rounds):
        costs = trio.run(measure, given.receivers, frame, given.passes)
        for name, cost in costs.items():
            figures.add(shape, "µs a delivery", name, cost)
    figures.print([BASE], json=given.json)


async def measure(receivers: int, frame: bytes, passes: int) -> dict[str, float]:
    """Return the lowest cost of a delivery with each loop, in µs of CPU."""
    lowest: dict[str, float] = {}
    with connected(receivers) as (ours, theirs):
        async with trio.open_nursery() as nursery:
            outboxes = [outbox(sock, nursery) for sock in ours]
            group = Group(frame, 1, outboxes, outboxes, lambda: outboxes)

            async def send() -> None:
                for sock in ours:
                    sock.send(frame)

            async def offer() -> None:
                await fan_out([group])

            gc.disable()
            for _ in range(passes):
                for name, loop in ((BASE, send), ("chatd", offer)):
                    began = time.process_time_ns()
                    await loop()
                    cost = (time.process_time_ns() - began) / 1000 / receivers
                    lowest[name] = min(cost, lowest.get(name, cost))
                    read(theirs, len(frame))
            gc.enable()
    return lowest


@contextmanager
def connected(count: int) -> Iterator[tuple[list[socket.socket], list[socket.socket]]]:
    """Connect pairs of TCP sockets over loopback, and return both sides' ends."""
    ours: list[socket.socket] = []
    theirs: list[socket.socket] = []
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1))
        for _ in range(count):
            theirs.append(stack.enter_context(socket.create_connection(listener.getsockname())))
            ours.append(stack.enter_context(listener.accept()[0]))
            ours[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield ours, theirs


def outbox(sock: socket.socket, nursery: trio.Nursery) -> Outbox:
    transport = SocketTransport(sock, Peer("127.0.0.1", "tcp", loopback=True))
    return Outbox(transport, nursery, BOUND, overflowed=broken, lost=broken)


def broken() -> None:
    raise AssertionError("a connection of this process broke")


def read(sockets: Sequence[socket.socket], size: int) -> None:
    for sock in sockets:
        if len(sock.recv(size + 1)) != size:
            raise AssertionError("a delivery was lost")


if __name__ == "__main__":
    main()
