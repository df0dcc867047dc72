"""Socket.IO packets, revisions 5 and 4: from values to messages and back. Sans-IO.

``<type>[<attachments>-][<namespace>,][<id>][<JSON>]`` is one text message, followed by one binary
message for each attachment (socket.io-protocol v5; v4 differs only in the payloads of CONNECT and
CONNECT_ERROR). What MUST hold:

1. A `Decoder` takes whole Engine.IO messages in order. It returns packets or raises PacketError,
   and nothing else, whatever it is given. After an error it is not used again.
2. Between the text of a packet and its last attachment no other packet can come (section "Sending
   and receiving data", binary). Text is an error then, and binary is an error at any other time.
3. It waits for at most ``max_attachments``, so that an unfinished packet is bounded.
4. It decodes no JSON of more than ``max_values`` values: a value of two characters can take 64
   bytes, and a million of them half a second, in which nothing else runs.
5. What JSON has can be encoded, with bytes anywhere in it. The caller's values are not changed.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Struct

from chatd.budgets import VALUE_BYTES, json_values
from chatd.engineio import Block, Revision
from chatd.socketio.errors import PacketError

__all__ = [
    "MAX_ATTACHMENTS",
    "MAX_VALUES",
    "RESERVED",
    "Decoder",
    "EncHook",
    "Packet",
    "PacketType",
    "encode",
    "encode_event",
    "make_block",
    "unsendable",
    "with_offset",
]

MAX_ATTACHMENTS: Final = 10
"""The limit of socket.io-parser 4.2.6."""

MAX_VALUES: Final = 100_000
"""Decoding as many takes 10 to 50 ms and up to 10 MB."""

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
"""Names that an event cannot have: the libraries on both sides use them."""

# The type, of a binary packet the number of attachments too, the namespace and the id. JavaScript's
# safe integers have 16 digits: a longer id could not be sent back unchanged.
_HEAD: Final = re.compile(r"(?:([0-4])|([56])([0-9]{1,4})-)(?:(/[^,]*),?)?([0-9]{0,16})(?![0-9])")
_LONE_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_BEYOND_ASCII: Final = re.compile(r"[^\x00-\x7f]+")
_BYTES: Final = (bytes, bytearray, memoryview)
# Raw is JSON that was encoded before.
_SCALARS: Final = frozenset({str, int, float, bool, type(None), msgspec.Raw})

# More values are converted one by one, in case that a list contains itself.
_QUICK_VALUES: Final = 100_000

EncHook: TypeAlias = Callable[[Any], Any]
"""Called with a value of a type that cannot be sent. Returns what to send in its place, or raises
NotImplementedError; the same as msgspec's ``enc_hook``."""


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number out of range")
    return number


# Without the hook 1e300 takes 16 µs, with it 0.7; 0.1 takes 0.04 and 0.3.
_decode_json: Final = msgspec.json.Decoder(float_hook=_finite).decode
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
    """A packet, with its attachments in their places.

    Attributes:
        type: Never one of the BINARY types, which are only a way of sending.
        namespace: The namespace's name; default ``"/"``.
        data: A list for EVENT (the name first) and ACK, a dict or None for CONNECT, None for
            DISCONNECT, any value for CONNECT_ERROR.
        id: The id of the acknowledgement, if there is one.
    """

    type: PacketType
    namespace: str = "/"
    data: Any = None
    id: int | None = None


_TYPES: Final = {
    **{str(int(kind)): kind for kind in PacketType},
    "5": PacketType.EVENT,
    "6": PacketType.ACK,
}
_NAME_TYPES: Final = frozenset({str, int, float})


# Encoding


def encode(packet: Packet, enc_hook: EncHook | None = None) -> list[str | bytes]:
    """Return the messages of a packet: its text, then its attachments.

    Raises:
        TypeError: The data has a value of a type that cannot be sent.
        ValueError: A string is not valid Unicode, or the data is nested too deeply or contains
            itself.
    """
    attachments: list[bytes] = []
    data = packet.data
    kind = packet.type
    if not _is_plain(data):
        binary = kind is PacketType.EVENT or kind is PacketType.ACK
        data = _Converter(attachments if binary else None, enc_hook).convert(data)
    head = str(int(kind) + 3 if attachments else int(kind))
    if attachments:
        head += f"{len(attachments)}-"
    if packet.namespace != "/":
        head += f"{packet.namespace},"
    if packet.id is not None:
        head += str(packet.id)
    if data is not None:
        try:
            head += _encode_json(data).decode()
        except TypeError:
            # A dict has a key that is no string.
            head += _encode_json(_Converter(None, enc_hook).convert(data)).decode()
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
    return [head, *attachments]


