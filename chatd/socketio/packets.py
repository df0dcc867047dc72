"""Socket.IO packets, revisions 5 and 4: text and binary attachments to values and back. Sans-IO.

``<type>[<attachments>-][<namespace>,][<id>][<JSON>]``, one text message, then one binary message
for each attachment (socket.io-protocol v5; v4 writes the same but for what CONNECT and
CONNECT_ERROR carry). What lies here:

1. A `Decoder` is given whole Engine.IO messages in order. It gives a packet or raises PacketError,
   and nothing else, whatever it is given. After an error it is not used again.
2. Between a packet's text and its last attachment no other packet can come (section "Sending and
   receiving data", binary); text is an error then, and binary is one at any other time.
3. At most ``max_attachments`` are waited for, so what one unfinished packet holds is bounded.
4. Encoding takes what JSON takes and bytes anywhere in it; the caller's values are not changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final

import msgspec
from msgspec import Struct

from chatd.engineio import Block, Revision
from chatd.socketio.errors import PacketError

__all__ = [
    "MAX_ATTACHMENTS",
    "RESERVED",
    "Decoder",
    "Packet",
    "PacketType",
    "encode",
    "encode_event",
    "make_block",
]

MAX_ATTACHMENTS: Final = 10
"""What socket.io-parser 4.2.6 takes of one packet too."""

RESERVED: Final = frozenset(
    {
        "connect",
        "connect_error",
        "disconnect",
        "disconnecting",
        "newListener",
        "removeListener",
    }
)
"""Names that no event may have: libraries on either side use them for their own."""

# JavaScript's safe integers have 16 digits; an id of more could not come back as it went.
_HEAD: Final = re.compile(r"([0-6])(?:(/[^,]*),?)?([0-9]{0,16})(?![0-9])")
_BINARY_HEAD: Final = re.compile(r"([56])([0-9]{1,4})-(?:(/[^,]*),?)?([0-9]{0,16})(?![0-9])")
_LONE_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_BEYOND_ASCII: Final = re.compile(r"[^\x00-\x7f]+")
_BYTES: Final = (bytes, bytearray, memoryview)
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})

_decode_json: Final = msgspec.json.Decoder().decode
_encode_json: Final = msgspec.json.Encoder().encode


class PacketType(IntEnum):
    """The first character of a packet."""

    CONNECT = 0
    DISCONNECT = 1
    EVENT = 2
    ACK = 3
    CONNECT_ERROR = 4
    BINARY_EVENT = 5
    BINARY_ACK = 6


class Packet(Struct, frozen=True):
    """A packet, its attachments in their places.

    ``type`` is never one of the BINARY two: that is how it is sent, not what it is. ``data`` is a
    list for EVENT (the name first) and ACK, a dict or None for CONNECT, None for DISCONNECT, any
    value for CONNECT_ERROR.
    """

    type: PacketType
    namespace: str = "/"
    data: Any = None
    id: int | None = None


# Encoding


def encode(packet: Packet) -> list[str | bytes]:
    """Give the messages of a packet: its text, then its attachments.

    Raises TypeError or ValueError for data that is not JSON and bytes.
    """
    attachments: list[bytes] = []
    data = packet.data
    kind = packet.type
    if kind is PacketType.EVENT or kind is PacketType.ACK:
        data = _pulled(data, attachments)
    head = str(int(kind) + 3 if attachments else int(kind))
    if attachments:
        head += f"{len(attachments)}-"
    if packet.namespace != "/":
        head += f"{packet.namespace},"
    if packet.id is not None:
        head += str(packet.id)
    if data is not None:
        head += _encode_json(data).decode()
    return [head, *attachments]


def encode_event(
    namespace: str, event: str, args: Sequence[Any], packet_id: int | None = None
) -> list[str | bytes]:
    """Give the messages of an event. Raises ValueError for a reserved name, else as `encode`."""
    if event in RESERVED:
        raise ValueError(f"{event!r} is a reserved name: no event can be called so")
    return encode(Packet(PacketType.EVENT, namespace, [event, *args], packet_id))


def make_block(messages: Sequence[str | bytes], revision: Revision) -> Block:
    """Return the messages of a packet, or of several, as one block for ``session.offer``.

    For revision 3 the JSON is ASCII. Clients 1.x decode the body of a poll as UTF-8 bytes and stop
    where it is invalid (engine.io-parser 1.3), clients 2.x do not; ASCII is safe for both.
    """
    if revision == 3:
        messages = [_in_ascii(part) if isinstance(part, str) else part for part in messages]
    return Block(messages, revision)


def _in_ascii(text: str) -> str:
    if text.isascii():
        return text
    match = (_BINARY_HEAD if text[:1] in ("5", "6") else _HEAD).match(text)
    start = 0 if match is None else match.end()
    return text[:start] + _BEYOND_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text[start:])


def _pulled(value: Any, attachments: list[bytes]) -> Any:
    """Give ``value`` with placeholders for its bytes, which are added to ``attachments``."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is list or kind is tuple:
        return [_pulled(item, attachments) for item in value]
    if kind is dict:
        return {key: _pulled(item, attachments) for key, item in value.items()}
    if isinstance(value, _BYTES):
        attachments.append(bytes(value))
        return {"_placeholder": True, "num": len(attachments) - 1}
    plain = msgspec.to_builtins(value, builtin_types=_BYTES, str_keys=True)
    return plain if type(plain) in _SCALARS else _pulled(plain, attachments)


