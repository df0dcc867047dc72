"""A journal in one SQLite file: where its work runs, and what happens if the disk fails.

A commit takes some 25 µs, a hop to a thread some 50. So commits run in the loop while the disk is
quick, and in a thread while it is slow, or if each waits for the disk (``fsync``). So do reads of a
few rows by their key. Other reads, and checkpoints, always run in threads. Reads and checkpoints
have connections of their own.

::

    commit, recover, sweep,
    index                 -> Writer     in the loop, or in the writer's thread: one at a time
    _checkpoints                        a connection and a thread of its own
    read, head, user      -> Reader     in the loop, or in one of its two threads
    rooms, unread ...     -> Reader     in one of its two threads
"""

from __future__ import annotations

import errno
import math
import secrets
import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

import trio
from msgspec import Struct

from chatd.clock import SteadyClock, boot_seconds
from chatd.journal import (
    Durability,
    Hits,
    LocalJournal,
    OperatorLog,
    Sender,
    Statistics,
    Unavailable,
    schema,
)
from chatd.journal.files import Misplaced
from chatd.journal.index import is_damage
from chatd.journal.placement import Placement
from chatd.journal.reads import Reader, Reads
from chatd.journal.retention import ROW_BYTES, ClockLog, Retention, RetentionLog, no_report
from chatd.journal.writer import BUSY_MS, Writer
from chatd.model import Event, Operation, Outcome

__all__ = ["SqliteJournal", "Tuning", "open_sqlite"]

_T = TypeVar("_T")

_PIECE_BYTES: Final = 256 * 1024
"""The size of one piece of a backup."""

_COPY: Final = ".chatd-backup-"
"""The beginning of a copy's name. It is unlinked once it is open: what remains is a crash's."""

_MEASURE_SECONDS: Final = 5.0
"""How old the sum of what is not events may be: it reads all of those rows, in a thread."""

_BYTES_BESIDE: Final = (
    f"SELECT (SELECT total({ROW_BYTES} + 2 * length(user) + length(nick)) FROM users)"  # noqa: S608
    f" + (SELECT total({ROW_BYTES} + 2 * length(CAST(name AS BLOB)) + length(value)) FROM records)"
    f" + (SELECT total({ROW_BYTES} + 2 * length(fold) + length(name) + length(topic)) FROM rooms)"
)
"""An id or a name is in an index, too. The length of a text ends at a NUL, which names contain."""

INDEX_RETRY_SECONDS: Final = 30.0
"""How long indexing waits after an error."""


class Tuning(Struct, frozen=True):
    """The bounds of the write-ahead log, in pages, and of waits, in ms."""

    checkpoint_pages: int = 2000
    """Pages written between two checkpoints: 4 MiB, as much as SQLite's own wal_autocheckpoint."""
    restart_pages: int = 8192
    """From 16 MiB on the log is restarted: the next commit first copies its rest, in its thread."""
    long_pages: int = 16_384
    """From 32 MiB on something keeps the log from being restarted: it is emptied when it can be."""
    truncate_ms: int = 100
    """How long commits wait for readers of the log before it is emptied; a page takes some 1 ms."""
    busy_ms: int = BUSY_MS
    """How long a commit in the thread waits for another program's lock."""