def encode_event(
    event: str,
    args: Sequence[Any],
    *,
    namespace: str = "/",
    packet_id: int | None = None,
    offset: str | None = None,
    enc_hook: EncHook | None = None,
) -> list[str | bytes]:
    """Return the messages of an event's packet: its text, then its attachments.

    Args:
        event: The event's name.
        args: Its arguments, as for ``emit``.
        namespace: The namespace's name; default ``"/"``.
        packet_id: Ask for an acknowledgement with this id; default: none is asked for.
        offset: The event's place in a recovery log, appended as the last argument; default none.
        enc_hook: Converts values of other types; default None: they cannot be sent.

    Raises:
        TypeError: An argument is of a type that cannot be sent.
        ValueError: The name is reserved, a string is not valid Unicode, or an argument contains
            itself.
    """
    if event in RESERVED:
        raise ValueError(f"{event!r} is a reserved name: an event cannot be called that")
    data = [event, *args] if offset is None else [event, *args, offset]
    try:
        return encode(Packet(PacketType.EVENT, namespace, data, packet_id), enc_hook)
    except (TypeError, ValueError) as error:
        raise unsendable(f"the event {event!r}", error) from error


def unsendable(what: str, error: TypeError | ValueError) -> TypeError | ValueError:
    """Return an error of ``encode`` that names what was to be sent."""
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(f"{what} cannot be sent: {error}")


def with_offset(messages: Sequence[str | bytes], offset: str) -> list[str | bytes]:
    """Return an event's messages with one more argument, the offset."""
    text, *attachments = messages
    if not isinstance(text, str):
        raise TypeError("the first message of a packet is its text")
    # Its JSON is an array with at least the name in it.
    return [f"{text[:-1]},{_encode_json(offset).decode()}]", *attachments]


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
    match = _HEAD.match(text)
    start = 0 if match is None else match.end()
    return text[:start] + _BEYOND_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text[start:])


def _is_plain(value: Any) -> bool:
    """Return whether a value consists of what JSON has, so that nothing has to be replaced."""
    rest = [value]
    for _ in range(_QUICK_VALUES):
        if not rest:
            return True
        value = rest.pop()
        kind = type(value)
        if kind is list:
            if not _SCALARS.issuperset(map(type, value)):
                rest += value
        elif kind is dict:
            if not _SCALARS.issuperset(map(type, value.values())):
                rest += value.values()
        elif kind not in _SCALARS:
            return False
    return False


