"""Payloads: several packets in one HTTP body, for polling. Sans-IO.

Revision 4 joins them with U+001E. Revision 3 writes the length before each packet: in UTF-16 code
units in the text form, in bytes in the binary form. JSONP wraps a text form in a script.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from chatd.engineio.block import Block
from chatd.engineio.packets import (
    Packet,
    PacketError,
    Revision,
    TooBigError,
    decode_binary,
    decode_text,
)

__all__ = ["decode", "decode_jsonp", "decode_octets", "encode", "encode_jsonp"]

_SEPARATOR: Final = "\x1e"
# A longer number of digits is refused: no payload is that large.
_DIGITS: Final = 13

_INDEX: Final = re.compile(r"[^0-9]")

# Clients post one field.
_FORM_FIELDS: Final = 8
_PIECE_BYTES: Final = 32768
# A byte that UTF-8 does not have.
_NO_UTF8: Final = b"\xff"


def encode(blocks: Sequence[Block], revision: Revision, *, base64: bool) -> tuple[bytes, bool]:
    """Return the payload of these blocks, and whether it is in revision 3's binary form.

    Args:
        blocks: Blocks of this revision.
        revision: The revision.
        base64: Whether the client takes text only; in revision 4 it always does.
    """
    if revision == 4:
        return b"\x1e".join([block.payload for block in blocks]), False
    if not base64 and any(block.binary for block in blocks):
        return b"".join([block.octets for block in blocks]), True
    return b"".join([block.payload for block in blocks]), False


def decode(body: bytes, revision: Revision, most: int | None = None) -> Iterator[Packet]:
    """Return the packets of a text payload.

    Raises PacketError at the first invalid one, `TooBigError` at the first of over ``most`` bytes.
    """
    try:
        text = str(body, "utf-8")
    except UnicodeDecodeError as error:
        raise PacketError("the payload is not UTF-8") from error
    return _decode_4(text, most) if revision == 4 else _decode_3(text, most)


def _decode_4(text: str, most: int | None) -> Iterator[Packet]:
    # One at a time: 1 MB may have 500,000 of them, and other tasks run in between.
    start = 0
    while start >= 0:
        end = text.find(_SEPARATOR, start)
        part = text[start:] if end < 0 else text[start:end]
        start = end + 1 if end >= 0 else -1
        _check_size(part, most)
        yield decode_text(part, 4)


def _decode_3(text: str, most: int | None) -> Iterator[Packet]:
    if text == "0:":
        return
    if not text:
        raise PacketError("a payload must begin with a length")
    # A character outside the basic plane counts two, so such a text is cut as UTF-16.
    units = None if text.isascii() else text.encode("utf-16-le")
    if units is not None and len(units) == 2 * len(text):
        units = None
    at = 0
    start = 0
    while start < len(text):
        colon = text.find(":", start, start + _DIGITS + 1)
        size = text[start:colon]
        if colon < 0 or not (size.isascii() and size.isdigit()):
            raise PacketError("a packet must begin with its length and a colon")
        length = int(size)
        if most is not None and length > most * 4 // 3 + 8:  # of base64
            raise TooBigError(f"a packet of more than {most} bytes")
        if units is None:
            part = text[colon + 1 : colon + 1 + length]
            if len(part) != length:
                raise PacketError("the packet is shorter than its length")
            start = colon + 1 + length
        else:
            at += 2 * (colon + 1 - start)
            try:
                part = str(units[at : at + 2 * length], "utf-16-le")
            except UnicodeDecodeError as error:
                raise PacketError("the length ends within a character") from error
            at += 2 * length
            if at > len(units):
                raise PacketError("the packet is shorter than its length")
            start = colon + 1 + len(part)
        _check_size(part, most)
        yield decode_text(_repaired(part), 3)


def _check_size(part: str, most: int | None) -> None:
    """Raise `TooBigError` if a packet has more than ``most`` bytes, besides its type."""
    if most is None or len(part) * 3 <= most:
        return
    # Base64 has four characters for three bytes, and two for padding.
    size = (len(part) - 2) * 3 // 4 - 2 if part[:1] == "b" else len(part.encode()) - 1
    if size > most:
        raise TooBigError(f"a packet of more than {most} bytes")


def _repaired(part: str) -> str:
    """Return the text of a packet, decoded once more if it was encoded twice.

    socket.io-client 1.x encodes it as UTF-8 before the browser does (engine.io-parser 1.3), 2.x
    does not, and neither says which version it is. A text that looks encoded twice nearly always
    was: ``Ã©`` for ``é``.
    """
    if part.isascii():
        return part
    try:
        return part.encode("latin-1").decode()
    except UnicodeError:
        return part


def decode_octets(body: bytes, most: int | None = None) -> Iterator[Packet]:
    """Return the packets of revision 3's binary payload. Raises as `decode` does."""
    at = 0
    while at < len(body):
        end = body.find(b"\xff", at + 1, at + 2 + _DIGITS)
        digits = body[at + 1 : end]
        if body[at] > 1 or end < at + 2 or max(digits) > 9:
            raise PacketError("a packet must begin with 0 or 1, the digits of its length, and 255")
        size = int("".join(map(str, digits)))
        part = body[end + 1 : end + 1 + size]
        if len(part) != size:
            raise PacketError("the packet is shorter than its length")
        if most is not None and size > most + 1:
            raise TooBigError(f"a packet of more than {most} bytes")
        if body[at]:
            yield decode_binary(part)
        else:
            try:
                yield decode_text(str(part, "utf-8"), 3)
            except UnicodeDecodeError as error:
                raise PacketError("the text of a packet is not UTF-8") from error
        at = end + 1 + size


