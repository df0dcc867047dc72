"""The lines of an export (JSON Lines): a room's log as text, to be imported again.

A line is an event of the log with its current text, its number and its key. An export of the whole
chat also has lines of users, ``{"id": …}``, and of records, ``{"record": …}``. Unlike the events
that clients get, a line is read strictly: a field that is not known is an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct, field

from chatd.model import EventKind, LogEntry, Record, UserRecord
from chatd.protocol.events import rfc3339

__all__ = ["Exported", "read_line", "write_lines", "write_records", "write_users"]

Exported: TypeAlias = LogEntry | UserRecord | Record
"""What a line stands for."""


class Line(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The line of an event."""

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


class UserLine(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The line of a user whom tokens name."""

    id: str
    nick: str
    seen: str | None = None


class RecordLine(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The line of a record, such as a ban or a read mark."""

    record: str
    name: str
    value: str = ""
    until: str | None = None


class _Head(Struct, frozen=True):
    """The field that names the kind of a line."""

    id: str | None = None
    record: str | None = None


_events: Final = msgspec.json.Decoder(Line)
_heads: Final = msgspec.json.Decoder(_Head)
_records: Final = msgspec.json.Decoder(RecordLine)
_users: Final = msgspec.json.Decoder(UserLine)
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
                edited=_written(entry.edited),
                deleted=entry.deleted,
                key=entry.key,
            )
        )
        + b"\n"
        for entry in entries
    )


def write_users(users: Iterable[UserRecord], now: int) -> bytes:
    """Return users with tokens as lines. Those who are present were last seen ``now`` (in ms)."""
    return b"".join(
        _encode(UserLine(user.user, user.nick, rfc3339(now if user.seen is None else user.seen)))
        + b"\n"
        for user in users
    )


def write_records(records: Iterable[Record]) -> bytes:
    """Return records with values of text as lines."""
    return b"".join(
        _encode(RecordLine(each.kind, each.name, each.value.decode(), _written(each.until))) + b"\n"
        for each in records
    )


def _written(at: int | None) -> str | None:
    return None if at is None else rfc3339(at)


def read_line(text: bytes) -> Exported:
    """Return what a line stands for.

    Raises:
        ValueError: It is not the line of an export. The message is for people.
    """
    try:
        return _read(text)
    except RecursionError:
        raise ValueError("It is nested too deeply.") from None


def _read(text: bytes) -> Exported:
    try:
        return _event(_events.decode(text))
    except msgspec.ValidationError:
        head = _heads.decode(text)
        if head.record is not None:
            record = _records.decode(text)
            return Record(record.record, record.name, record.value.encode(), _time(record.until))
        if head.id is not None:
            user = _users.decode(text)
            return UserRecord(user.id, user.nick, _time(user.seen), subject=True)
        raise


def _event(line: Line) -> LogEntry:
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
        edited=_time(line.edited),
        deleted=line.deleted,
        key=line.key,
    )


def _time(text: str | None) -> int | None:
    return None if text is None else _milliseconds(text)


def _milliseconds(text: str) -> int:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"The time {text} has no time zone.")
    try:
        return round(at.astimezone(UTC).timestamp() * 1000)
    except OverflowError:
        raise ValueError(f"The time {text} is not in years 1 to 9999 of UTC.") from None
