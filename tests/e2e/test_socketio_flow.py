"""Obvious programs with Socket.IO's own client: many events, large messages, a slow network."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.e2e.chatd_process import free_port
from tests.e2e.clocks import Clocks
from tests.e2e.socketio_clients import Client, Clients, SocketIOServer

WAYS: Final = {
    "polling": ["polling"],
    "websocket": ["websocket"],
    "upgrade": ["polling", "websocket"],
}
RATE: Final = 200_000  # bytes a second, by the clock of the server,
FASTER: Final = 5  # which goes faster by as much, so that the test takes a fifth of the time
PIECE: Final = 4096
PARTS: Final = [50_000] * 40
LARGE: Final = 6_000_000


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SocketIOServer]:
    server = SocketIOServer(free_port(), {}, tmp_path_factory.mktemp("server"))
    try:
        yield server
        server.end(signal.SIGINT)
    finally:
        server.close()


@pytest.fixture
async def slow_port(tmp_path: Path) -> AsyncIterator[int]:
    """Return the port of a network on which each connection brings 200 KB a second."""
    environ = Clocks(tmp_path, rate=FASTER).environ
    server = SocketIOServer(free_port(), {}, tmp_path, environ=environ)

    async def forward(
        source: trio.SocketStream, target: trio.SocketStream, rate: float | None
    ) -> None:
        due = trio.current_time()
        try:
            while data := await source.receive_some(PIECE):
                if rate is not None:
                    due = max(due, trio.current_time() - 1 / FASTER) + len(data) / rate / FASTER
                    await trio.sleep_until(due)
                await target.send_all(data)
            await target.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def connect(client: trio.SocketStream) -> None:
        async with (
            client,
            await trio.open_tcp_stream("127.0.0.1", server.port) as remote,
            trio.open_nursery() as both,
        ):
            both.start_soon(forward, client, remote, None)
            both.start_soon(forward, remote, client, RATE)

    try:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as connections:
            connections.start_soon(trio.serve_listeners, connect, [listener])
            yield listener.socket.getsockname()[1]
            connections.cancel_scope.cancel()
        server.end(signal.SIGINT)
    finally:
        server.close()


async def hears_sizes(client: Client, count: int) -> list[int]:
    return [len((await client.hears("flood"))[0]) for _ in range(count)]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_a_question_two_megabytes_and_400_events_on_connect(
    way: list[str], server: SocketIOServer, clients: Clients
) -> None:
    query = {"asks": "1", "sizes": " ".join(map(str, PARTS))}
    client = await clients.open("client-4.8", server.url, way, burst=400, query=query)
    assert await client.hears("connect") == [False]
    assert await client.hears("answered") == [["who?"]]
    assert await hears_sizes(client, len(PARTS)) == PARTS
    bursts = 3 if len(way) > 1 else 1
    for number in range(400 * bursts):
        assert await client.hears("echo") == [number]
    assert await client.request("answer", "still here") == ["still here"]
    assert client.heard("disconnect") == client.heard("connect") == []


async def test_a_slow_network_brings_all_of_it(clients: Clients, slow_port: int) -> None:
    sizes = [*PARTS[:10], LARGE, *PARTS[:10], LARGE // 6]
    query = {"asks": "1", "sizes": " ".join(map(str, sizes))}
    url = f"http://127.0.0.1:{slow_port}"
    everybody = [
        await clients.open("client-4.8", url, way, burst=400, query=query) for way in WAYS.values()
    ]
    for client in everybody:
        assert await client.hears("answered") == [["who?"]]
        heard = await hears_sizes(client, len(sizes))
        assert (heard, client.heard("disconnect")) == (sizes, [])
        assert await client.request("answer", "still here") == ["still here"]
