"""The writer's work between commits, in chunks: index new words, remove old events, clean files.

Each function is one transaction of about a millisecond, or none at all if nothing is due. If one
raises, its commit is in doubt.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from msgspec import Struct

from chatd.journal import rewrite
from chatd.journal.index import MERGE_PAGES, WordIndex
from chatd.journal.places import file
from chatd.journal.retention import (
    CHUNK,
    EVENT_BYTES,
    EXPENDABLE,
    ROW_BYTES,
    Front,
    Retention,
    front_before,
    front_time,
    until_freed,
)
from chatd.journal.schema import LogEnd

__all__ = ["Swept", "Watermarks", "index", "merge_index", "size_of", "sweep"]


KNOWN_ROOMS: Final = 10_000
"""How many rooms' ends the writer remembers: some 2 MB. To look one up takes 2.5 µs."""


@dataclass(slots=True)
class Watermarks:
    """How far the store has come, as the writer remembers it: all of it is committed.

    Only ``rooms`` is ahead of that inside a transaction: it is emptied if that fails.
    """

    position: int = 0
    """Position of the last event whose commit was confirmed."""
    rooms: dict[str, LogEnd] = field(default_factory=dict)
    """The ends of rooms' logs, by the rooms' keys."""
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
        self.rooms.clear()


class Swept(Struct, frozen=True):
    """The result of one sweep."""

    events: int
    """Events removed."""
    dropped: int
    """About how many bytes were removed of what is kept beside the events."""
    more: bool
    """Whether more is due now."""
    size: int
    """The store's bytes in use before the sweep."""
    stuck: bool
    """Whether the store is too big, and nothing is left that may be removed for that."""
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
    if not index.floor:
        index.discard(cursor)
    more = index.lacks(upto)
    if not more:
        file(cursor)  # so that reads find none that are not, once the store is quiet
    cursor.execute("COMMIT")
    marks.pages += 8 + size // 512
    return more


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


def sweep(
    cursor: sqlite3.Cursor, marks: Watermarks, retention: Retention, now: int, beside: int
) -> Swept:
    """Remove one chunk of the past. If nothing is due, this reads some ten pages of any store.

    ``beside`` is how many bytes are not the events', as far as that was measured.
    """
    size = size_of(cursor)
    undated = _date_fronts(cursor, now)
    dropped = _drop_expendable(cursor, marks) if retention.beside_fills(beside) else 0
    excess = 0 if dropped else retention.events_exceed(size, beside)
    events = _sweep_oldest(cursor, marks, retention, now, excess)
    if not events:
        events = _sweep_rooms(cursor, marks, retention, now)
    more = bool(
        undated
        or events
        or dropped
        or _forget_users(cursor, marks, retention, now)
        or _drop_records(cursor, marks, now)
    )
    purge = not more and retention.purges(marks.dirty, now)
    due = None if more else retention.next_due(*_oldest(cursor))
    return Swept(
        events=events,
        dropped=dropped,
        more=more,
        size=size,
        stuck=not more and retention.excess(size),
        purge=purge,
        due=due,
    )


_LOG: Final = (
    f"SELECT p.seq, e.at, ifnull(length(e.text), 0) + {EVENT_BYTES} FROM places AS p"  # noqa: S608  a constant
    " JOIN events AS e ON e.position = p.position WHERE p.room_id = ? ORDER BY p.seq LIMIT ?"
)


def _date_fronts(cursor: sqlite3.Cursor, now: int) -> bool:
    """Date the rooms whose first event lies in the future; return True if there may be more."""
    query = "SELECT id FROM rooms WHERE oldest > ? LIMIT ?"
    rooms = cursor.execute(query, (now, CHUNK)).fetchall()
    if rooms:
        cursor.execute("BEGIN IMMEDIATE")
        file(cursor)
        for (room_id,) in rooms:
            log = cursor.execute(_LOG, (room_id, CHUNK)).fetchall()
            dated = (front_time(log, now), room_id)
            cursor.execute("UPDATE rooms SET oldest = ? WHERE id = ?", dated)
        cursor.execute("COMMIT")
    return len(rooms) == CHUNK


def _sweep_oldest(
    cursor: sqlite3.Cursor, marks: Watermarks, retention: Retention, now: int, excess: int
) -> int:
    """Remove the oldest events of all rooms, each room's from its front."""
    before = retention.events_before(now)
    execute = cursor.execute
    query = (
        "SELECT id, oldest FROM rooms WHERE oldest IS NOT NULL AND oldest < ? ORDER BY oldest"
        " LIMIT 2"
    )
    removed = 0
    while removed < CHUNK:
        until = now + 1 if excess > 0 else before
        if until is None:
            break
        fronts = execute(query, (until,)).fetchall()
        if not fronts:
            break
        if not removed:
            execute("BEGIN IMMEDIATE")
            file(cursor)
        (room_id, oldest), *others = fronts
        log: Sequence[Front] = execute(_LOG, (room_id, CHUNK - removed)).fetchall()
        limit = until
        if excess > 0:
            # The rule of age removes the rest later, in any order of the rooms.
            log = until_freed(log, excess)
            limit = others[0][1] + 1 if others else until
        upto = front_before(log, oldest, limit, now)
        excess -= sum(size for seq, _, size in log if seq <= upto)
        removed += rewrite.remove_front(cursor, room_id, upto, marks.words)
    _removed(cursor, marks, now, removed)
    return removed


