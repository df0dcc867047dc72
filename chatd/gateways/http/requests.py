"""The contents of a request: the room, the page, the position, and the message. Sans-IO."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Struct

from chatd.protocol import commands
from chatd.wire.request import Request

__all__ = [
    "EVENT_STREAM",
    "BadRequest",
    "body_kind",
    "limit_of",
    "message_of",
    "position_of",
    "read_position",
    "room_of",
    "since_of",
    "wants_stream",
]

_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CHARSET: Final = re.compile(r';\s*charset\s*=\s*"?([^";\s]*)', re.IGNORECASE)
# A room's last number has at most 16 digits, which every JSON library reads exactly.
_POSITION: Final = re.compile(r"(.+)\.([0-9]{1,16})")
# A refusal may quote what it refuses: at most this much of it.
_QUOTED_CHARACTERS: Final = 200

EVENT_STREAM: Final = "text/event-stream"


class BadRequest(Exception):  # noqa: N818  an answer, not an error
    """Raised for a request of which no command can be made.

    Attributes:
        status: The status of the response.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def room_of(path: str) -> str | None:
    """Return the room that a path names, as it is written; None if it names none.

    Raise BadRequest if the name cannot be decoded.
    """
    segment = path.removeprefix("/rooms/")
    if not segment or "/" in segment:
        return None
    try:
        if _BAD_ESCAPE.search(segment):
            raise ValueError(segment)
        return unquote_to_bytes(segment).decode()
    except ValueError:
        message = "The room's name must be percent-encoded UTF-8: caf%C3%A9 for café."
        raise BadRequest(message) from None


def limit_of(request: Request, default: int | None = None) -> int | None:
    """Return ``?limit=``, or the default. Raise BadRequest if it is not a number."""
    text = request.query.get("limit")
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadRequest("limit must be a number from 0 to 500.")
    return int(text)


def wants_stream(request: Request) -> bool:
    """Return whether a client accepts an event stream: RFC 9110 section 12.5.1."""
    for item in (request.header("accept") or "").split(","):
        kind, *parameters = (part.strip().lower() for part in item.split(";"))
        if kind == EVENT_STREAM:
            return not any(re.fullmatch(r"q=0(\.0*)?", each) for each in parameters)
    return False


# ---- positions


def position_of(epoch: str, seq: int) -> str:
    """Return the position after an event, as it is sent to clients."""
    return f"{epoch}.{seq}"


def read_position(text: str) -> commands.Position:
    """Return the position that a client sends back.

    Any other text becomes a position without an epoch, which cannot be resumed.
    """
    found = _POSITION.fullmatch(text)
    return commands.Position("", 0) if found is None else commands.Position(found[1], int(found[2]))


def since_of(request: Request) -> commands.Position | None:
    """Return ``?since=``; None if it is empty, as it is before a script has a position."""
    text = request.query.get("since")
    return read_position(text) if text else None


# ---- messages


class _Message(Struct):
    text: str
    key: str | None = None
    reply_to: int | None = None


_messages: Final = msgspec.json.Decoder(_Message)


def body_kind(request: Request) -> str:
    """Return the media type of a body, in lower case; empty if it is not given.

    Raise BadRequest (415) if the body cannot be a message.
    """
    written = request.header("content-type") or ""
    kind = written.partition(";")[0].strip().lower()
    charset = _CHARSET.search(written)
    if kind.startswith("multipart/"):
        message = "The body is the text itself, or JSON. Do not send a form with files."
        raise BadRequest(message, 415)
    if charset is not None and charset[1].lower() not in ("utf-8", "utf8"):
        raise BadRequest("The body must be UTF-8.", 415)
    if request.header("content-encoding") is not None:
        raise BadRequest("The body must not be compressed.", 415)
    return kind


def message_of(request: Request, room: str, kind: str, body: bytes) -> commands.Say:
    """Return the message that a body holds.

    Args:
        request: The request, whose ``Idempotency-Key`` counts.
        room: The room.
        kind: The body's media type: `body_kind`.
        body: The body.

    Raises:
        BadRequest: The body is not a message.
    """
    key = _key_of(request)
    if kind != "application/json":
        return commands.Say(room=room, text=_text(body), key=key)
    try:
        message = _messages.decode(body)
    except (ValueError, RecursionError) as error:
        why = str(error)[:_QUOTED_CHARACTERS]
        raise BadRequest(f"The body is not a message in JSON: {why}.") from None
    if None not in (key, message.key) and key != message.key:
        raise BadRequest("Idempotency-Key and key differ. Send one of them.")
    return commands.Say(
        room=room,
        text=message.text,
        key=message.key if key is None else key,
        reply_to=message.reply_to,
    )


def _text(body: bytes) -> str:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise BadRequest("The text must be UTF-8.") from None
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")


def _key_of(request: Request) -> str | None:
    written = request.header("idempotency-key")
    if written is None:
        return None
    try:
        # Headers were decoded as Latin-1.
        key = written.strip().encode("latin-1").decode()
    except UnicodeDecodeError:
        raise BadRequest("Idempotency-Key must be UTF-8.") from None
    if len(key) > 1 and key[0] == key[-1] == '"':
        return re.sub(r"\\(.)", r"\1", key[1:-1])
    return key
