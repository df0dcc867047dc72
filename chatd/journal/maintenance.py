"""What the writer does behind the commits, in chunks: words made findable, the past removed.

Each call is one transaction of about a millisecond, or of none at all where nothing is due.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from msgspec import Struct

from chatd.journal import fulltext
from chatd.journal.marks import Watermarks
from chatd.journal.retention import CHUNK, Retention

__all__ = ["Maintenance", "Swept"]

_CHUNK_CHARACTERS: Final = 32 * 1024
"""Of text, in a chunk of the index: it is broken into words at some 20 MB a second."""


class Swept(Struct, frozen=True):
    """What a chunk of retention did.

    ``size`` is the store's bytes in use before it. ``dirty`` says that it is time to clean the
    files of what went (`chatd.journal.writer.Writer.purge`). ``due`` is when the next event, user
    or record goes, in ms, where nothing more is left to be done now; None: none ever does.
    """

    events: int
    more: bool
    size: int
    dirty: bool
    due: int | None


class Maintenance:
    """Works with the writer's cursor, and moves its marks. Whatever it raises leaves a doubt."""

    def __init__(self, cursor: sqlite3.Cursor, marks: Watermarks) -> None:
        self._cursor = cursor
        self._marks = marks
        self.pages = 0
        """Pages written into the log: a guess."""

    def size(self) -> int:
        """Give the bytes in use. Freed pages are used again before the file grows."""
        execute = self._cursor.execute
        pages: int = execute("PRAGMA page_count").fetchone()[0]
        free: int = execute("PRAGMA freelist_count").fetchone()[0]
        page: int = execute("PRAGMA page_size").fetchone()[0]
        return (pages - free) * page

    # The index

    def index(self) -> bool:
        """Make one chunk findable; True if more is left."""
        marks, execute = self._marks, self._cursor.execute
        if marks.indexed >= marks.position:
            return False
        query = (
            "SELECT position, text, room_id, kind FROM events WHERE position > ?"
            " ORDER BY position LIMIT ?"
        )
        indexed, characters = marks.indexed, 0
        rows: list[fulltext.Row] = []
        for position, text, room_id, kind in execute(query, (indexed, CHUNK)).fetchall():
            indexed = position
            if kind == "message" and text is not None:
                rows.append((position, text, room_id))
                characters += len(text)
                if characters > _CHUNK_CHARACTERS:
                    break
        if indexed == marks.indexed:  # what was to be indexed is gone
            indexed = marks.position
        execute("BEGIN IMMEDIATE")
        if rows:
            fulltext.add(self._cursor, rows)
            fulltext.merge(self._cursor, fulltext.MERGE_PAGES)
        execute("UPDATE meta SET value = ? WHERE name = 'indexed'", (indexed,))
        execute("COMMIT")
        marks.indexed = indexed
        self.pages += 8 + characters // 512
        return indexed < marks.position

    def merge(self) -> None:
        """Merge a slice of the index into one, so that words that were taken out leave the file.

        What FTS5 takes out it only marks, in a newer part of the index. One merge of all the parts
        that there are when it begins ends both. A slice ends between two words: one that is in each
        of a million messages takes 0.1 s.
        """
        marks = self._marks
        pages = fulltext.MERGE_PAGES
        if marks.merge == "due":
            marks.merge, marks.later = "begun", None
            pages = -pages
        self._cursor.execute("BEGIN IMMEDIATE")
        more = fulltext.merge(self._cursor, pages)
        self._cursor.execute("COMMIT")
        self.pages += fulltext.MERGE_PAGES
        if not more:
            marks.merge = "done"

    # Retention

    def sweep(self, retention: Retention, now: int) -> Swept:
        """Remove one chunk of the past.

        When there is nothing to do it reads some ten pages, however big the store is.
        """
        size = self.size()
        removed = self._sweep_oldest(retention, now, size)
        if not removed:
            removed = self._sweep_rooms(retention, now)
        more = removed or self._forget_users(retention, now) or self._drop_records(now)
        dirty = not more and retention.purges(self._marks.dirty, now)
        due = None if more else retention.next_due(*self._oldest())
        return Swept(removed, bool(more), size, dirty, due)

    def _oldest(self) -> tuple[int | None, int | None, int | None]:
        """Return when the oldest event was, the longest absent user left, the first record ends."""
        row: tuple[int | None, int | None, int | None] = self._cursor.execute(
            "SELECT (SELECT at FROM events ORDER BY position LIMIT 1),"
            " (SELECT min(seen) FROM users),"
            " (SELECT min(until) FROM records WHERE until IS NOT NULL)"
        ).fetchone()
        return row

    def _sweep_oldest(self, retention: Retention, now: int, size: int) -> int:
        before = retention.events_before(now)
        excess = retention.excess(size)
        if before is None and not excess:
            return 0
        query = "SELECT position, at FROM events ORDER BY position LIMIT ?"
        upto = 0
        # The oldest alone first: most sweeps end there. A row not fetched would hold a snapshot.
        for limit in (1, CHUNK):
            for position, at in self._cursor.execute(query, (limit,)).fetchall():
                if not excess and (before is None or at >= before):
                    break
                upto = position
            if not upto:
                return 0
        return self._remove(now, "position <= ?", (upto,))

    def _sweep_rooms(self, retention: Retention, now: int) -> int:
        keep, marks = retention.keep_events, self._marks
        if keep != marks.kept:
            # Also at first: any room may hold more than is kept now.
            rooms = self._cursor.execute("SELECT id FROM rooms").fetchall()
            marks.kept, marks.touched = keep, dict.fromkeys(row[0] for row in rooms)
        touched = marks.touched
        while keep != "off" and touched:
            room = next(iter(touched))
            first, last = self._cursor.execute(
                "SELECT (SELECT min(seq) FROM events WHERE room_id = :room),"
                " (SELECT max(seq) FROM events WHERE room_id = :room)",
                {"room": room},
            ).fetchone()
            if first is None or last - first < keep:
                del touched[room]
                continue
            upto = min(last - keep, first + CHUNK - 1)
            return self._remove(now, "room_id = ? AND seq <= ?", (room, upto))
        return 0

    def _remove(self, now: int, where: str, values: tuple[int, ...]) -> int:
        # `where` is one of the two above.
        execute = self._cursor.execute
        execute("BEGIN IMMEDIATE")
        gone = execute(
            f"SELECT max(seq), room_id, max(position) FROM events WHERE {where} GROUP BY room_id",  # noqa: S608
            values,
        ).fetchall()
        self._cursor.executemany(
            "UPDATE rooms SET head = max(head, ?) WHERE id = ?", [row[:2] for row in gone]
        )
        execute(
            "UPDATE meta SET value = max(value, ?) WHERE name = 'position'",
            (max(row[2] for row in gone),),
        )
        found = execute(
            f"SELECT position, text, room_id FROM events WHERE {where}"  # noqa: S608
            " AND kind = 'message' AND text IS NOT NULL AND position <= ?",
            (*values, self._marks.indexed),
        ).fetchall()
        fulltext.take_out(self._cursor, found)
        self._marks.wipe(self._cursor, now)
        removed = execute(f"DELETE FROM events WHERE {where}", values).rowcount  # noqa: S608
        execute("COMMIT")
        self.pages += 4 * removed
        return removed

    def _forget_users(self, retention: Retention, now: int) -> int:
        before = retention.users_before(now)
        if before is None:
            return 0
        query = "SELECT user FROM users WHERE seen < ? ORDER BY seen LIMIT ?"
        return self._drop(query, before, "DELETE FROM users WHERE user = ?")

    def _drop_records(self, now: int) -> int:
        query = "SELECT shelf, name FROM records WHERE until <= ? ORDER BY until LIMIT ?"
        return self._drop(query, now, "DELETE FROM records WHERE shelf = ? AND name = ?")

    def _drop(self, query: str, before: int, delete: str) -> int:
        gone = self._cursor.execute(query, (before, CHUNK)).fetchall()
        if gone:
            self._cursor.execute("BEGIN IMMEDIATE")
            self._cursor.executemany(delete, gone)
            self._cursor.execute("COMMIT")
            self.pages += len(gone)
        return len(gone)
