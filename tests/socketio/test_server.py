from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_websocket import connect_websocket

from chatd import socketio
from chatd.socketio import Connection, Socket
from chatd.wire.request import Refused as HttpRefused
from chatd.wire.request import Request
from tests.socketio.client import MEMORY, quiet, running, settled

TUTORIAL = """\
import trio
from chatd import socketio

io = socketio.Server(static="public")

@io.on("connect")
async def connect(socket): print("a user connected", socket.id, socket.handshake.auth)

@io.on("chat message")
async def chat_message(socket, text): await io.emit("chat message", text)

@io.on("disconnect")
async def disconnect(socket, reason): print("user disconnected", reason)

trio.run(io.serve, "127.0.0.1:3000")
"""


async def speak(port: int, *lines: str) -> list[str]:
    """Connect by WebSocket, send these, and return all packets up to the answer to the last."""
    heard: list[str] = []
    async with trio.open_nursery() as nursery:
        websocket = await connect_websocket(
            nursery, "127.0.0.1", port, "/socket.io/?EIO=4&transport=websocket", use_ssl=False
        )
        await websocket.get_message()
        for line in lines:
            await websocket.send_message(line)
            heard.append(str(await websocket.get_message()))
        await websocket.aclose()
        nursery.cancel_scope.cancel()
    return heard


async def test_the_tutorials_program_runs_word_for_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "index.html").write_text("<h1>chat")
    monkeypatch.chdir(tmp_path)
    runs: list[Any] = []
    # Only the port, which may be taken, and the runner are changed.
    monkeypatch.setattr(trio, "run", lambda *args: runs.append(args))
    exec(TUTORIAL, {"__name__": "__main__"})
    ((serve, address),) = runs
    assert address == "127.0.0.1:3000"
    async with trio.open_nursery() as nursery:
        ((_, _, port),) = [one.rpartition(":") for one in await nursery.start(serve, "127.0.0.1:0")]
        async with await trio.open_tcp_stream("127.0.0.1", int(port)) as page:
            await page.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert b"".join([chunk async for chunk in page]).endswith(b"<h1>chat")
        connected, said = await speak(int(port), '40{"nick":"ann"}', '42["chat message","hi"]')
        assert said == '42["chat message","hi"]'
        nursery.cancel_scope.cancel()
    sid = connected.partition('"sid":"')[2].partition('"')[0]
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"a user connected {sid} {{'nick': 'ann'}}"
    assert second.startswith("user disconnected ")


async def test_serve_is_started_with_the_addresses_bound_and_ends_when_drained() -> None:
    io, _ = quiet(static=None)
    reasons: list[str] = []
    said: list[str] = []
    gone = trio.Event()

    @io.on("disconnect")
    async def disconnect(socket: Socket, reason: str) -> None:
        reasons.append(reason)
        gone.set()

    @io.on("x")
    async def x(socket: Socket) -> str:
        await socket.emit("told", 1)
        return "ok"

    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(io.serve, "127.0.0.1:0", "localhost:0")
        assert len(addresses) >= 2
        host, _, port = addresses[0].rpartition(":")
        assert host == "127.0.0.1"
        said += await speak(int(port), "40", '420["x"]')
        await gone.wait()
        await io.drain(5)
    assert said[1] == '42["told",1]'
    assert reasons == ["transport close"]
    with pytest.raises(ValueError, match="address"):
        await io.serve()


async def test_drain_waits_for_handlers_and_refuses_new_clients(autojump_clock: MockClock) -> None:
    io, _ = quiet()
    lines: list[Any] = []

    @io.on("x")
    async def x(socket: Socket) -> None:
        await trio.sleep(3)
        lines.append("handled")

    @io.on("disconnect")
    async def disconnect(socket: Socket, reason: str) -> None:
        lines.append(reason)

    async with running(io) as stage:
        client = await stage.joined()
        await client.emit("x")
        await client.emit("x")
        await io.emit("last words")
        connect_began = trio.current_time()

        async def try_to_come() -> None:
            await trio.sleep(1)
            with pytest.raises(HttpRefused) as caught:
                await io._allows(Request("GET", "/", (), MEMORY))
            lines.append(caught.value.response.status)

        stage.nursery.start_soon(try_to_come)
        await io.drain(60)
        assert trio.current_time() - connect_began == 6
        assert lines == [503, "handled", "handled", "server shutting down"]
        # Its words, and no DISCONNECT.
        assert await client.event() == ["last words"]
        await client.over.wait()
        assert client.silent


async def test_drain_waits_for_a_limited_time(autojump_clock: MockClock) -> None:
    io, _ = quiet(shutdown_timeout=2.0)
    lines: list[str] = []

    @io.on("x")
    async def x(socket: Socket) -> None:
        await trio.sleep(1000)

    @io.on("disconnect")
    async def disconnect(socket: Socket, reason: str) -> None:
        lines.append(reason)
        await trio.sleep(1000)

    async with running(io) as stage:
        client = await stage.joined()
        await client.emit("x")
        connect_began = trio.current_time()
        await io.drain(10)
        assert trio.current_time() - connect_began == 10
        assert lines == []
    assert trio.current_time() - connect_began == 12
    assert lines == ["server shutting down"]