class _Converter:
    """Converts values to what JSON has: what json.dumps takes, what msgspec takes, and bytes.

    Args:
        attachments: Gets the bytes, for which there are placeholders then; None: they are base64.
        enc_hook: Converts values of other types.
    """

    def __init__(self, attachments: list[bytes] | None, enc_hook: EncHook | None) -> None:
        self._attachments = attachments
        self._enc_hook = enc_hook

    def convert(self, value: Any) -> Any:
        """Return the converted value. Raises as ``encode`` does."""
        try:
            return self._convert(value)
        except RecursionError as error:
            raise ValueError("it is nested too deeply, or contains itself") from error

    def _convert(self, value: Any) -> Any:
        if type(value) is float:
            return value if math.isfinite(value) else None  # as JavaScript writes them
        if type(value) in _SCALARS:
            return value
        if isinstance(value, dict):
            return {self._name(key): self._convert(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._convert(item) for item in value]
        if isinstance(value, _BYTES) and self._attachments is not None:
            self._attachments.append(bytes(value))
            return {"_placeholder": True, "num": len(self._attachments) - 1}
        return self._convert(self._simplified(value))

    def _name(self, key: Any) -> str:
        if isinstance(key, str):
            return str.__str__(key)
        if key is None or isinstance(key, bool | int | float):
            return json.dumps(key)
        simple = self._simplified(key)
        if not isinstance(simple, str | int | float):
            raise TypeError(f"a key of a dict cannot be of type {type(key).__qualname__}")
        return self._name(simple)

    def _simplified(self, value: Any) -> Any:
        # json.dumps takes subclasses as what they derive from, numpy.float64 for example.
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            return int.__int__(value)
        if isinstance(value, float):
            return float.__float__(value)
        kept = _BYTES if self._attachments is not None else ()
        return msgspec.to_builtins(value, builtin_types=kept, str_keys=True, enc_hook=self._hooked)

    def _hooked(self, value: Any) -> Any:
        if isinstance(value, str | int | float | dict | list | tuple):
            return self._convert(value)
        if self._enc_hook is None:
            raise TypeError(f"objects of type {type(value).__qualname__} are not supported")
        try:
            return self._enc_hook(value)
        except NotImplementedError as error:
            raise TypeError(
                f"enc_hook does not convert objects of type {type(value).__qualname__}"
            ) from error


# Decoding


class Decoder:
    """Takes Engine.IO messages, returns packets.

    Attributes:
        size: The memory that the last packet takes, at most, in bytes.
    """

    __slots__ = ("_attachments", "_expected", "_max", "_max_values", "_packet", "size")

    def __init__(
        self, max_attachments: int = MAX_ATTACHMENTS, max_values: int = MAX_VALUES
    ) -> None:
        self._max = max_attachments
        self._max_values = max_values
        self._packet: Packet | None = None
        self._expected = 0
        self._attachments: list[bytes] = []
        self.size = 0

    def add(self, message: str | bytes) -> Packet | None:
        """Decode a message; return the packet that it completes, if it does. Raises PacketError."""
        if isinstance(message, str):
            if self._packet is not None:
                raise PacketError("text in place of an attachment")
            packet, self._expected, self.size = _parse(message, self._max_values)
            if message[0] < "5":
                return packet
            if self._expected > self._max:
                raise PacketError(f"more than {self._max} attachments")
            self._packet = packet
        elif self._packet is None:
            raise PacketError("an attachment without a packet")
        else:
            self._attachments.append(message)
            self.size += len(message)
        if len(self._attachments) < self._expected:
            return None
        packet, self._packet = self._packet, None
        attachments, self._attachments = self._attachments, []
        return _filled(packet, attachments)


def _parse(text: str, max_values: int) -> tuple[Packet, int, int]:
    """Return the packet of a text message, how many attachments follow, and its size in memory."""
    if text[:2] == "2[":  # most events: of "/", without attachments and an acknowledgement
        packet_type, attachments, namespace, packet_id = PacketType.EVENT, "", "", ""
        rest = text[1:]
    else:
        match = _HEAD.match(text)
        if match is None:
            raise PacketError("the text does not begin like a packet")
        kind, binary_kind, attachments, namespace, packet_id = match.groups()
        packet_type = _TYPES[kind or binary_kind]
        rest = text[match.end() :]
    values = json_values(rest, max_values)
    if values > max_values:
        raise PacketError(f"more than {max_values} values")
    try:
        data = _decode_json(rest) if rest else None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        data = _decode_lone_surrogates(rest, error)
    if packet_type is PacketType.EVENT:
        name = data[0] if type(data) is list and data else None
        valid = type(name) in _NAME_TYPES and name not in RESERVED
    elif packet_type is PacketType.ACK:
        valid = type(data) is list and packet_id != ""
    elif packet_type is PacketType.CONNECT:
        valid = type(data) is dict if rest else True
    elif packet_type is PacketType.DISCONNECT:
        valid = not rest
    else:
        valid = bool(rest)
    if not valid:
        raise PacketError(f"the payload is not one of {packet_type.name}")
    packet = Packet(packet_type, namespace or "/", data, int(packet_id) if packet_id else None)
    return packet, int(attachments or 0), sys.getsizeof(text) + VALUE_BYTES * values


def _decode_lone_surrogates(text: str, error: Exception) -> Any:
    """Decode JSON that JavaScript cut in the middle of a surrogate pair, or raise PacketError.

    It is JSON by its grammar but not Unicode. The half pair becomes U+FFFD, as TextEncoder does it.
    """
    if isinstance(error, RecursionError) or _LONE_SURROGATE.search(text) is None:
        raise PacketError("the payload is not JSON") from error
    try:
        # Whole pairs are one character by then.
        written = json.dumps(json.loads(text), ensure_ascii=False)
        return _decode_json(_SURROGATE.sub("\ufffd", written))
    except (msgspec.DecodeError, ValueError, RecursionError) as another:
        raise PacketError("the payload is not JSON") from another


def _filled(packet: Packet, attachments: Sequence[bytes]) -> Packet:
    try:
        data = _put_back(packet.data, attachments)
    except RecursionError as error:
        raise PacketError("the packet is nested too deeply") from error
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
            raise PacketError("a placeholder without an attachment")
        return attachments[number]
    return {key: _put_back(item, attachments) for key, item in value.items()}
