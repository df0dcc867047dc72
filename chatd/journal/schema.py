"""The store's tables, their history, and connections to them.

`STEPS` is the history of the schema: a store at version n has had the first n steps. Opening it
applies the rest, each in its own transaction, which ends with the new version.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from chatd.journal import StoreError
from chatd.journal.places import place
from chatd.model import Event

__all__ = [
    "EVENT",
    "PAGE_BYTES",
    "POSITION",
    "STEPS",
    "LogEnd",
    "connect",
    "decode",
    "migrate",
    "number",
    "store_error",
]

_APPLICATION: Final = 0x63686174
"""``chat`` in ASCII, in the file's header, where other SQLite files have another number."""

PAGE_BYTES: Final = 2048
"""Of a new store. A commit writes whole pages into the log, two for one event: less than with
SQLite's 4096; in a batch of 64 there is no difference. With 1024, large texts and batches cost
more."""

# Why the tables are as they are:
# - events: the key is stored with its event and goes with it. Nothing else is written for an event,
#   not even a head: each additional page costs a commit 4 µs and a frame of 4 KiB in the log.
# - places: where events are, by room and number, up to the position that is meta's `filed`: see
#   `chatd.journal.places`. An event that is removed leaves it by a trigger.
# - rooms.head: the number of the last event that was removed, which is the room's last number if no
#   event is left; gone: its position. meta's position is the last one for the store.
# - rooms.oldest: the time of the room's first event, NULL without one: who is next in retention.
# - records.shelf: the kind of the record.
# - meta: epoch, key, state (`clean`, or the durability under which it was opened), position, life
#   (how many times it was opened), dirty (see `maintenance.Watermarks`), indexed, floor and tokens
#   (the region of the index of words, and the version of its tokens: see `index`), clock, jump and
#   doubted (see `chatd.clock.ClockState`). A text that looks like a number becomes one: outside
#   STRICT tables ANY has numeric affinity (`new_epoch`).
# - words: the index of words as it was first; `index.WordIndex` makes the present one.
STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE rooms (
            id INTEGER PRIMARY KEY,
            fold TEXT NOT NULL UNIQUE,
            name TEXT NOT NULL,
            head INTEGER NOT NULL DEFAULT 0,
            topic TEXT NOT NULL DEFAULT ''
        )""",
        """CREATE TABLE events (
            position INTEGER PRIMARY KEY,
            room_id INTEGER NOT NULL REFERENCES rooms (id),
            seq INTEGER NOT NULL,
            at INTEGER NOT NULL,
            kind TEXT NOT NULL,
            user TEXT NOT NULL,
            nick TEXT NOT NULL,
            text TEXT,
            of INTEGER,
            reply_to INTEGER,
            edited INTEGER,
            deleted INTEGER NOT NULL DEFAULT 0,
            key TEXT
        )""",
        "CREATE UNIQUE INDEX events_seq ON events (room_id, seq)",
        "CREATE UNIQUE INDEX events_key ON events (room_id, user, key) WHERE key IS NOT NULL",
        """CREATE TABLE users (
            user TEXT PRIMARY KEY,
            nick TEXT NOT NULL,
            seen INTEGER
        ) WITHOUT ROWID""",
        "CREATE INDEX users_seen ON users (seen)",
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY) WITHOUT ROWID",
        """INSERT INTO meta VALUES
            ('epoch', ''),
            ('key', randomblob(32)),
            ('state', 'clean'),
            ('position', 0),
            ('life', 0)""",
        f"PRAGMA application_id = {_APPLICATION}",
    ),
    (
        """CREATE TABLE records (
            shelf TEXT NOT NULL,
            name TEXT NOT NULL,
            value BLOB NOT NULL,
            until INTEGER,
            PRIMARY KEY (shelf, name)
        ) WITHOUT ROWID""",
        "CREATE INDEX records_until ON records (until) WHERE until IS NOT NULL",
        """CREATE VIRTUAL TABLE words USING fts5 (
            text,
            room_id,
            content = 'events',
            content_rowid = 'position',
            columnsize = 0,
            tokenize = 'unicode61 remove_diacritics 2'
        )""",
        f"INSERT INTO words (words, rank) VALUES ('pgsz', {PAGE_BYTES - 68})",  # noqa: S608  a constant
        "INSERT INTO words (words, rank) VALUES ('automerge', 0)",
        "INSERT INTO meta VALUES ('indexed', 0), ('dirty', NULL)",
    ),
    (
        "ALTER TABLE users ADD COLUMN subject INTEGER NOT NULL DEFAULT 0",
        # A partial index: subjects are few among the guests, and all are read at startup.
        "CREATE INDEX users_subject ON users (user) WHERE subject",
    ),
    # The index of words is stale, because no tokens are those of ''.
    ("INSERT INTO meta VALUES ('floor', 0), ('tokens', '')",),
    (
        "ALTER TABLE rooms ADD COLUMN oldest INTEGER",
        "ALTER TABLE rooms ADD COLUMN gone INTEGER NOT NULL DEFAULT 0",
        """UPDATE rooms SET
            oldest = (SELECT at FROM events WHERE room_id = rooms.id ORDER BY seq LIMIT 1),
            gone = (SELECT value FROM meta WHERE name = 'position')""",
        "CREATE INDEX rooms_oldest ON rooms (oldest) WHERE oldest IS NOT NULL",
        "INSERT INTO meta VALUES ('clock', NULL), ('jump', 0), ('doubted', 0)",
    ),
    (
        # The index becomes a table where it is: SQLite stores a table WITHOUT ROWID as it stores
        # an index (sqlite.org/fileformat2.html, 1.6 and 2.4). To copy one of 10 million events
        # takes a minute.
        "PRAGMA writable_schema = ON",
        """UPDATE sqlite_schema SET type = 'table', name = 'places', tbl_name = 'places',
            sql = 'CREATE TABLE places (room_id INTEGER NOT NULL, seq INTEGER NOT NULL,
                position INTEGER NOT NULL, PRIMARY KEY (room_id, seq)) WITHOUT ROWID'
            WHERE name = 'events_seq'""",
        "PRAGMA writable_schema = RESET",
        """CREATE TRIGGER events_removed AFTER DELETE ON events BEGIN
            DELETE FROM places WHERE room_id = OLD.room_id AND seq = OLD.seq;
        END""",
        "INSERT INTO meta SELECT 'filed', ifnull(max(position), 0) FROM events",
    ),
)

POSITION: Final = (
    "SELECT max(ifnull((SELECT max(position) FROM events), 0),"
    " (SELECT value FROM meta WHERE name = 'position'))"
)
"""Selects the store's last position, even if that event was removed."""

