"""Socket.IO's own clients, from 1.7 on, by each transport, against ``chatd.socketio``."""

from __future__ import annotations

import importlib.util
import json
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from tests.e2e.chatd_process import free_port
from tests.e2e.socketio_clients import (
    ROOT,
    Client,
    Clients,
    SocketIOServer,
)
from tests.e2e.socketio_server import REFUSAL, TOKEN

VERSIONS: Final = ("1.7", "2.0", "2.5", "3.1", "4.0", "4.8")
REVISION_3: Final = ("1.7", "2.0", "2.5")
"""Those that speak Engine.IO 3."""

WAYS: Final = {
    "polling": ["polling"],
    "websocket": ["websocket"],
    "upgrade": ["polling", "websocket"],
}

EVERYTHING: Final[list[Any]] = [
    None,
    True,
    False,
    0,
    -7,
    9007199254740991,
    1.5,
    -2.5e-300,
    "",
    "plain",
    'quotes " and \\ and \n and \x00 and \x1e',
    "€ é 日本 \u2028 \U0001f600",
    [],
    [[], [[1]], {}],
    {},
    {"": "empty", "ключ": {"deep": [None, {"er": "x"}]}, "num": 1},
]
BINARY: Final[list[Any]] = [
    bytes(range(256)),
    b"",
    {"file": b"\x00\x01", "among": [1, b"\xff\xfe", "text", {"deep": b"\x1e4b"}]},
    "text",
    b"x" * 70_000,
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SocketIOServer]:
    """Start a server for all tests that leave it as it is."""
    server = SocketIOServer(free_port(), {}, tmp_path_factory.mktemp("server"))
    try:
        yield server
        server.end(signal.SIGINT)
    finally:
        server.close()


@pytest.fixture
async def observer(
    script: Path, server: SocketIOServer, nursery: trio.Nursery
) -> AsyncIterator[Client]:
    """Connect a client in a separate process, to ask the server about others."""
    others = await Clients.start(script, nursery)
    try:
        yield await others.connect("client-4.8", server.url, ["websocket"])
    finally:
        await others.aclose()


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return f"client-{request.param}"


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> list[str]:
    return WAYS[request.param]


def speaks_3(version: str) -> bool:
    return version.removeprefix("client-") in REVISION_3


async def test_events_and_acknowledgements(
    version: str, way: list[str], server: SocketIOServer, clients: Clients
) -> None:
    client = await clients.connect(version, server.url, way)
    _, transport, auth = await client.request("who")
    assert transport == way[-1]
    assert auth == {}

    for args in (EVERYTHING, BINARY, []):
        await client.emit("echo", *args)
        assert await client.hears("echo") == args
        # A client's acknowledgement, and the server's.
        await client.emit("ask", *args)
        assert await client.hears("answered") == [args or [None]]
        if args:
            assert await client.request("answer", *args) == args

    # A handler that acknowledges nothing, and one that is not there: never one of the library's.
    unanswered = [await client.ask("silent"), await client.ask("nobody hears this")]
    assert await client.request("answer", "later") == ["later"]
    assert not any(client.answered(number) for number in unanswered)
    assert await client.request("ask all", 30) == [["all"]]


async def test_binary_in_base64(
    version: str, way: list[str], server: SocketIOServer, clients: Clients
) -> None:
    client = await clients.connect(version, server.url, way, forceBase64=True)
    await client.emit("echo", *BINARY)
    assert await client.hears("echo") == BINARY
    assert await client.request("answer", *BINARY) == BINARY
    assert (await client.request("who"))[1] == way[-1]


async def test_a_client_that_offers_subprotocols(
    version: str, way: list[str], server: SocketIOServer, clients: Clients
) -> None:
    options = {"protocols": ["my-protocol-v1", "other"]}
    client = await clients.connect(version, server.url, way, **options)
    assert (await client.request("who"))[1] == way[-1]


async def test_all_versions_receive_the_same(
    version: str, way: list[str], server: SocketIOServer, clients: Clients, observer: Client
) -> None:
    # An echo would not show it: a codec that writes it wrongly reads it wrongly as well.
    client = await clients.connect(version, server.url, way)
    for teller, binary in ((client, []), (observer, []), (client, [b"1"]), (observer, [b"1"])):
        said = ["é € 日本 \U0001f600", {"ключ": "ж"}, *binary]
        await teller.emit("tell all", *said)
        assert await observer.hears("echo") == await client.hears("echo") == said


