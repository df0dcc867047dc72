"""The writer's work between commits, in chunks: index new words, remove old events, clean files.

Each function is one transaction of about a millisecond, or none at all if nothing is due. If one
raises, its commit is in doubt.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from itertools import starmap
from typing import Literal

from msgspec import Struct

from chatd.journal.index import MERGE_PAGES, Row, WordIndex
from chatd.journal.retention import CHUNK, Retention

__all__ = ["Swept", "Watermarks", "index", "merge_index", "size_of", "sweep"]


@dataclass(slots=True)
class Watermarks:
    """How far the store has come, all of it committed, as the writer remembers it."""

    position: int = 0
    """Position of the last event whose commit was confirmed."""
    words: WordIndex = field(default_factory=WordIndex)
    """The index of the messages' words."""
    dirty: int | None = None
    """When the first text was removed that may still be in the files; None if there is none."""
    merge: Literal["due", "begun", "done"] = "due"
    """How far the index is merged into one part, which has no words of texts that went before."""
    later: int | None = None
    """When the first text was removed since that merge began."""
    touched: dict[int, None] = field(default_factory=dict)
    """Ids of rooms that may hold more events than are kept."""
    kept: int | Literal["off"] = "off"
    """``Retention.keep_events`` as of the last sweep."""
    pages: int = 0
    """Pages written into the log since the last checkpoint: an estimate."""

    def note_removed_text(self, cursor: sqlite3.Cursor, now: int) -> None:
        """Record, in the same transaction, that a text is removed."""
        if self.merge != "due" and self.later is None:
            self.later = now
        if self.dirty is None:
            cursor.execute("UPDATE meta SET value = ? WHERE name = 'dirty'", (now,))
            # If this is not committed, the files are cleaned once for nothing.
            self.dirty = now

    def reload(self, connection: sqlite3.Connection) -> None:
        """Read again what a transaction in doubt may have moved."""
        query = "SELECT value FROM meta WHERE name = 'dirty'"
        self.dirty = connection.execute(query).fetchone()[0]
        self.words.reload(connection)
        self.merge = "due"


class Swept(Struct, frozen=True):
    """The result of one sweep."""

    events: int
    """Events removed."""
    more: bool
    """Whether more is due now."""
    size: int
    """The store's bytes in use before the sweep."""
    purge: bool
    """Whether it is time to clean the files (`chatd.journal.writer.Writer.purge`)."""
    due: int | None
    """When the next event, user or record is removed, in ms; None if none ever is, or if ``more``
    is set."""


def size_of(cursor: sqlite3.Cursor) -> int:
    """Return the store's bytes in use. Freed pages are used again before the file grows."""
    pages: int = cursor.execute("PRAGMA page_count").fetchone()[0]
    free: int = cursor.execute("PRAGMA freelist_count").fetchone()[0]
    page: int = cursor.execute("PRAGMA page_size").fetchone()[0]
    return (pages - free) * page


# ---- the index


def index(cursor: sqlite3.Cursor, marks: Watermarks) -> bool:
    """Index a chunk of messages, or remove one of a former index; return True if more is left."""
    index, upto = marks.words, marks.position
    cursor.execute("BEGIN IMMEDIATE")
    size = index.grow(cursor, upto)
    if not size:
        index.discard(cursor)
    cursor.execute("COMMIT")
    marks.pages += 8 + size // 512
    return index.lacks(upto)


def merge_index(cursor: sqlite3.Cursor, marks: Watermarks) -> None:
    """Merge a slice of the index, so that removed words leave the file.

    FTS5 only marks what is removed, in a newer part of the index. Merging all parts that exist when
    this begins removes both. A slice ends between two words: a word that is in each of a million
    messages takes 0.1 s.
    """
    pages = MERGE_PAGES
    if marks.merge == "due":
        marks.merge, marks.later = "begun", None
        pages = -pages
    cursor.execute("BEGIN IMMEDIATE")
    more = marks.words.discard(cursor) or marks.words.merge(cursor, pages)
    cursor.execute("COMMIT")
    marks.pages += MERGE_PAGES
    if not more:
        marks.merge = "done"


# ---- retention


def sweep(cursor: sqlite3.Cursor, marks: Watermarks, retention: Retention, now: int) -> Swept:
    """Remove one chunk of the past. If nothing is due, this reads some ten pages of any store."""
    size = size_of(cursor)
    events = _sweep_oldest(cursor, marks, retention, now, size)
    if not events:
        events = _sweep_rooms(cursor, marks, retention, now)
    more = bool(
        events or _forget_users(cursor, marks, retention, now) or _drop_records(cursor, marks, now)
    )
    purge = not more and retention.purges(marks.dirty, now)
    due = None if more else retention.next_due(*_oldest(cursor))
    return Swept(events, more, size, purge, due)


