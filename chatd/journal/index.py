"""SQLite's index of words: a table of FTS5 that holds the tokens of `chatd.journal.words`.

The index is derived from the messages, and nothing but a search depends on it. It is made in chunks
between commits, and has the messages of a *region*, ``floor < position <= indexed``. New messages
extend it upwards; old ones, after `WordIndex.renew`, downwards. A change to a message outside of
the region does not touch the index.

FTS5 gets the tokens instead of the text, and stores no text itself (sqlite.org/fts5.html, 4.4.3).
So only the same tokens remove what was added, and FTS5's own ``rebuild`` cannot make it again. An
index whose tokens were made by another version of `chatd.journal.words`, or that is damaged, is
*stale*: nothing reads or writes it any more until `renew` puts an empty one in its place.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from chatd.journal import words
from chatd.journal.words import Phrase

__all__ = [
    "CHUNK_EVENTS",
    "FOUND",
    "MERGE_PAGES",
    "Row",
    "WordIndex",
    "check",
    "expression",
    "is_damage",
]

MERGE_PAGES: Final = 16
"""Pages that are merged with each chunk that is added: more than the chunk writes, times the levels
that it goes through, so that no merge of thousands of pages is ever due at once."""

CHUNK_EVENTS: Final = 128
_CHUNK_BYTES: Final = 8 * 1024
"""The size of one chunk, 0.5 to 2 ms, for which new messages wait. In chunks of twice the size a
message costs up to a fifth less, in chunks of half the size a quarter more. Text becomes tokens at
20 MB/s, or 5 MB/s where pairs are made."""

_FEW_BYTES: Final = 2 * 1024
"""Old messages are added in the same chunk as new ones, if these are no more than this: in a busy
room there are new ones for each chunk."""

_FORMER: Final = "discarded*"
"""The names of the tables of former indexes."""

_DISCARDED_ROWS: Final = 64
"""Pages of a former index that are removed at a time; each is overwritten first."""

_DAMAGE: Final = frozenset(
    {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_CONSTRAINT}
)
"""The codes with which FTS5 reports tables of its own that are missing, or do not hold what it put
there. All others come from the disk, or from other programs."""

# A leaf fits a page of 2048 bytes beside the row's header.
_PAGE_BYTES: Final = 1980

_CREATE: Final = (
    # columnsize is for ranking alone. `merge` is used in slices: automerge does 64 pages at once.
    """CREATE VIRTUAL TABLE words USING fts5 (
        text,
        about,
        content = '',
        columnsize = 0,
        tokenize = "ascii tokenchars '$+#'"
    )""",
    f"INSERT INTO words (words, rank) VALUES ('pgsz', {_PAGE_BYTES})",  # noqa: S608  a constant
    "INSERT INTO words (words, rank) VALUES ('automerge', 0)",
)


class Row(NamedTuple):
    """A message as it is indexed."""

    position: int
    text: str | None
    room_id: int
    user: str
    nick: str

    def values(self) -> tuple[int, str, str]:
        about = f"r{self.room_id} {words.by_user(self.user)} {words.by_nick(self.nick)}"
        return self.position, words.indexable(self.text or ""), about


class WordIndex:
    """The index as its writer remembers it: the region, and whether it can be used.

    All methods that take a cursor belong into a transaction.
    """

    def __init__(self) -> None:
        self.indexed = 0
        """Position up to which messages are in the index."""
        self.floor = 0
        """Position up to which old messages are not in the index yet."""
        self.stale = False
        self.remains = True
        """Whether there may be something left of a former index."""
        self.used = False
        """Whether it was read or written since this was last set to False."""
        self._checked: int | None = None
        """The version of the store's data, as SQLite counts it for a connection, that was checked.
        Our own commits leave it as it is."""

    def reload(self, connection: sqlite3.Connection) -> None:
        """Read what is committed."""
        query = "SELECT name, value FROM meta WHERE name IN ('indexed', 'floor', 'tokens')"
        found = dict(connection.execute(query).fetchall())
        self.stale = found["tokens"] != words.VERSION
        self.indexed, self.floor = (0, 0) if self.stale else (found["indexed"], found["floor"])
        self.remains = bool(_tables(connection, _FORMER))
        self._checked = None

    def lacks(self, upto: int) -> bool:
        """Return whether messages up to a position are missing, or a former index is left."""
        return self.stale or self.indexed < upto or self.floor > 0 or self.remains

    def has(self, position: int) -> bool:
        """Return whether a message at this position is in the region."""
        return self.floor < position <= self.indexed

    def replace(self, cursor: sqlite3.Cursor, old: Row, text: str) -> None:
        """Put another text in the place of a message's old one."""
        if self.has(old.position):
            self.remove(cursor, [old])
            self.add(cursor, [old._replace(text=text)])

    def remove(self, cursor: sqlite3.Cursor, rows: Iterable[Row]) -> None:
        """Remove those of these messages that are in the region; one without a text is not."""
        inside = [row.values() for row in rows if row.text is not None and self.has(row.position)]
        if inside:
            self.used = True
            delete = "INSERT INTO words (words, rowid, text, about) VALUES ('delete', ?, ?, ?)"
            cursor.executemany(delete, inside)

    def add(self, cursor: sqlite3.Cursor, rows: Sequence[Row]) -> None:
        """Add messages, in the order of their positions."""
        self.used = True
        insert = "INSERT INTO words (rowid, text, about) VALUES (?, ?, ?)"
        cursor.executemany(insert, [row.values() for row in rows])

    def give_up(self, cursor: sqlite3.Cursor) -> None:
        """Record that it is stale."""
        cursor.execute("UPDATE meta SET value = '' WHERE name = 'tokens'")
        self.stale = True
        self.indexed = self.floor = 0

    # ---- in chunks

    def grow(self, cursor: sqlite3.Cursor, upto: int) -> int:
        """Index one chunk of the messages up to a position, new ones first.

        Return about how many bytes that were; 0 if all of them were indexed.
        """
        if self.stale:
            self.renew(cursor, upto)
        else:
            self.used = True
            self._check(cursor)
        size = 0
        if self.indexed < upto:
            size += self._grow(cursor, upto, "position > ? ORDER BY position")
        if self.floor and size <= _FEW_BYTES:
            size += self._grow(cursor, 0, "position <= ? ORDER BY position DESC")
        return size

    def _check(self, cursor: sqlite3.Cursor) -> None:
        """Check the index at the start, and when another program has written into the store."""
        version: int = cursor.execute("PRAGMA data_version").fetchone()[0]
        if version != self._checked:
            check(cursor, self.indexed, self.floor)
            self._checked = version

    def _grow(self, cursor: sqlite3.Cursor, end: int, where: str) -> int:
        """Index the next chunk from an edge of the region, or move the edge to the end."""
        upwards = end > 0
        query = "SELECT position, text, room_id, user, nick, kind FROM events WHERE "
        query += f"{where} LIMIT ?"
        edge = self.indexed if upwards else self.floor
        rows: list[Row] = []
        size = seen = 0
        for *values, kind in cursor.execute(query, (edge, CHUNK_EVENTS)).fetchall():
            row = Row(*values)
            edge = row.position if upwards else row.position - 1
            seen += 1
            if kind == "message" and row.text is not None:
                rows.append(row)
                size += len(row.text.encode())
                if size > _CHUNK_BYTES:
                    break
        if not seen:  # all events there have been removed
            edge = end
        if rows:
            # FTS5 writes a part of the index of its own for each number that is not ascending.
            self.add(cursor, rows if upwards else rows[::-1])
            self.merge(cursor, MERGE_PAGES)
        name = "indexed" if upwards else "floor"
        cursor.execute("UPDATE meta SET value = ? WHERE name = ?", (edge, name))
        if upwards:
            self.indexed = edge
        else:
            self.floor = edge
        return size + 1

    def renew(self, cursor: sqlite3.Cursor, upto: int) -> None:
        """Put an empty index in the place of the present one, of which `discard` removes the rest.

        SQLite cannot drop a table of FTS5 that it cannot open. Without its entry in the schema,
        what is left are ordinary tables.
        """
        execute = cursor.execute
        execute("PRAGMA writable_schema = ON")
        try:
            execute("DELETE FROM sqlite_schema WHERE name = 'words'")
        finally:
            execute("PRAGMA writable_schema = RESET")
        number = len(_tables(cursor, _FORMER))
        for name in _tables(cursor, "words_*"):
            execute(f"ALTER TABLE {name} RENAME TO {name.replace('words', f'discarded{number}')}")
        for statement in _CREATE:
            execute(statement)
        for name, value in (("tokens", words.VERSION), ("indexed", upto), ("floor", upto)):
            execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))
        self.stale = False
        self.remains = True
        self.indexed = self.floor = upto

    def merge(self, cursor: sqlite3.Cursor, pages: int) -> bool:
        """Merge about this many pages; a negative number begins to merge everything into one part.

        Return False if there was nothing to merge. (sqlite.org/fts5.html, 6.7 and 6.8.)
        """
        if self.stale:
            return False
        self.used = True
        connection = cursor.connection
        before = connection.total_changes
        cursor.execute("INSERT INTO words (words, rank) VALUES ('merge', ?)", (pages,))
        return connection.total_changes - before > 1

    def discard(self, cursor: sqlite3.Cursor) -> bool:
        """Remove one chunk of former indexes; return True if more may be left."""
        if not self.remains:
            return False
        tables = _tables(cursor, _FORMER)
        for name in tables:
            # Only this one is large.
            if name.endswith("_data"):
                some = f"SELECT rowid FROM {name} LIMIT {_DISCARDED_ROWS}"  # noqa: S608  a name of ours
                if cursor.execute(f"DELETE FROM {name} WHERE rowid IN ({some})").rowcount:  # noqa: S608
                    return True
        for name in tables:
            cursor.execute(f"DROP TABLE {name}")
        self.remains = False
        return False


