"""What plain text and ``chatd.v1`` share: one connection of the chat on one WebSocket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from chatd.bus import Codec
from chatd.chat import Chat, Connection, Traffic
from chatd.gateways.credentials import admitted, bearer
from chatd.model import (
    BANNED,
    GOING_AWAY,
    TOO_MANY,
    UNAUTHORIZED,
    Close,
    ErrorCode,
    Refusal,
    Refused,
)
from chatd.wire.websocket import WebSocket

__all__ = ["GoodbyeFrames", "Unwelcome", "connect", "disconnect"]

GoodbyeFrames = Callable[[Close, str], bytes]
"""Returns the frames that a protocol sends before the Close frame."""


_CLOSES: Final[dict[ErrorCode, Close]] = {
    "banned": BANNED,
    "rate_limited": TOO_MANY,
    "unavailable": GOING_AWAY,
}
"""The close for a client that was refused for this; UNAUTHORIZED for all other reasons."""


class Unwelcome:
    """A refused client: it gets the reason, and is closed."""

    def __init__(self, websocket: WebSocket, refusal: Refusal, goodbye: GoodbyeFrames) -> None:
        self._goodbye = goodbye
        websocket.end(_CLOSES.get(refusal.code, UNAUTHORIZED), refusal.message)

    def goodbye_frames(self, close: Close, reason: str) -> bytes:
        return self._goodbye(close, reason)

    def received(self, message: str | bytes) -> None:
        """Ignore the message: the connection is being closed."""

    def ended(self, close: Close, reason: str) -> None:
        """Do nothing: the chat does not know this client."""


async def connect(chat: Chat, websocket: WebSocket, codec: Codec, protocol: str) -> Connection:
    """Return the chat connection of a WebSocket; ``?nick=`` is the nick that it asks for.

    Raise Refused if its token is invalid, it is banned, or its address brings too many guests.
    """
    request = websocket.request
    nick = request.query.get("nick")
    limit_key = request.peer.limit_key
    try:
        grant = await admitted(chat, request, bearer(request, chat.settings))
        login = (
            await chat.new_guest(limit_key, nick)
            if grant is None
            else await chat.log_in(grant, limit_key, nick)
        )
    except Refused as refused:
        chat.log.emit(
            "refused",
            connection=websocket.id,
            address=request.peer.address,
            transport="websocket",
            protocol=protocol,
            path=request.path,
            code=refused.refusal.code,
            reason=refused.refusal.message,
        )
        raise
    # Not read again: the connection keeps the request for its whole life.
    request.headers = ()
    return Connection(
        chat,
        websocket.id,
        websocket.outbox,
        codec,
        websocket.start_soon,
        address=request.peer.address,
        limit_key=limit_key,
        transport="websocket",
        protocol=protocol,
        nick=nick,
        end=websocket.end,
        login=login,
    )


def disconnect(connection: Connection, websocket: WebSocket, close: Close, reason: str) -> None:
    """Close the chat's connection, once, and log what went over it."""
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