async def test_200_events_in_one_go(
    version: str, way: list[str], server: SocketIOServer, clients: Clients
) -> None:
    """In order, none lost or duplicated, both ways at once, before, during and after an upgrade."""
    client = await clients.open(version, server.url, way, burst=200, query={"flood": "200"})
    await client.hears("connect")
    bursts = 3 if len(way) > 1 else 1
    assert [await client.hears("echo") for _ in range(200 * bursts)] == [
        [number] for number in range(200 * bursts)
    ]
    assert [await client.hears("flood") for _ in range(200)] == [[n] for n in range(200)]
    if bursts > 1:
        assert await client.hears("upgrade") == ["websocket"]
    assert await client.request("answer", "the last") == ["the last"]
    assert client.heard("echo") == client.heard("flood") == client.heard("disconnect") == []


async def test_namespaces(
    version: str, way: list[str], server: SocketIOServer, clients: Clients
) -> None:
    refusal = "error" if speaks_3(version) else "connect_error"

    async def open_in(namespace: str, **options: Any) -> Client:
        # All on one connection.
        return await clients.open(version, server.url + namespace, way, forceNew=False, **options)

    main = await open_in("/")
    await main.hears("connect")
    custom, dynamic = await open_in("/custom"), await open_in("/room-42")
    ids = []
    for client in (main, custom, dynamic):
        if client is not main:
            await client.hears("connect")
        await client.emit("echo", client is main, b"bytes")
        assert await client.hears("echo") == [client is main, b"bytes"]
        ids.append(await client.id())
    assert len(set(ids)) == 3
    if speaks_3(version):
        assert ids[1:] == [f"/custom#{ids[0]}", f"/room-42#{ids[0]}"]

    unknown = await open_in("/room-x")
    (error,) = await unknown.hears(refusal)
    # Revision 3 is given what Node's server gives.
    assert error["message"] == "Invalid namespace"

    outsider = await open_in("/secret")
    (error,) = await outsider.hears(refusal)
    told = {"message": "not authorized", "data": REFUSAL}
    assert error == (REFUSAL if speaks_3(version) else told)
    nobody = await open_in("/closed")
    (error,) = await nobody.hears(refusal)
    assert error == ("never" if speaks_3(version) else {"message": "never", "data": None})

    # A refusal does not affect other clients; a client with the token connects to the namespace.
    assert await main.request("answer", 1) == [1]
    if speaks_3(version):
        insider = await clients.open(version, f"{server.url}/secret?token={TOKEN}", way)
    else:
        insider = await clients.open(version, f"{server.url}/secret", way, auth={"token": TOKEN})
    await insider.hears("connect")
    _, _, auth = await insider.request("who")
    assert auth == {"token": TOKEN}

    # Leaving one namespace is not leaving.
    await custom.do("disconnect")
    assert await custom.hears("disconnect") == ["io client disconnect"]
    assert await main.request("reason of", ids[1]) == ["client namespace disconnect"]
    await dynamic.emit("send away", False)
    assert await dynamic.hears("disconnect") == ["io server disconnect"]
    assert await main.request("reason of", ids[2]) == ["server namespace disconnect"]
    assert main.heard("disconnect") == []


async def test_reasons(
    version: str, way: list[str], server: SocketIOServer, clients: Clients, observer: Client
) -> None:
    async def goes(what: str, *args: Any) -> tuple[str, str, Client]:
        client = await clients.connect(version, server.url, way)
        socket_id = await client.id()
        if args:
            await client.emit(what, *args)
            assert await client.hears("echo") == ["farewell"]
        else:
            await client.do(what)
        (here,) = await client.hears("disconnect")
        (there,) = await observer.request("reason of", socket_id)
        return here, there, client

    assert (await goes("disconnect"))[:2] == (
        "io client disconnect",
        "client namespace disconnect",
    )
    for close in (False, True):
        assert (await goes("send away", close))[:2] == (
            "io server disconnect",
            "server namespace disconnect",
        )
    here, there, client = await goes("cut")
    assert (here, there) == ("forced close", "transport close")
    await client.hears("connect")  # it comes back by itself


async def test_the_reason_of_a_killed_client(
    version: str, way: list[str], server: SocketIOServer, clients: Clients, observer: Client
) -> None:
    client = await clients.connect(version, server.url, way)
    socket_id = await client.id()
    if way[-1] == "polling":
        await client.do("polling")
        await client.hears("polling")
    clients.kill()
    expected = "transport error" if way[-1] == "polling" else "transport close"
    assert await observer.request("reason of", socket_id) == [expected]