def encode_jsonp(payload: bytes, index: str) -> bytes:
    """Return a text payload as a call of the client's function ``index``, of which digits count."""
    # In old JavaScript these two end a line even inside a string; JSON allows them.
    script = msgspec.json.encode(payload.decode())
    script = script.replace("\u2028".encode(), rb"\u2028").replace("\u2029".encode(), rb"\u2029")
    return b"___eio[%b](%b);" % (_INDEX.sub("", index).encode(), script)


def decode_jsonp(body: bytes) -> Iterator[bytes]:
    """Return the text payload of a form that a JSONP client posted, in pieces.

    Decoding 1 MB takes 10 ms, so other tasks should run after each piece. Raises PacketError.
    """
    fields = body.split(b"&", _FORM_FIELDS)
    if len(fields) > _FORM_FIELDS:
        raise PacketError("the form has too many fields")
    values = [field[2:] for field in fields if field.startswith(b"d=")]
    if len(values) != 1:
        raise PacketError("the form must have one field d")
    [value] = values
    rest = b""
    start = 0
    while start < len(value):
        end = start + _PIECE_BYTES
        # Not within %41.
        percent = value.rfind(b"%", end - 2, end)
        if percent >= 0:
            end = percent
        text = rest + _unquoted(value[start:end])
        start = end
        # Not within \\n either.
        whole = len(text.rstrip(b"\\")) if start < len(value) else len(text)
        text, rest = text[:whole], text[whole:]
        # A form turns newlines into CRLF, so clients write \n for a newline, and \\n for a \n.
        text = text.replace(b"\\\\n", _NO_UTF8).replace(b"\\n", b"\n")
        yield text.replace(_NO_UTF8, b"\\n")


def _unquoted(piece: bytes) -> bytes:
    """Decode a part of a form's value. Raises PacketError.

    Quoted-printable (RFC 2045 section 6.7) differs in its escape character and in line ends, which
    a form does not have. It is decoded in C: urllib's loop takes 100 ms for 1 MB.
    """
    if b"\n" in piece or b"\r" in piece:
        raise PacketError("malformed form body")
    printable = piece.replace(b"+", b" ").replace(b"=", b"=3D").replace(b"%", b"=")
    decoded = binascii.a2b_qp(printable)
    # Three bytes become one, but only where two hexadecimal digits follow.
    if len(decoded) != len(piece) - 2 * piece.count(b"%") or _NO_UTF8 in decoded:
        raise PacketError("malformed form body")
    return decoded
