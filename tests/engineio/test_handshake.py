from __future__ import annotations

from chatd.engineio import Handshake
from chatd.wire.request import Request
from tests.engineio.served import serve
from tests.wire.served import MEMORY


async def test_the_handshake_is_available() -> None:
    async with serve() as served:
        await served.ask("GET", "EIO=4&transport=polling&tok=%C3%A9", "X-One: 1\nX-One: 2\n")
        handshake = served.last.session.handshake
        assert handshake.method == "GET"
        assert handshake.path == "/engine.io/"
        assert handshake.query["tok"] == "é"
        assert handshake.headers["x-one"] == "1, 2"
        assert handshake.address == "memory"
        assert not handshake.secure


async def test_headers_are_joined_once() -> None:
    handshake = Handshake(Request("GET", "/", [("accept", "a"), ("accept", "b")], MEMORY))
    assert handshake.headers == {"accept": "a, b"}
    assert handshake.headers is handshake.headers
