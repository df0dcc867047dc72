"""The one connection that writes: transactions on the store, without a word about waiting.

Everything here blocks. Whether it runs in the loop or in a thread is decided above.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from chatd.journal import Durability, StoreError, schema
from chatd.journal.batch import Batch
from chatd.journal.lock import BootMarker, StoreLock
from chatd.journal.maintenance import Maintenance, Swept
from chatd.journal.marks import POSITION, Watermarks
from chatd.journal.retention import Retention
from chatd.model import Event, Operation, Outcome

__all__ = ["BUSY_MS", "Writer"]

_T = TypeVar("_T")

_EPOCH: Final = "SELECT value FROM meta WHERE name = 'epoch'"

BUSY_MS: Final = 2000
"""How long another program's lock is waited for, where waiting holds up nobody else."""


class Writer:
    """Owns the store's file from `open` to `close`.

    While ``doubt`` is set, something failed and `recover` has not yet found out what is there.
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
        self.events = 0
        self.duplicates = 0
        self._durability = durability
        self._now = now
        self._factory = factory
        self._marker = BootMarker(runtime_dir, self.path)
        self._lock: StoreLock | None = None
        self._connection: sqlite3.Connection
        self._cursor: sqlite3.Cursor
        self._generation = 0  # how many times the store was opened
        self._next_epoch: str | None = None  # of the last commit that began to take lines up
        self.marks = Watermarks()
        self._busy_ms = BUSY_MS

    # Opening and closing

    def open(self) -> None:
        """Open the store. Raises `StoreError`; nothing is held then."""
        lock = StoreLock.take(self.path)
        try:
            connection = schema.connect(self.path, self._factory, busy_ms=self._busy_ms)
            try:
                schema.migrate(connection, self.path)
                self._wake(connection, lock)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            lock.release()
            raise schema.refused(self.path, error) from error
        except BaseException:
            lock.release()
            raise
        self._lock = lock
        self._connection = connection
        self._cursor = connection.cursor()

    def _wake(self, connection: sqlite3.Connection, lock: StoreLock) -> None:
        # The store must be seen as open before the first number is given, through a loss of power
        # too: else it could wake as clean, without the numbers of this life.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        meta: dict[str, Any] = dict(connection.execute("SELECT name, value FROM meta"))
        if not meta.keys() >= {"epoch", "key", "state", "position", "life"}:
            raise StoreError(f"{self.path} is damaged: restore a backup, or move it aside")
        self.epoch, self.key = meta["epoch"], meta["key"]
        self.renewed = self._renewal_reason(meta, lock)
        if self.renewed:
            self.epoch = secrets.token_hex(8)
        self._generation = meta["life"] + 1
        connection.execute("UPDATE meta SET value = ? WHERE name = 'life'", (self._generation,))
        connection.execute("UPDATE meta SET value = ? WHERE name = 'epoch'", (self.epoch,))
        connection.execute("UPDATE meta SET value = ? WHERE name = 'state'", (self._durability,))
        connection.execute("UPDATE users SET seen = ? WHERE seen IS NULL", (self._now(),))
        self.marks.position = connection.execute(POSITION).fetchone()[0]
        self.marks.look(connection)
        connection.execute("COMMIT")
        self._marker.put(self.epoch)
        lock.note(self._generation, closed=False)
        self._prepare(connection)

    def _renewal_reason(self, meta: dict[str, Any], lock: StoreLock) -> str:
        """Tell why numbers of this store may have been given that are not in it; empty: none."""
        life, clean = meta["life"], meta["state"] == "clean"
        if life and (
            lock.generation is None
            or life < lock.generation
            or (life == lock.generation and lock.closed > clean)
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
        assert self._lock is not None  # noqa: S101  open() was called
        try:
            try:
                if self._connection.in_transaction:
                    self._connection.rollback()
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.execute("UPDATE meta SET value = 'clean' WHERE name = 'state'")
            finally:
                self._connection.close()
            self._marker.remove()
            self._lock.note(self._generation, closed=True)
        finally:
            self._lock.release()

    # Committing

    def set_busy_timeout(self, busy_ms: int) -> None:
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
            outcomes = self._transact(batch, keyed=False)
        except sqlite3.IntegrityError:
            self._cursor.execute("ROLLBACK")
            self._cursor.execute("BEGIN IMMEDIATE")
            outcomes = self._transact(batch, keyed=True)
        self.doubt = False
        return outcomes

    def _transact(self, batch: Sequence[Operation], *, keyed: bool) -> list[Outcome]:
        marks, at = self.marks, self._now()
        made = Batch(self._cursor, at=at, indexed=marks.indexed, keyed=keyed)
        outcomes = made.run(batch)
        if made.wiped:
            marks.wipe(self._cursor, at)
        self._next_epoch = made.epoch
        self._cursor.execute("COMMIT")
        self.events += made.position - marks.position
        marks.position = made.position
        if made.epoch is not None:
            self._renew(made.epoch)
        for room_id, _ in made.rooms.values():
            marks.touched[room_id] = None
        self.duplicates += made.duplicates
        # A leaf of each tree, one of the keys' for each event, and the text's own.
        self.pages += 4 + len(batch) + made.characters // 4096
        return outcomes

    def _renew(self, epoch: str) -> None:
        if epoch != self.epoch:
            self.epoch = epoch
            self._marker.put(epoch)

    def recover(self) -> list[Event]:
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
        rows = self._connection.execute(query, (self.marks.position,)).fetchall()
        found = [schema.decode(row) for row in rows]
        if found:
            self.events += len(found)
            self.marks.position = found[-1].position
        self.marks.look(self._connection)
        self._renew(self._connection.execute(_EPOCH).fetchone()[0])
        return found

    def _reopen(self) -> None:
        connection = schema.connect(self.path, self._factory, busy_ms=self._busy_ms)
        try:
            if connection.execute(_EPOCH).fetchone()[0] not in (self.epoch, self._next_epoch):
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

    # Behind the commits. Raises `sqlite3.Error`; then `recover` must come.

    def size(self) -> int:
        """Give the store's bytes in use."""
        return Maintenance(self._cursor, self.marks).size()

    def index(self) -> bool:
        """Make one chunk of words findable; True if more is left."""
        return self._maintain(lambda maintenance: maintenance.index())

    def sweep(self, retention: Retention) -> Swept:
        """Remove one chunk of the past."""
        return self._maintain(lambda maintenance: maintenance.sweep(retention, self._now()))

    def purge(self) -> bool:
        """Do the next step to clean the files of what was taken away; True if more is left.

        The index is merged in slices, then the log is copied into the file and emptied.
        """
        marks = self.marks
        if marks.merge != "done":
            self._maintain(lambda maintenance: maintenance.merge())
            return True
        # Read by others just now: the next sweep tries again.
        if self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0:
            self._connection.execute(
                "UPDATE meta SET value = ? WHERE name = 'dirty'", (marks.later,)
            )
            marks.dirty, marks.merge = marks.later, "due"
        return False

    def _maintain(self, work: Callable[[Maintenance], _T]) -> _T:
        maintenance = Maintenance(self._cursor, self.marks)
        self.doubt = True
        done = work(maintenance)
        self.doubt = False
        self.pages += maintenance.pages
        return done
