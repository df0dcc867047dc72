"""Engine.IO's packets, revisions 4 and 3, as a WebSocket message or a part of a payload. Sans-IO.

A packet is a type, one ASCII digit, and text. Only messages can be binary: revision 3 has the type
before the data, revision 4 does not. (engine.io-protocol v4 and v3, "Packet".)
"""

from __future__ import annotations

import base64
import binascii
from typing import Final, Literal, TypeAlias

from msgspec import Struct

__all__ = [
    "CLOSE",
    "MESSAGE",
    "NOOP",
    "OPEN",
    "PING",
    "PONG",
    "UPGRADE",
    "Packet",
    "PacketError",
    "Revision",
    "TooBigError",
    "decode_binary",
    "decode_frame",
    "decode_text",
]

Revision: TypeAlias = Literal[3, 4]

OPEN: Final = 0
CLOSE: Final = 1
PING: Final = 2
PONG: Final = 3
MESSAGE: Final = 4
UPGRADE: Final = 5
NOOP: Final = 6

_TYPES: Final = {str(number): number for number in range(7)}

# Java's clients break the lines of base64: ``Base64.DEFAULT``.
_LINE_BREAKS: Final = str.maketrans("", "", "\r\n")


class PacketError(ValueError):
    """The client sent an invalid packet or payload: the session ends with ``"parse error"``."""


class TooBigError(PacketError):
    """A packet is larger than the server takes: the session is closed with 1009."""


class Packet(Struct, frozen=True):
    """One packet. ``data`` is bytes only for a binary message."""

    type: int
    data: str | bytes = ""


def decode_frame(message: str | bytes, revision: Revision) -> Packet:
    """Return the packet of a WebSocket message. Raises PacketError."""
    if isinstance(message, str):
        return decode_text(message, revision)
    if revision == 3:
        return decode_binary(message)
    return Packet(MESSAGE, message)


def decode_text(text: str, revision: Revision) -> Packet:
    """Return the packet of a text: its type and data, or ``b`` and a binary message in base64.

    Clients send the second form by polling, and by WebSocket too with ``forceBase64``. Raises
    PacketError.
    """
    if text[:1] == "b":
        return _decode_base64(text[1:], revision)
    number = _TYPES.get(text[:1])
    if number is None:
        raise PacketError("a packet must begin with its type, 0 to 6")
    return Packet(number, text[1:])


def decode_binary(data: bytes) -> Packet:
    """Return the packet of revision 3's binary form: the type in a byte, and the data.

    Raises PacketError.
    """
    if data[:1] != b"\x04":
        raise PacketError("a binary packet must be a message and begin with the byte 4")
    return Packet(MESSAGE, data[1:])


def _decode_base64(text: str, revision: Revision) -> Packet:
    if revision == 3:
        if text[:1] != "4":
            raise PacketError("a binary packet must be a message and begin with b4")
        text = text[1:]
    if "\n" in text:
        text = text.translate(_LINE_BREAKS)
    try:
        return Packet(MESSAGE, base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        raise PacketError("the binary message is not base64") from error
