"""The opening handshake of a WebSocket, by trio-websocket.

trio-websocket gets a copy of a request that `chatd.wire.http` has read and checked. It never sees
the connection itself, so it needs no task and no time limit.
"""

from __future__ import annotations

from typing import cast

import trio
from trio_websocket import WebSocketConnection, WebSocketRequest
from wsproto import ConnectionType, WSConnection
from wsproto.events import Request as Asked

from chatd.wire.request import Request

__all__ = ["accepting"]


async def accepting(request: Request, subprotocol: str | None) -> bytes:
    """Return the answer that accepts a WebSocket request: 101.

    Args:
        request: The request, with a valid ``Sec-WebSocket-Key``.
        subprotocol: The subprotocol that the answer selects; None for none.
    """
    lines = [
        "GET / HTTP/1.1",
        "Host:",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {request.header('sec-websocket-key')}",
    ]
    if subprotocol is not None:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    protocol = WSConnection(ConnectionType.SERVER)
    protocol.receive_data("\r\n".join([*lines, "", ""]).encode("ascii"))
    sent = _Sent()
    connection = WebSocketConnection(sent, protocol)
    asked = cast("Asked", next(protocol.events()))
    await WebSocketRequest(connection, asked).accept(subprotocol=subprotocol)
    return sent.data


class _Sent(trio.abc.Stream):
    """A stream that keeps what is sent, and from which nothing is read."""

    def __init__(self) -> None:
        self.data = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.data += data

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return that nothing follows."""
        return b""

    async def wait_send_all_might_not_block(self) -> None:
        """Return at once: everything is kept."""

    async def aclose(self) -> None:
        """Do nothing."""
