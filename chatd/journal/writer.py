"""The one connection that writes: opening and closing, transactions, recovery after a failure.

Everything here blocks. Whether it runs in the loop or in a thread is decided in `sqlite`.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from chatd.clock import ClockState, SteadyClock
from chatd.journal import Durability, StoreError, maintenance, new_epoch, next_time, schema
from chatd.journal.batch import Batch
from chatd.journal.files import StoreFiles, read_counter
from chatd.journal.index import is_damage
from chatd.journal.lock import BootMarker, Keepsake, StoreLock
from chatd.journal.maintenance import Swept, Watermarks
from chatd.journal.places import UNFILED_EVENTS, file
from chatd.journal.retention import Retention
from chatd.model import Event, Operation, Outcome

__all__ = ["BUSY_MS", "Writer"]

_T = TypeVar("_T")

_EPOCH: Final = "SELECT value FROM meta WHERE name = 'epoch'"

_SAVE_CLOCK_MS: Final = 3600 * 1000
"""How old the stored time may be after the process was killed."""

BUSY_MS: Final = 2000
"""How long to wait for another program's lock in a thread."""


class Writer:
    """Owns the store's file from `open` to `close`.

    While ``doubt`` is set, something failed and `recover` has not yet found out what was committed.
    """

    def __init__(
        self,
        path: Path,
        *,
        durability: Durability,
        now: Callable[[], int],
        clock: SteadyClock,
        runtime_dir: Path | None,
        factory: type[sqlite3.Connection],
    ) -> None:
        self.path = path.resolve()
        self.doubt = False
        self.epoch = ""
        self.key = b""
        self.renewed = ""
        """Why the store got a new epoch when it was opened; empty if it did not."""
        self.missing: tuple[int, int] | None = None
        """What was here before, if the store was made anew; see `Keepsake.read`."""
        self.damage = ""
        """How the index of words was found damaged; empty unless it was since this was reported."""
        self.suspicion = ""
        """How a search found it damaged."""
        self.events = 0
        self.duplicates = 0
        self.marks = Watermarks()
        self._durability = durability
        self._now = now
        self._clock = clock
        self._at = 0  # the last time that an event was given
        self._factory = factory
        self._marker = BootMarker(runtime_dir, self.path)
        self._keepsake = Keepsake(self.path)
        self._kept = 0  # the position in the keepsake
        self._clock_saved = 0
        self.files: StoreFiles
        self._lock: StoreLock | None = None
        self._connection: sqlite3.Connection
        self._cursor: sqlite3.Cursor
        self._generation = 0
        self._next_epoch: str | None = None  # of the last commit that began to restore entries
        self.busy_ms = BUSY_MS

    # ---- opening and closing

    def open(self) -> None:
        """Open the store.

        Raises:
            StoreError: nothing is held then.
        """
        lock = StoreLock.take(self.path)
        try:
            replaced = self._put_aside(lock)
            connection = schema.connect(self.path, self._factory, busy_ms=self.busy_ms)
            try:
                schema.migrate(connection, self.path)
                self._begin(connection, lock, replaced=replaced)
            except BaseException:
                connection.close()
                raise
        except OSError as error:
            lock.release()
            raise StoreError(f"{error.filename or self.path}: {error.strerror}") from error
        # The last three are what reading a damaged file may end in.
        except (sqlite3.Error, LookupError, TypeError, ValueError) as error:
            lock.release()
            raise schema.store_error(self.path, error) from error
        except BaseException:
            lock.release()
            raise
        self._lock = lock
        self._connection = connection
        self._cursor = connection.cursor()

    def _put_aside(self, lock: StoreLock) -> bool:
        """Return whether another file was put in the place of the last generation's, or over it.

        The log of the former file is put aside: SQLite would play it into the new one.
        """
        if lock.identity is None:
            return False
        inode, log_inode, counter = lock.identity
        if self.path.stat().st_ino == inode and read_counter(self.path) >= counter:
            return False
        log = Path(f"{self.path}-wal")
        if log.exists() and log.stat().st_ino == log_inode:
            log.rename(f"{self.path}-wal.former")
            Path(f"{self.path}-shm").unlink(missing_ok=True)
        return True

    def _begin(self, connection: sqlite3.Connection, lock: StoreLock, *, replaced: bool) -> None:
        # The store must be marked open before the first number is given, even through a loss of
        # power: otherwise it could be taken for clean, without the numbers of this generation.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        meta: dict[str, Any] = dict(connection.execute("SELECT name, value FROM meta"))
        if not meta.keys() >= {"epoch", "key", "state", "position", "life", "clock"}:
            raise StoreError(f"{self.path} is damaged: restore a backup, or move it aside")
        self.epoch, self.key = str(meta["epoch"]), meta["key"]
        if not meta["life"]:
            self.missing = self._keepsake.read()
        elsewhere = replaced or self._is_from_elsewhere(meta, lock)
        self.renewed = self._renewal_reason(meta, elsewhere=elsewhere)
        if self.renewed or not meta["life"]:
            self.epoch = new_epoch()
        self._generation = meta["life"] + 1
        connection.execute("UPDATE meta SET value = ? WHERE name = 'life'", (self._generation,))
        connection.execute("UPDATE meta SET value = ? WHERE name = 'epoch'", (self.epoch,))
        connection.execute("UPDATE meta SET value = ? WHERE name = 'state'", (self._durability,))
        # A backup's clock is as old as the backup.
        if meta["clock"] is not None and not elsewhere:
            self._clock.resume(ClockState(meta["clock"], meta["jump"], meta["doubted"]))
        self._save_clock(connection)
        connection.execute("UPDATE users SET seen = ? WHERE seen IS NULL", (self._clock(),))
        self.marks.position = connection.execute(schema.POSITION).fetchone()[0]
        last = connection.execute("SELECT at FROM events ORDER BY position DESC LIMIT 1").fetchone()
        # In a damaged file it may be anything.
        self._at = last[0] if last is not None and isinstance(last[0], int) else 0
        self.marks.reload(connection)
        if self.marks.words.stale and not self.marks.position:
            cursor = connection.cursor()
            self.marks.words.renew(cursor, 0)
            while self.marks.words.discard(cursor):
                pass
        connection.execute("COMMIT")
        self._marker.create(self.epoch)
        if not meta["life"]:
            # So that the file has more than its header, by which `files` knows it again.
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        page: int = connection.execute("PRAGMA page_size").fetchone()[0]
        self.files = StoreFiles(self.path, page)
        lock.note(self._generation, self.files.identity, closed=False)
        self._keep(self.marks.position)
        self._set_durability(connection)

    def _save_clock(self, connection: sqlite3.Connection) -> None:
        state = self._clock.state()
        connection.executemany(
            "UPDATE meta SET value = ? WHERE name = ?",
            [(state.at, "clock"), (state.jump, "jump"), (state.doubted, "doubted")],
        )
        self._clock_saved = state.at

    def _keep(self, position: int) -> None:
        self._kept = position
        self._keepsake.write(position, self._now())

    def _is_from_elsewhere(self, meta: dict[str, Any], lock: StoreLock) -> bool:
        """Return whether the store's last generation is not the last one that was here."""
        generation, clean = meta["life"], meta["state"] == "clean"
        return (
            lock.generation is None
            or generation < lock.generation
            or (generation == lock.generation and lock.closed > clean)
        )

    def _renewal_reason(self, meta: dict[str, Any], *, elsewhere: bool) -> str:
        """Return why numbers may have been given that the store does not have; empty if none."""
        if meta["life"] and elsewhere:
            return "it was put there from a backup, or from elsewhere"
        # "fsync" is what the last generation promised, not what this one does.
        if meta["state"] == "commit" and not self._marker.exists(self.epoch):
            return "it was not closed cleanly and the machine may have been off since"
        return ""

    def _set_durability(self, connection: sqlite3.Connection) -> None:
        level = "FULL" if self._durability == "fsync" else "NORMAL"
        connection.execute(f"PRAGMA synchronous = {level}")

    def close(self) -> None:
        """Close the store and release its file. It is clean only if SQLite confirmed that.

        Raises:
            sqlite3.Error: the file is released all the same.
        """
        assert self._lock is not None  # noqa: S101  open() was called
        self._keep(self.marks.position)
        try:
            try:
                if self._connection.in_transaction:
                    self._connection.rollback()
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.execute("BEGIN IMMEDIATE")
                self._save_clock(self._connection)
                self._connection.execute("UPDATE meta SET value = 'clean' WHERE name = 'state'")
                self._connection.execute("COMMIT")
            finally:
                self._connection.close()
                self.files.close()
            self._marker.remove()
            self._lock.note(self._generation, self.files.identity, closed=True)
        finally:
            self._lock.release()

    def abandon(self) -> None:
        """Release a store whose files are not in their place, and leave them as they are.

        The connection stays open until the process ends: whichever closes last removes the log by
        its name, and that may by now be the log of the store that was put in this one's place.
        """
        assert self._lock is not None  # noqa: S101  open() was called
        self._keep(self.marks.position)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
        self._lock.release()

    def note_misplaced(self, *, misplaced: bool) -> None:
        """Record whether the store may lack numbers that this generation has given.

        Whatever store is opened here next then gets a new epoch.
        """
        assert self._lock is not None  # noqa: S101  open() was called
        self._lock.note(self._generation, self.files.identity, closed=misplaced)

    # ---- committing

    def set_busy_timeout(self, busy_ms: int) -> None:
        """Set how long to wait for another program's lock."""
        if busy_ms != self.busy_ms:
            self._connection.execute(f"PRAGMA busy_timeout = {busy_ms}")
            self.busy_ms = busy_ms

    def commit(self, batch: Sequence[Operation]) -> list[Outcome]:
        """Commit the whole batch or nothing of it, whatever state the index of words is in.

        Raises:
            sqlite3.Error: If another program's lock kept the transaction from beginning, ``doubt``
                is not set.
            Misplaced: What was committed may be gone with its file.
            ValueError, OverflowError: No row can hold one of the values.
        """
        self.marks.words.used = False
        try:
            return self._commit(batch)
        except sqlite3.Error as error:
            self._give_up_if_damaged(error)
        return self._commit(batch)

    def _commit(self, batch: Sequence[Operation]) -> list[Outcome]:
        execute, marks = self._cursor.execute, self.marks
        at = self._at = next_time(self._at, self._now())
        execute("BEGIN IMMEDIATE")
        self.doubt = True
        self.files.check_log()
        made = Batch(self._cursor, marks, at=at, now=self._clock, keyed=False)
        try:
            outcomes = made.run(batch)
        except sqlite3.IntegrityError:
            execute("ROLLBACK")
            marks.rooms.clear()
            execute("BEGIN IMMEDIATE")
            made = Batch(self._cursor, marks, at=at, now=self._clock, keyed=True)
            outcomes = made.run(batch)
        if made.removed_text:
            marks.note_removed_text(self._cursor, self._clock())
        if made.position // UNFILED_EVENTS != marks.position // UNFILED_EVENTS:
            file(self._cursor)
            marks.pages += UNFILED_EVENTS // 4
        self._next_epoch = made.epoch
        execute("COMMIT")
        self.files.check_folder()
        self.doubt = False
        if not self._kept:
            self._keep(made.position)
        self.events += made.position - marks.position
        marks.position = made.position
        if made.epoch is not None:
            self._renew(made.epoch)
        self.duplicates += made.duplicates
        marks.pages += made.pages
        return outcomes

    def _renew(self, epoch: str) -> None:
        if epoch != self.epoch:
            self.epoch = epoch
            self._marker.create(epoch)

    def recover(self) -> list[Event]:
        """Roll back and return the events that are there without a confirmation; end the doubt.

        Raises:
            sqlite3.Error: the doubt stays.
        """
        self.doubt = True
        self.files.check()
        self.files.check_log()
        try:
            found = self._unconfirmed()
        except sqlite3.Error:
            self._reopen()
            found = self._unconfirmed()
        self.doubt = False
        return found

    def _unconfirmed(self) -> list[Event]:
        if self._connection.in_transaction:
            self._connection.rollback()
        query = schema.EVENT + " WHERE e.position > ? ORDER BY e.position"
        rows = self._connection.execute(query, (self.marks.position,)).fetchall()
        found = [schema.decode(row) for row in rows]
        if found:
            self.events += len(found)
            self.marks.position = found[-1].position
        self.marks.reload(self._connection)
        self._renew(str(self._connection.execute(_EPOCH).fetchone()[0]))
        return found

    def _reopen(self) -> None:
        connection = schema.connect(self.path, self._factory, busy_ms=self.busy_ms)
        try:
            if str(connection.execute(_EPOCH).fetchone()[0]) not in (self.epoch, self._next_epoch):
                raise sqlite3.DatabaseError("another store was put in this one's place")
            self._set_durability(connection)
        except BaseException:
            connection.close()
            raise
        self._connection.close()
        self._connection = connection
        self._cursor = connection.cursor()

    def checkpoint(self) -> None:
        """Copy the whole log into the file, so that the next commit restarts the log.

        A passive checkpoint beside a busy writer never gets to the end of what is being written.
        """
        self.files.check()
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    # ---- maintenance. What raises `sqlite3.Error` must be followed by `recover`.

    def size(self) -> int:
        """Return the store's bytes in use."""
        return maintenance.size_of(self._cursor)

    def index(self) -> bool:
        """Index one chunk of messages; return True if more are left."""
        if self.suspicion:
            self.suspicion, suspicion = "", self.suspicion
            self._give_up_index(suspicion)
        return self._maintain(maintenance.index, self.marks)

    def sweep(self, retention: Retention, beside: int) -> Swept:
        """Remove one chunk of the past; ``beside`` as in `maintenance.sweep`."""
        now = self._clock()
        if abs(now - self._clock_saved) >= _SAVE_CLOCK_MS:
            self.doubt = True
            self._save_clock(self._connection)
            self.doubt = False
        if self._kept != self.marks.position:
            self._keep(self.marks.position)
        return self._maintain(maintenance.sweep, self.marks, retention, now, beside)

    def merge_index(self) -> bool:
        """Do the next step of merging the index; return False if it is merged."""
        if self.marks.merge == "done":
            return False
        self._maintain(maintenance.merge_index, self.marks)
        return True

    def empty_log(self) -> bool:
        """Copy the log into the file and empty it; return False if others are reading it.

        Once the index is merged, no removed text is left in the files then.
        """
        self.files.check()
        if self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            return False
        marks = self.marks
        if marks.merge == "done":
            self._connection.execute(
                "UPDATE meta SET value = ? WHERE name = 'dirty'", (marks.later,)
            )
            marks.dirty, marks.merge = marks.later, "due"
        return True

    def copy_to(self, path: Path) -> None:
        """Copy the store into a new file, even if its own files are no longer in their place."""
        if self._connection.in_transaction:
            self._connection.rollback()
        self._connection.execute("VACUUM INTO ?", (os.fspath(path),))

    def _maintain(self, work: Callable[..., _T], *arguments: object) -> _T:
        self.marks.words.used = False
        self.doubt = True
        try:
            done = work(self._cursor, *arguments)
        except sqlite3.Error as error:
            self._give_up_if_damaged(error)
            self.doubt = True
            done = work(self._cursor, *arguments)
        self.doubt = False
        return done

    def _give_up_if_damaged(self, error: sqlite3.Error) -> None:
        """Give the index of words up if an error came of its damage, and raise the error if not.

        The work that failed can then be done again: what is derived from the messages must not keep
        anybody from changing them.
        """
        if not (self.marks.words.used and is_damage(error)):
            raise error
        if self._connection.in_transaction:
            self._connection.rollback()
        self.marks.rooms.clear()
        self._give_up_index(str(error))

    def _give_up_index(self, damage: str) -> None:
        self.doubt = True
        self._cursor.execute("BEGIN IMMEDIATE")
        self.marks.words.give_up(self._cursor)
        self._cursor.execute("COMMIT")
        self.doubt = False
        self.damage = damage
