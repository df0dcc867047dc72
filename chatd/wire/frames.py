"""RFC 6455's frames, sans-IO: writes a server's frames and reads a client's.

The reader keeps two rules: an error is found before anything after it is read, and nothing follows
an error or a Close frame. It returns whole messages, pings and the Close frame in the order in
which they were sent. Pongs need no answer and are dropped.
"""

from __future__ import annotations

import codecs
import struct
from typing import Final, TypeAlias

from msgspec import Struct

from chatd.model import INVALID_TEXT, PROTOCOL_ERROR, TOO_BIG, Close

__all__ = ["Closing", "Fault", "FrameReader", "Item", "Ping", "binary", "close", "ping", "text"]

# RFC 6455 section 5.2: FIN, three reserved bits, four of opcode; then MASK and seven of length.
_FIN: Final = 0x80
_RESERVED: Final = 0x70
_OPCODE: Final = 0x0F
_MASKED: Final = 0x80
_LENGTH: Final = 0x7F
_CONTINUATION: Final = 0x0
_TEXT: Final = 0x1
_BINARY: Final = 0x2
_CLOSE: Final = 0x8
_PING: Final = 0x9
_PONG: Final = 0xA

# Section 5.2: the heads of unmasked frames whose size takes two or eight bytes of its own.
_MEDIUM_HEAD: Final = struct.Struct("!BBH").pack
_LONG_HEAD: Final = struct.Struct("!BBQ").pack

# Section 5.5: the most that a control frame may carry. A Close frame's code takes two of them.
_CONTROL_BYTES: Final = 125
_REASON_BYTES: Final = 123

# The first byte of a pong.
_WHOLE_PONG: Final = _FIN | _PONG

# A fragment costs us time even when it is empty, so it is charged this much on top of its bytes.
# The charges of one message may add up to four times its allowed bytes: honest clients that cut a
# message into pieces of 64 bytes reach three.
_FRAGMENT_CHARGE: Final = 128
_CHARGE_RESERVE: Final = 4

# Section 7.4: the codes that wsproto takes in a Close frame. 1004-1006 and 1015 are never sent, and
# 1014 is for gateways, which clients are not.
_CLOSE_CODES: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1014), *range(3000, 5000)})
_NO_STATUS: Final = 1005


class Ping(Struct, frozen=True):
    """A ping. ``pong`` is the frame that answers it."""

    pong: bytes


class Closing(Struct, frozen=True):
    """A Close frame. ``code`` is 1005 if it has none; ``answer`` is the frame that answers it."""

    code: int
    reason: str
    answer: bytes


class Fault(Struct, frozen=True):
    """The client broke the protocol. ``close`` is what to close with, ``reason`` what is wrong."""

    close: Close
    reason: str


Item: TypeAlias = str | bytes | Ping | Closing | Fault


def text(payload: bytes) -> bytes:
    """Return a text frame, unmasked as servers send it. The caller knows that it is UTF-8."""
    size = len(payload)
    if size < 126:  # most frames that are sent: no further call for them
        return bytes((_FIN | _TEXT, size)) + payload
    return _frame(_FIN | _TEXT, payload)


def binary(payload: bytes) -> bytes:
    """Return a binary frame, unmasked as servers send it."""
    return _frame(_FIN | _BINARY, payload)


def ping() -> bytes:
    """Return a ping without a payload."""
    return _frame(_FIN | _PING, b"")


def close(code: int, reason: str = "") -> bytes:
    """Return a Close frame. A reason of more than 123 bytes is cut between two characters."""
    words = reason.encode()[:_REASON_BYTES].decode(errors="ignore").encode()
    return _frame(_FIN | _CLOSE, code.to_bytes(2, "big") + words)


