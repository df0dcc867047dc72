"""Writing to the standard streams, in any encoding and without control characters."""

from __future__ import annotations

import sys
import unicodedata
from typing import TextIO

from chatd.settings import Fault, SettingsError

__all__ = ["fail", "report", "visible", "write"]


def write(text: str, stream: TextIO) -> None:
    """Write ``text``; characters that the stream's encoding does not have are escaped."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def fail(*messages: str) -> int:
    """Write a line for each error to standard error, and return the exit code 1."""
    for message in messages:
        write(f"chatd: {visible(message)}\n", sys.stderr)
    return 1


def visible(text: str) -> str:
    """Return ``text`` with its control characters, which could command a terminal, replaced."""
    return "".join("\N{REPLACEMENT CHARACTER}" if _is_control(char) else char for char in text)


def report(error: SettingsError) -> str:
    """Return the faults as ``FILE:LINE:COLUMN: error: …``, each with its line and a caret.

    A fault without a line, such as a flag's, is one line.
    """
    return "".join(_reported(fault) for fault in error.faults)


def _reported(fault: Fault) -> str:
    if not fault.line:
        return f"{visible(fault.origin)}: error: {visible(fault.message)}\n"
    place = f"{visible(fault.origin)}:{fault.line}:{fault.column}"
    caret = "".join(_blank(char) for char in fault.source_line[: fault.column - 1]) + "^"
    source = visible(fault.source_line).rstrip()
    return f"{place}: error: {visible(fault.message)}\n    {source}\n    {caret}\n"


def _is_control(char: str) -> bool:
    return unicodedata.category(char) == "Cc" and char != "\t"


def _blank(char: str) -> str:
    # As wide as the character: a tab stays one, and a wide character takes two columns.
    if char == "\t":
        return char
    if unicodedata.combining(char):
        return ""
    return "  " if unicodedata.east_asian_width(char) in "WF" else " "
