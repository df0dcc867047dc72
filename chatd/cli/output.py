"""Writing to the standard streams, in any encoding and without control characters."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import unicodedata
from typing import Literal, TextIO

from chatd.settings import Fault, SettingsError

__all__ = [
    "OutputError",
    "fail",
    "flush",
    "is_terminal",
    "report",
    "reported",
    "visible",
    "write",
    "write_bytes",
]


class OutputError(Exception):
    """Standard output cannot be written.

    The message is for the user. It is empty if the reader of a pipe has enough, as `head` does.
    """

    def __init__(self, error: OSError) -> None:
        why = (error.strerror or str(error)).lower()
        gone = isinstance(error, BrokenPipeError)
        super().__init__("" if gone else f"Standard output cannot be written: {why}.")


def write(text: str, stream: TextIO | None) -> None:
    """Write ``text``; characters that the stream's encoding does not have are escaped.

    Errors of standard error, which could be reported nowhere, are ignored.

    Raises:
        OutputError: It is standard output, and cannot be written.
    """
    try:
        if stream is None:  # the program was started without it
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        encoding = stream.encoding or "utf-8"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    except OSError as error:
        _give_up(stream)
        if stream is not sys.stderr:
            raise OutputError(error) from error


def write_bytes(data: bytes) -> None:
    """Write to standard output. Raises OutputError."""
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        sys.stdout.buffer.write(data)
    except OSError as error:
        _give_up(sys.stdout)
        raise OutputError(error) from error


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal; one that the program was started without is not."""
    return stream is not None and stream.isatty()


def flush() -> None:
    """Write what standard output and standard error have buffered. Raises OutputError."""
    for stream in (sys.stderr, sys.stdout):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            _give_up(stream)
            if stream is sys.stdout:
                raise OutputError(error) from error


def _give_up(stream: TextIO | None) -> None:
    """Discard what is still buffered: Python would fail once more when it flushes at exit."""
    if stream is not None:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def fail(*messages: str) -> int:
    """Write a line for each error to standard error, and return the exit code 1."""
    for message in messages:
        write(f"chatd: {visible(message)}\n", sys.stderr)
    return 1


def visible(text: str) -> str:
    """Return ``text`` as one line, without the control characters that could command a terminal."""
    return "".join("\N{REPLACEMENT CHARACTER}" if _is_control(char) else char for char in text)


def report(error: SettingsError) -> str:
    """Return the faults as ``FILE:LINE:COLUMN: error: …``, each with its line and a caret.

    A fault without a line, such as a flag's, is one line.
    """
    return "".join(reported(fault, "error") for fault in error.faults)


def reported(fault: Fault, kind: Literal["error", "warning"]) -> str:
    """Return one fault in that form."""
    if not fault.line:
        return f"{visible(fault.origin)}: {kind}: {visible(fault.message)}\n"
    place = f"{visible(fault.origin)}:{fault.line}:{fault.column}"
    caret = "".join(_blank(char) for char in fault.source_line[: fault.column - 1]) + "^"
    source = visible(fault.source_line).rstrip()
    return f"{place}: {kind}: {visible(fault.message)}\n    {source}\n    {caret}\n"


def _is_control(char: str) -> bool:
    # Zl and Zp are the separators of lines and paragraphs.
    return unicodedata.category(char) in ("Cc", "Zl", "Zp") and char != "\t"


def _blank(char: str) -> str:
    # As wide as the character: a tab stays one, and a wide character takes two columns.
    if char == "\t":
        return char
    if unicodedata.combining(char):
        return ""
    return "  " if unicodedata.east_asian_width(char) in "WF" else " "