class SqliteJournal(LocalJournal, Reads):
    """`chatd.journal.Journal` in a file. `open_sqlite` makes it."""

    def __init__(
        self,
        writer: Writer,
        reader: Reader,
        searcher: Reader,
        *,
        placement: Placement,
        retention_log: RetentionLog,
        report: OperatorLog,
        clock: SteadyClock,
        factory: type[sqlite3.Connection],
        tuning: Tuning,
    ) -> None:
        super().__init__(reader, searcher, clock)
        self.epoch = writer.epoch
        self.key = writer.key
        self._writer = writer
        self._placement = placement
        self._retention_log = retention_log
        self._clock_log = ClockLog(report)
        self._report = report
        self._factory = factory
        self._tuning = tuning
        self._limiter = trio.CapacityLimiter(1)
        self._checkpoint_due = trio.Event()
        self._restart_log = False  # by the next commit
        self._log_pages = 0
        self._long_log = False
        self._copies = 0  # that are being made
        self._held_since: float | None = None  # when the log could first not be emptied
        self._beside = 0
        self._measured_at = -math.inf
        self._closed = False
        self._failing: set[str] = set()
        self._reindexing = False
        self._sweep_due: int | None = None
        self._batches = 0
        self._failures = 0
        self._seconds = 0.0
        self._slowest = 0.0

    @property
    def position(self) -> int:
        return self._writer.marks.position

    # ---- writing

    async def newest(self) -> int:
        return self.position

    @property
    def writer_blocked(self) -> bool:
        return self._limiter.borrowed_tokens > 0

    @property
    def in_place(self) -> bool:
        if not self._closed:
            try:
                self._writer.files.check()
            except Misplaced as error:
                self._failed("files", error)
            else:
                self._recovered("files")
        return "files" not in self._failing

    async def commit(self, batch: Sequence[Operation]) -> list[Outcome]:
        if not batch:
            return []
        if self._writer.doubt or self._closed:
            self._failures += 1
            raise Unavailable("the store is closed" if self._closed else "the store is in doubt")
        try:
            outcomes, seconds = await self._commit(batch)
            if self._writer.damage:
                self._report_damage()
        except (sqlite3.Error, ValueError, OverflowError) as error:
            self._failures += 1
            self._failed("commit", error)
            healthy = _is_of_an_operation(error)
            raise Unavailable(
                f"the store did not confirm: {error}",
                divisible=healthy or _primary_code(error) == sqlite3.SQLITE_FULL,
                healthy=healthy,
            ) from error
        if self._failing:
            self._recovered("commit")
            self._recovered("files")
        self.epoch = self._writer.epoch
        self._batches += 1
        self._seconds += seconds
        self._slowest = max(self._slowest, seconds)
        if self._writer.marks.pages >= self._tuning.checkpoint_pages:
            self._checkpoint_due.set()
        return outcomes

    async def _commit(self, batch: Sequence[Operation]) -> tuple[list[Outcome], float]:
        if not self._placement.threaded and not self._restart_log:
            if self._writer.busy_ms:
                self._writer.set_busy_timeout(0)
            started = time.perf_counter()
            try:
                outcomes = self._writer.commit(batch)
            except sqlite3.OperationalError as error:
                # Another program holds the lock and nothing was begun: the thread can wait for it.
                if self._writer.doubt or _primary_code(error) != sqlite3.SQLITE_BUSY:
                    raise
            else:
                seconds = time.perf_counter() - started
                if self._placement.ran_inline(seconds):
                    self._report("store", state="slow", seconds=round(seconds, 3))
                return outcomes, seconds
        outcomes, seconds = await self._in_thread(self._timed_commit, batch)
        if self._placement.ran_in_thread(seconds):
            self._report("store", state="quick")
        return outcomes, seconds

    def _timed_commit(self, batch: Sequence[Operation]) -> tuple[list[Outcome], float]:
        self._writer.set_busy_timeout(self._tuning.busy_ms)
        if self._restart_log:
            self._restart_log = False
            with suppress(sqlite3.Error):  # the next of `_checkpoints` reports it
                self._writer.checkpoint()
        started = time.perf_counter()
        outcomes = self._writer.commit(batch)
        return outcomes, time.perf_counter() - started

    async def _in_thread(self, work: Callable[..., _T], *values: object) -> _T:
        # Never left halfway: a cancellation waits for a call in progress.
        return await trio.to_thread.run_sync(
            work, *values, abandon_on_cancel=False, limiter=self._limiter
        )

    async def recover(self) -> list[Event]:
        try:
            found = await self._in_thread(self._writer.recover)
        except sqlite3.Error as error:
            self._failed("commit", error)
            return []
        self.epoch = self._writer.epoch
        return found

    # ---- maintenance

    @property
    def indexed(self) -> bool:
        words = self._writer.marks.words
        return not words.stale and words.indexed >= self.position

    async def index(self) -> float | None:
        more = await self._maintain("index", self._writer.index)
        if more is None:
            return None if self._closed else INDEX_RETRY_SECONDS
        if more:
            return 0.0
        if self._reindexing:
            self._reindexing = False
            self._report("store", state="reindexed")
        return None

    def reindex(self) -> None:
        self._writer.suspicion = "an operator asked for it"

    async def search(
        self,
        query: str,
        rooms: Mapping[str, int],
        limit: int,
        *,
        sender: Sender | None = None,
        before: int | None = None,
    ) -> Hits:
        try:
            return await super().search(query, rooms, limit, sender=sender, before=before)
        except Unavailable as error:
            if not is_damage(error.__cause__):
                raise
            self._writer.suspicion = str(error.__cause__)
            return Hits([], more=False, complete=False)

    async def sweep(self) -> bool:
        retention = self._retention_log.retention
        size = await self._maintain("retention", self._writer.size)
        beside = 0 if size is None else await self._bytes_beside(retention, size)
        swept = await self._maintain("retention", self._writer.sweep, retention, beside)
        if swept is None:
            self._sweep_due = self._clock()
            return False
        self._sweep_due = swept.due
        self._clock_log.look(self._clock, swept.due)
        self._beside -= swept.dropped
        self._retention_log.done(swept.events, size=swept.size, more=swept.more)
        self._retention_log.dropped(dropped=swept.dropped > 0, more=swept.more)
        self._retention_log.stuck(swept.size, self._beside, stuck=swept.stuck)
        if swept.more:
            return True
        if swept.purge and await self._maintain("purge", self._writer.merge_index, threaded=True):
            return True
        # A backup of ours reads the log, too, and ends by itself.
        if (swept.purge or self._long_log) and not self._copies:
            await self._empty_log()
        return False

    async def _bytes_beside(self, retention: Retention, size: int) -> int:
        """Return about how many of the store's bytes are not the events', once they may be many."""
        now = trio.current_time()
        measured = now - self._measured_at < _MEASURE_SECONDS
        if not measured and retention.may_be_beside(size):
            self._measured_at = now
            with suppress(Unavailable):  # it stays as it was
                self._beside = int((await self._reader.rows(_BYTES_BESIDE))[0][0])
        return self._beside

    async def _empty_log(self) -> None:
        # Commits wait for the readers of the log meanwhile. One that stays is not waited for again.
        busy_ms = self._tuning.truncate_ms if self._held_since is None else 0
        emptied = await self._maintain("log", self._try_to_empty_log, busy_ms, threaded=True)
        now = trio.current_time()
        if emptied is None:
            return
        if emptied:
            self._held_since, self._long_log, self._log_pages = None, False, 0
            self._recovered("reader")
        elif self._held_since is None:
            self._held_since = now
        elif "reader" not in self._failing:
            self._failing.add("reader")
            self._report(
                "store", state="held", detail=self._held_detail(), store_bytes=self._log_bytes()
            )

    def _try_to_empty_log(self, busy_ms: int) -> bool:
        self._writer.set_busy_timeout(busy_ms)
        return self._writer.empty_log()

    def _held_detail(self) -> str:
        path = self._writer.path
        return (
            f"a program has been reading {path} for a while, so {path}-wal grows and texts that "
            f"were deleted stay in it. `fuser -v {path}` names the program: end it, or its "
            "transaction"
        )

    async def _maintain(
        self, part: str, work: Callable[..., _T], *values: object, threaded: bool = False
    ) -> _T | None:
        """Do a chunk of maintenance; return None if that is not possible now.

        With ``threaded`` in the thread: few statements, but each waits for the disk itself.
        """
        if self._writer.doubt or self._closed:
            return None
        try:
            if self._placement.threaded or threaded:
                done = await self._in_thread(work, *values)
            else:
                self._writer.set_busy_timeout(0)
                done = work(*values)
        except sqlite3.Error as error:
            self._failed(part, error)
            await self.recover()
            return None
        self._recovered(part)
        if self._writer.damage:
            self._report_damage()
        if self._writer.marks.pages >= self._tuning.checkpoint_pages:
            self._checkpoint_due.set()
        return done

    def due_in(self) -> float | None:
        times = [] if self._sweep_due is None else [self._sweep_due]
        if (dirty := self._writer.marks.dirty) is not None:
            times.append(self._retention_log.retention.purge_due(dirty))
        if self._held_since is not None or self._long_log:
            return 0.0
        return max(0, min(times) - self._clock()) / 1000 if times else None

    def steady_now(self) -> int:
        return self._clock()

    def confirm_clock(self) -> None:
        self._clock()
        self._clock.confirm()
        self._clock_log.look(self._clock)

    def retain(self, retention: Retention) -> None:
        self._retention_log.retention = retention

    async def _checkpoints(self) -> None:
        while True:
            await self._checkpoint_due.wait()
            self._checkpoint_due = trio.Event()
            self._writer.marks.pages = 0
            try:
                self._log_pages = await trio.to_thread.run_sync(self._checkpoint)
            except sqlite3.Error as error:
                self._failed("checkpoint", error)
                continue
            self._recovered("checkpoint")
            self._restart_log = self._log_pages > self._tuning.restart_pages
            self._long_log = self._log_pages > self._tuning.long_pages

    def _checkpoint(self) -> int:
        # Otherwise the log of the open file could be copied into another one.
        self._writer.files.check()
        connection = schema.connect(self._writer.path, self._factory, busy_ms=0)
        try:
            busy, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        finally:
            connection.close()
        # Busy: the writer is doing one itself, or another program is.
        return self._log_pages if busy else int(pages)

    # ---- backups

    async def backup(self) -> AsyncGenerator[bytes]:
        self._copies += 1
        try:
            if self.in_place:
                copy = await trio.to_thread.run_sync(self._copy, self._copy_to)
            else:
                # Only the writer's connection still has the files that were open.
                copy = await self._in_thread(self._copy, self._writer.copy_to)
        finally:
            self._copies -= 1
        with copy:
            while piece := await trio.to_thread.run_sync(copy.read, _PIECE_BYTES):
                yield piece  # noqa: ASYNC119  its reader closes it (`aclosing`)

    def _copy(self, copy_to: Callable[[Path], None]) -> BinaryIO:
        """Make a copy of the store at one moment, which only its reader can find."""
        # On the store's own disk: no other is sure to have the space.
        path = self._writer.path.with_name(f"{_COPY}{secrets.token_hex(8)}")
        try:
            copy_to(path)
            return path.open("rb")
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(_why_no_copy(path.parent, error)) from error
        finally:
            path.unlink(missing_ok=True)

    def _copy_to(self, path: Path) -> None:
        connection = schema.connect(self._writer.path, self._factory, busy_ms=self._tuning.busy_ms)
        try:
            connection.execute("VACUUM INTO ?", (str(path),))
        finally:
            connection.close()

    # ---- errors, the end, statistics

    def _log_bytes(self) -> int:
        try:
            return self._writer.path.with_name(f"{self._writer.path.name}-wal").stat().st_size
        except OSError:
            return 0

    def _failed(self, part: str, error: Exception) -> None:
        misplaced = isinstance(error, Misplaced)
        if misplaced:
            part = "files"
        # Only the first of a series: a full disk would else fill the log with its own line.
        if part not in self._failing:
            self._failing.add(part)
            if misplaced:
                self._writer.note_misplaced(misplaced=True)
                self._report("store", state="misplaced", detail=str(error))
            else:
                self._report("store", state="failed", detail=f"{part}: {error}")

    def report_stale_index(self, reason: str) -> None:
        """Report, once, that the index of words is made again."""
        if not self._reindexing:
            self._reindexing = True
            self._report("store", state="reindexing", detail=reason)

    def _report_damage(self) -> None:
        self.report_stale_index(self._writer.damage)
        self._writer.damage = ""

    def _recovered(self, part: str) -> None:
        if part in self._failing:
            self._failing.discard(part)
            if part == "files":
                self._writer.note_misplaced(misplaced=False)
            self._report("store", state="recovered", detail=part)

    async def aclose(self) -> None:
        if self._closed:
            return
        in_place = self.in_place
        self._closed = True
        self._reader.close()
        self._searcher.close()
        with trio.CancelScope(shield=True):
            try:
                await self._in_thread(self._writer.close if in_place else self._writer.abandon)
            except sqlite3.Error as error:
                self._failed("close", error)

    def statistics(self) -> Statistics:
        return Statistics(
            events=self._writer.events,
            duplicates=self._writer.duplicates,
            batches=self._batches,
            failures=self._failures,
            swept=self._retention_log.swept,
            bytes=self._retention_log.size,
            log_bytes=self._log_bytes(),
            log_held_seconds=(
                0.0 if self._held_since is None else trio.current_time() - self._held_since
            ),
            clock_jump_seconds=self._clock.jump / 1000,
            commit_seconds=self._seconds,
            slowest_seconds=self._slowest,
            threaded=self._placement.threaded,
        )