async def test_errors_go_to_the_error_handler() -> None:
    io, recording = quiet()
    told: list[Any] = []

    @io.on_error
    async def on_error(error: Exception, socket: Socket | None, event: str) -> None:
        told.append((str(error), socket is not None, event))
        if event == "worse":
            raise RuntimeError("in on_error")

    @io.on_any
    async def boom(socket: Socket, event: str) -> None:
        raise ValueError("boom")

    async with running(io) as stage:
        client = await stage.joined()
        await client.emit("x")
        await client.emit("worse")
        await settled()
        assert told == [("boom", True, "x"), ("boom", True, "worse")]
        details = [fields["detail"] for _, fields in recording.records]
        assert details == ["worse in /", "on_error in /"]


async def test_allow_request_is_asked_first() -> None:
    async def allow(request: Request) -> str | None:
        return None if request.query.get("key") == "open" else "not with that key"

    io, _ = quiet(allow_request=allow)
    async with running(io) as stage:
        await stage.client("key=open")
        with pytest.raises(AssertionError, match="not with that key"):
            await stage.client()


async def test_hooks_may_be_async_or_plain() -> None:
    told: list[str] = []

    def tell(name: str, *, plain: bool) -> Any:
        async def waits(*args: Any) -> None:
            await trio.lowlevel.checkpoint()
            told.append(name)

        return (lambda *args: told.append(name)) if plain else waits

    expected = [
        "allow",
        "connection",
        "use",
        "of",
        "connect",
        "on_any",
        "event",
        "x",
        "task",
        "on_error",
        "disconnect",
    ]
    for plain in (True, False):
        told.clear()
        io, _ = quiet(allow_request=tell("allow", plain=plain))
        io.use_connection(tell("connection", plain=plain))
        io.use(tell("use", plain=plain))
        io.of(tell("of", plain=plain))
        io.on("connect", tell("connect", plain=plain))
        io.on_any(tell("on_any", plain=plain))
        io.use_event(tell("event", plain=plain))
        io.on("x", tell("x", plain=plain))
        io.on("x", lambda socket, plain=plain: socket.start_soon(tell("task", plain=plain)))
        io.on("x", lambda socket: 1 / 0)
        io.on_error(tell("on_error", plain=plain))
        io.on("disconnect", tell("disconnect", plain=plain))
        async with running(io) as stage:
            client = await stage.joined()
            await client.say("0/other,")
            await client.emit("x")
            await settled()
            await client.close()
            await settled()
        assert sorted(set(told)) == sorted(expected), plain


async def test_it_runs_once_at_a_time() -> None:
    io, _ = quiet()
    async with running(io):
        with pytest.raises(RuntimeError, match="already"):
            await io.run()
    async with running(io) as stage:
        await stage.joined()


def test_it_needs_no_loop_to_be_made() -> None:
    io = socketio.Server(recovery=True)
    assert io.statistics() == socketio.ServerStatistics(0, {"/": 0}, 0, 0)
    paths, prefixes = io.mounts()
    assert "/socket.io" in paths
    assert "/socket.io/socket.io.js" in paths
    assert list(prefixes) == ["/socket.io/"]


async def test_an_internal_error_ends_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    io, recording = quiet()
    ended: list[str] = []
    io.on("disconnect", lambda socket, reason: ended.append(reason))

    @io.on("x")
    async def wait(_socket: Socket) -> None:
        await trio.lowlevel.checkpoint()

    async def broken(*args: Any) -> None:
        raise ValueError("a fault")

    async with running(io) as stage:
        other = await stage.joined()
        client = await stage.joined()
        await settled()
        with monkeypatch.context() as patch:
            patch.setattr(Connection, "_next_job", broken)
            await client.emit("x")
            await client.over.wait()
        await settled()
        assert ended == ["server shutting down"]
        ((name, fields),) = recording.records
        assert (name, fields["detail"]) == ("fault", "connection")
        assert "a fault" in fields["traceback"]
        assert io.statistics().connections == 1
        await io.emit("still here")
        assert await other.event() == ["still here"]


async def test_options_can_be_replaced_while_the_server_runs() -> None:
    async def allow(request: Request) -> str | None:
        return None if request.query.get("key") == "open" else "The key is wrong."

    io, _ = quiet(allow_request=allow, max_sessions=5, ack_timeout=7.0)
    async with running(io) as stage:
        await stage.client("key=open")
        io.tune(max_sessions=2, connect_timeout=9.0)
        assert (io.options.max_sessions, io.options.connect_timeout) == (2, 9.0)
        assert io.options.ack_timeout == 7.0
        # What is not replaced still holds.
        with pytest.raises(AssertionError, match="The key is wrong"):
            await stage.client()
        await stage.client("key=open")
        with pytest.raises(AssertionError, match="too many sessions"):
            await stage.client("key=open")
