"""A PROXY header before HTTP on a whole server, and its effects."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from chatd.wire.request import Request, Response
from chatd.wire.tls import tls_context
from chatd.wire.transport import Peer
from tests.wire.certificates import NAME, client_context, issue
from tests.wire.served import Served, serve, settings

PROXY = Peer("unix", "unix", loopback=False)
BALANCER = Peer("10.1.1.1", "tcp", loopback=False)
STRANGER = Peer("192.0.2.66", "tcp", loopback=False)
V1 = b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n"
V2 = (
    bytes.fromhex("0d0a0d0a000d0a515549540a2111000c")
    + bytes([192, 0, 2, 1, 198, 51, 100, 1])
    + struct.pack("!HH", 4711, 443)
)
LOCAL = bytes.fromhex("0d0a0d0a000d0a515549540a20000000")
TRUSTING = settings(http={"trusted_proxies": ["unix", "10.1.0.0/16"]})


async def who(request: Request) -> Response:
    peer = request.peer
    return Response(200, f"{peer.address} {peer.kind} {peer.forwarded} {request.secure}".encode())


def lines(served: Served, name: str) -> list[dict[str, object]]:
    return [fields for each, fields in served.recording.records if each == name]


@pytest.mark.parametrize("header", [V1, V2])
@pytest.mark.parametrize("peer", [PROXY, BALANCER])
@pytest.mark.parametrize("piece", [1, 20, 1000])
async def test_the_header_names_the_client(header: bytes, peer: Peer, piece: int) -> None:
    async with serve(TRUSTING, tcp=False, who=who) as served:
        client = served.dial(peer)
        request = header + b"GET /who HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for at in range(0, len(request), piece):
            await client.send(request[at : at + piece])
            await trio.testing.wait_all_tasks_blocked()
        told = f"192.0.2.1 {peer.kind} True False".encode()
        assert (await client.answer())[2] == told
        # And it holds for all that follows.
        assert (await client.ask("GET /who HTTP/1.1"))[2] == told
        await client.upgrade()
        await client.text("boom")
        await client.closed()
        [fault] = lines(served, "fault")
        assert fault["address"] == "192.0.2.1"


@pytest.mark.parametrize("header", [b"", LOCAL, b"PROXY UNKNOWN\r\n"])
async def test_a_proxy_may_come_for_itself(header: bytes) -> None:
    async with serve(tcp=False, who=who) as served:
        client = served.dial(PROXY)
        await client.send(header)
        assert (await client.ask("GET /who HTTP/1.1"))[2] == b"unix unix False False"


@pytest.mark.parametrize("header", [V1, V2])
@pytest.mark.parametrize("peer", [STRANGER, Peer("127.0.0.1", "tcp", loopback=True)])
async def test_38_from_an_untrusted_peer_it_is_refused(header: bytes, peer: Peer) -> None:
    async with serve(TRUSTING, tcp=False) as served:
        client = served.dial(peer)
        await client.send(header + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        status, headers, body = await client.answer()
        assert (status, headers["connection"]) == (400, "close")
        assert b"http.trusted_proxies" in body
        await client.stream.send_eof()
        assert await client.rest() == b""
        [refused] = lines(served, "refused")
        assert refused["address"] == peer.address


async def test_38_a_second_header_is_refused() -> None:
    async with serve(tcp=False) as served:
        client = served.dial(PROXY)
        await client.send(V1 + V1.replace(b"192.0.2.1", b"127.0.0.1"))
        assert (await client.answer())[0] == 400


async def test_38_whom_a_proxy_names_is_no_proxy_by_that() -> None:
    async with serve(tcp=False, who=who) as served:
        client = served.dial(PROXY)
        await client.send(V1)
        asked = "GET /who HTTP/1.1\nX-Forwarded-For: 127.0.0.1\nX-Forwarded-Proto: https"
        assert (await client.ask(asked))[2] == b"192.0.2.1 unix True False"


@pytest.mark.parametrize(
    "header", [b"PROXY / HTTP/1.1\r\n", V2[:12] + b"\x33" + V2[13:], b"PROXY " + b"x" * 200]
)
async def test_a_malformed_header_ends_it_with_one_line(header: bytes) -> None:
    async with serve(tcp=False) as served:
        client = served.dial(PROXY)
        await client.send(header + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await client.rest() == b""
        [refused] = lines(served, "refused")
        assert str(refused["reason"]).startswith("malformed PROXY header: ")
        assert served.server.statistics().turned_away == 1
        assert served.faults == []


@pytest.mark.parametrize("begun", [b"", b"PRO", V1[:-1], V2[:20]])
async def test_a_header_has_its_time(begun: bytes, autojump_clock: MockClock) -> None:
    async with serve(tcp=False) as served:
        client = served.dial(PROXY)
        await client.send(begun)
        assert await client.rest() == b""
        assert trio.current_time() == pytest.approx(10)
        assert len(lines(served, "refused")) == len(begun and [1])


async def test_the_limit_by_address_holds_for_whom_it_names() -> None:
    async with serve(settings(limits={"connections_per_address": 2}), tcp=False) as served:
        clients = [served.dial(PROXY) for _ in range(100)]
        for client in clients:
            await client.send(V1)
            await trio.testing.wait_all_tasks_blocked()  # so that the first ones are let in
        assert [(await client.ask("GET / HTTP/1.1"))[0] for client in clients[:3]] == [
            200,
            200,
            429,
        ]
        # So far over the limit that it gets no answer.
        assert await clients[-1].rest() == b""
        assert served.server.statistics().turned_away == 100 - 2 - 16
        other = served.dial(PROXY)
        await other.send(V1.replace(b"192.0.2.1", b"192.0.2.2"))
        assert (await other.ask("GET / HTTP/1.1"))[0] == 200


async def test_a_header_stands_before_tls(tmp_path: Path) -> None:
    async with serve(TRUSTING, tcp=False, who=who) as served:
        served.server.tls = tls_context(issue(tmp_path))
        client = served.dial(BALANCER)
        await client.send(V2)
        stream = trio.SSLStream(client.stream, client_context(), server_hostname=NAME)
        await stream.send_all(b"GET /who HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await stream.receive_some()).endswith(b"192.0.2.1 tcp True True")


async def test_a_drain_waits_for_no_idle_proxy() -> None:
    async with serve(tcp=False) as served:
        idle, begun = served.dial(PROXY), served.dial(PROXY)
        await begun.send(V1[:10])
        await trio.testing.wait_all_tasks_blocked()
        served.server.retire()
        assert await idle.rest() == b""
        await begun.send(V1[10:])
        status, headers, _ = await begun.ask("GET / HTTP/1.1")
        assert (status, headers["connection"]) == (200, "close")
