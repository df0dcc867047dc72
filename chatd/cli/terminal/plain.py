"""Lines of other programs as texts of messages: without control sequences, in pieces. Sans-IO."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

__all__ = ["plain", "split"]

# ECMA-48: control strings (5.6) up to their terminator or, as in xterm, BEL; control sequences
# (5.4); and the other escape sequences (ECMA-35 section 13). C1 controls may be one character. A
# sequence that the end of the line cuts off goes too, but not the text behind an open string.
_SEQUENCES: Final = re.compile(
    r"(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x90\x98\x9c-\x9f]*(?:\x07|\x1b\\|\x9c)"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*(?:[@-~]|\Z)"
    r"|\x1b[ -/]*(?:[0-~]|\Z)"
)
# A carriage return rewrites the line on a terminal, as progress bars do; here nothing is lost.
_BREAKS: Final = re.compile(r"[\r\x0b\x0c\x85]+")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")


def plain(line: str) -> str:
    """Return a line without what only a terminal acts on: colours, cursor movements, bells."""
    text = _CONTROLS.sub("", _BREAKS.sub("\n", _SEQUENCES.sub("", line)))
    return text.strip("\n")


def split(text: str, most_bytes: int) -> Iterator[str]:
    """Yield a text in pieces of at most so many bytes of UTF-8, cut behind spaces if possible."""
    data = text.encode()
    while len(data) > most_bytes:
        end = most_bytes
        while data[end] & 0xC0 == 0x80:  # within a character
            end -= 1
        space = max(data.rfind(space, end // 2, end) for space in (b" ", b"\t", b"\n"))
        end = space + 1 if space >= 0 else end
        yield data[:end].decode()
        data = data[end:]
    yield data.decode()
