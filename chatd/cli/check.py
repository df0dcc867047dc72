"""``chatd check``: tells every fault of a configuration, with its place."""

from __future__ import annotations

import argparse
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from chatd.chat.key_files import check_files as check_keys
from chatd.settings import Fault, SettingsError, load
from chatd.wire.tls import check_files as check_certificate

if TYPE_CHECKING:
    # A generic class that can be subscripted in annotations alone.
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  # it has no other name

__all__ = ["FILES", "add_parser", "report", "run", "say", "visible"]

FILES: Final = (check_certificate, check_keys)
"""What looks into the files that a configuration names."""

_DEFAULT_FILE: Final = Path("/etc/chatd/chatd.toml")


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "check",
        help="check a configuration",
        description="Check a configuration: every fault is told with its line and column.",
    )
    parser.add_argument(
        "file", metavar="FILE", nargs="?", type=Path, default=_DEFAULT_FILE, help=f"{_DEFAULT_FILE}"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check ``args.file``; give the exit code."""
    try:
        load(args.file, checks=FILES)
    except SettingsError as error:
        say(report(error), sys.stderr)
        return 1
    say(f"{args.file}: ok\n", sys.stdout)
    return 0


def report(error: SettingsError) -> str:
    """Write each fault as ``FILE:LINE:COLUMN: error: …``, its line and a caret under the place.

    A fault without a line, such as a flag's, is one line.
    """
    return "".join(_told(fault) for fault in error.faults)


def say(text: str, stream: TextIO) -> None:
    """Write ``text``, whatever the stream's encoding; names may hold bytes that are no UTF-8."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _told(fault: Fault) -> str:
    if not fault.line:
        return f"{visible(fault.origin)}: error: {visible(fault.message)}\n"
    place = f"{visible(fault.origin)}:{fault.line}:{fault.column}"
    caret = "".join(_room(char) for char in fault.source_line[: fault.column - 1]) + "^"
    source = visible(fault.source_line).rstrip()
    return f"{place}: error: {visible(fault.message)}\n    {source}\n    {caret}\n"


def visible(text: str) -> str:
    """Give ``text`` with what could command a terminal made visible."""
    return "".join("\N{REPLACEMENT CHARACTER}" if _is_control(char) else char for char in text)


def _is_control(char: str) -> bool:
    return unicodedata.category(char) == "Cc" and char != "\t"


def _room(char: str) -> str:
    # The caret's line has the tabs of the line above it, and two columns for a wide character.
    if char == "\t":
        return char
    if unicodedata.combining(char):
        return ""
    return "  " if unicodedata.east_asian_width(char) in "WF" else " "
