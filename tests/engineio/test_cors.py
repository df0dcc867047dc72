from __future__ import annotations

import pytest

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


async def test_refusals_have_the_headers_too() -> None:
    async with serve(cors_origins="*", max_payload=100) as served:
        _, headers, _ = await served.ask("GET", "EIO=4&transport=abc", PAGE)
        assert headers["access-control-allow-origin"] == "*"
        poller = await served.poller()
        status, headers, _ = await ask(served.dial(), "POST", poller.line, PAGE, b"4" * 200)
        assert (status, headers["access-control-allow-origin"]) == (413, "*")
        _, headers, _ = await poller.post("4a", PAGE)
        assert headers["access-control-allow-origin"] == "*"


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
