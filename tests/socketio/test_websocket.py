"""Over real sockets and WebSocket, as the official suite has it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from chatd import socketio
from chatd.logs import open_log
from chatd.settings import Settings
from chatd.socketio import Acknowledging, Socket
from chatd.testing.recording import Recording
from chatd.wire.server import HttpServer
from chatd.wire.transport import Peer, StreamTransport
from tests.socketio.client import quiet
from tests.wire.served import HANDSHAKE, Client


def echoing(**options: Any) -> socketio.Server:
    io, _ = quiet(allow_eio3=True, **options)
    for namespace in (io, io.of("/custom")):

        @namespace.on("connect")
        async def connect(socket: Socket) -> None:
            await socket.emit("auth", socket.handshake.auth)

        @namespace.on("message")
        async def message(socket: Socket, *args: Any) -> None:
            await socket.emit("message-back", *args)

        @namespace.on("message-with-ack", ack=True)
        async def message_with_ack(socket: Socket, *args: Any) -> None:
            *said, ack = args
            answer: Acknowledging = ack
            answer(*said)

    return io


@asynccontextmanager
async def opened(revision: int = 4) -> AsyncGenerator[WebSocketConnection, None]:
    """Serve, and come to a session."""
    io = echoing()
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(io.serve, "127.0.0.1:0")
        resource = f"/socket.io/?EIO={revision}&transport=websocket"
        # trio-websocket leaves its socket open where the server closes first.
        async with await trio.open_tcp_stream("127.0.0.1", int(address.rpartition(":")[2])) as tcp:
            websocket = await wrap_client_stream(nursery, tcp, "localhost", resource)
            assert str(await websocket.get_message()).startswith("0{")
            yield websocket
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("at", ["", "/custom,"])
@pytest.mark.parametrize("auth", [None, {"token": "123"}])
async def test_connect_is_answered_before_events_of_the_handler(at: str, auth: Any) -> None:
    async with opened() as websocket:
        await websocket.send_message(f"40{at}" + (json.dumps(auth) if auth else ""))
        reply = str(await websocket.get_message())
        assert reply.startswith(f"40{at}{{")
        assert list(json.loads(reply.removeprefix(f"40{at}"))) == ["sid"]
        said = json.dumps(auth or {}, separators=(",", ":"))
        assert await websocket.get_message() == f'42{at}["auth",{said}]'


@pytest.mark.parametrize("pause", [0.0, 0.005])
async def test_a_pause_after_the_reply_is_an_option(
    pause: float, autojump_clock: MockClock
) -> None:
    io = echoing(handshake_pause=pause)
    ours, theirs = memory_stream_pair()
    peer = Peer("127.0.0.1", "tcp", loopback=True)
    wire = HttpServer(Settings(), io.routes, open_log(sink=Recording()))
    async with trio.open_nursery() as nursery:
        await nursery.start(io.run)
        nursery.start_soon(wire.handle, StreamTransport(theirs, peer, listener_loopback=True))
        client = Client(ours)
        await client.send(HANDSHAKE.replace(b"/ws", b"/socket.io/?EIO=4&transport=websocket"))
        assert (await client.answer())[0] == 101
        await client.hear()
        await client.text("40")
        assert str(await client.hear()).startswith("40{")
        read = trio.current_time()
        assert await client.hear() == '42["auth",{}]'
        assert trio.current_time() - read == pytest.approx(pause)
        nursery.cancel_scope.cancel()


async def test_an_unknown_namespace_is_refused() -> None:
    async with opened() as websocket:
        await websocket.send_message("40/random")
        assert await websocket.get_message() == '44/random,{"message":"Invalid namespace"}'


@pytest.mark.parametrize("message", ["4abc", '42["message"]', "42{}", b"binary"])
async def test_what_is_no_handshake_closes_at_once(message: str | bytes) -> None:
    # With the usual 25 s between pings: no ping timeout comes to help.
    async with opened() as websocket:
        await websocket.send_message(message)
        with pytest.raises(ConnectionClosed):
            await websocket.get_message()


@pytest.mark.parametrize("revision", [4, 3])
async def test_text_binary_and_acknowledgements_come_back(revision: int) -> None:
    async with opened(revision) as websocket:
        head = b"\x04" if revision == 3 else b""
        if revision == 4:
            await websocket.send_message("40")
        assert str(await websocket.get_message()).startswith("40")
        assert await websocket.get_message() == '42["auth",{}]'
        await websocket.send_message('42["message",1,"2",{"3":[true]}]')
        assert await websocket.get_message() == '42["message-back",1,"2",{"3":[true]}]'
        placeholders = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}'
        await websocket.send_message(f'452-["message",{placeholders}]')
        await websocket.send_message(head + b"\1\2\3")
        await websocket.send_message(head + b"\4\5\6")
        assert await websocket.get_message() == f'452-["message-back",{placeholders}]'
        assert await websocket.get_message() == head + b"\1\2\3"
        assert await websocket.get_message() == head + b"\4\5\6"
        await websocket.send_message('42456["message-with-ack",1,"2",{"3":[false]}]')
        assert await websocket.get_message() == '43456[1,"2",{"3":[false]}]'
        await websocket.send_message(f'452-789["message-with-ack",{placeholders}]')
        await websocket.send_message(head + b"\1\2\3")
        await websocket.send_message(head + b"\4\5\6")
        assert await websocket.get_message() == f"462-789[{placeholders}]"
        assert await websocket.get_message() == head + b"\1\2\3"
        assert await websocket.get_message() == head + b"\4\5\6"
        # Leaving one namespace leaves the other as it is.
        await websocket.send_message("40/custom" if revision == 4 else "40/custom,")
        assert str(await websocket.get_message()).startswith("40/custom,")
        assert await websocket.get_message() == '42/custom,["auth",{}]'
        await websocket.send_message("41/custom")
        await websocket.send_message('42["message","still"]')
        assert await websocket.get_message() == '42["message-back","still"]'
        if revision == 4:
            # Leaving the last one leaves the connection.
            await websocket.send_message("41")
            await websocket.send_message("40")
            assert str(await websocket.get_message()).startswith("40{")
