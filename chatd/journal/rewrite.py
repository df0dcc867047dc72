"""Operations that rewrite the log: restore entries, redact a user, erase a room.

Each runs inside a transaction that the writer begins and ends, a chunk at a time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, Final

from chatd.journal import FORGOTTEN, schema
from chatd.journal.index import Row, WordIndex
from chatd.journal.places import file
from chatd.journal.retention import CHUNK
from chatd.journal.schema import LogEnd
from chatd.model import Erase, Forget, Progress, Refusal, Restore, Wipe

__all__ = ["erase", "forget", "remove_front", "restore", "unfit", "wipe"]

_SCANNED: Final = 2000
"""Events read at a time to find one user's, for which there is no index: some 1 ms."""

_INSERT: Final = (
    "INSERT INTO events (position, room_id, seq, at, kind, user, nick, text, of, reply_to, edited,"
    " deleted, key) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def unfit(operation: Restore, last: int, *, empty: bool) -> Refusal | None:
    """Return why a room's log cannot be continued by these entries; None if it can.

    Args:
        operation: The entries.
        last: The room's last number.
        empty: Whether the room has no event.
    """
    name = operation.entries[0].room
    expected = operation.entries[0].seq if empty else last + 1
    for entry in operation.entries:
        if entry.seq <= last:
            return Refusal("bad_request", f"{name} already has an event {entry.seq}.")
        if entry.seq != expected:
            return Refusal("bad_request", f"{name}: {entry.seq} does not follow {expected - 1}.")
        expected += 1
    return None


def restore(
    cursor: sqlite3.Cursor, operation: Restore, room: LogEnd, position: int
) -> int | Refusal:
    """Restore entries in a room; return the new position."""
    room_id, last, empty = room.room_id, room.seq, room.empty
    if (refusal := unfit(operation, last, empty=empty)) is not None:
        return refusal
    for entry in () if empty else operation.entries:
        key = (room_id, entry.user, entry.key)
        query = "SELECT 1 FROM events WHERE room_id = ? AND user = ? AND key = ?"
        if entry.key is not None and cursor.execute(query, key).fetchone() is not None:
            return Refusal("bad_request", f"{entry.room} already has the key of {entry.seq}.")
    if empty:
        first = operation.entries[0]
        front = (first.seq - 1, first.at, room_id)
        cursor.execute("UPDATE rooms SET head = ?, oldest = ? WHERE id = ?", front)
    rows = [
        (
            *(position + number, room_id, entry.seq, entry.at, entry.kind, entry.user, entry.nick),
            *(entry.text, entry.of, entry.reply_to, entry.edited, entry.deleted, entry.key),
        )
        for number, entry in enumerate(operation.entries, 1)
    ]
    cursor.executemany(_INSERT, rows)
    topics = [entry.text or "" for entry in operation.entries if entry.kind == "topic"]
    if topics:
        cursor.execute("UPDATE rooms SET topic = ? WHERE id = ?", (topics[-1], room_id))
    room.seq, room.empty = operation.entries[-1].seq, False
    return position + len(rows)


def wipe(cursor: sqlite3.Cursor, operation: Wipe, words: WordIndex) -> Progress:
    """Redact a user's texts in the next chunk of the store's events."""
    query = (
        "SELECT position, text, room_id, user, nick, kind FROM events WHERE position > ?"
        " ORDER BY position LIMIT ?"
    )
    rows = cursor.execute(query, (schema.number(operation.after), _SCANNED)).fetchall()
    said = [row for row in rows if row[3] == operation.user]
    words.remove(cursor, _messages(said))
    for position, text, room_id, _, _, kind in said:
        if kind == "topic":
            cursor.execute(
                "UPDATE rooms SET topic = '' WHERE id = ? AND topic = ?", (room_id, text)
            )
        cursor.execute(
            "UPDATE events SET user = ?, nick = ?, key = NULL, edited = NULL,"
            " text = iif(kind = 'topic', '', NULL), deleted = (kind = 'message')"
            " WHERE position = ?",
            (FORGOTTEN, FORGOTTEN, position),
        )
    return Progress(rows[-1][0] if len(rows) == _SCANNED else None)


def erase(cursor: sqlite3.Cursor, operation: Erase, words: WordIndex) -> Progress:
    """Remove the next of a room's events, oldest first. Their numbers are not given again."""
    file(cursor)
    query = (
        "SELECT room_id, seq, position FROM places"
        " WHERE room_id = (SELECT id FROM rooms WHERE fold = ?) ORDER BY seq LIMIT ?"
    )
    rows = cursor.execute(query, (operation.room, CHUNK)).fetchall()
    if rows:
        room_id, seq, position = rows[-1]
        remove_front(cursor, room_id, seq, words)
        cursor.execute("UPDATE rooms SET topic = '' WHERE id = ?", (room_id,))
        if len(rows) == CHUNK:
            return Progress(position)
    if operation.forget:
        cursor.execute("DELETE FROM rooms WHERE fold = ?", (operation.room,))
    return Progress(None)


def remove_front(cursor: sqlite3.Cursor, room_id: int, upto: int, words: WordIndex) -> int:
    """Remove a room's events, which are filed, up to a number; return how many.

    A room loses its log from the front only, so that its numbers stay without a gap.
    """
    front = (room_id, upto)
    inside = "position IN (SELECT position FROM places WHERE room_id = ? AND seq <= ?)"
    found = cursor.execute(
        f"SELECT position, text, room_id, user, nick, kind FROM events WHERE {inside}",  # noqa: S608  a constant
        front,
    ).fetchall()
    words.remove(cursor, _messages(found))
    query = "SELECT position FROM places WHERE room_id = ? AND seq = ?"
    (position,) = cursor.execute(query, front).fetchone()
    cursor.execute(f"DELETE FROM events WHERE {inside}", front)  # noqa: S608  a constant
    removed = cursor.rowcount
    cursor.execute(
        "UPDATE rooms SET head = max(head, ?), gone = max(gone, ?), oldest ="
        " (SELECT at FROM events WHERE position = (SELECT position FROM places"
        " WHERE room_id = rooms.id ORDER BY seq LIMIT 1)) WHERE id = ?",
        (upto, position, room_id),
    )
    cursor.execute("UPDATE meta SET value = max(value, ?) WHERE name = 'position'", (position,))
    return removed


def _messages(rows: Iterable[tuple[Any, ...]]) -> Iterator[Row]:
    """Yield the rows of messages that have a text."""
    for position, text, room_id, user, nick, kind, *_ in rows:
        if kind == "message" and text is not None:
            yield Row(position, text, room_id, user, nick)


def forget(cursor: sqlite3.Cursor, operation: Forget) -> None:
    """Remove what is kept of a user beside the log."""
    user = operation.user
    cursor.execute("DELETE FROM users WHERE user = ?", (user,))
    between = (f"{user}\0", f"{user}\x01")
    cursor.execute("DELETE FROM records WHERE name >= ? AND name < ?", between)
