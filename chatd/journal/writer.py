"""The one connection that writes: transactions on the store, without a word about waiting.

Everything here blocks. Whether it runs in the loop or in a thread is decided above.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from chatd.journal import Durability, StoreError, schema
from chatd.journal.claim import Claim, Marker
from chatd.journal.retention import CHUNK, Retention
from chatd.model import Event, Operation, Outcome, Post, Receipt

__all__ = ["BUSY_MS", "Swept", "Writer"]

_ROOM: Final = (
    "SELECT id, max(ifnull((SELECT max(seq) FROM events WHERE room_id = rooms.id), 0), head)"
    " FROM rooms WHERE fold = ?"
)
_POSITION: Final = (
    "SELECT max(ifnull((SELECT max(position) FROM events), 0),"
    " (SELECT value FROM meta WHERE name = 'position'))"
)
_INSERT: Final = (
    "INSERT INTO events (position, room_id, seq, at, kind, user, nick, text, of, reply_to, key)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_REMEMBER: Final = (
    "INSERT INTO users (user, nick, seen) VALUES (?, ?, ?)"
    " ON CONFLICT (user) DO UPDATE SET nick = excluded.nick, seen = excluded.seen"
)
_BY_KEY: Final = schema.EVENT + " WHERE r.fold = ? AND e.user = ? AND e.key = ?"

BUSY_MS: Final = 2000
"""How long another program's lock is waited for, where waiting holds up nobody else."""

_Key = tuple[str, str, str]


class Swept(Struct, frozen=True):
    """What a chunk of retention did. ``size`` is the store's bytes in use before it."""

    events: int
    more: bool
    size: int


