"""A fault in what serves one client costs that client alone: each is injected here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from chatd.engineio import Session
from chatd.logs import open_log
from chatd.settings import Settings
from chatd.socketio import Connection, Server, Socket
from chatd.wire import server as wire
from chatd.wire.transport import Peer, StreamTransport
from tests.socketio.client import Stage, quiet, running, settled
from tests.wire.served import HANDSHAKE
from tests.wire.served import Client as WebSocketClient

PEER = Peer("127.0.0.1", "tcp", loopback=True)


def fail(*_args: Any, **_options: Any) -> NoReturn:
    raise ArithmeticError("injected")


class Only:
    """A method that fails for one object, and works for all others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> None:
        self.victim: object = None
        works = getattr(kind, name)

        def method(this: Any, *args: Any, **options: Any) -> Any:
            return (fail if this is self.victim else works)(this, *args, **options)

        monkeypatch.setattr(kind, name, method)


@asynccontextmanager
async def websocket(stage: Stage) -> AsyncGenerator[WebSocketClient, None]:
    """Connect by WebSocket and join "/"."""
    ours, theirs = memory_stream_pair()
    server = wire.HttpServer(Settings(), stage.io.routes, open_log(level="error"))
    stage.nursery.start_soon(server.handle, StreamTransport(theirs, PEER, listener_loopback=True))
    client = WebSocketClient(ours)
    await client.send(HANDSHAKE.replace(b"/ws", b"/socket.io/?EIO=4&transport=websocket"))
    assert (await client.answer())[0] == 101
    await client.hear()
    await client.text("40")
    assert str(await client.hear()).startswith("40{")
    yield client
    await trio.aclose_forcefully(ours)


def echoing() -> tuple[Server, Any]:
    io, recording = quiet()
    io.on("echo", lambda _socket, text: text)
    return io, recording


async def check_the_other(client: WebSocketClient) -> None:
    await client.text('421["echo","still here"]')
    assert await client.hear() == '431["still here"]'


FAULTS: dict[str, tuple[type, str, Callable[[Socket, Connection], object]]] = {
    "a packet": (Connection, "_dispatch", lambda _socket, connection: connection),
    "an acknowledgement": (Socket, "received_ack", lambda socket, _connection: socket),
    "the end of a socket": (Socket, "mark_disconnected", lambda socket, _connection: socket),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_error_while_reading_ends_one_client(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    io, _ = echoing()
    kind, name, victim = FAULTS[fault]
    only = Only(monkeypatch, kind, name)
    async with running(io) as stage, websocket(stage) as other:
        client = await stage.joined()
        socket = io.fetch_sockets()[-1]
        only.victim = victim(socket, socket._connection)
        with pytest.raises(ArithmeticError):
            # In a server the wire answers 500 and notes it.
            await client.say("30[]", "1")
        await settled()
        await check_the_other(other)
        assert socket.session.reason == "transport error"
        only.victim = None
    assert io.statistics().connections == 0


async def test_an_error_when_the_session_ends_is_logged_and_the_connection_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    io, recording = echoing()
    only = Only(monkeypatch, Socket, "mark_disconnected")
    async with running(io) as stage, websocket(stage) as other:
        client = await stage.joined()
        only.victim = io.fetch_sockets()[-1]
        client.cut()
        await settled()
        (record,) = [fields for event, fields in recording.records if event == "fault"]
        assert record["error"] == "ArithmeticError('injected')"
        assert "in fail" in record["traceback"]
        assert io.statistics().connections == 1
        await check_the_other(other)


async def test_an_error_of_a_connections_task_closes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    io, recording = echoing()
    async with running(io) as stage, websocket(stage) as other:
        monkeypatch.setattr(Connection, "_settle", fail)
        client = await stage.joined()
        await client.over.wait()
        monkeypatch.undo()
        await settled()
        assert io.statistics().faults == 1
        assert io.statistics().connections == 1
        (record,) = [fields for event, fields in recording.records if event == "fault"]
        assert "ArithmeticError('injected')" in record["error"]
        await check_the_other(other)


async def test_an_error_of_a_worker_closes_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    io, recording = echoing()
    only = Only(monkeypatch, Connection, "_next_job")
    ended: list[str] = []
    io.on("disconnect", lambda socket, reason: ended.append(reason))

    @io.on("wait")
    async def wait(_socket: Socket) -> None:
        await trio.lowlevel.checkpoint()

    async with running(io) as stage, websocket(stage) as other:
        client = await stage.joined()
        only.victim = io.fetch_sockets()[-1]._connection
        await client.emit("wait")
        await client.over.wait()
        await settled()
        assert ended == ["server shutting down"]
        assert len(io.fetch_sockets()) == io.statistics().connections == 1
        (record,) = [fields for event, fields in recording.records if event == "fault"]
        assert "ArithmeticError('injected')" in record["error"]
        await check_the_other(other)


async def test_an_error_of_a_heartbeat_closes_its_session(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    io, recording = quiet(ping_interval=1.0, ping_timeout=1.0)
    faulty: set[Session] = set()
    works = Session.fire

    def fire(session: Session, now: float) -> float | None:
        return fail() if session in faulty else works(session, now)

    monkeypatch.setattr(Session, "fire", fire)
    async with running(io) as stage:
        other = await stage.joined()
        client = await stage.joined()
        faulty.add(io.fetch_sockets()[-1].session)
        await trio.sleep(2.5)
        await client.over.wait()
        (record,) = [fields for event, fields in recording.records if event == "fault"]
        assert record["error"] == "ArithmeticError('injected')"
        await io.emit("x")
        assert await other.event() == ["x"]


async def test_what_cannot_be_sent_costs_its_handler_alone() -> None:
    io, recording = echoing()

    @io.on("broadcast")
    async def broadcast(_socket: Socket) -> None:
        await io.emit("x", object())

    io.on("answer", lambda _socket: object())
    async with running(io) as stage, websocket(stage) as other:
        client = await stage.joined()
        await client.emit("broadcast")
        await client.emit("answer", ack=1)
        await client.emit("echo", "next", ack=2)
        packet = await client.packet()
        assert (packet.id, packet.data) == (2, ["next"])
        details = [fields["detail"] for event, fields in recording.records if event == "fault"]
        assert details == ["broadcast in /", "answer in /"]
        await check_the_other(other)