def _sweep_rooms(cursor: sqlite3.Cursor, marks: Watermarks, retention: Retention, now: int) -> int:
    keep = retention.keep_events
    if keep != marks.kept:
        # Also at the start: any room may hold more than is kept now.
        rooms = cursor.execute("SELECT id FROM rooms").fetchall()
        marks.kept, marks.touched = keep, dict.fromkeys(row[0] for row in rooms)
    touched = marks.touched
    if keep != "off" and touched:
        cursor.execute("BEGIN IMMEDIATE")
        file(cursor)
        cursor.execute("COMMIT")
    while keep != "off" and touched:
        room = next(iter(touched))
        first, last = cursor.execute(
            "SELECT (SELECT min(seq) FROM places WHERE room_id = :room),"
            " (SELECT max(seq) FROM places WHERE room_id = :room)",
            {"room": room},
        ).fetchone()
        if first is None or last - first < keep:
            del touched[room]
            continue
        cursor.execute("BEGIN IMMEDIATE")
        upto = min(last - keep, first + CHUNK - 1)
        removed = rewrite.remove_front(cursor, room, upto, marks.words)
        _removed(cursor, marks, now, removed)
        return removed
    return 0


def _removed(cursor: sqlite3.Cursor, marks: Watermarks, now: int, events: int) -> None:
    if events:
        marks.rooms.clear()  # some may be empty now
        marks.note_removed_text(cursor, now)
        cursor.execute("COMMIT")
        marks.pages += 4 * events


def _forget_users(
    cursor: sqlite3.Cursor, marks: Watermarks, retention: Retention, now: int
) -> list[tuple[str, ...]]:
    before = retention.users_before(now)
    if before is None:
        return []
    query = "SELECT user FROM users WHERE seen < ? ORDER BY seen LIMIT ?"
    return _drop(cursor, marks, query, (before, CHUNK), "DELETE FROM users WHERE user = ?")


def _drop_records(cursor: sqlite3.Cursor, marks: Watermarks, now: int) -> list[tuple[str, ...]]:
    query = "SELECT shelf, name FROM records WHERE until <= ? ORDER BY until LIMIT ?"
    return _drop(cursor, marks, query, (now, CHUNK), _DELETE_RECORD)


def _drop_expendable(cursor: sqlite3.Cursor, marks: Watermarks) -> int:
    """Drop a chunk of what is kept for guests who may never come back; return about its bytes."""
    kinds = ", ".join("?" * len(EXPENDABLE))
    found = "SELECT shelf, name FROM records WHERE until IS NOT NULL"
    records = f"{found} AND shelf IN ({kinds}) ORDER BY until LIMIT ?"  # only marks are formatted
    users = "SELECT user FROM users WHERE seen IS NOT NULL AND NOT subject ORDER BY seen LIMIT ?"
    dropped = _drop(cursor, marks, users, (CHUNK,), "DELETE FROM users WHERE user = ?")
    if not dropped:
        dropped = _drop(cursor, marks, records, (*EXPENDABLE, CHUNK), _DELETE_RECORD)
    return sum(ROW_BYTES + 2 * sum(map(len, row)) for row in dropped)


_DELETE_RECORD: Final = "DELETE FROM records WHERE shelf = ? AND name = ?"


def _drop(
    cursor: sqlite3.Cursor, marks: Watermarks, query: str, values: tuple[object, ...], delete: str
) -> list[tuple[str, ...]]:
    gone = cursor.execute(query, values).fetchall()
    if gone:
        cursor.execute("BEGIN IMMEDIATE")
        cursor.executemany(delete, gone)
        cursor.execute("COMMIT")
        marks.pages += len(gone)
    return gone


def _oldest(cursor: sqlite3.Cursor) -> tuple[int | None, int | None, int | None]:
    """Return the times of the oldest event, the longest absence and the first record's end."""
    row: tuple[int | None, int | None, int | None] = cursor.execute(
        "SELECT (SELECT min(oldest) FROM rooms WHERE oldest IS NOT NULL),"
        " (SELECT min(seen) FROM users),"
        " (SELECT min(until) FROM records WHERE until IS NOT NULL)"
    ).fetchone()
    return row
