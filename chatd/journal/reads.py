"""The reading half of the store in a file: its queries, and where they run.

Reads have their own connections, so that none of them delays a commit. They run in threads, except
for those that find a few rows by their key: these take less than a hop to a thread, and run in the
loop while they do.
"""

from __future__ import annotations

import sqlite3
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import merge
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import trio

from chatd.clock import SteadyClock
from chatd.journal import UNREAD_EVENTS, Hits, Sender, Unavailable, first_hits, schema, words
from chatd.journal.index import FOUND, WordIndex, check, expression
from chatd.journal.placement import SLOW_SECONDS, Placement
from chatd.journal.places import FILED, LAST, place, places
from chatd.journal.schema import number
from chatd.model import Event, Head, LogEntry, Record, UserRecord

__all__ = ["Reader", "Reads"]

_T = TypeVar("_T")

_Values: TypeAlias = tuple[object, ...] | dict[str, object]
"""The values of a query's parameters, by place or by name."""

_CONNECTIONS: Final = 2
"""One slow read must not delay the pages of joins; more threads would only compete for the GIL."""

_STEPS: Final = 10_000
"""Instructions of SQLite's virtual machine between two looks at the clock: about 0.2 ms."""

_BUSY_MS: Final = 1000
"""Readers wait for a lock only while the log is recovered or removed."""

_HEAD: Final = f"SELECT fold, name, {LAST}, topic, oldest IS NULL FROM rooms WHERE fold = ?"  # noqa: S608  a constant
# Without the keys that begin with "@", which comes before "A".
_ROOM: Final = (
    "SELECT id, fold, name,"
    " max(ifnull((SELECT max(seq) FROM places WHERE room_id = rooms.id), 0), head), topic"
    " FROM rooms WHERE oldest IS NOT NULL AND"
)
_ROOMS: Final = f"{_ROOM} fold < '@' UNION ALL {_ROOM} fold >= 'A' ORDER BY fold"
_UNFILED: Final = f"SELECT room_id, max(seq) FROM events WHERE position > {FILED} GROUP BY room_id"  # noqa: S608  a constant
_ROOM_ID: Final = "(SELECT id FROM rooms WHERE fold = :room)"
_POSITION: Final = f"SELECT {place(':room', ':seq')}"
_ENDS: Final = (
    "SELECT min(seq), max(seq) FROM (SELECT min(seq) AS seq FROM places WHERE room_id = :room"  # noqa: S608  a constant
    " UNION ALL SELECT max(seq) FROM places WHERE room_id = :room"
    f" UNION ALL SELECT seq FROM events WHERE position > {FILED} AND room_id = :room)"
)
_ENTRY: Final = (
    "SELECT r.name, e.seq, e.at, e.kind, e.user, e.nick, e.text, e.of, e.reply_to, e.edited,"
    " e.deleted, e.key FROM events AS e JOIN rooms AS r ON r.id = e.room_id"
)
_SCANNED: Final = 20_000
"""Events read at a time to find one user's, for which there is no index: some 10 ms of a thread."""

_SORTED_HITS: Final = 512
"""Hits in several rooms that are read before they are sorted by time."""

_FEW_RECORDS: Final = 100
"""How many records with a prefix are read in the event loop at most: a user has few read marks."""

_USER: Final = "SELECT user, nick, seen, subject FROM users"
_LAST: Final = "\U0010ffff"
"""The last character of Unicode: names with a prefix sort before prefix and this."""