EVENT: Final = (
    "SELECT e.position, r.fold, e.seq, e.at, e.kind, e.user, e.nick,"  # noqa: S608  our own expression
    " CASE e.kind WHEN 'edit' THEN"
    f" (SELECT t.text FROM events AS t WHERE t.position = {place('e.room_id', 'e.of')})"
    " ELSE e.text END,"
    " e.of, e.reply_to, e.edited, e.deleted FROM events AS e JOIN rooms AS r ON r.id = e.room_id"
)
"""The beginning of a query whose rows `decode` reads: events with their present texts."""


class LogEnd(Struct, gc=False):
    """The end of a room's log, where it goes on."""

    room_id: int
    seq: int
    """The last number that was given."""
    empty: bool
    """Whether no event is left."""


def number(value: int) -> int:
    """Clamp a client's number to SQLite's range; a negative LIMIT would mean no limit at all."""
    return max(0, min(value, 2**63 - 1))


def decode(row: tuple[Any, ...]) -> Event:
    """Return the event of one row of an `EVENT` query."""
    position, room, seq, at, kind, user, nick, text, of, reply_to, edited, deleted = row
    return Event(
        position, room, seq, at, kind, user, nick, text, of, reply_to, edited, bool(deleted)
    )


def connect(path: Path, factory: type[sqlite3.Connection], *, busy_ms: int) -> sqlite3.Connection:
    """Open the existing file. Transactions are begun and ended explicitly.

    A connection is used by one thread at a time, but not always by the same one.
    """
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=rw",  # a removed store must not be created again
        uri=True,
        timeout=busy_ms / 1000,
        isolation_level=None,
        check_same_thread=False,
        factory=factory,
    )
    try:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA secure_delete = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def migrate(
    connection: sqlite3.Connection, path: Path, steps: Sequence[Sequence[str]] = STEPS
) -> None:
    """Bring the store to the newest version; make the tables of an empty file.

    Raises:
        StoreError: The store is newer, or the file is not a store.
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    tables: int = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if application != _APPLICATION and (tables or version):
        raise StoreError(
            f"{path} is a SQLite file of another program: set history.path to another file"
        )
    if version > len(steps):
        raise StoreError(
            f"{path} was written by a newer chatd (its version is {version}, this one knows"
            f" {len(steps)}): install that one again, or set history.path to another file"
        )
    if not tables:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    mode: str = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError(
            f"{path} is on a file system without shared memory: move it to a local one"
        )
    for reached, step in enumerate(steps[version:], version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in step:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {reached}")
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise


def store_error(path: Path, error: Exception) -> StoreError:
    """Return the error with one line: why SQLite does not open the store, and what to do.

    Any other exception than SQLite's is damage too: of values that chatd did not write, or of a
    message of SQLite that quotes the file and is not text.
    """
    # The low byte is the primary code (sqlite.org/rescode.html).
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if not isinstance(error, sqlite3.Error) or code in {
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CORRUPT,
    }:
        return StoreError(
            f"{path} is damaged ({error}): restore a backup, or move it away to start empty"
        )
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreError(f"{path} is locked by another program: end that one first")
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}:
        return StoreError(
            f"{path} cannot be written ({error}): give the file and its folder to chatd's user"
        )
    if code == sqlite3.SQLITE_FULL:
        return StoreError(f"{path}: the disk is full: make room")
    return StoreError(f"{path} cannot be opened ({error}): restore a backup, or move it aside")