def _primary_code(error: Exception) -> int:
    code: Any = getattr(error, "sqlite_errorcode", None)
    return (code or 0) & 0xFF


def _why_no_copy(folder: Path, error: Exception) -> str:
    no_space = _primary_code(error) == sqlite3.SQLITE_FULL
    if no_space or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
        return (
            f"The copy is first made in {folder}, and that disk has no space for it. Make room "
            "there, as much as the store needs."
        )
    return f"The store cannot be copied: {error}."


def _is_of_an_operation(error: Exception) -> bool:
    """Return whether one operation is the cause: it is too big, or no row can hold it."""
    return not isinstance(error, sqlite3.Error) or _primary_code(error) in {
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        0,  # raised by Python's module, not by SQLite: a parameter that it cannot bind
    }


def _missing(path: Path, events: int, at: int) -> str:
    when = datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"{path} was made anew: the store that was here, with events up to number {events} of "
        f"{when}, is gone. If that was not intended, stop chatd and restore a backup"
    )


@asynccontextmanager
async def open_sqlite(
    path: Path,
    *,
    durability: Durability = "commit",
    retention: Retention | None = None,
    now: Callable[[], int],
    elapsed: Callable[[], float] = boot_seconds,
    runtime_dir: Path | None = None,
    report: OperatorLog = no_report,
    placement: Placement | None = None,
    tuning: Tuning | None = None,
    factory: type[sqlite3.Connection] = sqlite3.Connection,
) -> AsyncIterator[SqliteJournal]:
    """Open the store for the duration of the block, and close it cleanly.

    Args:
        path: The store's file; made if it is missing, with its folder.
        durability: How much a commit survives; see `Durability`.
        retention: The limits of retention; by default `Retention`'s defaults.
        now: Returns the time in ms since 1970.
        elapsed: Returns the seconds since some moment, however the wall clock is set. It is called
            in threads, too.
        runtime_dir: A folder that does not survive a boot of the machine. Without one, a store that
            was not closed cleanly gets a new epoch, as its last moments may be lost (except under
            ``"fsync"``).
        report: Where to report what operators should know.
        placement: Decides where commits run; by default as ``durability`` asks.
        tuning: Bounds of the log and of waits; by default `Tuning`'s defaults.
        factory: Makes the connections; tests inject faults there.

    Raises:
        StoreError: the store cannot be opened.
    """
    clock = SteadyClock(now, elapsed)
    writer = Writer(
        path,
        durability=durability,
        now=now,
        clock=clock,
        runtime_dir=runtime_dir,
        factory=factory,
    )
    await trio.to_thread.run_sync(writer.open)
    if writer.missing is not None and writer.missing[0]:
        report("store", state="missing", detail=_missing(writer.path, *writer.missing))
    if writer.renewed:
        report("store", state="renewed", detail=f"epoch {writer.epoch}: {writer.renewed}")
    retention_log = RetentionLog(Retention() if retention is None else retention, report)
    retention_log.size = writer.size()
    journal = SqliteJournal(
        writer,
        Reader(writer.path, factory, writer.files.check),
        Reader(writer.path, factory, writer.files.check, threads=1),
        placement=placement or Placement(always_threaded=durability == "fsync"),
        retention_log=retention_log,
        report=report,
        clock=clock,
        factory=factory,
        tuning=tuning or Tuning(),
    )
    try:
        for left in writer.path.parent.glob(f"{_COPY}*"):
            with suppress(OSError):  # another user's file: the next start tries again
                left.unlink(missing_ok=True)
        if writer.marks.words.stale:
            journal.report_stale_index("its words were made in another way")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal._checkpoints)  # noqa: SLF001  this module's
            try:
                yield journal
            finally:
                nursery.cancel_scope.cancel()
    finally:
        await journal.aclose()