def _sweep_oldest(
    cursor: sqlite3.Cursor, marks: Watermarks, retention: Retention, now: int, size: int
) -> int:
    before = retention.events_before(now)
    excess = retention.excess(size)
    if before is None and not excess:
        return 0
    query = "SELECT position, at FROM events ORDER BY position LIMIT ?"
    upto = 0
    # The oldest alone first: most sweeps end there. A row not fetched would hold a snapshot.
    for limit in (1, CHUNK):
        for position, at in cursor.execute(query, (limit,)).fetchall():
            if not excess and (before is None or at >= before):
                break
            upto = position
        if not upto:
            return 0
    return _remove(cursor, marks, now, "position <= ?", (upto,))


def _sweep_rooms(cursor: sqlite3.Cursor, marks: Watermarks, retention: Retention, now: int) -> int:
    keep = retention.keep_events
    if keep != marks.kept:
        # Also at the start: any room may hold more than is kept now.
        rooms = cursor.execute("SELECT id FROM rooms").fetchall()
        marks.kept, marks.touched = keep, dict.fromkeys(row[0] for row in rooms)
    touched = marks.touched
    while keep != "off" and touched:
        room = next(iter(touched))
        first, last = cursor.execute(
            "SELECT (SELECT min(seq) FROM events WHERE room_id = :room),"
            " (SELECT max(seq) FROM events WHERE room_id = :room)",
            {"room": room},
        ).fetchone()
        if first is None or last - first < keep:
            del touched[room]
            continue
        upto = min(last - keep, first + CHUNK - 1)
        return _remove(cursor, marks, now, "room_id = ? AND seq <= ?", (room, upto))
    return 0


def _remove(
    cursor: sqlite3.Cursor, marks: Watermarks, now: int, where: str, values: tuple[int, ...]
) -> int:
    # `where` is one of the two above.
    execute = cursor.execute
    execute("BEGIN IMMEDIATE")
    gone = execute(
        f"SELECT max(seq), room_id, max(position) FROM events WHERE {where} GROUP BY room_id",  # noqa: S608
        values,
    ).fetchall()
    cursor.executemany(
        "UPDATE rooms SET head = max(head, ?) WHERE id = ?", [row[:2] for row in gone]
    )
    execute(
        "UPDATE meta SET value = max(value, ?) WHERE name = 'position'",
        (max(row[2] for row in gone),),
    )
    found = execute(
        f"SELECT position, text, room_id, user, nick FROM events WHERE {where}"  # noqa: S608
        " AND kind = 'message' AND text IS NOT NULL",
        values,
    ).fetchall()
    marks.words.remove(cursor, starmap(Row, found))
    marks.note_removed_text(cursor, now)
    removed = execute(f"DELETE FROM events WHERE {where}", values).rowcount  # noqa: S608
    execute("COMMIT")
    marks.pages += 4 * removed
    return removed


def _forget_users(cursor: sqlite3.Cursor, marks: Watermarks, retention: Retention, now: int) -> int:
    before = retention.users_before(now)
    if before is None:
        return 0
    query = "SELECT user FROM users WHERE seen < ? ORDER BY seen LIMIT ?"
    return _drop(cursor, marks, query, before, "DELETE FROM users WHERE user = ?")


def _drop_records(cursor: sqlite3.Cursor, marks: Watermarks, now: int) -> int:
    query = "SELECT shelf, name FROM records WHERE until <= ? ORDER BY until LIMIT ?"
    return _drop(cursor, marks, query, now, "DELETE FROM records WHERE shelf = ? AND name = ?")


def _drop(cursor: sqlite3.Cursor, marks: Watermarks, query: str, before: int, delete: str) -> int:
    gone = cursor.execute(query, (before, CHUNK)).fetchall()
    if gone:
        cursor.execute("BEGIN IMMEDIATE")
        cursor.executemany(delete, gone)
        cursor.execute("COMMIT")
        marks.pages += len(gone)
    return len(gone)


def _oldest(cursor: sqlite3.Cursor) -> tuple[int | None, int | None, int | None]:
    """Return the times of the oldest event, the longest absence and the first record's end."""
    row: tuple[int | None, int | None, int | None] = cursor.execute(
        "SELECT (SELECT at FROM events ORDER BY position LIMIT 1),"
        " (SELECT min(seen) FROM users),"
        " (SELECT min(until) FROM records WHERE until IS NOT NULL)"
    ).fetchone()
    return row
