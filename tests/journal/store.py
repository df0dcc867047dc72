"""A store for one test, whose disk fails on command."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

from chatd.journal import Durability, Journal, schema
from chatd.journal.placement import Placement
from chatd.journal.retention import Retention
from chatd.journal.sqlite import SqliteJournal, Tuning, open_sqlite
from chatd.model import Event, Operation, Post, Receipt

KEPT = Retention(keep_days="off", keep_events="off", max_bytes="off", user_days="off")


class Clock:
    """A wall clock in ms that stands still until time passes or it jumps."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000
        self.jumped = 0

    def __call__(self) -> int:
        return self.ms + self.jumped

    def elapsed(self) -> float:
        """Return the seconds that have passed, whatever the wall clock says."""
        return self.ms / 1000

    def days(self, days: float) -> None:
        self.ms += int(days * 24 * 3600 * 1000)


class FaultyCursor(sqlite3.Cursor):
    def execute(self, sql: str, parameters: Any = ()) -> Self:
        FaultyConnection.statements.append(sql)
        FaultyConnection.before(sql)
        super().execute(sql, parameters)
        FaultyConnection.after(sql)
        return self

    def executemany(self, sql: str, parameters: Iterable[Any]) -> Self:
        FaultyConnection.before(sql)
        super().executemany(sql, parameters)
        return self


def nothing(_sql: str) -> None:
    """Do as the disk does on a good day."""


class FaultyConnection(sqlite3.Connection):
    """Calls ``before`` and ``after`` around every statement of every connection."""

    before: ClassVar[Callable[[str], None]] = staticmethod(nothing)
    after: ClassVar[Callable[[str], None]] = staticmethod(nothing)
    statements: ClassVar[list[str]] = []

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(FaultyCursor)

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        return FaultyCursor(self).execute(sql, parameters)


class Store:
    """A store's path, its clock, and its reports; opened as often as wanted."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "store" / "chat.db"
        self.runtime: Path | None = folder / "run"
        self.now = Clock()
        self.faults = FaultyConnection
        self.reports: list[tuple[str, dict[str, object]]] = []

    def report(self, event: str, /, **fields: object) -> None:
        self.reports.append((event, fields))

    def states(self) -> list[object]:
        return [fields["state"] for event, fields in self.reports if event == "store"]

    @contextmanager
    def of_version(self, version: int) -> Iterator[sqlite3.Connection]:
        """Make the store as an earlier version did, and yield a connection in a transaction."""
        self.path.parent.mkdir()
        with closing(sqlite3.connect(self.path, isolation_level=None)) as old:
            old.execute("PRAGMA journal_mode = WAL")
            for step in schema.STEPS[:version]:
                for statement in step:
                    old.execute(statement)
            old.execute(f"PRAGMA user_version = {version}")
            old.execute("BEGIN")
            yield old
            old.execute("COMMIT")

    def open(
        self,
        durability: Durability = "commit",
        retention: Retention = KEPT,
        tuning: Tuning | None = None,
    ) -> AbstractAsyncContextManager[SqliteJournal]:
        return open_sqlite(
            self.path,
            durability=durability,
            retention=retention,
            now=self.now,
            elapsed=self.now.elapsed,
            runtime_dir=self.runtime,
            report=self.report,
            # A commit may be slow on a machine that others use: that is not what is tested.
            placement=Placement(always_threaded=durability == "fsync", slow_seconds=60.0),
            tuning=tuning,
            factory=FaultyConnection,
        )


def post(text: str = "hello", *, key: str | None = None, room: str = "lobby") -> Post:
    return Post(room, room.title(), "u1", "ann", text, key=key)


async def commit(journal: SqliteJournal, *batch: Operation) -> list[Event]:
    outcomes = await journal.commit(batch)
    return [outcome.event for outcome in outcomes if isinstance(outcome, Receipt)]


async def index(journal: Journal) -> None:
    """Index everything."""
    while await journal.index() == 0:
        pass


async def search(
    journal: Journal, query: str, room: str = "lobby", before: int = 10**9, limit: int = 1000
) -> list[Event]:
    """Return the messages of a room that a search finds."""
    return (await journal.search(query, {room: before}, limit)).events


async def found(journal: Journal, query: str, room: str = "lobby") -> list[int]:
    """Return the numbers of the messages that a search finds."""
    return [event.seq for event in await search(journal, query, room)]


def error(name: str) -> sqlite3.OperationalError:
    made = sqlite3.OperationalError(f"made up: {name}")
    made.sqlite_errorcode = getattr(sqlite3, name)
    made.sqlite_errorname = name
    return made