class Writer:
    """Owns the store's file from `open` to `close`.

    While ``doubt`` is set, something failed and `settle` has not yet found out what is there.
    """

    def __init__(
        self,
        path: Path,
        *,
        durability: Durability,
        now: Callable[[], int],
        runtime_dir: Path | None,
        factory: type[sqlite3.Connection],
    ) -> None:
        self.path = path.resolve()
        self.doubt = False
        self.epoch = ""
        self.key = b""
        self.renewed = ""
        """Why the store got a new epoch when it was opened; empty if it did not."""
        self.pages = 0
        """Pages that commits wrote into the log since this was last set to 0: a guess."""
        self.duplicates = 0
        self._durability = durability
        self._now = now
        self._factory = factory
        self._marker = Marker(runtime_dir, self.path)
        self._claim: Claim | None = None
        self._connection: sqlite3.Connection
        self._cursor: sqlite3.Cursor
        self._life = 0  # how many times the store was opened
        self._position = 0  # of the last event that somebody was told of
        self._busy_ms = BUSY_MS
        self._touched: dict[int, None] = {}  # rooms that may hold more events than are kept

    # Opening and closing

    def open(self) -> None:
        """Open the store. Raises `StoreError`; nothing is held then."""
        claim = Claim.take(self.path)
        try:
            connection = schema.connect(self.path, self._factory, busy_ms=self._busy_ms)
            try:
                schema.migrate(connection, self.path)
                self._wake(connection, claim)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            claim.release()
            raise schema.refused(self.path, error) from error
        except BaseException:
            claim.release()
            raise
        self._claim = claim
        self._connection = connection
        self._cursor = connection.cursor()

    def _wake(self, connection: sqlite3.Connection, claim: Claim) -> None:
        # The store must be seen as open before the first number is given, through a loss of power
        # too: else it could wake as clean, without the numbers of this life.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        meta: dict[str, Any] = dict(connection.execute("SELECT name, value FROM meta"))
        if not meta.keys() >= {"epoch", "key", "state", "position", "life"}:
            raise StoreError(f"{self.path} is damaged: restore a backup, or move it aside")
        self.epoch, self.key = meta["epoch"], meta["key"]
        self.renewed = self._why_renewed(meta, claim)
        if self.renewed:
            self.epoch = secrets.token_hex(8)
        self._life = meta["life"] + 1
        connection.execute("UPDATE meta SET value = ? WHERE name = 'life'", (self._life,))
        connection.execute("UPDATE meta SET value = ? WHERE name = 'epoch'", (self.epoch,))
        connection.execute("UPDATE meta SET value = ? WHERE name = 'state'", (self._durability,))
        connection.execute("UPDATE users SET seen = ? WHERE seen IS NULL", (self._now(),))
        self._position = connection.execute(_POSITION).fetchone()[0]
        self._touched = dict.fromkeys(row[0] for row in connection.execute("SELECT id FROM rooms"))
        connection.execute("COMMIT")
        self._marker.put(self.epoch)
        claim.note(self._life, closed=False)
        self._prepare(connection)

    def _why_renewed(self, meta: dict[str, Any], claim: Claim) -> str:
        """Tell why numbers of this store may have been given that are not in it; empty: none."""
        life, clean = meta["life"], meta["state"] == "clean"
        if life and (
            claim.life is None or life < claim.life or (life == claim.life and claim.closed > clean)
        ):
            return "it was put there from a backup, or from elsewhere"
        # "fsync" is what the last life promised, not what this one does.
        if meta["state"] == "commit" and not self._marker.stands(self.epoch):
            return "it was not closed cleanly and the machine may have been off since"
        return ""

    def _prepare(self, connection: sqlite3.Connection) -> None:
        level = "FULL" if self._durability == "fsync" else "NORMAL"
        connection.execute(f"PRAGMA synchronous = {level}")

    def close(self) -> None:
        """Close the store and let go of its file. It is clean only if SQLite confirmed that.

        Raises `sqlite3.Error`.
        """
        assert self._claim is not None  # noqa: S101  open() was called
        try:
            try:
                if self._connection.in_transaction:
                    self._connection.rollback()
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.execute("UPDATE meta SET value = 'clean' WHERE name = 'state'")
            finally:
                self._connection.close()
            self._marker.remove()
            self._claim.note(self._life, closed=True)
        finally:
            self._claim.release()

    # Committing

    def patience(self, busy_ms: int) -> None:
        """Set how long a lock of another program is waited for."""
        if busy_ms != self._busy_ms:
            self._connection.execute(f"PRAGMA busy_timeout = {busy_ms}")
            self._busy_ms = busy_ms

    def commit(self, batch: Sequence[Operation]) -> list[Outcome]:
        """Commit the batch: all of it or nothing.

        Raises `sqlite3.Error`, or ValueError and OverflowError for what no row can hold. Where the
        transaction could not even begin, for another program's lock, there is no doubt.
        """
        self._cursor.execute("BEGIN IMMEDIATE")
        self.doubt = True
        try:
            outcomes = self._transact(batch, {})
        except sqlite3.IntegrityError:
            # A key was there before. That is rare, so that it is not looked for each time.
            self._cursor.execute("ROLLBACK")
            self._cursor.execute("BEGIN IMMEDIATE")
            outcomes = self._transact(batch, self._known(batch))
        self.doubt = False
        return outcomes

    def _known(self, batch: Sequence[Operation]) -> dict[_Key, Event]:
        known: dict[_Key, Event] = {}
        for post in batch:
            if isinstance(post, Post) and post.key is not None:
                key = (post.room, post.user, post.key)
                row = self._cursor.execute(_BY_KEY, key).fetchone()
                if row is not None:
                    known[key] = schema.decode(row)
        return known

    def _transact(self, batch: Sequence[Operation], known: dict[_Key, Event]) -> list[Outcome]:
        execute = self._cursor.execute
        at = self._now()
        position: int = execute(_POSITION).fetchone()[0]
        rooms: dict[str, list[int]] = {}  # by fold: id, seq
        rows: list[tuple[object, ...]] = []
        records: list[tuple[object, ...]] = []
        outcomes: list[Outcome] = []
        characters = duplicates = 0
        for operation in batch:
            if not isinstance(operation, Post):
                record = operation.record
                records.append((record.user, record.nick, record.seen))
                outcomes.append(None)
                continue
            fold, user, nick, text = operation.room, operation.user, operation.nick, operation.text
            kind, key, of, reply_to = (
                operation.kind,
                operation.key,
                operation.of,
                operation.reply_to,
            )
            if key is not None and (first := known.get((fold, user, key))) is not None:
                duplicates += 1
                outcomes.append(Receipt(first, True))
                continue
            room = rooms.get(fold)
            if room is None:
                room = rooms[fold] = self._room(fold, operation.name)
            position += 1
            room[1] = seq = room[1] + 1
            event = Event(position, fold, seq, at, kind, user, nick, text, of, reply_to)
            rows.append((position, room[0], seq, at, kind, user, nick, text, of, reply_to, key))
            if key is not None:
                known[fold, user, key] = event
            if text is not None:
                characters += len(text)
            outcomes.append(Receipt(event))
        if len(rows) == 1:
            execute(_INSERT, rows[0])
        elif rows:
            self._cursor.executemany(_INSERT, rows)
        if records:
            self._cursor.executemany(_REMEMBER, records)
        execute("COMMIT")
        self._position = position
        self.duplicates += duplicates
        for room_id, _ in rooms.values():
            self._touched[room_id] = None
        # A leaf of each tree, one of the keys' for each event, and the text's own.
        self.pages += 4 + len(batch) + characters // 4096
        return outcomes

    def _room(self, fold: str, name: str) -> list[int]:
        row = self._cursor.execute(_ROOM, (fold,)).fetchone()
        if row is not None:
            return list(row)
        self._cursor.execute("INSERT INTO rooms (fold, name) VALUES (?, ?)", (fold, name))
        assert self._cursor.lastrowid is not None  # noqa: S101  a row was inserted
        return [self._cursor.lastrowid, 0]

    def settle(self) -> list[Event]:
        """Roll back, and give the events that are there though nobody was told; ends the doubt.

        Raises `sqlite3.Error`; the doubt stays.
        """
        try:
            found = self._look()
        except sqlite3.Error:
            self._reopen()
            found = self._look()
        self.doubt = False
        return found

    def _look(self) -> list[Event]:
        if self._connection.in_transaction:
            self._connection.rollback()
        query = schema.EVENT + " WHERE e.position > ? ORDER BY e.position"
        rows = self._connection.execute(query, (self._position,)).fetchall()
        found = [schema.decode(row) for row in rows]
        if found:
            self._position = found[-1].position
        return found

    def _reopen(self) -> None:
        connection = schema.connect(self.path, self._factory, busy_ms=self._busy_ms)
        try:
            query = "SELECT value FROM meta WHERE name = 'epoch'"
            if connection.execute(query).fetchone()[0] != self.epoch:
                raise sqlite3.DatabaseError("another store was put in this one's place")
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection.close()
        self._connection = connection
        self._cursor = connection.cursor()

    def checkpoint(self) -> None:
        """Copy all of the log into the file, so that the next commit begins the log anew.

        A passive checkpoint beside a busy writer never gets to the end of what is being written.
        """
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    # Retention

    def size(self) -> int:
        """Give the bytes in use. Freed pages are used again before the file grows."""
        execute = self._cursor.execute
        pages: int = execute("PRAGMA page_count").fetchone()[0]
        free: int = execute("PRAGMA freelist_count").fetchone()[0]
        page: int = execute("PRAGMA page_size").fetchone()[0]
        return (pages - free) * page

    def sweep(self, retention: Retention) -> Swept:
        """Remove one chunk of the past. Raises `sqlite3.Error`; then `settle` must come.

        When there is nothing to do it reads some ten pages, however big the store is.
        """
        now = self._now()
        size = self.size()
        self.doubt = True
        removed = self._sweep_oldest(retention, now, size)
        if not removed:
            removed = self._sweep_rooms(retention)
        forgotten = 0
        if not removed:
            forgotten = self._forget_users(retention, now)
        self.doubt = False
        return Swept(removed, bool(removed or forgotten), size)

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
        return self._remove("position <= ?", (upto,))

    def _sweep_rooms(self, retention: Retention) -> int:
        keep = retention.keep_events
        while keep != "off" and self._touched:
            room = next(iter(self._touched))
            first, last = self._cursor.execute(
                "SELECT (SELECT min(seq) FROM events WHERE room_id = :room),"
                " (SELECT max(seq) FROM events WHERE room_id = :room)",
                {"room": room},
            ).fetchone()
            if first is None or last - first < keep:
                del self._touched[room]
                continue
            upto = min(last - keep, first + CHUNK - 1)
            return self._remove("room_id = ? AND seq <= ?", (room, upto))
        return 0

    def _remove(self, where: str, values: tuple[int, ...]) -> int:
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
        removed = execute(f"DELETE FROM events WHERE {where}", values).rowcount  # noqa: S608
        execute("COMMIT")
        self.pages += 4 * removed
        return removed

    def _forget_users(self, retention: Retention, now: int) -> int:
        before = retention.users_before(now)
        if before is None:
            return 0
        query = "SELECT user FROM users WHERE seen < ? ORDER BY seen LIMIT ?"
        gone = self._cursor.execute(query, (before, CHUNK)).fetchall()
        if gone:
            self._cursor.execute("BEGIN IMMEDIATE")
            self._cursor.executemany("DELETE FROM users WHERE user = ?", gone)
            self._cursor.execute("COMMIT")
            self.pages += len(gone)
        return len(gone)
