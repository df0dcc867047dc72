from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import trio
import websockets.exceptions
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.sync.client import connect

from chatd import engineio, socketio
from chatd.engineio import Session, SessionClosed
from chatd.logs import open_log
from chatd.settings import Http, Settings
from chatd.testing.recording import Recording
from chatd.wire import routes as wire
from chatd.wire.listener import ListenError
from chatd.wire.request import Request, Response
from tests.engineio.served import Recorder, serve, serve_handler, upgrade
from tests.wire.served import HANDSHAKE, MEMORY, Client

OPEN = "EIO=4&transport=websocket"


async def echo(session: Session) -> None:
    async for message in session:
        await session.send(message)


async def opened(client: Client) -> Client:
    assert (await upgrade(client, OPEN))[0] == 101
    assert (await client.hear())[0] == "0"
    return client


async def test_a_handler_for_each_session() -> None:
    async with serve_handler(echo) as (server, dial, _):
        one, two = await opened(dial()), await opened(dial())
        for index in range(200):
            await one.text(f"4{index}")
            await two.text(f"4{-index}")
        for index in range(200):
            assert await one.hear() == f"4{index}"
            assert await two.hear() == f"4{-index}"
        assert len(server.sessions) == 2


async def test_a_handler_may_be_a_plain_function() -> None:
    async with serve_handler(lambda session: session.send_nowait("bye")) as (_, dial, _):
        client = await opened(dial())
        assert await client.hear() == "4bye"
        assert await client.closed() == (1000, "forced close")


async def test_when_the_handler_returns_the_session_ends() -> None:
    async def handler(session: Session) -> None:
        await session.send("bye")

    async with serve_handler(handler) as (_, dial, _):
        client = await opened(dial())
        assert await client.hear() == "4bye"
        assert await client.closed() == (1000, "forced close")


async def test_the_iteration_ends_with_the_session_and_sending_raises() -> None:
    heard: list[str | bytes] = []
    done = trio.Event()

    async def handler(session: Session) -> None:
        heard.extend([message async for message in session])
        with pytest.raises(SessionClosed) as raised:
            await session.send("too late")
        assert raised.value.reason == "transport close"
        with pytest.raises(SessionClosed):
            session.send_nowait("too late")
        done.set()

    async with serve_handler(handler) as (_, dial, _):
        client = await opened(dial())
        await client.text("4a")
        await client.text("4b")
        await client.text("1")
        await done.wait()
    assert heard == ["a", "b"]


async def test_a_handler_that_raises_costs_its_session_alone() -> None:
    async def handler(session: Session) -> None:
        async for message in session:
            raise ValueError(message)

    async with serve_handler(handler) as (_, dial, recording):
        one, two = await opened(dial()), await opened(dial())
        await one.text("4boom")
        assert (await one.closed())[0] == 1011
        await one.aclose()
        await wait_all_tasks_blocked()
        await two.text("1")
        await two.closed()
    faults = [fields["error"] for name, fields in recording.records if name == "fault"]
    assert faults == ["ValueError('boom')"]


async def test_a_handler_that_does_not_read_holds_the_client(autojump_clock: MockClock) -> None:
    go = trio.Event()
    heard: list[str | bytes] = []

    async def handler(session: Session) -> None:
        await go.wait()
        heard.extend([message async for message in session])

    async with serve_handler(handler, max_payload=1000) as (server, dial, recording):
        client = await opened(dial())
        session = next(iter(server.sessions.values()))
        for index in range(1000):
            await client.text(f"4{index}")
        await wait_all_tasks_blocked()
        assert session.received_messages < 100
        await trio.sleep(100)
        assert session.reason is None
        assert [name for name, _ in recording.records] == ["warning"]
        go.set()
        await client.text("1")
        await wait_all_tasks_blocked()
    assert heard == [str(index) for index in range(1000)]


async def test_a_session_with_a_receiver_is_no_iterator() -> None:
    async with serve() as served:
        poller = await served.poller()
        assert isinstance(poller.session.receiver, Recorder)
        with pytest.raises(TypeError):
            await anext(aiter(poller.session))


async def test_no_client_is_served_outside_of_run() -> None:
    server = engineio.Server(echo)
    request = Request("GET", "/engine.io/?EIO=4&transport=polling", [], MEMORY)
    handler = server.routes.find("GET", request.path)
    assert not isinstance(handler, Response)
    assert (await answer(handler, request)).status == 503
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        assert (await answer(handler, request)).status == 200
        nursery.cancel_scope.cancel()
    assert not server.sessions
    assert (await answer(handler, request)).status == 503


async def answer(handler: wire.Handler, request: Request) -> Response:
    response = await handler(request)
    assert isinstance(response, Response)
    return response


