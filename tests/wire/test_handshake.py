"""The answer to the opening handshake, against the example of RFC 6455."""

from __future__ import annotations

import pytest

from chatd.wire.handshake import accepting
from chatd.wire.request import Request
from tests.wire.served import MEMORY

# RFC 6455 section 1.3.
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize("subprotocol", [None, "chatd.v1"])
async def test_the_answer_is_that_of_the_rfc(subprotocol: str | None) -> None:
    request = Request("GET", "/any?path", [("sec-websocket-key", KEY)], MEMORY)
    answer = await accepting(request, subprotocol)
    status, *lines = answer.decode("ascii").removesuffix("\r\n\r\n").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert status == "HTTP/1.1 101 Switching Protocols"
    assert headers.pop("sec-websocket-protocol", None) == subprotocol
    assert headers == {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-accept": ACCEPT,
    }
