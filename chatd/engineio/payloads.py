"""Payloads: several packets in one HTTP body, for polling. Sans-IO.

Revision 4 joins them with U+001E. Revision 3 writes the length before each packet: in UTF-16 code
units in the text form, in bytes in the binary form. JSONP wraps a text form in a script.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import parse_qs

import msgspec

from chatd.engineio.block import Block
from chatd.engineio.packets import (
    Packet,
    PacketError,
    Revision,
    decode_binary,
    decode_text,
)

__all__ = ["decode", "decode_jsonp", "decode_octets", "encode", "encode_jsonp"]

_SEPARATOR: Final = "\x1e"
# A longer number of digits is refused: no payload is that large.
_DIGITS: Final = 13

_INDEX: Final = re.compile(r"[^0-9]")
_ESCAPED: Final = re.compile(r"(\\)?\\n")


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


def decode(body: bytes, revision: Revision) -> Iterator[Packet]:
    """Return the packets of a text payload. Raises PacketError at the first invalid one."""
    try:
        text = str(body, "utf-8")
    except UnicodeDecodeError as error:
        raise PacketError("the payload is not UTF-8") from error
    return _decode_4(text) if revision == 4 else _decode_3(text)


def _decode_4(text: str) -> Iterator[Packet]:
    for part in text.split(_SEPARATOR):
        yield decode_text(part, 4)


def _decode_3(text: str) -> Iterator[Packet]:
    if text == "0:":
        return
    if not text:
        raise PacketError("a payload must begin with a length")
    # A character outside the basic plane counts two, so such a text is cut as UTF-16.
    units = None if text.isascii() or max(text) <= "\uffff" else text.encode("utf-16-le")
    at = 0
    start = 0
    while start < len(text):
        colon = text.find(":", start, start + _DIGITS + 1)
        size = text[start:colon]
        if colon < 0 or not (size.isascii() and size.isdigit()):
            raise PacketError("a packet must begin with its length and a colon")
        length = int(size)
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
        yield decode_text(_repaired(part), 3)


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


def decode_octets(body: bytes) -> Iterator[Packet]:
    """Return the packets of revision 3's binary payload. Raises PacketError as ``decode`` does."""
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


def decode_jsonp(body: bytes) -> bytes:
    """Return the text payload of a form that a JSONP client posted. Raises PacketError."""
    try:
        fields = parse_qs(
            body.decode(), keep_blank_values=True, strict_parsing=True, errors="strict"
        )
    except ValueError as error:
        raise PacketError("malformed form body") from error
    if len(fields.get("d", ())) != 1:
        raise PacketError("the form must have one field d")
    # A form turns newlines into CRLF, so clients write \n for a newline, and \\n for a \n.
    text = _ESCAPED.sub(lambda match: match[0] if match[1] else "\n", fields["d"][0])
    return text.replace("\\\\n", "\\n").encode()
