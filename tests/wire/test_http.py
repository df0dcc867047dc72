"""HTTP/1.1 by raw bytes."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from chatd.wire.request import Request, Response
from chatd.wire.routes import Routes
from chatd.wire.transport import Peer, StreamTransport
from chatd.wire.websocket import Upgrade
from tests.wire.served import HANDSHAKE, KEY, MEMORY, Served, serve, settings


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve(tcp=False) as made:
        yield made


async def raw(served: Served, data: bytes) -> bytes:
    """Send these bytes and our end; everything that comes back."""
    client = served.dial()
    await client.send(data)
    await client.stream.send_eof()
    return await client.rest()


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


async def test_requests_are_answered_on_one_connection(served: Served) -> None:
    client = served.dial()
    for _ in range(3):
        status, headers, body = await client.ask("GET / HTTP/1.1")
        assert (status, body) == (200, b"hello\n")
        assert headers["content-type"] == "text/plain; charset=utf-8"
        assert "connection" not in headers


async def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    client = served.dial()
    post = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"
    chunked = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    await client.send(post + b"one" + chunked + b"3\r\ntwo\r\n0\r\n\r\n" + get + post + b"end")
    assert [(await client.answer())[2] for _ in range(4)] == [b"one", b"two", b"hello\n", b"end"]


@pytest.mark.parametrize("pause", [1, 7])
async def test_any_split_is_the_same(served: Served, pause: int) -> None:
    client = served.dial()
    data = (
        b"\r\nPOST /echo?x=1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    for at in range(0, len(data), pause):
        await client.send(data[at : at + pause])
        await trio.testing.wait_all_tasks_blocked()
    assert (await client.answer())[2] == b"hello!"
    assert (await client.answer())[2] == b"hello\n"


async def test_head_is_get_without_its_body(served: Served) -> None:
    answer = await raw(served, b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"content-length: 6" in answer.lower()
    assert answer.endswith(b"\r\n\r\n")


async def test_unknown_paths_and_methods(served: Served) -> None:
    client = served.dial()
    assert (await client.ask("GET /nothing HTTP/1.1"))[0] == 404
    assert (await client.ask("GET /%2e%2e/etc/passwd HTTP/1.1"))[0] == 404
    status, headers, _ = await client.ask("DELETE / HTTP/1.1")
    assert (status, headers["allow"]) == (405, "GET, HEAD")
    assert (await client.ask("GET /ws HTTP/1.1"))[0] == 426
    assert (await client.ask("OPTIONS * HTTP/1.1"))[0] == 404
    assert (await client.ask("GET / HTTP/1.1"))[0] == 200


async def test_a_routes_exception_is_500_and_noted_once(served: Served) -> None:
    client = served.dial()
    status, _, body = await client.ask("GET /boom HTTP/1.1")
    assert status == 500
    assert body.count(b"\n") == 1
    assert b"boom" not in body
    assert served.faults == ["ValueError('boom in a route')"]
    assert (await client.ask("GET / HTTP/1.1"))[0] == 200


async def test_connection_close_and_http_1_0_are_obeyed(served: Served) -> None:
    twice = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" * 2
    assert statuses(await raw(served, twice)) == [200]
    assert statuses(await raw(served, b"GET / HTTP/1.0\r\n\r\n" * 2)) == [200]


async def test_the_absolute_form_is_understood(served: Served) -> None:
    seen: list[tuple[str, str | None, dict[str, str]]] = []

    async def look(request: Request) -> Response:
        seen.append((request.path, request.header("host"), request.query))
        return Response(200)

    async with serve(tcp=False, look=look) as other:
        await raw(other, b"GET http://b:1/look?a=1&b=%C3%A4&a=2 HTTP/1.1\r\nHost: a\r\n\r\n")
        await raw(other, b"GET /look?" + b"&".join([b"x=1"] * 100) + b" HTTP/1.0\r\n\r\n")
    assert seen == [("/look", "b:1", {"a": "2", "b": "ä"}), ("/look", None, {})]


async def test_headers_by_name(served: Served) -> None:
    seen: list[str | None] = []

    async def look(request: Request) -> Response:
        seen.extend(request.header(name) for name in ("cookie", "x-a", "x-b"))
        return Response(200, headers=[("X-Frame-Options", "DENY")])

    async with serve(tcp=False, look=look) as other:
        head = (
            b"GET /look HTTP/1.1\r\nHost: a\r\nCookie: a=1\r\nX-A: 1\r\ncookie: b=2\r\nx-a: 2\r\n"
        )
        answer = await raw(other, head + b"\r\n")
    assert seen == ["a=1; b=2", "1, 2", None]
    assert b"X-Frame-Options: DENY" in answer


HEAD = b"POST /echo HTTP/1.1\r\nHost: a\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
MALFORMED: list[tuple[str, bytes, int]] = [
    (
        "both lengths",
        HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("two lengths", HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    ("the same length twice", HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    ("a list of lengths", HEAD + b"Content-Length: 3, 3\r\n\r\nabc", 400),
    ("a signed length", HEAD + b"Content-Length: +3\r\n\r\nabc", 400),
    ("a length in hex", HEAD + b"Content-Length: 0x3\r\n\r\nabc", 400),
    ("another encoding", HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    ("chunked twice", HEAD + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n", 501),
    ("chunked in 1.0", b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("a bare LF in the head", b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    ("bare LFs", b"GET / HTTP/1.1\nHost: a\n\n", 400),
    ("a bare CR", b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
    ("a folded line", b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", 400),
    ("a folded line with a tab", b"GET / HTTP/1.1\r\nHost: a\r\n\tb\r\n\r\n", 400),
    ("a space before the colon", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    ("no Host", b"GET / HTTP/1.1\r\n\r\n", 400),
    ("two Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ("a Host with a path", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    ("a Host with a user", b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
    ("no path", b"GET nothing HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("HTTP/2.0", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    ("HTTP/0.9", b"GET /\r\n\r\n", 400),
    ("NUL", b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ("HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("a bad chunk size", CHUNKED + b"xyz\r\nabc\r\n0\r\n\r\n", 400),
    ("a negative chunk", CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n", 400),
    ("a bad chunk end", CHUNKED + b"3\r\nabcXX0\r\n\r\n", 400),
    ("a bare LF after a chunk", CHUNKED + b"3\r\nabc\n0\r\n\r\n", 400),
    ("a bare LF after the last chunk", CHUNKED + b"3\r\nabc\r\n0\r\n\n", 400),
    ("a trailer", CHUNKED + b"3\r\nabc\r\n0\r\nX: y\r\n\r\n", 400),
    ("a trailer ended by a bare LF", CHUNKED + b"0\r\nX: y\n\r\n", 400),
    ("a short body", HEAD + b"Content-Length: 30\r\n\r\nabc", 400),
    ("a long line", b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n", 414),
    ("a long line without end", b"GET /" + b"a" * 64_000, 414),
    ("100,000 headers", b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 100_000, 431),
    ("101 headers", b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 100 + b"\r\n", 431),
    ("a huge cookie", b"GET / HTTP/1.1\r\nHost: a\r\nCookie: " + b"a" * 20_000 + b"\r\n\r\n", 431),
    ("a huge body", HEAD + b"Content-Length: 1000000\r\n\r\n", 413),
    ("a huge chunk", CHUNKED + b"5000\r\n" + b"a" * 0x5000 + b"\r\n", 413),
]


@pytest.mark.parametrize(
    ("data", "status"), [row[1:] for row in MALFORMED], ids=[row[0] for row in MALFORMED]
)
async def test_what_is_malformed_is_refused_closed_and_noted(
    served: Served, data: bytes, status: int
) -> None:
    smuggled = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    with trio.fail_after(60):
        answer = await raw(served, data + (smuggled if data.endswith(b"\r\n\r\n") else b""))
    assert statuses(answer) == [status]
    assert b"connection: close" in answer.lower()
    assert served.faults == []
    refused = [fields for name, fields in served.recording.records if name == "refused"]
    assert [fields["status"] for fields in refused] == [status]
    assert served.server.statistics().refused == {status: 1}


async def test_a_malformed_second_request_is_answered_too(served: Served) -> None:
    good = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
    assert statuses(await raw(served, good + b"GET / HTTP/1.1\nHost: a\n\n")) == [200, 400]
    posted = CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"
    assert statuses(await raw(served, posted + b"GET /" + b"a" * 9000)) == [200, 414]


async def test_an_answer_without_content_has_no_length(served: Served) -> None:
    async def nothing(request: Request) -> Response:
        return Response(204)

    async with serve(tcp=False, nothing=nothing) as other:
        answer = await raw(other, b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
    assert statuses(answer) == [204, 204]
    assert b"content-length" not in answer.lower()


async def test_expect_100_continue(served: Served) -> None:
    client = served.dial()
    await client.send(HEAD + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert (await client.answer())[0] == 100
    await client.send(b"abc")
    assert (await client.answer())[2] == b"abc"


async def test_an_unread_body_is_passed_over_or_the_connection_closed(served: Served) -> None:
    client = served.dial()
    small = b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000
    await client.send(small + small)
    assert (await client.answer())[0] == 200
    assert (await client.answer())[0] == 200
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
    status, headers, _ = await client.answer()
    assert (status, headers["connection"]) == (200, "close")
    await client.stream.send_eof()
    assert await client.rest() == b""


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((b"Version: 13", b"Version: 8"), 426),
        ((KEY.encode(), b"c2hvcnQ="), 400),
        ((KEY.encode(), b"not base64, and long enough"), 400),
        ((b"Connection: Upgrade", b"Connection: close"), 400),
        ((b"HTTP/1.1", b"HTTP/1.0"), 400),
        ((b"GET", b"POST"), 400),
        ((b"Host:", b"Content-Length: 3\r\nHost:"), 400),
        ((b"Host:", b"Transfer-Encoding: chunked\r\nHost:"), 400),
    ],
)
async def test_a_bad_upgrade_is_refused(
    served: Served, change: tuple[bytes, bytes], status: int
) -> None:
    answer = await raw(served, HANDSHAKE.replace(*change))
    assert statuses(answer) == [status]
    assert (b"Sec-WebSocket-Version: 13" in answer) == (status == 426)
    assert served.chatters == []


@pytest.mark.parametrize(
    "change",
    [
        (b"Host:", b"Content-Length: 0\r\nHost:"),
        (b"Host: localhost", b"Host: LOCALHOST.:3000"),
        (b"Host: localhost", b"Host: [::1]:3000"),
        (b"Connection: Upgrade", b"Connection: keep-alive, Upgrade"),
        (b"Connection: Upgrade", b"Connection: keep-alive\r\nConnection: upgrade"),
        (b"Upgrade: websocket", b"UPGRADE: WebSocket"),
        (b"Upgrade: websocket", b"Upgrade: h2c\r\nUpgrade: websocket"),
        (b"Upgrade: websocket", b"Upgrade:websocket\t"),
    ],
)
async def test_an_unusual_upgrade_is_accepted(served: Served, change: tuple[bytes, bytes]) -> None:
    assert change[0] in HANDSHAKE
    client = served.dial()
    await client.send(HANDSHAKE.replace(*change))
    assert (await client.answer())[0] == 101
    await client.text("x")
    assert await client.hear() == "x"


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1:3000", 200), ("[::1]", 200), ("evil.example:3000", 421)],
)
@pytest.mark.parametrize(
    "request_line", ["GET /", "GET /nothing", "POST /echo", "GET /ws", "BREW /"]
)
async def test_on_loopback_only_local_hosts_are_answered(
    served: Served, request_line: str, host: str, status: int
) -> None:
    ask = f"{request_line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    client = served.dial(Peer("127.0.0.1", "tcp", loopback=True))
    await client.send(ask)
    answer = await client.rest()
    assert (statuses(answer) == [421]) is (status == 421)
    refused = [fields for name, fields in served.recording.records if name == "refused"]
    if status == 421:
        assert b"http.hosts" in answer
        assert (refused[0]["host"], refused[0]["setting"]) == (host, "http.hosts")
        assert served.server.statistics().refused == {421: 1}
        # Once the operator has named the hosts, `same` is limited to them instead.
        served.server.settings = settings(http={"hosts": ["chat.example.org"]})
        client = served.dial(Peer("127.0.0.1", "tcp", loopback=True))
        await client.send(ask)
        assert statuses(await client.rest()) != [421]


async def test_on_loopback_a_rebound_name_opens_no_websocket(served: Served) -> None:
    client = served.dial(Peer("::1", "tcp", loopback=True))
    await client.send(HANDSHAKE.replace(b"localhost", b"evil.example:3000"))
    status, headers, _ = await client.answer()
    assert (status, "upgrade" in headers) == (421, False)
    assert served.chatters == []


ECHOED = [
    *("Access-Control-Request-Headers", "Access-Control-Request-Method", "Authorization"),
    *("Accept-Encoding", "Connection", "Cookie", "Content-Type", "Forwarded", "If-None-Match"),
    *("Origin", "Sec-Fetch-Site", "Sec-WebSocket-Key", "Sec-WebSocket-Protocol", "User-Agent"),
    *("Sec-WebSocket-Extensions", "Sec-WebSocket-Version", "Upgrade", "X-Forwarded-For"),
    *("X-Forwarded-Host", "X-Forwarded-Proto", "Host", "Content-Length", "Transfer-Encoding"),
    *("Expect", "Accept", "Last-Event-ID", "Idempotency-Key"),
]


@pytest.mark.parametrize("name", ECHOED)
async def test_any_byte_of_any_header_is_answered(name: str) -> None:
    async def repeat(request: Request) -> Response:
        value = request.header(name.lower()) or ""
        return Response(200, headers=[("X-Repeated", value)])

    values = [b"a%cb" % byte for byte in (*range(1, 32), 127) if byte not in b"\r\n"]
    values += [
        bytes(range(128, 256)),
        bytes(range(33, 127)),
        b"\xe9",
        b"\xc3\xa9",
        b"\xb2",
        b"q=\xb2",
    ]
    async with serve(tcp=False, repeat=repeat) as served:
        for value in values:
            for target in (b"/repeat", b"/ws"):
                lines = {b"Host": b"localhost", b"Connection": b"close"}
                if target == b"/ws":
                    lines = dict(line.split(b": ") for line in HANDSHAKE.split(b"\r\n")[1:] if line)
                lines[name.encode()] = value
                client = served.dial(Peer("unix", "unix", loopback=False))
                fields = b"".join(b"%b: %b\r\n" % line for line in lines.items())
                await client.send(b"GET %b HTTP/1.1\r\n%b\r\n" % (target, fields))
                await client.stream.send_eof()
                assert (await client.rest()).startswith(b"HTTP/1.1 "), (name, value)
        assert served.faults == []


async def test_an_upgrade_to_an_ordinary_path_is_an_ordinary_request(served: Served) -> None:
    assert statuses(await raw(served, HANDSHAKE.replace(b"/ws", b"/"))) == [200]
    assert statuses(await raw(served, HANDSHAKE.replace(b"/ws", b"/nothing"))) == [404]


async def test_an_upgrade_answer_to_an_ordinary_request_is_an_error(served: Served) -> None:
    async def wrong(request: Request) -> Upgrade:
        return Upgrade(None, served.open)

    async with serve(tcp=False, wrong=wrong) as other:
        assert statuses(await raw(other, b"GET /wrong HTTP/1.1\r\nHost: a\r\n\r\n")) == [500]
        assert len(other.faults) == 1


@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.sampled_from(
                (
                    *(
                        b"GET / HTTP/1.1",
                        b"POST /echo HTTP/1.1",
                        b"\r\n",
                        b"\n",
                        b"\r",
                        b" ",
                        b"\0",
                    ),
                    *(b":", b"Host: a", b"Content-Length: 3", b"Transfer-Encoding: chunked", b"3"),
                    *(b"abc", b"0", b"Upgrade: websocket", b"Expect: 100-continue"),
                )
            ),
            max_size=20,
        ).map(b"".join),
    )
)
async def test_garbage_is_refused_and_is_nobodys_fault(data: bytes) -> None:
    async with serve(tcp=False) as served:
        with trio.fail_after(60):
            answer = await raw(served, data)
        assert served.faults == []
        assert all(status in (100, 200, *range(400, 506)) for status in statuses(answer))


# Deadlines


async def test_a_slow_head_is_408_and_in_time(autojump_clock: MockClock) -> None:
    async with serve(tcp=False) as served:
        client = served.dial()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def drip() -> None:
                for byte in b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100:
                    await client.send(bytes((byte,)))
                    await trio.sleep(1)

            nursery.start_soon(drip)
            assert statuses(await client.rest()) == [408]
            assert trio.current_time() - began == 10
            nursery.cancel_scope.cancel()


async def test_a_silent_client_is_closed_without_an_answer(autojump_clock: MockClock) -> None:
    async with serve(tcp=False) as served:
        client = served.dial()
        assert await client.rest() == b""
        assert trio.current_time() >= 10
        assert served.recording.records == []


async def test_a_slow_second_head_is_408(autojump_clock: MockClock) -> None:
    async with serve(tcp=False) as served:
        client = served.dial()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HT")
        assert (await client.answer())[0] == 200
        assert (await client.answer())[0] == 408
        assert await client.rest() == b""


async def test_between_requests_there_is_a_limit_too(autojump_clock: MockClock) -> None:
    async with serve(tcp=False) as served:
        client = served.dial()
        for _ in range(5):
            assert (await client.ask("GET / HTTP/1.1"))[0] == 200
            await trio.sleep(74)
        assert (await client.ask("GET / HTTP/1.1"))[0] == 200
        began = trio.current_time()
        assert await client.rest() == b""
        assert trio.current_time() - began == 75
        assert [name for name, _ in served.recording.records] == []


async def test_the_limit_between_requests_has_its_own_key(autojump_clock: MockClock) -> None:
    async with serve(settings(limits={"idle_seconds": 300}), tcp=False) as served:
        client = served.dial()
        assert (await client.ask("GET / HTTP/1.1"))[0] == 200
        await trio.sleep(299)
        # A head has the same time as the first one.
        await client.send(b"GET / HTTP/1.1\r\n")
        began = trio.current_time()
        assert (await client.answer())[0] == 408
        assert trio.current_time() - began == 10


@pytest.mark.parametrize(("answered", "seconds"), [(False, 10), (True, 75)])
async def test_empty_lines_are_not_a_request(
    autojump_clock: MockClock, answered: bool, seconds: int
) -> None:
    async with serve(tcp=False) as served:
        client = served.dial()
        if answered:
            assert (await client.ask("GET / HTTP/1.1"))[0] == 200
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def send_empty_lines() -> None:
                while True:
                    await client.send(b"\r\n")
                    await trio.sleep(3)

            nursery.start_soon(send_empty_lines)
            assert await client.rest() == b""
            assert trio.current_time() - began == seconds
            nursery.cancel_scope.cancel()


async def test_a_slow_body_is_408(autojump_clock: MockClock) -> None:
    async with serve(tcp=False) as served:
        client = served.dial()
        await client.send(HEAD + b"Content-Length: 900\r\n\r\n")
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def drip() -> None:
                while True:
                    await client.send(b"x")
                    await trio.sleep(1)

            nursery.start_soon(drip)
            assert (await client.answer())[0] == 408
            assert trio.current_time() - began == 10
            nursery.cancel_scope.cancel()


async def _take(request: Request) -> Response:
    return Response(200, b"%d" % len(await request.body(1_000_000)))


TAKING = Routes({"/take": {"POST": _take}})
LENGTH = b"Content-Length: 153600\r\n\r\n"
IN_CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("size", "pause"), [(8192, 1), (1024, 1), (9600, 9)])
async def test_a_body_that_keeps_coming_is_taken(
    autojump_clock: MockClock, size: int, pause: float, chunked: bool
) -> None:
    async with serve(tcp=False) as served:
        served.server.routes = TAKING
        client = served.dial()
        head = IN_CHUNKS if chunked else LENGTH
        await client.send(b"POST /take HTTP/1.1\r\nHost: a\r\n" + head)
        left = 153_600
        while left:
            await trio.sleep(pause)
            piece = b"x" * min(left, size)
            left -= len(piece)
            await client.send(chunk(piece) if chunked else piece)
        if chunked:
            await client.send(b"0\r\n\r\n")
        assert (await client.answer())[2] == b"153600"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("first", "size", "pause", "seconds"),
    [
        # Nothing, a pause, and less than 1 KiB/s: that gives two seconds more for 2 KiB.
        (0, 0, 1, 10),
        (50_000, 0, 1, 10),
        (0, 200, 1, 12),
    ],
)
async def test_a_body_that_stops_or_drips_is_408(
    autojump_clock: MockClock, first: int, size: int, pause: float, seconds: float, chunked: bool
) -> None:
    async with serve(tcp=False) as served:
        served.server.routes = TAKING
        client = served.dial()
        head = IN_CHUNKS if chunked else LENGTH
        await client.send(b"POST /take HTTP/1.1\r\nHost: a\r\n" + head)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def drip() -> None:
                piece = b"x" * first
                while True:
                    if piece:
                        await client.send(chunk(piece) if chunked else piece)
                    await trio.sleep(pause)
                    piece = b"x" * size

            nursery.start_soon(drip)
            status, headers, _ = await client.answer()
            assert (status, headers["connection"]) == (408, "close")
            assert trio.current_time() - began == pytest.approx(seconds, abs=1.1)
            nursery.cancel_scope.cancel()


async def test_a_slow_reader_is_given_time(autojump_clock: MockClock) -> None:
    async def big(request: Request) -> Response:
        return Response(200, b"x" * 100_000)

    async with serve(tcp=False, big=big) as served:
        ours, theirs = trio.testing.lockstep_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.server.handle, StreamTransport(theirs, MEMORY))
            await ours.send_all(b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            received = 0
            while data := await ours.receive_some(1100):
                received += len(data)
                await trio.sleep(1)
            assert received > 100_000
            assert trio.current_time() > 90


async def test_a_handler_may_take_its_time(autojump_clock: MockClock) -> None:
    async def slow(request: Request) -> Response:
        await trio.sleep(1000)
        return Response(200, b"at last")

    async with serve(tcp=False, slow=slow) as served:
        assert (await served.dial().ask("GET /slow HTTP/1.1"))[2] == b"at last"


async def test_a_client_that_does_not_read_the_answer_is_closed(autojump_clock: MockClock) -> None:
    async def big(request: Request) -> Response:
        return Response(200, b"x" * 1_000_000)

    async with serve(tcp=False, big=big) as served:
        ours, theirs = trio.testing.lockstep_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.send_all, b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
            await served.server.handle(StreamTransport(theirs, MEMORY))
        assert trio.current_time() >= 10


async def test_a_waiting_handler_learns_that_its_client_has_gone() -> None:
    went = trio.Event()

    async def wait(request: Request) -> Response:
        await request.gone()
        went.set()
        return Response(200, b"to nobody")

    async with serve(tcp=False, wait=wait) as served:
        client = served.dial()
        await client.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        # A pipelined request is not a disconnection, and is answered in its turn.
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        assert not went.is_set()
        await client.stream.send_eof()
        await went.wait()
        assert statuses(await client.rest()) == [200, 200]


async def test_reading_pauses_after_too_much_pipelined_data() -> None:
    async def wait(request: Request) -> Response:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            await request.gone()
        return Response(200, b"answered")

    scopes: list[trio.CancelScope] = []
    async with serve(tcp=False, wait=wait) as served:
        client = served.dial()
        ahead = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 4000
        await client.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n" + ahead)
        await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()
        await client.stream.send_eof()
        assert len(statuses(await client.rest())) == 4001


async def test_a_held_request_delays_no_other(autojump_clock: MockClock) -> None:
    request = Request("GET", "/", [], MEMORY)
    with trio.move_on_after(1000) as scope:
        await request.gone()
    assert scope.cancelled_caught
    assert not request.secure


# ---- bodies of any length


class Streaming:
    """A handler with a streamed answer; ``closed`` once the client stops reading."""

    def __init__(self, pieces: list[bytes], error: Exception | None = None) -> None:
        self.pieces = pieces
        self.error = error
        self.closed = 0

    async def __call__(self, request: Request) -> Response:
        return Response(200, content_type="text/csv", stream=self._stream())

    async def _stream(self) -> AsyncGenerator[bytes]:
        try:
            for piece in self.pieces:
                await trio.lowlevel.checkpoint()
                yield piece
            if self.error is not None:
                raise self.error
        finally:
            self.closed += 1


async def test_an_answer_in_pieces_is_chunked(autojump_clock: MockClock) -> None:
    streaming = Streaming([b"one", b"", b"two" * 50_000])
    async with serve(tcp=False, stream=streaming) as served:
        client = served.dial()
        await client.send(
            b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        await client.stream.send_eof()
        answer = await client.rest()
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head.lower()
    assert b"content-length" not in head.lower()
    assert b"content-type: text/csv" in head.lower()
    assert rest.startswith(b"3\r\none\r\n249f0\r\ntwotwo")
    # The connection continues after it.
    assert rest.partition(b"two\r\n0\r\n\r\n")[2].startswith(b"HTTP/1.1 200")
    assert streaming.closed == 1


@pytest.mark.parametrize(
    ("request_line", "body"),
    [(b"GET /stream HTTP/1.0", b"onetwo"), (b"HEAD /stream HTTP/1.1", b"")],
)
async def test_pieces_where_there_are_no_chunks(
    autojump_clock: MockClock, request_line: bytes, body: bytes
) -> None:
    async with serve(tcp=False, stream=Streaming([b"one", b"two"])) as served:
        answer = await raw(served, request_line + b"\r\nHost: a\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n" + body)


async def test_what_a_stream_raises_tears_the_body(autojump_clock: MockClock) -> None:
    streaming = Streaming([b"one"], ValueError("half way"))
    async with serve(tcp=False, stream=streaming) as served:
        answer = await raw(served, b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer.endswith(b"3\r\none\r\n")
        assert served.faults == ["ValueError('half way')"]


async def test_a_client_that_reads_no_piece_is_closed_in_time(autojump_clock: MockClock) -> None:
    streaming = Streaming([b"x" * 1000] * 1000)
    ours, theirs = trio.testing.lockstep_stream_pair()
    async with serve(settings(limits={"handshake_seconds": 3}), tcp=False, s=streaming) as served:
        began = trio.current_time()
        transport = StreamTransport(theirs, MEMORY, listener_loopback=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.server.handle, transport)
            await ours.send_all(b"GET /s HTTP/1.1\r\nHost: a\r\n\r\n")
            while not (await ours.receive_some(100)).startswith(b"x"):
                pass
        assert trio.current_time() == began + 3
        assert streaming.closed == 1


async def _lengths(request: Request) -> Response:
    """Answer the lengths of the pieces of a body."""
    async with aclosing(request.pieces()) as pieces:
        lengths = [len(piece) async for piece in pieces]
    return Response(200, repr((sum(lengths), len(lengths) > 1)).encode())


async def test_a_body_of_any_length_is_read_as_it_comes(autojump_clock: MockClock) -> None:
    async with serve(settings(limits={"handshake_seconds": 3}), tcp=False, up=_lengths) as served:
        client = served.dial()
        for head, frame in (
            ("Content-Length: 200000", lambda part: part),
            ("Transfer-Encoding: chunked", lambda part: b"%x\r\n%b\r\n" % (len(part), part)),
        ):
            await client.send(f"GET /up HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n".encode())
            for _ in range(4):
                # Slow in all, in time for each piece.
                await trio.sleep(2)
                await client.send(frame(b"x" * 50_000))
            if "chunked" in head:
                await client.send(b"0\r\n\r\n")
            assert (await client.answer())[2] == b"(200000, True)"
        # And the connection is as good as before.
        assert (await client.ask("GET / HTTP/1.1"))[0] == 200


async def test_a_piece_that_does_not_come_in_time(autojump_clock: MockClock) -> None:
    async with serve(settings(limits={"handshake_seconds": 3}), tcp=False, up=_lengths) as served:
        client = served.dial()
        await client.send(b"GET /up HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
        assert (await client.answer())[0] == 408
        assert await client.rest() == b""


async def test_paths_that_there_are_not_are_counted_and_logged(served: Served) -> None:
    client = served.dial()
    for path, method in (("/nothing", "GET"), ("/%2e%2e/etc/passwd", "GET"), ("/", "DELETE")):
        status, _, _ = await client.ask(f"{method} {path} HTTP/1.1")
        assert status == (404 if method == "GET" else 405)
    assert served.server.statistics().refused == {404: 2, 405: 1}
    lines = [fields for name, fields in served.recording.records if name == "refused"]
    assert [(line["path"], line["status"]) for line in lines] == [
        ("/nothing", 404),
        ("/%2e%2e/etc/passwd", 404),
        ("/", 405),
    ]


async def test_a_body_of_too_many_small_chunks_is_too_large(served: Served) -> None:
    chunked = "POST /echo HTTP/1.1\nTransfer-Encoding: chunked"
    for pieces, size in ((60, 10), (10, 100)):
        body = b"%x\r\n%b\r\n" % (size, b"x" * size) * pieces
        status, _, _ = await served.dial().ask(chunked, body + b"0\r\n\r\n")
        assert status == 200
    status, _, _ = await served.dial().ask(chunked, b"1\r\nx\r\n" * 900 + b"0\r\n\r\n")
    assert status == 413


async def test_an_address_that_asks_too_much_is_answered_more_slowly(
    autojump_clock: MockClock,
) -> None:
    async with serve() as served:
        for peer, waits in ((MEMORY, False), (Peer("192.0.2.1", "tcp", loopback=False), True)):
            client = served.dial(peer)
            began = trio.current_time()
            for _ in range(500):
                assert (await client.ask("GET / HTTP/1.1"))[0] == 200
            assert (trio.current_time() - began > 0.5) is waits
