"""What answers in place of a daemon is named: other protocols, other pages, TLS and its faults."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import trio

from chatd import client
from chatd.client.foreign import first_words, rejection
from tests.wire.certificates import AUTHORITY

Serve = Callable[[trio.abc.Stream], Awaitable[None]]


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (b"", ""),
        (b"HTTP/1.1 400 Bad Request\r\n", "plain HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "TLS"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", '"SSH-2.0-OpenSSH_9.2p1 Debian-2"'),
        (b"220 mail.example.org ESMTP\r\n250", '"220 mail.example.org ESMTP"'),
        (b"-ERR unknown command 'GET'\r\n", "\"-ERR unknown command 'GET'\""),
        (b"\x1b[2Jhello", "binary data"),
        (b"\r\n\r\n", "binary data"),
        (b"\x00\x01\xff\xfe", "binary data"),
        (b"x" * 256, '"' + "x" * 80 + '"'),
    ],
)
def test_first_words(first: bytes, words: str) -> None:
    assert first_words(first) == words


HTML = (b"Content-Type", b"text/html; charset=utf-8")


@pytest.mark.parametrize(
    ("status", "headers", "body", "words"),
    [
        (404, [], b"", "404 Not Found"),
        (404, [], b"no such page\n", "404 Not Found: no such page"),
        (404, [HTML], b"<html><title>Not &amp; Found</title>", "404 Not Found: Not & Found"),
        (404, [HTML], b"<title>404 Not Found</title>", "404 Not Found"),
        (400, [HTML], b"<html><p>no title", "400 Bad Request"),
        (
            *(301, [(b"location", b"https://chat.example/")], b""),
            "301 Moved Permanently, which leads to https://chat.example/",
        ),
        (200, [HTML], b"<title>My\n router</title>", "200 OK: My router"),
        (599, [], None, "599"),
        (503, [], b"\xff\x00" * 9, "503 Service Unavailable: " + "\ufffd\x00" * 9),
    ],
)
def test_rejections(
    status: int, headers: list[tuple[bytes, bytes]], body: bytes | None, words: str
) -> None:
    assert rejection(status, headers, body) == words


@asynccontextmanager
async def listening(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncGenerator[int]:
    """Serve connections on a port of 127.0.0.1, with TLS if there is a context."""

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            over: trio.abc.Stream = stream
            try:
                if context is not None:
                    over = trio.SSLStream(stream, context, server_side=True)
                    await over.do_handshake()
                await serve(over)
            except trio.BrokenResourceError:
                pass

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def refused(url: str) -> str:
    """Connect in vain, and return why."""
    deadlines = client.Deadlines(connect=30)
    with pytest.raises(client.ConnectError) as error:
        async with client.connect(url, reconnect=False, deadlines=deadlines):
            pass
    assert "\n" not in str(error.value)
    return str(error.value)


def answering(data: bytes, *, first: bool = False) -> Serve:
    """Return a server that sends something, before or after the request, and hangs up."""

    async def serve(stream: trio.abc.Stream) -> None:
        if not first:
            await stream.receive_some()
        await stream.send_all(data)
        if isinstance(stream, trio.SocketStream):
            await stream.send_eof()
        while await stream.receive_some():
            pass

    return serve


SSH = b"SSH-2.0-OpenSSH_9.2p1\r\n"
PAGE = (
    b"HTTP/1.1 301 Moved Permanently\r\nLocation: https://chat.example/\r\n"
    b"Content-Length: 0\r\n\r\n"
)


async def test_tls_to_a_port_without_tls() -> None:
    async with listening(answering(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        assert await refused(f"wss://127.0.0.1:{port}") == (
            f"127.0.0.1:{port} does not speak TLS. It answered with plain HTTP. "
            "Use ws:// instead of wss://."
        )
    async with listening(answering(SSH, first=True)) as port:
        assert await refused(f"wss://127.0.0.1:{port}") == (
            f'127.0.0.1:{port} does not speak TLS. It answered with "SSH-2.0-OpenSSH_9.2p1".'
        )
    async with listening(answering(b"")) as port:
        told = await refused(f"wss://127.0.0.1:{port}")
        assert told == f"127.0.0.1:{port} closed the connection during the TLS handshake."


async def test_no_tls_to_a_port_with_tls() -> None:
    alert = b"\x15\x03\x01\x00\x02\x02\x46"
    async with listening(answering(alert)) as port:
        told = await refused(f"ws://127.0.0.1:{port}")
        assert told == f"127.0.0.1:{port} speaks TLS. Use wss:// instead of ws://."
    async with listening(answering(b"")) as port:
        told = await refused(f"ws://127.0.0.1:{port}")
        assert told.startswith(f"127.0.0.1:{port} hung up without an answer.")
        assert "wss://" in told


async def test_other_protocols_and_pages() -> None:
    async with listening(answering(SSH, first=True)) as port:
        assert await refused(f"ws://127.0.0.1:{port}") == (
            f'127.0.0.1:{port} does not speak WebSocket. It answered with "SSH-2.0-OpenSSH_9.2p1".'
        )
    async with listening(answering(PAGE)) as port:
        assert await refused(f"ws://127.0.0.1:{port}") == (
            f"127.0.0.1:{port} answered with 301 Moved Permanently, "
            "which leads to https://chat.example/"
        )


@pytest.mark.parametrize(
    ("name", "expires", "why"),
    [
        ("127.0.0.1", None, "unable to get local issuer certificate"),
        ("127.0.0.1", datetime(2021, 1, 1, tzinfo=UTC), "certificate has expired"),
        ("elsewhere.example", None, "not valid for '127.0.0.1'"),
    ],
)
async def test_certificates_that_are_not_accepted(
    name: str, expires: datetime | None, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(name, not_after=expires).configure_cert(context)
    if "issuer" not in why:
        AUTHORITY.cert_pem.write_to_path(tmp_path / "authority.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    async with listening(answering(b""), context) as port:
        told = await refused(f"wss://127.0.0.1:{port}")
    assert told.startswith(f"The certificate of 127.0.0.1:{port} was not accepted: ")
    assert why in told


async def test_hosts_that_cannot_be_found() -> None:
    for host in ("nowhere.invalid", "a" * 64 + ".example"):
        told = await refused(f"ws://{host}:1")
        assert told.startswith(f"There is no connection to {host}:1: ")
        assert "Errno" not in told