# Decoding


class Decoder:
    """Takes Engine.IO messages, gives packets."""

    __slots__ = ("_attachments", "_max", "_packet", "_wanted")

    def __init__(self, max_attachments: int = MAX_ATTACHMENTS) -> None:
        self._max = max_attachments
        self._packet: Packet | None = None
        self._wanted = 0
        self._attachments: list[bytes] = []

    def add(self, message: str | bytes) -> Packet | None:
        """Take a message; give the packet that it ends. Raises PacketError."""
        if isinstance(message, str):
            if self._packet is not None:
                raise PacketError("text where an attachment was to come")
            return self._text(message)
        if self._packet is None:
            raise PacketError("an attachment that belongs to nothing")
        self._attachments.append(message)
        if len(self._attachments) < self._wanted:
            return None
        packet, self._packet = self._packet, None
        attachments, self._attachments = self._attachments, []
        return _filled(packet, attachments)

    def _text(self, text: str) -> Packet | None:
        if text[:1] in ("5", "6"):
            match = _BINARY_HEAD.match(text)
            if match is None:
                raise PacketError("a binary packet without a sound number of attachments")
            kind, wanted, namespace, packet_id = match.groups()
            self._wanted = int(wanted)
            if self._wanted > self._max:
                raise PacketError(f"more than {self._max} attachments")
            packet = _packet(int(kind) - 3, namespace, packet_id, text[match.end() :])
            if self._wanted:
                self._packet = packet
                return None
            return _filled(packet, [])
        match = _HEAD.match(text)
        if match is None:
            raise PacketError("no packet begins like this")
        kind, namespace, packet_id = match.groups()
        return _packet(int(kind), namespace, packet_id, text[match.end() :])


def _packet(kind: int, namespace: str | None, packet_id: str, rest: str) -> Packet:
    packet_type = PacketType(kind)
    data = _loaded(rest) if rest else None
    match packet_type:
        case PacketType.CONNECT:
            sound = type(data) is dict if rest else True
        case PacketType.DISCONNECT:
            sound = not rest
        case PacketType.EVENT:
            sound = type(data) is list and bool(data) and _names_event(data[0])
        case PacketType.ACK:
            sound = type(data) is list and packet_id != ""
        case _:
            sound = bool(rest)
    if not sound:
        raise PacketError(f"{packet_type.name} with a payload that it cannot have")
    return Packet(packet_type, namespace or "/", data, int(packet_id) if packet_id else None)


def _names_event(name: Any) -> bool:
    return type(name) in (int, float) or (type(name) is str and name not in RESERVED)


def _loaded(text: str) -> Any:
    try:
        return _decode_json(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        if isinstance(error, RecursionError) or _LONE_SURROGATE.search(text) is None:
            raise PacketError("no JSON") from error
    # A string that JavaScript cut in the middle of an emoji is sent as half of it: JSON by its
    # grammar, but no Unicode. It becomes U+FFFD, as TextEncoder would have made it.
    try:
        written = json.dumps(json.loads(text), ensure_ascii=False)
        return _decode_json(
            written.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        )
    except (ValueError, RecursionError) as error:
        raise PacketError("no JSON") from error


def _filled(packet: Packet, attachments: Sequence[bytes]) -> Packet:
    try:
        data = _put_back(packet.data, attachments)
    except RecursionError as error:
        raise PacketError("nested too deeply") from error
    return Packet(packet.type, packet.namespace, data, packet.id)


def _put_back(value: Any, attachments: Sequence[bytes]) -> Any:
    kind = type(value)
    if kind is list:
        return [_put_back(item, attachments) for item in value]
    if kind is not dict:
        return value
    if value.get("_placeholder") is True:
        number = value.get("num")
        if type(number) is not int or not 0 <= number < len(attachments):
            raise PacketError("a placeholder for no attachment")
        return attachments[number]
    return {key: _put_back(item, attachments) for key, item in value.items()}
