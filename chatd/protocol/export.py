"""The lines of an export (JSON Lines): a room's log as text, to be imported again.

A line is an event of the log with its current text, its number and its key. Unlike the events that
clients get, it is read strictly: a field that is not known is an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct, field

from chatd.model import EventKind, LogEntry
from chatd.protocol.events import rfc3339

__all__ = ["read_line", "write_lines"]


class Line(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A line of an export."""

    room: str
    seq: int
    at: str
    kind: EventKind = field(name="on")
    nick: str = field(name="from")
    user: str
    text: str | None = None
    of: int | None = None
    reply_to: int | None = None
    edited: str | None = None
    deleted: bool = False
    key: str | None = None


_lines: Final = msgspec.json.Decoder(Line)
_encode: Final = msgspec.json.Encoder().encode


def write_lines(entries: Iterable[LogEntry]) -> bytes:
    """Return events of a log as lines, each with its line feed."""
    return b"".join(
        _encode(
            Line(
                room=entry.room,
                seq=entry.seq,
                at=rfc3339(entry.at),
                kind=entry.kind,
                nick=entry.nick,
                user=entry.user,
                text=entry.text,
                of=entry.of,
                reply_to=entry.reply_to,
                edited=None if entry.edited is None else rfc3339(entry.edited),
                deleted=entry.deleted,
                key=entry.key,
            )
        )
        + b"\n"
        for entry in entries
    )


def read_line(text: bytes) -> LogEntry:
    """Return the event in a line.

    Raises:
        ValueError: It is not the line of an export. The message is for people.
    """
    try:
        line = _lines.decode(text)
    except RecursionError:
        raise ValueError("It is nested too deeply.") from None
    return LogEntry(
        room=line.room,
        seq=line.seq,
        at=_milliseconds(line.at),
        kind=line.kind,
        user=line.user,
        nick=line.nick,
        text=line.text,
        of=line.of,
        reply_to=line.reply_to,
        edited=None if line.edited is None else _milliseconds(line.edited),
        deleted=line.deleted,
        key=line.key,
    )


def _milliseconds(text: str) -> int:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"The time {text} has no time zone.")
    try:
        return round(at.timestamp() * 1000)
    except OverflowError:
        raise ValueError(f"The time {text} is not in years 1 to 9999 of UTC.") from None
