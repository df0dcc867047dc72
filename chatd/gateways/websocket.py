"""What plain text and ``chatd.v1`` share: one chat connection on one WebSocket."""

from __future__ import annotations

from chatd.bus import Codec
from chatd.chat import Chat, Connection, Traffic
from chatd.model import Close
from chatd.wire.websocket import WebSocket

__all__ = ["connect", "disconnect"]


def connect(chat: Chat, websocket: WebSocket, codec: Codec, protocol: str) -> Connection:
    """Let a WebSocket's client into the chat; ``?nick=`` is the nick it would like."""
    request = websocket.request
    return Connection(
        chat,
        websocket.id,
        websocket.outbox,
        codec,
        websocket.start_soon,
        address=request.peer.address,
        transport="websocket",
        protocol=protocol,
        nick=request.query.get("nick"),
    )


def disconnect(connection: Connection, websocket: WebSocket, close: Close, reason: str) -> None:
    """Let it go, once, and say what went over it."""
    outbox = websocket.outbox
    connection.close(
        close,
        reason,
        Traffic(
            bytes_in=websocket.received_bytes,
            bytes_out=outbox.sent_bytes,
            messages_in=websocket.received_messages,
            messages_out=outbox.sent_messages,
        ),
    )