@pytest.mark.parametrize("ended", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
async def test_all_come_back_after_a_restart(
    ended: signal.Signals, clients: Clients, tmp_path: Path
) -> None:
    """Clients that got no DISCONNECT reconnect after a drain, a cancellation and a crash."""
    first = await trio.to_thread.run_sync(SocketIOServer, free_port(), {}, tmp_path)
    second = None
    try:
        everybody: list[tuple[list[str], Client, str]] = []
        for version in VERSIONS:
            for way in WAYS.values():
                client = await clients.connect(f"client-{version}", first.url, way)
                everybody.append((way, client, await client.id()))
        await trio.to_thread.run_sync(first.end, ended)
        for way, client, socket_id in everybody:
            (reason,) = await client.hears("disconnect")
            if way[-1] == "polling" and ended == signal.SIGKILL:
                assert reason == "transport error"  # its poll is not answered
            else:
                assert reason == "transport close"
            if ended != signal.SIGKILL:
                assert first.reasons[socket_id] == "server shutting down"
        second = await trio.to_thread.run_sync(SocketIOServer, first.port, {}, tmp_path)
        for _, client, _ in everybody:
            await client.hears("connect")
            assert await client.request("answer", "back") == ["back"]
        await trio.to_thread.run_sync(second.end, signal.SIGTERM)
    finally:
        first.close()
        if second is not None:
            second.close()


async def test_silence_ends_a_connection_on_either_side(
    script: Path, clients: Clients, nursery: trio.Nursery, tmp_path: Path
) -> None:
    # Room enough for a machine that does much else; it is waited for twice.
    options = {"ping_interval": 1.0, "ping_timeout": 2.0}
    server = await trio.to_thread.run_sync(SocketIOServer, free_port(), options, tmp_path)
    sleepers = await Clients.start(script, nursery)
    try:
        ids: list[str] = []
        awake: list[Client] = []
        for version in VERSIONS:
            for way in (WAYS["polling"], WAYS["websocket"]):
                sleeper = await sleepers.connect(f"client-{version}", server.url, way)
                ids.append(await sleeper.id())
                awake.append(await clients.connect(f"client-{version}", server.url, way))
        sleepers.stop()
        for socket_id in ids:
            assert await awake[-1].request("reason of", socket_id) == ["ping timeout"]
        # Those who answer pings have stayed.
        for client in awake:
            assert await client.request("answer", "here") == ["here"]
            assert client.heard("disconnect") == []
        server.signal(signal.SIGSTOP)
        for client in awake:
            assert await client.hears("disconnect") == ["ping timeout"]
    finally:
        await sleepers.aclose()
        server.close()


async def test_a_lost_connection_loses_nothing(clients: Clients, tmp_path: Path) -> None:
    """Recovery, which clients have from 4.6 on: what was missed, and the same id."""
    server = await trio.to_thread.run_sync(
        SocketIOServer, free_port(), {"recovery": True}, tmp_path
    )
    try:
        other = await clients.connect("client-4.8", server.url, ["websocket"])
        for way in WAYS.values():
            client = await clients.open("client-4.8", server.url, way, reconnection=False)
            assert await client.hears("connect") == [False]
            socket_id = await client.id()
            await client.do("cut")
            await client.hears("disconnect")
            assert await other.request("reason of", socket_id) == ["transport close"]
            await other.emit("tell all", "missed", b"bytes")
            await client.do("connect")
            assert await client.hears("connect") == [True]
            *missed, _offset = await client.hears("echo")
            assert missed == ["missed", b"bytes"]
            assert await client.id() == socket_id
    finally:
        server.close()


@pytest.fixture
def python_socketio() -> None:
    if not all(map(importlib.util.find_spec, ("socketio", "aiohttp"))):
        pytest.skip("there is no python-socketio[asyncio-client]")


@pytest.mark.usefixtures("python_socketio")
@pytest.mark.parametrize("transports", WAYS.values(), ids=WAYS)
async def test_python_socketio(transports: list[str], server: SocketIOServer) -> None:
    program = [sys.executable, "-m", "tests.e2e.python_client", server.url]
    ran = await trio.run_process(
        [*program, json.dumps(transports)],
        cwd=ROOT,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert not ran.returncode, ran.stderr.decode()
