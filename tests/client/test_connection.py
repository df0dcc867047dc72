"""One connection, from dial to close: what goes wrong on the way has a name and a deadline."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import trio
from trio.testing import MockClock

from chatd import client

Script: TypeAlias = Any
"""The fixture of conftest.py, which no test module can import from."""

REFUSALS = [
    (403, b"", True, None),
    (404, b"", True, None),
    (426, b"", True, None),
    (302, b"Location: /elsewhere\r\n", True, None),
    (429, b"Retry-After: 7\r\n", False, 7000),
    (503, b"Retry-After: 30\r\n", False, 30_000),
    (500, b"Retry-After: Wed, 21 Oct 2026 07:28:00 GMT\r\n", False, None),
]


@pytest.mark.parametrize(("status", "header", "hopeless", "retry_ms"), REFUSALS)
async def test_refused_by_http(
    status: int,
    header: bytes,
    hopeless: bool,
    retry_ms: int | None,
    script: Script,
    autojump_clock: MockClock,
) -> None:
    async def daemon() -> None:
        stream = await script.stream()
        await stream.receive_some()
        body = b"this origin is not allowed\n"
        head = b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n%s\r\n" % (status, len(body), header)
        await stream.send_all(head + body)

    script.run(daemon)
    with pytest.raises(client.ConnectError, match="this origin is not allowed") as error:
        async with client.connect(script.dial):
            pass
    assert error.value.status == status
    assert error.value.hopeless is hopeless
    assert error.value.retry_ms == retry_ms


async def test_another_servers_page_is_not_shown(script: Script, autojump_clock: MockClock) -> None:
    async def daemon() -> None:
        stream = await script.stream()
        await stream.receive_some()
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nContent-Type: text/html; charset=utf-8"
        await stream.send_all(head + b"\r\n\r\n<html>")

    script.run(daemon)
    with pytest.raises(client.ConnectError, match=r"answered with 200 OK$"):
        async with client.connect(script.dial):
            pass


async def test_refused_without_a_word(script: Script, autojump_clock: MockClock) -> None:
    async def daemon() -> None:
        stream = await script.stream()
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")

    script.run(daemon)
    with pytest.raises(client.ConnectError, match=r"refused with 503 Service Unavailable$"):
        async with client.connect(script.dial):
            pass


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x00" * 100,
        b"HTTP/1.1 101 Yes\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
async def test_what_answers_is_something_else(
    garbage: bytes, script: Script, autojump_clock: MockClock
) -> None:
    async def daemon() -> None:
        stream = await script.stream()
        await stream.receive_some()
        await stream.send_all(garbage)

    script.run(daemon)
    with pytest.raises(client.ConnectError):
        async with client.connect(script.dial):
            pass


async def test_hung_up_on_at_once(script: Script, autojump_clock: MockClock) -> None:
    async def daemon() -> None:
        stream = await script.stream()
        await stream.aclose()

    script.run(daemon)
    with pytest.raises(client.ConnectError, match="hung up"):
        async with client.connect(script.dial):
            pass
    assert trio.current_time() == 0


async def test_no_answer_to_the_handshake(script: Script, autojump_clock: MockClock) -> None:
    script.run(script.stream)
    with pytest.raises(client.ConnectError, match="did not answer"):
        async with client.connect(script.dial, deadlines=client.Deadlines(connect=4)):
            pass
    assert trio.current_time() == 4


async def test_no_connection_in_time(autojump_clock: MockClock) -> None:
    with pytest.raises(client.ConnectError, match="in 4 s"):
        async with client.connect(trio.sleep_forever, deadlines=client.Deadlines(connect=4)):
            pass
    assert trio.current_time() == 4


async def test_no_server(script: Script, autojump_clock: MockClock) -> None:
    script.refusing = ConnectionRefusedError("nobody listens")
    with pytest.raises(client.ConnectError, match="nobody listens"):
        async with client.connect(script.dial):
            pass


async def test_another_protocol(script: Script, autojump_clock: MockClock) -> None:
    async def daemon() -> None:
        await script.accept(subprotocol=None)

    script.run(daemon)
    with pytest.raises(client.ConnectError, match=r"does not speak chatd\.v1") as error:
        async with client.connect(script.dial):
            pass
    assert error.value.hopeless


async def test_coming_back_to_where_it_is_not_wanted(
    script: Script, autojump_clock: MockClock
) -> None:
    async def daemon() -> None:
        to = await script.greet()
        await to.drop()
        stream = await script.stream()
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")

    script.run(daemon)
    async with client.connect(script.dial) as chat:
        assert (await chat.next_event()).on == "lost"
        with pytest.raises(client.Closed, match="refused with 403"):
            await chat.next_event()


@pytest.mark.parametrize(
    ("code", "reconnect"), [(1001, True), (1011, True), (4001, True), (4002, True), (4503, True)]
)
async def test_a_close_frame_is_reported(
    code: int, reconnect: bool, script: Script, autojump_clock: MockClock
) -> None:
    async def daemon() -> None:
        to = await script.greet()
        await to.close(code, "because")

    script.run(daemon)
    async with client.connect(script.dial, reconnect=False) as chat:
        assert await chat.lost() == client.Ending(code, "because", reconnect)


async def test_a_daemon_that_never_closes_the_stream(
    script: Script, autojump_clock: MockClock
) -> None:
    async def daemon() -> None:
        stream = await script.stream()
        request = await stream.receive_some()
        key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        await stream.send_all(_accept(key) + b"\x88\x02\x03\xe9")

    script.run(daemon)
    with pytest.raises(client.ConnectError, match="before it was used"):
        async with client.connect(script.dial, deadlines=client.Deadlines(close=3)):
            pass
    assert trio.current_time() == 3


async def test_leaving_a_daemon_that_does_not_answer(
    script: Script, autojump_clock: MockClock
) -> None:
    async def daemon() -> None:
        stream = await script.stream()
        request = await stream.receive_some()
        key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        hello = b'{"on":"hello","server":"mute"}'
        await stream.send_all(_accept(key) + b"\x81" + bytes([len(hello)]) + hello)

    script.run(daemon)
    async with client.connect(script.dial, deadlines=client.Deadlines(close=3)) as chat:
        assert chat.identity == client.Identity(None, None)
    assert trio.current_time() == 3


async def test_a_daemon_that_falls_silent(script: Script, autojump_clock: MockClock) -> None:
    async def daemon() -> None:
        stream = await script.stream()
        request = await stream.receive_some()
        key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        hello = b'{"on":"hello","server":"mute"}'
        await stream.send_all(_accept(key) + b"\x81" + bytes([len(hello)]) + hello)

    script.run(daemon)
    deadlines = client.Deadlines(ping=30, pong=20)
    async with client.connect(script.dial, deadlines=deadlines, reconnect=False) as chat:
        ending = await chat.lost()
        assert ending == client.Ending(1006, "no life sign in time", reconnect=True)
        assert trio.current_time() == 50


async def test_a_quiet_daemon_that_lives(script: Script, autojump_clock: MockClock) -> None:
    script.run(script.greet)
    async with client.connect(script.dial, reconnect=False) as chat:
        await trio.sleep(3600)
        assert chat.connected


async def test_no_server_at_a_socket(tmp_path: Path) -> None:
    with pytest.raises(client.ConnectError, match=r"no connection to unix:.*/nobody: no such file"):
        async with client.connect(f"unix:{tmp_path}/nobody"):
            pass
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(client.ConnectError, match=f"no connection to 127.0.0.1:{port}"):
        async with client.connect(f"ws://127.0.0.1:{port}"):
            pass


def _accept(key: bytes) -> bytes:
    digest = b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    return (
        b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Protocol: chatd.v1\r\nSec-WebSocket-Accept: " + digest + b"\r\n\r\n"
    )