def _frame(head: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((head, size)) + payload
    if size < 65536:
        return _MEDIUM_HEAD(head, 126, size) + payload
    return _LONG_HEAD(head, 127, size) + payload


def _unmasked(data: bytes, mask: bytes) -> bytes:
    # One XOR of two long integers: 20 times as fast as a loop over bytes, and no dependency.
    size = len(data)
    keys = mask * (size // 4 + 1)
    return (int.from_bytes(data, "little") ^ int.from_bytes(keys[:size], "little")).to_bytes(
        size, "little"
    )


class FrameReader:
    """Reads a client's frames, however the bytes are split.

    Between calls it is in one of these states:

    | state | ``_kind`` | ``_left`` | ``_head`` |
    | --- | --- | --- | --- |
    | between messages | 0 | 0 | the beginning of a head or of a control frame |
    | between the fragments of a message | its opcode | 0 | the same |
    | within the payload of a data frame | its opcode | bytes still to come | empty |
    | done, after a fault or a Close frame | any | any | any |

    It never holds more than ``max_message_bytes`` and one control frame.

    Attributes:
        frames: How many frames it has read, except for text that came alone and whole. The caller
            may reset it.
        pending: Whether whole frames may be left of what it was fed. Feed it ``b""`` for more.
    """

    __slots__ = (
        "_charged",
        "_decoder",
        "_done",
        "_final",
        "_head",
        "_idle",
        "_kind",
        "_left",
        "_mask",
        "_max",
        "_message",
        "_small",
        "frames",
        "pending",
    )

    def __init__(self, max_message_bytes: int) -> None:
        self.frames = 0
        self.pending = False
        self._max = max_message_bytes
        self._small = min(_CONTROL_BYTES, max_message_bytes) + 1
        self._idle = True  # between messages without a head: the one test of the fast path
        self._done = False
        self._head = b""
        self._kind = 0
        self._final = False
        self._left = 0
        self._mask = b""
        self._charged = 0
        self._message = _NOTHING
        self._decoder: codecs.IncrementalDecoder | None = None

    @property
    def partial(self) -> bool:
        """Whether a part of a message or of a frame has been read."""
        return not self._idle

    def feed(self, data: bytes, most: int | None = None) -> list[Item]:
        """Return what ``data`` completes, in order. A Fault or a Closing is the last item ever.

        After ``most`` frames the rest is left for the next call.
        """
        if self._idle:
            # One small masked text frame: nearly always what a chat client sends.
            size = len(data) - 6
            if 0 <= size < self._small and data[0] == 0x81 and data[1] == size | _MASKED:
                payload = int.from_bytes(data[6:], "little") ^ int.from_bytes(
                    (data[2:6] * 32)[:size], "little"
                )
                try:
                    return [str(payload.to_bytes(size, "little"), "utf-8")]
                except UnicodeDecodeError:
                    pass  # the long way finds and reports it
            elif size == 0 and data[0] == _WHOLE_PONG and data[1] == _MASKED:
                self.frames += 1
                return []  # the answer to our ping: an idle client sends nothing else
        items: list[Item] = []
        self.pending = False
        if not self._done:
            most = None if most is None else self.frames + most
            try:
                self._split(self._head + data if self._head else data, items, most)
            except _Broken as broken:
                self._finish()
                items.append(broken.fault)
            self._idle = not (self._kind or self._head or self._done)
        return items

    def _split(self, data: bytes, items: list[Item], most: int | None) -> None:
        self._head = b""
        at = 0
        end = len(data)
        while at < end and not self._done:
            if not self._left:
                if self.frames == most:
                    self._head = data[at:]
                    self.pending = True
                    return
                begun = self._begin(data, at, end, items)
                if begun < 0:
                    self._head = data[at:]
                    return
                at = begun
                continue
            piece = data[at : at + self._left]
            at += len(piece)
            self._take(piece, items)

    def _begin(self, data: bytes, at: int, end: int, items: list[Item]) -> int:
        """Read a head, and its frame if complete. Return where to continue, or -1: not yet."""
        if end - at < 2:
            return -1
        self.frames += 1
        first = data[at]
        opcode = first & _OPCODE
        size = data[at + 1] & _LENGTH
        self._check(first, opcode, data[at + 1], size)
        body = at + 2
        if size > _CONTROL_BYTES:
            wide = 2 if size == 126 else 8
            body += wide
            if body > end:
                return -1
            size = _extended(data[at + 2 : body], wide)
        body += 4
        if opcode & 0x8:
            if body + size > end:
                return -1
            payload = _unmasked(data[body : body + size], data[body - 4 : body])
            self._take_control(opcode, payload, items)
            return body + size
        charged = self._charge(first, opcode, size)
        if body > end:
            return -1
        mask = data[body - 4 : body]
        if first & _FIN and opcode and body + size <= end:
            items.append(_whole(opcode, _unmasked(data[body : body + size], mask)))
            return body + size
        if opcode:
            self._kind = opcode
            self._message = bytearray()
            self._decoder = _decoder() if opcode == _TEXT else None
        self._charged = charged
        self._final = bool(first & _FIN)
        self._mask = mask
        self._left = size
        if not size:
            self._take(b"", items)
        return body

    def _check(self, first: int, opcode: int, second: int, size: int) -> None:
        """Check a frame's first two bytes: RFC 6455 sections 5.1, 5.2, 5.4 and 5.5."""
        if first & _RESERVED:
            raise _Broken(PROTOCOL_ERROR, "a reserved bit is set")
        if opcode not in _OPCODES:
            raise _Broken(PROTOCOL_ERROR, "an unknown opcode")
        if not second & _MASKED:
            raise _Broken(PROTOCOL_ERROR, "a frame without a mask")
        if opcode & 0x8:
            if not first & _FIN:
                raise _Broken(PROTOCOL_ERROR, "a fragmented control frame")
            if size > _CONTROL_BYTES:
                raise _Broken(PROTOCOL_ERROR, "a control frame of more than 125 bytes")
        elif opcode == _CONTINUATION:
            if not self._kind:
                raise _Broken(PROTOCOL_ERROR, "a continuation frame outside of a message")
        elif self._kind:
            raise _Broken(PROTOCOL_ERROR, "a new message inside a fragmented one")

    def _charge(self, first: int, opcode: int, size: int) -> int:
        """Check the message's size by the length in this head, before its payload arrives."""
        if len(self._message) + size > self._max:
            raise _Broken(TOO_BIG, f"a message of more than {self._max} bytes")
        if first & _FIN and opcode:
            return 0
        charged = (0 if opcode else self._charged) + size + _FRAGMENT_CHARGE
        if charged > self._max * _CHARGE_RESERVE:
            raise _Broken(TOO_BIG, "a message in too many fragments")
        return charged

    def _take(self, piece: bytes, items: list[Item]) -> None:
        """Add a piece of the payload, and the message to ``items`` if this ends it."""
        size = len(piece)
        mask = self._mask
        plain = _unmasked(piece, mask)
        self._mask = mask[size & 3 :] + mask[: size & 3]
        self._left -= size
        ends = self._final and not self._left
        if self._decoder is not None:
            try:
                # Its text is dropped: bytes are kept, because small strings cost 50 bytes each.
                self._decoder.decode(plain, ends)
            except UnicodeDecodeError as error:
                raise _Broken(INVALID_TEXT, "text is not UTF-8") from error
        self._message += plain
        if ends:
            message = bytes(self._message)
            items.append(_whole(self._kind, message))
            self._reset()

    def _take_control(self, opcode: int, payload: bytes, items: list[Item]) -> None:
        if opcode == _PING:
            items.append(Ping(_frame(_FIN | _PONG, payload)))
        elif opcode == _CLOSE:
            items.append(self._close(payload))

    def _close(self, payload: bytes) -> Closing:
        code = _NO_STATUS
        reason = ""
        if payload:
            # Section 7.1.5: two bytes of code, then UTF-8.
            code = int.from_bytes(payload[:2], "big")
            if len(payload) == 1 or code not in _CLOSE_CODES:
                raise _Broken(PROTOCOL_ERROR, "a Close frame with an invalid code")
            try:
                reason = str(payload[2:], "utf-8")
            except UnicodeDecodeError as error:
                raise _Broken(INVALID_TEXT, "the Close reason is not UTF-8") from error
        self._finish()
        return Closing(code, reason, _frame(_FIN | _CLOSE, payload))

    def _reset(self) -> None:
        self._kind = 0
        self._message = _NOTHING
        self._decoder = None

    def _finish(self) -> None:
        self._done = True
        self._left = 0
        self._head = b""
        self._reset()


# Never added to: each message begins with a new bytearray.
_NOTHING: Final = bytearray()
_OPCODES: Final = frozenset({_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG})
_decoder: Final = codecs.getincrementaldecoder("utf-8")


class _Broken(Exception):  # noqa: N818  only the Fault that it carries leaves this module
    def __init__(self, close: Close, reason: str) -> None:
        super().__init__(reason)
        self.fault = Fault(close, reason)


def _extended(size: bytes, wide: int) -> int:
    """Return an extended length. Section 5.2: in its shortest form, and at most 63 bits."""
    value = int.from_bytes(size, "big")
    if value < (126 if wide == 2 else 65536):
        raise _Broken(PROTOCOL_ERROR, "a length that is not in its shortest form")
    if value >> 63:
        raise _Broken(PROTOCOL_ERROR, "a length of more than 63 bits")
    return value


def _whole(kind: int, message: bytes) -> str | bytes:
    if kind == _BINARY:
        return message
    try:
        return str(message, "utf-8")
    except UnicodeDecodeError as error:
        raise _Broken(INVALID_TEXT, "text is not UTF-8") from error