def _tables(store: sqlite3.Cursor | sqlite3.Connection, pattern: str) -> list[str]:
    query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB ? ORDER BY name"
    return [row[0] for row in store.execute(query, (pattern,)).fetchall()]


def check(cursor: sqlite3.Cursor | sqlite3.Connection, indexed: int, floor: int) -> None:
    """Raise sqlite3.DatabaseError if the index does not have the newest message of its region.

    Then its tables were emptied or replaced. Most other damage shows when it is read or written.
    """
    newest = (
        "SELECT position, room_id FROM events WHERE position <= ? AND position > ?"
        " AND kind = 'message' AND text IS NOT NULL ORDER BY position DESC LIMIT 1"
    )
    row = cursor.execute(newest, (indexed, floor)).fetchone()
    if row is None:
        return
    position, room_id = row
    has = "SELECT 1 FROM words WHERE words MATCH ? AND rowid = ?"
    if cursor.execute(has, (expression([room_id], ()), position)).fetchone() is None:
        damage = sqlite3.DatabaseError(f"the index of words lacks event {position}")
        damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT_VTAB
        raise damage


def is_damage(error: BaseException | None) -> bool:
    """Return whether an error that came while the index was used means that it is damaged."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    # The low byte is the primary code (sqlite.org/rescode.html).
    return code is not None and code & 0xFF in _DAMAGE


FOUND: Final = "SELECT rowid FROM words WHERE words MATCH ? AND rowid < ? ORDER BY rowid DESC"
"""Selects the positions of messages that match an `expression`, the newest first."""


def expression(
    room_ids: Sequence[int], phrases: Sequence[Phrase], senders: Sequence[str] = ()
) -> str:
    """Return what is looked for in FTS5's query language.

    No token contains any of its syntax.

    Args:
        room_ids: The ids of the rooms, of which the message must be in one.
        phrases: What the text must have.
        senders: Tokens of senders, of which the message must have one; empty for all.
    """
    parts = [f"about : ({_any(f'r{room_id}' for room_id in room_ids)})"]
    if senders:
        parts.append(f"about : ({_any(senders)})")
    parts += [
        f'text : "{" ".join(phrase.tokens)}"{" *" if phrase.prefix else ""}' for phrase in phrases
    ]
    return " AND ".join(parts)


def _any(tokens: Iterable[str]) -> str:
    return " OR ".join(f'"{token}"' for token in tokens)
