"""A block: messages that are encoded once for all sessions of one revision.

Its forms, for polling and for WebSocket, are made when they are first needed. So whoever offers a
block need not know the transport.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import TypeAlias

from chatd.engineio.packets import MESSAGE, Revision
from chatd.wire import frames

__all__ = ["Block"]

_Parts: TypeAlias = list[tuple[bool, bytes]]
"""The messages, each with whether it is binary."""


class Block:
    """Messages for sessions of one revision. ``len()`` is their number.

    Args:
        messages: The messages: ``str`` is sent as text, everything else as binary.
        revision: The revision of the sessions; default 4.

    Attributes:
        revision: The revision.
        binary: Whether a message is binary.
        size: Its size in a send queue, in bytes.
        frames: The messages as WebSocket frames, joined.
        text_frames: The same with binary messages in base64, for clients that asked for ``b64``.
        payload: The messages as a part of a polling response.
        octets: The same in revision 3's binary form, which the whole response must have if a block
            in it is ``binary`` and the client did not ask for base64.

    Raises:
        UnicodeEncodeError: A text has half of a surrogate pair. It is raised here and not when the
            block is sent, in a fan-out.
    """

    __slots__ = ("_forms", "_parts", "binary", "revision", "size")

    def __init__(
        self, messages: Iterable[str | bytes | bytearray | memoryview], revision: Revision = 4
    ) -> None:
        self.revision: Revision = revision
        self.binary = False
        self.size = 0
        self._forms: dict[Callable[[_Parts, Revision], bytes], bytes] = {}
        # Text packets have their type; binary ones are the data only.
        self._parts: _Parts = []
        for message in messages:
            if isinstance(message, str):
                data = b"4" + message.encode()
                self._parts.append((False, data))
            else:
                data = bytes(message)
                self._parts.append((True, data))
                self.binary = True
            self.size += len(data)

    @classmethod
    def control(cls, packet: str, revision: Revision) -> Block:
        """Return the block of one packet that is not a message; ``packet`` begins with its type."""
        block = cls((), revision)
        block._parts.append((False, packet.encode()))
        block.size = len(packet)
        return block

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def frames(self) -> bytes:
        return self._form(_frames)

    @property
    def text_frames(self) -> bytes:
        return self._form(_text_frames)

    @property
    def payload(self) -> bytes:
        return self._form(_payload)

    @property
    def octets(self) -> bytes:
        return self._form(_octets)

    def _form(self, make: Callable[[_Parts, Revision], bytes]) -> bytes:
        form = self._forms.get(make)
        if form is None:
            form = self._forms[make] = make(self._parts, self.revision)
        return form

    def pieces(self, most: int) -> list[Block]:
        """Return blocks of at most ``most`` messages each, in order, that together are this one."""
        if len(self._parts) <= most:
            return [self]
        pieces: list[Block] = []
        for start in range(0, len(self._parts), most):
            piece = Block((), self.revision)
            piece._parts = self._parts[start : start + most]
            for binary, data in piece._parts:
                piece.binary |= binary
                piece.size += len(data)
            pieces.append(piece)
        return pieces


def _frames(parts: _Parts, revision: Revision) -> bytes:
    head = bytes((MESSAGE,)) if revision == 3 else b""
    return b"".join(
        [frames.binary(head + data) if binary else frames.text(data) for binary, data in parts]
    )


def _texts(parts: _Parts, revision: Revision) -> list[bytes]:
    """Return the packets as text: binary ones in base64, in revision 3 with their type."""
    mark = b"b4" if revision == 3 else b"b"
    return [mark + base64.b64encode(data) if binary else data for binary, data in parts]


def _text_frames(parts: _Parts, revision: Revision) -> bytes:
    return b"".join(map(frames.text, _texts(parts, revision)))


def _payload(parts: _Parts, revision: Revision) -> bytes:
    texts = _texts(parts, revision)
    return b"\x1e".join(texts) if revision == 4 else b"".join(map(_with_length, texts))


def _with_length(data: bytes) -> bytes:
    # Revision 3 counts UTF-16 code units, as JavaScript does.
    units = len(data) if data.isascii() else len(data.decode().encode("utf-16-le")) // 2
    return b"%d:%b" % (units, data)


def _octets(parts: _Parts, _revision: Revision) -> bytes:
    pieces = []
    for binary, data in parts:
        size = len(data) + binary
        pieces.append(bytes((binary, *(int(digit) for digit in str(size)), 0xFF)))
        if binary:
            pieces.append(bytes((MESSAGE,)))
        pieces.append(data)
    return b"".join(pieces)
