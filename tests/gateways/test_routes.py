"""The port: the answer of each path, and the origins that may open a WebSocket."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import trio
from trio.testing import MockClock

from chatd.gateways import page
from chatd.settings import Auth, Chat, Drain, Http, Limits, Settings
from chatd.testing import Harness, open_chat
from chatd.wire.transport import Peer
from tests.gateways.raw import LOOPBACK, Raw, handshake

MAIN = next(path for path in page.routes(Settings) if path.endswith("/main.js"))

FAR = Peer("192.0.2.7", "tcp", loopback=False)


async def ask(
    chat: Harness, request: str, client: Raw | None = None
) -> tuple[int, dict[str, str], bytes]:
    with trio.fail_after(5):
        return await (client or Raw(await chat.dial())).ask(f"{request} HTTP/1.1")


async def knock(
    chat: Harness,
    target: str = "/ws",
    headers: Mapping[str, str] | None = None,
    peer: Peer = LOOPBACK,
) -> tuple[int, dict[str, str], str]:
    """Ask for a WebSocket; give the answer."""
    client = Raw(await chat.dial(peer))
    await client.send(handshake(target, headers))
    with trio.fail_after(5):
        status, fields, body = await client.answer()
    return status, fields, body.decode()


# ---- paths and methods


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [
        ("GET /healthz", 200, b"alive\n"),
        ("GET /readyz", 200, b"ready\n"),
        ("GET /healthz?verbose=1", 200, b"alive\n"),
        ("HEAD /readyz", 200, b""),
    ],
)
async def test_what_watches(
    chat: Harness, autojump_clock: MockClock, request_line: str, status: int, body: bytes
) -> None:
    client = Raw(await chat.dial())
    await client.send(f"{request_line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await client.rest()
    head, _, came = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status}".encode())
    assert b"content-type: text/plain; charset=utf-8" in head.lower()
    assert came == body


@pytest.mark.parametrize(
    "path",
    [
        *("/nothing", "/healthz/", "/HEALTHZ", "/ws/", "//", "/metrics", "/page/", "/page/nothing"),
        *("/page/../../model.py", "/page/%2e%2e/page.py", "/page/%00", "/page//etc/passwd"),
    ],
)
async def test_anything_else_is_404_and_keeps_the_connection(
    chat: Harness, autojump_clock: MockClock, path: str
) -> None:
    client = Raw(await chat.dial())
    status, headers, body = await ask(chat, f"GET {path}", client)
    assert (status, len(body) < 100) == (404, True)
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert (await ask(chat, "GET /healthz", client))[0] == 200


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", MAIN])
@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS", "BREW"])
async def test_another_method_is_405_with_those_allowed(
    chat: Harness, autojump_clock: MockClock, method: str, path: str
) -> None:
    client = Raw(await chat.dial())
    status, headers, _ = await ask(chat, f"{method} {path}", client)
    assert (status, headers["allow"]) == (405, "GET, HEAD")
    assert (await ask(chat, "GET /healthz", client))[0] == 200


async def test_ws_is_for_websockets(chat: Harness, autojump_clock: MockClock) -> None:
    status, headers, _ = await ask(chat, "GET /ws")
    assert (status, headers["upgrade"]) == (426, "websocket")
    status, headers, _ = await ask(chat, "POST /ws")
    assert (status, headers["allow"]) == (405, "GET")
    assert (await knock(chat, "/nothing"))[0] == 404


async def test_the_page(autojump_clock: MockClock) -> None:
    async with open_chat(Settings(chat=Chat(default_room="Hall"))) as chat:
        status, headers, body = await ask(chat, "GET /")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"Hall" in body


# ---- readiness


async def test_not_ready_from_the_first_moment_of_a_drain(autojump_clock: MockClock) -> None:
    async with open_chat(Settings(drain=Drain(delay_seconds=30))) as chat:
        client = Raw(await chat.dial())
        assert (await ask(chat, "GET /readyz", client))[0] == 200
        async with trio.open_nursery() as nursery:
            nursery.start_soon(chat.daemon.drain)
            await chat.wait_idle()
            assert (await ask(chat, "GET /readyz", client))[0] == 503
            assert (await ask(chat, "GET /healthz", client))[0] == 200
            # New clients are served still.
            assert (await knock(chat))[0] == 101


async def test_not_ready_while_the_store_stands_still(
    chat: Harness, autojump_clock: MockClock
) -> None:
    ann = await chat.client("ann", "text")
    chat.fill_disk()
    await ann.say("x")
    await ann.next("notice")
    assert (await ask(chat, "GET /readyz"))[0] == 503
    assert (await ask(chat, "GET /healthz"))[0] == 200
    chat.free_disk()
    await trio.sleep(6)
    assert (await ask(chat, "GET /readyz"))[0] == 200


# ---- subprotocols


@pytest.mark.parametrize("target", ["/", "/ws", "/?room=x&nick=y", "/ws?"])
@pytest.mark.parametrize(
    ("offered", "taken"),
    [(None, None), ("chatd.v1", "chatd.v1"), ("graphql-ws,  chatd.v1 , x", "chatd.v1")],
)
async def test_the_subprotocol_chooses(
    chat: Harness, autojump_clock: MockClock, target: str, offered: str | None, taken: str | None
) -> None:
    headers = {} if offered is None else {"Sec-WebSocket-Protocol": offered}
    status, fields, _ = await knock(chat, target, headers)
    assert (status, fields.get("sec-websocket-protocol")) == (101, taken)
    await chat.wait_idle()
    assert [line["protocol"] for line in chat.logged("connect")] == [taken or "text"]


@pytest.mark.parametrize("offered", ["chatd.v2", "CHATD.V1", "graphql-ws, xmpp", ""])
async def test_only_unknown_subprotocols_are_400(
    chat: Harness, autojump_clock: MockClock, offered: str
) -> None:
    status, _, body = await knock(chat, "/", {"Sec-WebSocket-Protocol": offered})
    assert status == 400
    assert "chatd.v1" in body
    assert chat.logged("connect") == []
    (line,) = chat.logged("refused")
    assert (line["status"], line["reason"]) == (400, body.strip())
    assert chat.daemon.server.statistics().refused == {400: 1}


# ---- headers

HEADERS = [
    *("Accept-Encoding", "Access-Control-Request-Headers", "Authorization", "Connection"),
    *("Content-Length", "Content-Type", "Cookie", "Expect", "Forwarded", "Host", "Origin"),
    *("If-None-Match", "Sec-Fetch-Site", "Sec-WebSocket-Key", "Sec-WebSocket-Protocol"),
    *("Sec-WebSocket-Version", "Transfer-Encoding", "Upgrade", "User-Agent", "X-Real-IP"),
    *("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"),
]
PROXY = Peer("unix", "unix", loopback=False)


@pytest.mark.parametrize("name", HEADERS)
async def test_any_byte_of_any_header_is_answered(autojump_clock: MockClock, name: str) -> None:
    values = [bytes(range(128, 256)), bytes(range(33, 127)), b"\xe9", b"a\x01b", b"\xb2", b"q=\xb2"]
    values += [b"Bearer \xe9.\xff.\xfe", b"token=\xe9", b"http://\xe9", b'for="\xe9"', b"W/\xe9, *"]
    requests = [
        *("GET /", "GET /nothing", "POST /socket.io/socket.io.js", "OPTIONS /socket.io/"),
        *("GET /socket.io/?EIO=4&transport=polling", "GET /ws"),
        "GET /socket.io/?EIO=4&transport=websocket",
    ]
    settings = Settings(auth=Auth(mode="token", cookie="token", guests=True))
    async with open_chat(settings) as chat:
        for request in requests:
            for value in values:
                fields = {b"Host": b"localhost"}
                if "websocket" in request or "/ws" in request:
                    lines = handshake().split(b"\r\n")[1:-2]
                    fields = dict(line.split(b": ") for line in lines)
                fields[name.encode()] = value
                head = b"".join(b"%b: %b\r\n" % field for field in fields.items())
                client = Raw(await chat.dial(PROXY))
                await client.send(f"{request} HTTP/1.1\r\n".encode() + head + b"\r\n")
                with trio.fail_after(60):
                    status, _, _ = await client.answer()
                assert status in (100, 101, 200, 204, 304) or 400 <= status < 506, (request, value)
                assert status != 500, (request, value)
                await client.aclose()
        assert chat.logged("fault") == []


# ---- origins

SAME = {"Host": "chat.example", "Origin": "http://chat.example"}
LOCAL = {"Host": "localhost:3000", "Origin": "http://127.0.0.1:8080"}
FILE = {"Host": "127.0.0.1:3000", "Origin": "null"}
OTHER = {"Host": "chat.example", "Origin": "https://evil.example"}


@pytest.mark.parametrize(
    ("headers", "peer", "status"),
    [
        ({"Host": "chat.example"}, FAR, 101),
        (SAME, FAR, 101),
        (LOCAL, LOOPBACK, 101),
        (LOCAL, FAR, 403),
        (FILE, LOOPBACK, 101),
        (FILE, FAR, 403),
        ({**FILE, "X-Forwarded-For": "192.0.2.9"}, LOOPBACK, 403),
        (OTHER, FAR, 403),
        # A page whose own name was made to point here.
        ({"Host": "evil.example:3000", "Origin": "http://evil.example:3000"}, LOOPBACK, 421),
        (OTHER, LOOPBACK, 421),
        ({"Host": "chat.example"}, LOOPBACK, 421),
        ({"Host": "localhost.:3000", "Origin": "http://localhost:3000"}, LOOPBACK, 101),
        ({"Host": "chat.example.", "Origin": "http://chat.example"}, FAR, 101),
        ({**OTHER, "Sec-WebSocket-Protocol": "chatd.v1"}, FAR, 403),
        ({**OTHER, "Sec-WebSocket-Protocol": "unknown"}, FAR, 403),
    ],
)
async def test_whose_pages_may_connect(
    chat: Harness, autojump_clock: MockClock, headers: dict[str, str], peer: Peer, status: int
) -> None:
    assert (await knock(chat, "/", headers, peer))[0] == status


@pytest.mark.parametrize(
    "target",
    [
        *("/", MAIN, "/healthz", "/readyz", "/nothing", "/ws"),
        *("/socket.io/socket.io.js", "/socket.io/?EIO=4&transport=polling", "/socket.io/nothing"),
    ],
)
async def test_on_loopback_a_foreign_host_is_421_on_every_route(
    chat: Harness, autojump_clock: MockClock, target: str
) -> None:
    rebound = (
        "GET {} HTTP/1.1\r\nHost: evil.example:3000\r\nOrigin: http://evil.example:3000\r\n\r\n"
    )
    client = Raw(await chat.dial(LOOPBACK))
    await client.send(rebound.format(target).encode())
    with trio.fail_after(5):
        status, headers, body = await client.answer()
    assert status == 421
    assert b"http.hosts" in body
    assert "access-control-allow-origin" not in headers
    (line,) = chat.logged("refused")
    assert (line["status"], line["host"], line["setting"]) == (
        421,
        "evil.example:3000",
        "http.hosts",
    )


async def test_the_refusal_of_a_foreign_page_names_the_origin_and_the_key(
    chat: Harness, autojump_clock: MockClock
) -> None:
    status, _, body = await knock(chat, "/ws?nick=secret", OTHER, FAR)
    assert status == 403
    assert "https://evil.example" in body
    assert "http.origins" in body
    (line,) = chat.logged("refused")
    assert line["origin"] == "https://evil.example"
    assert line["setting"] == "http.origins"
    assert (line["status"], line["path"], line["address"]) == (403, "/ws", "192.0.2.7")
    assert "secret" not in str(line)
    assert chat.logged("connect") == []


async def test_an_origin_or_host_that_is_configured(autojump_clock: MockClock) -> None:
    http = Http(origins=("https://evil.example",))
    async with open_chat(Settings(http=http)) as chat:
        assert (await knock(chat, "/", OTHER, FAR))[0] == 101
        assert (await knock(chat, "/", SAME, FAR))[0] == 403
    async with open_chat(Settings(http=Http(hosts=("other.example",)))) as chat:
        status, _, body = await knock(chat, "/", SAME, FAR)
        assert status == 403
        assert "chat.example" in body
        assert "http.hosts" in body
        (line,) = chat.logged("refused")
        assert line["setting"] == "http.hosts"


LISTED = Settings(http=Http(origins=("https://app.example",)), limits=Limits(connections=5))


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        # Whether `chatd fetch-client` was run here or not.
        ("GET /socket.io/socket.io.esm.min.js", None),
        ("GET /socket.io/socket.io.js.map", None),
        ("POST /socket.io/socket.io.js", 405),
        ("OPTIONS /socket.io/socket.io.js", 204),
        ("GET /socket.io/?EIO=4&transport=polling", 200),
        ("GET /socket.io?EIO=4&transport=polling", 200),
        ("GET /socket.io/?EIO=4&transport=abc", 400),
        ("GET /socket.io/?EIO=4&transport=polling&sid=abc", 400),
        ("PUT /socket.io/?EIO=4&transport=polling", 400),
        ("OPTIONS /socket.io/?EIO=4&transport=polling", 204),
    ],
)
async def test_every_answer_below_socket_io_has_the_cors_headers(
    autojump_clock: MockClock, request_line: str, status: int | None
) -> None:
    async with open_chat(LISTED) as chat:
        for origin, allowed in (("https://app.example", True), ("https://other.example", False)):
            # No Host is local here, so that only the list counts.
            client = Raw(await chat.dial(FAR))
            line = f"{request_line} HTTP/1.1\nOrigin: {origin}"
            found, headers, _ = await client.ask(f"{line}\nConnection: close")
            refused = not allowed and status == 200
            assert found in ((200, 404) if status is None else (403 if refused else status,))
            assert headers.get("access-control-allow-origin") == (origin if allowed else None)
            assert headers["access-control-allow-credentials"] == "true"
            assert "Origin" in headers["vary"]


async def test_one_connection_too_many_has_the_cors_headers_too(autojump_clock: MockClock) -> None:
    async with open_chat(LISTED) as chat:
        held = [await chat.dial(FAR) for _ in range(5)]
        await chat.wait_idle()
        client = Raw(await chat.dial(FAR))
        line = "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\nOrigin: https://app.example"
        status, headers, _ = await client.ask(line)
        assert status == 503
        assert headers["access-control-allow-origin"] == "https://app.example"
        # The page and the health checks are for the server's own pages.
        client = Raw(held[0])
        _, headers, _ = await client.ask("GET /healthz HTTP/1.1\nOrigin: https://app.example")
        assert not any(name.startswith("access-control") for name in headers)


async def test_one_too_many_is_503(autojump_clock: MockClock) -> None:
    async with open_chat(Settings(limits=Limits(connections=1))) as chat:
        await chat.client("ann")
        assert (await knock(chat))[0] == 503