@pytest.mark.parametrize(
    ("hosts", "host", "status"),
    [
        ((), "localhost", 101),
        ((), "127.0.0.1:3000", 101),
        ((), "evil.example", 421),
        ((), "chat.test", 421),
        # Once the names are known, the pages of others are not the server's own.
        (("chat.test",), "chat.test", 101),
        (("chat.test",), "evil.example", 400),
    ],
)
async def test_pages_whose_name_was_made_to_point_here_cannot_connect(
    hosts: tuple[str, ...], host: str, status: int
) -> None:
    settings = Settings(http=Http(hosts=hosts))
    server = engineio.Server(echo, settings=settings, log=open_log(sink=Recording()))
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(server.serve, "127.0.0.1:0")
        async with await trio.open_tcp_stream("127.0.0.1", int(address.split(":")[1])) as stream:
            head = HANDSHAKE.replace(b"/ws", f"/engine.io/?{OPEN}".encode())
            own = f"Host: {host}\r\nOrigin: http://{host}".encode()
            await stream.send_all(head.replace(b"Host: localhost", own))
            assert (await Client(stream).answer())[0] == status
        nursery.cancel_scope.cancel()


async def test_where_it_listens_is_logged() -> None:
    recording = Recording()
    server = engineio.Server(echo, log=open_log(sink=recording))
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(server.serve, "127.0.0.1:0", "localhost:0")
        nursery.cancel_scope.cancel()
    logged = [fields["listener"] for name, fields in recording.records if name == "listening"]
    assert logged == addresses


def test_by_default_the_log_says_where_it_listens(capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(engineio.Server(echo).serve, "127.0.0.1:0")
            nursery.cancel_scope.cancel()

    trio.run(main)
    (line,) = capfd.readouterr().err.splitlines()
    assert "listening" in line
    assert "127.0.0.1:" in line


@pytest.mark.parametrize(
    ("addresses", "error", "message"),
    [
        ((), ValueError, "serve() needs an address"),
        ((3000,), TypeError, 'An address is a text such as "127.0.0.1:3000", not 3000.'),
        (("127.0.0.1", 3000), TypeError, "not 3000."),
        (("127.0.0.1",), ListenError, "'127.0.0.1' is not an address"),
        (("http://127.0.0.1:3000",), ListenError, "is not an address"),
        (("127.0.0.1:²",), ListenError, "is not an address"),
        (("systemd:",), ListenError, "systemd passed no socket"),
        (("unix:/" + "x" * 200,), ListenError, "too long"),
    ],
)
async def test_an_address_that_cannot_be_listened_on_is_one_line(
    addresses: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        await engineio.Server(echo).serve(*addresses)
    assert message in str(raised.value)
    assert "listen.addresses" not in str(raised.value)
    assert "\n" not in str(raised.value)


async def test_the_error_for_a_taken_address_names_no_key_of_the_daemon() -> None:
    server = engineio.Server(echo, log=open_log(sink=Recording()))
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(server.serve, "127.0.0.1:0")
        with pytest.raises(ListenError) as raised:
            await engineio.Server(echo).serve(address)
        nursery.cancel_scope.cancel()
    assert str(raised.value).startswith(f"{address} is in use by another program")
    assert str(raised.value).endswith("end it, or use another address")


@pytest.mark.parametrize("run", ["serve", "run"])
def test_on_asyncio_the_error_names_trio(run: str) -> None:
    for server in (engineio.Server(echo), socketio.Server()):
        function = getattr(server, run)
        with pytest.raises(RuntimeError, match="runs on Trio, not on asyncio") as raised:
            asyncio.run(function(*(["127.0.0.1:0"] if run == "serve" else [])))
        assert "trio.run(" in str(raised.value)


async def test_it_stands_alone() -> None:
    server = engineio.Server(echo, ping_interval=0.3, ping_timeout=0.2, allow_eio3=True)

    def talk(address: str) -> list[object]:
        got: list[object] = []
        with connect(f"ws://{address}/engine.io/?{OPEN}") as websocket:
            got.append(json.loads(str(websocket.recv())[1:])["upgrades"])
            websocket.send("4hello")
            websocket.send(b"\x01")
            got += [websocket.recv(), websocket.recv(), websocket.recv()]
            websocket.send("1")
            with pytest.raises(websockets.exceptions.ConnectionClosed):
                websocket.recv()
        return got

    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(server.serve, "127.0.0.1:0")
        assert address.startswith("127.0.0.1:")
        got = await trio.to_thread.run_sync(talk, address)
        nursery.cancel_scope.cancel()
    assert got == [[], "4hello", b"\x01", "2"]


async def test_cancellation_wakes_waiting_tasks() -> None:
    server = engineio.Server(echo)
    line = "GET /engine.io/?EIO=4&transport=polling"
    last: list[object] = []
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(server.serve, "127.0.0.1:0")
        port = int(address.rpartition(":")[2])
        async with (
            await trio.open_tcp_stream("127.0.0.1", port) as polling,
            await trio.open_tcp_stream("127.0.0.1", port) as other,
        ):
            poller, websocket = Client(polling), Client(other)
            _, _, body = await poller.ask(f"{line} HTTP/1.1")
            sid = json.loads(body[1:])["sid"]
            await opened(websocket)
            await poller.send(f"{line}&sid={sid} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            while not server.sessions[sid].polling.getting:  # noqa: ASYNC110  nobody is told when
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True), trio.fail_after(10):
                last.append((await poller.answer())[2])
                last.append(await websocket.frame())
    assert last == [b"1", (0x88, (1001).to_bytes(2, "big") + b"server shutting down")]


async def test_ctrl_c_is_in_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        raise KeyboardInterrupt

    server = engineio.Server(echo)
    monkeypatch.setattr(server, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        await server.serve("127.0.0.1:0")