class _Watched:
    """A connection, and the time at which its current query is given up."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.deadline = 0.0
        connection.execute("PRAGMA query_only = ON")
        connection.set_progress_handler(lambda: time.monotonic() > self.deadline, _STEPS)


class Reader:
    """Runs queries, each for ``seconds`` at most; then it raises `Unavailable`.

    ``check`` raises an error of SQLite's if the file at ``path`` is not the store that is open.
    After a read in the loop that took longer than ``slow_seconds`` the next ones run in a thread.
    """

    def __init__(
        self,
        path: Path,
        factory: type[sqlite3.Connection],
        check: Callable[[], None],
        *,
        seconds: float = 2.0,
        threads: int = _CONNECTIONS,
        slow_seconds: float = SLOW_SECONDS,
    ) -> None:
        self._path = path
        self._check = check
        self._factory = factory
        self._seconds = seconds
        self._idle: list[_Watched] = []
        self._limiter = trio.CapacityLimiter(threads)
        self._placement = Placement(always_threaded=False, slow_seconds=slow_seconds)
        self._closed = False

    async def rows(self, query: str, values: _Values = ()) -> list[tuple[Any, ...]]:
        """Return all rows of the query, which has its own LIMIT."""
        return await self._in_thread(lambda store: store.execute(query, values).fetchall())

    async def few_rows(self, query: str, values: _Values) -> list[tuple[Any, ...]]:
        """Return all rows of a query that finds at most a page of them by their key."""

        def work(store: sqlite3.Connection) -> tuple[list[tuple[Any, ...]], float]:
            began = time.perf_counter()
            rows = store.execute(query, values).fetchall()
            return rows, time.perf_counter() - began

        if self._placement.threaded:
            rows, seconds = await self._in_thread(work)
            self._placement.ran_in_thread(seconds)
        else:
            rows, seconds = self._watch(work)
            self._placement.ran_inline(seconds)
        return rows

    async def run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run several queries on one snapshot of the store."""

        def snapshot(store: sqlite3.Connection) -> _T:
            store.execute("BEGIN")
            try:
                return work(store)
            finally:
                store.execute("ROLLBACK")

        return await self._in_thread(snapshot)

    async def _in_thread(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        return await trio.to_thread.run_sync(self._watch, work, limiter=self._limiter)

    def _watch(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        if self._closed:
            raise Unavailable("the store is closed")
        watched: _Watched | None = None
        try:
            # pop and append are single steps, also between threads.
            watched = self._idle.pop() if self._idle else self._open()
            watched.deadline = time.monotonic() + self._seconds
            done = work(watched.connection)
        # Of a damaged file not even SQLite's message may be text.
        except (sqlite3.Error, UnicodeDecodeError) as error:
            if watched is not None:
                watched.connection.close()
            raise Unavailable(f"the store cannot be read: {error}") from error
        if self._closed:
            watched.connection.close()
        else:
            self._idle.append(watched)
        return done

    def _open(self) -> _Watched:
        self._check()
        connection = schema.connect(self._path, self._factory, busy_ms=_BUSY_MS)
        try:
            return _Watched(connection)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Close the idle connections; the others are closed when their query is done."""
        self._closed = True
        while self._idle:
            self._idle.pop().connection.close()


class Reads:
    """The reads of `chatd.journal.Journal`, by a `Reader`.

    Searches have a `Reader` of their own, so that joins never wait for a thread that searches.
    """

    def __init__(self, reader: Reader, searcher: Reader, clock: SteadyClock) -> None:
        self._reader = reader
        self._searcher = searcher
        self._clock = clock

    async def read(self, room: str, after: int, upto: int, limit: int) -> list[Event]:
        found = places(_ROOM_ID, "seq > :after AND seq <= :upto")
        query = f"{schema.EVENT} WHERE e.position IN ({found}) ORDER BY e.position LIMIT :limit"
        values = {
            "room": room,
            "after": number(after),
            "upto": number(upto),
            "limit": number(limit),
        }
        return [schema.decode(row) for row in await self._reader.few_rows(query, values)]

    async def read_back(self, room: str, before: int, limit: int) -> list[Event]:
        found = places(_ROOM_ID, "seq < :before", newest=True)
        query = (
            f"{schema.EVENT} WHERE e.position IN ({found}) ORDER BY e.position DESC LIMIT :limit"
        )
        values = {"room": room, "before": number(before), "limit": number(limit)}
        rows = await self._reader.few_rows(query, values)
        return [schema.decode(row) for row in reversed(rows)]

    async def head(self, room: str) -> Head | None:
        rows = await self._reader.few_rows(_HEAD, (room,))
        return _head(rows[0]) if rows else None

    async def entries(self, room: str, after: int, limit: int) -> list[LogEntry]:
        found = places(_ROOM_ID, "seq > :after")
        query = f"{_ENTRY} WHERE e.position IN ({found}) ORDER BY e.position LIMIT :limit"
        values = {"room": room, "after": number(after), "limit": number(limit)}
        rows = await self._reader.rows(query, values)
        return [_entry(row) for row in rows]

    async def entries_of(self, user: str, after: int) -> tuple[list[LogEntry], int | None]:
        def work(store: sqlite3.Connection) -> tuple[list[tuple[Any, ...]], int | None]:
            query = "SELECT position FROM events WHERE position > ? ORDER BY position LIMIT 1"
            query += f" OFFSET {_SCANNED - 1}"
            row = store.execute(query, (number(after),)).fetchone()
            upto = None if row is None else int(row[0])
            between = (number(after), number(2**63 if upto is None else upto), user)
            query = " WHERE e.position > ? AND e.position <= ? AND e.user = ? ORDER BY e.position"
            return store.execute(_ENTRY + query, between).fetchall(), upto

        rows, upto = await self._reader.run(work)
        return [_entry(row) for row in rows], upto

    async def rooms(self) -> list[Head]:
        # In the thread: 10,000 of them take 10 ms.
        def work(store: sqlite3.Connection) -> list[Head]:
            unfiled: dict[int, int] = dict(store.execute(_UNFILED))
            return [
                Head(room, name, max(seq, unfiled.get(room_id, 0)), topic)
                for room_id, room, name, seq, topic in store.execute(_ROOMS)
            ]

        return await self._reader.run(work)

    async def read_rooms(self, rooms: Mapping[str, int], upto: int, limit: int) -> list[Event]:
        filed = (
            f"{schema.EVENT} JOIN places AS p ON p.position = e.position"
            " WHERE p.room_id = ? AND p.seq > ? AND p.position <= ? ORDER BY p.seq"
        )
        unfiled = (
            f"{schema.EVENT} WHERE e.position > {FILED} AND e.position <= ? ORDER BY e.position"
        )

        def work(store: sqlite3.Connection) -> list[tuple[Any, ...]]:
            logs = []
            for room, after in rooms.items():
                if (log := _RoomLog.find(store, room)) is not None:
                    seq = log.first - 1 + log.count(after)
                    # Lazily: of each room only the rows that are needed are read.
                    logs.append(store.execute(filed, (log.room_id, seq, number(upto))))
            newest = (
                row
                for row in store.execute(unfiled, (number(upto),))
                if row[1] in rooms and row[0] > rooms[row[1]]
            )
            return list(islice(chain(merge(*logs, key=itemgetter(0)), newest), number(limit)))

        return [schema.decode(row) for row in await self._reader.run(work)]

    async def seq_at(self, room: str, position: int) -> int:
        def work(store: sqlite3.Connection) -> int:
            log = _RoomLog.find(store, room)
            if log is None:
                return 0
            count = log.count(position)
            return log.first - 1 + count if count or position >= log.gone else 0

        return await self._reader.run(work)

    async def unread(self, room: str, user: str, after: int, most: int) -> int:
        found = places(_ROOM_ID, "seq > :after")
        query = (
            f"SELECT count(*) FROM (SELECT 1 FROM ({found} LIMIT :limit) AS p"  # noqa: S608  constants
            " CROSS JOIN events AS e ON e.position = p.position"
            " WHERE e.kind = 'message' AND e.user != :user AND NOT e.deleted LIMIT :most)"
        )
        values = {
            "room": room,
            "after": number(after),
            "limit": UNREAD_EVENTS,
            "user": user,
            "most": number(most),
        }
        count: int = (await self._reader.rows(query, values))[0][0]
        return count

    async def search(
        self,
        query: str,
        rooms: Mapping[str, int],
        limit: int,
        *,
        sender: Sender | None = None,
        before: int | None = None,
    ) -> Hits:
        phrases = words.parse(query)
        if not (phrases or sender):
            return Hits([], more=False)
        senders = [] if sender is None else sender.tokens

        def work(store: sqlite3.Connection) -> Hits:
            index = WordIndex()
            index.reload(store)
            if index.stale:
                return Hits([], more=False, complete=False)
            check(store, index.indexed, index.floor)
            ends: dict[_RoomLog, int] = {}
            for room, below in rooms.items():
                log = _RoomLog.find(store, room)
                if log is not None and (end := log.end(below, before)) is not None:
                    ends[log] = end
            if not ends:
                return Hits([], more=False, complete=not index.floor)
            room_ids = [log.room_id for log in ends]
            # One query, because FTS5 puts the list of a beginning of words together for each.
            match = expression(room_ids, phrases, senders)
            positions: Iterator[tuple[int]] = store.execute(FOUND, (match, max(ends.values())))
            if before is not None:
                positions = _by_time(store, positions, ends, max(_SORTED_HITS, limit + 1))
            return first_hits(
                _events(store, positions),
                number(limit),
                by_time=before is not None,
                complete=not index.floor,
            )

        return await self._searcher.run(work)

    async def records(self, kind: str, prefix: str = "", limit: int = -1) -> list[Record]:
        query = (
            "SELECT shelf, name, value, until FROM records WHERE shelf = ? AND name >= ?"
            " AND name < ? AND (until IS NULL OR until > ?) ORDER BY name LIMIT ?"
        )
        most = -1 if limit < 0 else number(limit)
        few = _FEW_RECORDS if limit < 0 else min(most, _FEW_RECORDS)
        values = (kind, prefix, prefix + _LAST, self._clock())
        # Mostly one user's. An empty prefix matches all records of the kind.
        rows = await self._reader.few_rows(query, (*values, few)) if prefix else []
        if not prefix or (len(rows) == few != most):
            rows = await self._reader.rows(query, (*values, most))
        return [Record(*row) for row in rows]

    async def user(self, user: str) -> UserRecord | None:
        rows = await self._reader.few_rows(_USER + " WHERE user = ?", (user,))
        return _record(rows[0]) if rows else None

    async def present(self, since: int) -> list[UserRecord]:
        query = _USER + " WHERE seen IS NULL OR seen >= ? ORDER BY user"
        return [_record(row) for row in await self._reader.rows(query, (number(since),))]

    async def subjects(self) -> list[UserRecord]:
        rows = await self._reader.rows(_USER + " WHERE subject ORDER BY user")
        return [_record(row) for row in rows]


def _events(store: sqlite3.Connection, positions: Iterable[tuple[int]]) -> Iterator[Event]:
    for position in positions:
        row = store.execute(schema.EVENT + " WHERE e.position = ?", position).fetchone()
        if row is not None:  # in a damaged store the index may name what is not there
            yield schema.decode(row)


def _by_time(
    store: sqlite3.Connection,
    positions: Iterator[tuple[int]],
    ends: Mapping[_RoomLog, int],
    enough: int,
) -> Iterator[tuple[int]]:
    """Return positions in the order of their times, the newest first.

    Each room's times grow with its positions, but an imported room has old ones at the end of the
    store. So reading goes on until no room has a time that could belong among the first ones.
    """
    limits = {log.room_id: end for log, end in ends.items()}
    query = "SELECT room_id, at FROM events WHERE position = ?"
    hits: list[tuple[int, int]] = []
    look = enough
    for (position,) in positions:
        room_id, at = store.execute(query, (position,)).fetchone()
        if position < limits[room_id]:
            hits.append((at, position))
        if len(hits) == look:
            hits.sort(reverse=True)
            if max(log.newest_before(position) for log in ends) < hits[enough - 1][0]:
                break
            look *= 2
    hits.sort(reverse=True)
    return ((position,) for _, position in hits)


class _RoomLog:
    """The numbers of a room's stored events, which have no gap, and their positions.

    Both grow together, so a position is found by bisection: an index by room and position would
    cost every commit a page.
    """

    def __init__(
        self, store: sqlite3.Connection, room_id: int, gone: int, first: int, last: int
    ) -> None:
        self._store = store
        self.room_id = room_id
        self.gone = gone
        """The position of the last event that was removed."""
        self.first = first
        self.last = last

    @classmethod
    def find(cls, store: sqlite3.Connection, room: str) -> _RoomLog | None:
        row = store.execute("SELECT id, head, gone FROM rooms WHERE fold = ?", (room,)).fetchone()
        if row is None:
            return None
        room_id, head, gone = row
        first, last = store.execute(_ENDS, {"room": room_id}).fetchone()
        return cls(store, room_id, gone, *((head + 1, head) if first is None else (first, last)))

    def position(self, seq: int) -> int:
        found: int = self._store.execute(_POSITION, self._number(seq)).fetchone()[0]
        return found

    def end(self, below: int, before: int | None) -> int | None:
        """Return the position before which a search begins; None if it finds nothing.

        Args:
            below: The number that ends the search.
            before: The time that ends it. Times are taken to grow with the numbers.
        """
        seq = min(below, self.last + 1)
        if before is not None:
            numbers = range(self.first, seq)
            seq = self.first + bisect_left(numbers, before, key=self._at)
        if seq <= self.first:
            return None
        return self.position(seq - 1) + 1

    def newest_before(self, position: int) -> int:
        """Return the time of the last event before a position; 0 if there is none."""
        count = self.count(position - 1)
        return self._at(self.first - 1 + count) if count else 0

    def _at(self, seq: int) -> int:
        query = f"SELECT at FROM events WHERE position = ({_POSITION})"  # noqa: S608  a constant
        at: int = self._store.execute(query, self._number(seq)).fetchone()[0]
        return at

    def _number(self, seq: int) -> dict[str, int]:
        return {"room": self.room_id, "seq": seq}

    def count(self, position: int) -> int:
        """Return how many of them are at that position or before it."""
        return bisect_right(range(self.first, self.last + 1), position, key=self.position)


def _head(row: tuple[Any, ...]) -> Head:
    room, name, seq, topic, empty = row
    return Head(room, name, seq, topic, bool(empty))


def _record(row: tuple[Any, ...]) -> UserRecord:
    user, nick, seen, subject = row
    return UserRecord(user, nick, seen, bool(subject))


def _entry(row: tuple[Any, ...]) -> LogEntry:
    room, seq, at, kind, user, nick, text, of, reply_to, edited, deleted, key = row
    return LogEntry(room, seq, at, kind, user, nick, text, of, reply_to, edited, bool(deleted), key)
