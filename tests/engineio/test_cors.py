from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from chatd.wire.request import Request
from tests.engineio.served import ask, serve, upgrade

OPEN = "EIO=4&transport=polling"
PAGE = "Origin: https://page.example\n"


async def test_off_there_are_no_headers() -> None:
    async with serve() as served:
        _, headers, _ = await served.ask("GET", OPEN, PAGE)
        assert not any(name.startswith("access-control") or name == "vary" for name in headers)
        status, _, _ = await served.ask("OPTIONS", OPEN, PAGE)
        assert status == 400


async def test_any_origin() -> None:
    async with serve(cors_origins="*") as served:
        status, headers, _ = await served.ask("GET", OPEN, PAGE)
        assert status == 200
        assert headers["access-control-allow-origin"] == "*"
        assert "vary" not in headers
        assert (await upgrade(served.dial(), "EIO=4&transport=websocket", PAGE))[0] == 101


async def test_any_origin_with_credentials_gets_its_own_name() -> None:
    async with serve(cors_origins="*", cors_credentials=True) as served:
        _, headers, _ = await served.ask("GET", OPEN, PAGE)
        assert headers["access-control-allow-origin"] == "https://page.example"
        assert headers["access-control-allow-credentials"] == "true"
        assert headers["vary"] == "Origin"


@pytest.mark.parametrize(
    ("origin", "allowed"), [("https://page.example", True), ("https://other.example", False)]
)
async def test_a_list_of_origins(origin: str, allowed: bool) -> None:
    async with serve(cors_origins=["https://page.example", "http://a"]) as served:
        status, headers, _ = await served.ask("GET", OPEN, f"Origin: {origin}\n")
        assert status == 200
        assert headers.get("access-control-allow-origin") == (origin if allowed else None)
        assert headers["vary"] == "Origin"
        query = "EIO=4&transport=websocket"
        status, _, body = await upgrade(served.dial(), query, f"Origin: {origin}\n")
        assert status == (101 if allowed else 400)
        assert allowed or body == b"Forbidden"


async def test_what_decides_is_asked() -> None:
    def asked(request: Request) -> bool:
        return (request.header("origin") or "").endswith(".example")

    async with serve(cors_origins=asked) as served:
        _, headers, _ = await served.ask("GET", OPEN, PAGE)
        assert headers["access-control-allow-origin"] == "https://page.example"
        _, headers, _ = await served.ask("GET", OPEN, "Origin: https://x\n")
        assert "access-control-allow-origin" not in headers


async def test_the_function_that_decides_may_be_async() -> None:
    async def asked(request: Request) -> bool:
        await trio.lowlevel.checkpoint()
        return request.header("origin") == "https://page.example"

    async with serve(cors_origins=asked) as served:
        for origin, status in (("https://page.example", 101), ("https://x", 400)):
            page = f"Origin: {origin}\n"
            _, headers, _ = await served.ask("GET", OPEN, page)
            allowed = headers.get("access-control-allow-origin")
            assert allowed == (origin if status == 101 else None)
            client = served.dial()
            assert (await upgrade(client, "EIO=4&transport=websocket", page))[0] == status


async def test_an_error_in_the_function_that_decides_is_500_and_logged() -> None:
    def asked(request: Request) -> bool:
        raise ValueError("decides")

    async with serve(cors_origins=asked) as served:
        status, headers, _ = await served.ask("GET", OPEN, PAGE)
        assert (status, "access-control-allow-origin" in headers) == (500, False)
        assert served.faults == ["ValueError('decides')"]


async def test_one_origin_needs_no_list_and_may_end_with_a_slash() -> None:
    async with serve(cors_origins="https://page.example/") as served:
        _, headers, _ = await served.ask("GET", OPEN, PAGE)
        assert headers["access-control-allow-origin"] == "https://page.example"
        assert (await upgrade(served.dial(), "EIO=4&transport=websocket", PAGE))[0] == 101


async def test_refusals_have_the_headers_too(autojump_clock: MockClock) -> None:
    async with serve(cors_origins="*", max_payload=100) as served:
        _, headers, _ = await served.ask("GET", "EIO=4&transport=abc", PAGE)
        assert headers["access-control-allow-origin"] == "*"
        poller = await served.poller()
        status, headers, _ = await ask(served.dial(), "POST", poller.line, PAGE, b"4" * 200)
        assert (status, headers["access-control-allow-origin"]) == (413, "*")
        _, headers, _ = await poller.post("4a", PAGE)
        assert headers["access-control-allow-origin"] == "*"
        # Neither does a body, of which not one byte comes, nor a fault go without.
        late = served.dial()
        await late.send(
            f"POST /engine.io/?{poller.line} HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n"
            f"{PAGE.rstrip()}\r\n\r\n".encode()
        )
        status, headers, _ = await late.answer()
        assert (status, headers["access-control-allow-origin"]) == (408, "*")
        served.fails("opened")
        status, headers, _ = await served.ask("GET", OPEN, PAGE)
        assert (status, headers["access-control-allow-origin"]) == (500, "*")


@pytest.mark.parametrize("asked", [b"\xe9", b"x-\xff, y", bytes(range(128, 256)), b"a\x01b"])
async def test_a_preflight_repeats_any_byte(asked: bytes) -> None:
    async with serve(cors_origins=["https://page.example"]) as served:
        client = served.dial()
        await client.send(
            b"OPTIONS /engine.io/?EIO=4 HTTP/1.1\r\nHost: localhost\r\n"
            b"Origin: https://page.example\r\nAccess-Control-Request-Headers: " + asked + b"\r\n"
            b"Connection: close\r\n\r\n"
        )
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 204 ")
        assert b"Access-Control-Allow-Headers: " + asked in answer
        assert served.faults == []


async def test_an_origin_of_any_bytes_is_echoed() -> None:
    async with serve(cors_origins="*", cors_credentials=True) as served:
        client = served.dial()
        await client.send(
            b"GET /engine.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: localhost\r\n"
            b"Origin: http://\xe9\xff\r\nConnection: close\r\n\r\n"
        )
        assert b"Access-Control-Allow-Origin: http://\xe9\xff\r\n" in await client.rest()
        assert served.faults == []


async def test_preflights() -> None:
    async with serve(cors_origins=["https://page.example"], cors_credentials=True) as served:
        client = served.dial()
        asks = f"{PAGE}Access-Control-Request-Headers: x-one, x-two\n"
        status, headers, body = await ask(client, "OPTIONS", OPEN, asks)
        assert (status, body) == (204, b"")
        assert headers["access-control-allow-origin"] == "https://page.example"
        assert headers["access-control-allow-credentials"] == "true"
        assert headers["access-control-allow-methods"] == "GET,HEAD,PUT,PATCH,POST,DELETE"
        assert headers["access-control-allow-headers"] == "x-one, x-two"
        assert not served.engine.sessions
        assert (await ask(client, "OPTIONS", OPEN, PAGE))[0] == 204
