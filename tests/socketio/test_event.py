"""What of an event is handled at once, and what is left to the connection's worker."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest
import trio

from chatd.socketio import Connection, Refused, Server, Socket
from chatd.socketio.packets import Packet, PacketType
from tests.socketio.client import quiet, running, settled


def receive(connection: Connection, event: str, *args: Any) -> None:
    """Let a connection receive an event, as the poller does: without a checkpoint."""
    assert connection._dispatch(Packet(PacketType.EVENT, "/", [event, *args]), 100) is None


class Handling:
    """Handlers that note when they begin and end: plain, async, and plain with something to await.

    ``gate`` is what the last two wait for.
    """

    def __init__(self, io: Server) -> None:
        self.lines: list[str] = []
        self.gate = trio.Event()
        io.on("plain", self.plain)
        io.on("async", self.waiting)
        io.on("both", self.both)
        io.on("disconnect", lambda _socket, reason: self.lines.append(reason))

    def plain(self, _socket: Socket, name: str) -> None:
        self.lines.append(name)

    async def waiting(self, _socket: Socket, name: str) -> None:
        self.lines.append(f"{name} begins")
        await self.gate.wait()
        self.lines.append(f"{name} ends")

    def both(self, socket: Socket, name: str) -> Awaitable[None]:
        self.lines.append(name)
        return self.waiting(socket, name)


async def test_plain_handlers_run_at_once() -> None:
    io, _ = quiet()
    handling = Handling(io)
    async with running(io) as stage:
        await stage.joined()
        await settled()
        connection = io.fetch_sockets()[0]._connection
        for name in "abc":
            receive(connection, "plain", name)
        assert handling.lines == ["a", "b", "c"]
        assert connection.settled


async def test_nothing_overtakes_an_event_that_waits() -> None:
    io, _ = quiet()
    handling = Handling(io)
    async with running(io) as stage:
        await stage.joined()
        await settled()
        connection = io.fetch_sockets()[0]._connection
        receive(connection, "both", "a")
        receive(connection, "plain", "b")
        assert handling.lines == ["a"]
        assert not connection.settled
        await settled()
        receive(connection, "plain", "c")
        assert handling.lines == ["a", "a begins"]
        assert connection.queued == 2
        handling.gate.set()
        await settled()
        assert handling.lines[2:] == ["a ends", "b", "c"]
        receive(connection, "plain", "d")
        assert handling.lines[-1] == "d"


async def test_a_handler_that_begins_at_once_can_call_its_client() -> None:
    io, _ = quiet()

    @io.on("ask me")
    async def ask(socket: Socket) -> Any:
        return await socket.call("how much?")

    async with running(io) as stage:
        client = await stage.joined()
        await client.emit("ask me", ack=7)
        assert await client.packet() == Packet(PacketType.EVENT, "/", ["how much?"], 0)
        await client.say("30[42]")
        assert await client.packet() == Packet(PacketType.ACK, "/", [42], 7)


async def test_middleware_and_handlers_of_both_kinds_run_in_their_order() -> None:
    io, recording = quiet()
    lines: list[str] = []

    @io.use_event
    async def slow(_socket: Socket, event: str, args: list[Any]) -> None:
        await trio.lowlevel.checkpoint()
        lines.append("slow")
        args.append(len(args))

    @io.use_event
    def quick(_socket: Socket, event: str, args: list[Any]) -> None:
        lines.append("quick")
        if "refused" in args:
            raise Refused

    @io.on_any
    async def trace(_socket: Socket, event: str, *args: Any) -> None:
        lines.append(event)

    @io.on("x")
    def first(_socket: Socket, *args: Any) -> str:
        lines.append("first")
        return "first"

    @io.on("x")
    async def second(_socket: Socket, *args: Any) -> None:
        await trio.lowlevel.checkpoint()
        lines.append("second")
        raise ValueError(f"a fault with {args}")

    @io.on("x")
    def third(_socket: Socket, *args: Any) -> None:
        lines.append("third")

    async with running(io) as stage:
        client = await stage.joined()
        await client.emit("x", "one", ack=1)
        assert await client.packet() == Packet(PacketType.ACK, "/", ["first"], 1)
        await client.emit("x", "refused", ack=2)
        await settled()
        assert lines == ["slow", "quick", "x", "first", "second", "slow", "quick"]
        assert client.silent
    ((name, fields),) = recording.records
    assert (name, fields["error"]) == ("fault", "ValueError(\"a fault with ('one', 1)\")")


async def test_a_handler_that_disconnects_its_socket_ends_before_the_disconnect_handlers() -> None:
    io, _ = quiet()
    handling = Handling(io)
    io.on("both", lambda socket, _name: handling.lines.append("after"))

    @io.on_any
    def leave(socket: Socket, *_args: Any) -> None:
        socket.disconnect()

    async with running(io) as stage:
        await stage.joined()
        await settled()
        receive(io.fetch_sockets()[0]._connection, "both", "a")
        assert handling.lines == ["a"]
        await settled()
        assert handling.lines == ["a", "a begins"]
        handling.gate.set()
        await settled()
        assert handling.lines[2:] == ["a ends", "after", "server namespace disconnect"]


@pytest.mark.parametrize("grace", [30.0, 0.0])
async def test_a_handler_that_has_begun_is_cancelled_and_not_forgotten(grace: float) -> None:
    io, _ = quiet(handler_grace=grace, shutdown_timeout=0.01)
    handling = Handling(io)
    async with running(io) as stage:
        await stage.joined()
        await settled()
        connection = io.fetch_sockets()[0]._connection
        receive(connection, "both", "a")
        connection.session.end("transport close")
    # A coroutine that nobody awaited would be a warning, and so an error.
    assert handling.lines[:2] == ["a", "a begins"]
    assert "a ends" not in handling.lines
