"""The reading half of the journal in a file: its queries, each of which reads what it gives."""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Mapping
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Any, Final

from chatd.journal import UNREAD_EVENTS, fulltext, schema, words
from chatd.journal.reader import Reader
from chatd.journal.schema import number
from chatd.model import Event, Head, LogEntry, Record, UserRecord

__all__ = ["Reads"]

_HEAD: Final = (
    "SELECT fold, name,"
    " max(ifnull((SELECT max(seq) FROM events WHERE room_id = rooms.id), 0), head), topic"
    " FROM rooms"
)
_LIVING: Final = "EXISTS (SELECT 1 FROM events WHERE room_id = id)"
# Around the folds that begin with "@", which comes before "A".
_ROOMS: Final = (
    f"{_HEAD} WHERE fold < '@' AND {_LIVING} UNION ALL"
    f" {_HEAD} WHERE fold >= 'A' AND {_LIVING} ORDER BY fold"
)
_LINE: Final = (
    "SELECT r.name, e.seq, e.at, e.kind, e.user, e.nick, e.text, e.of, e.reply_to, e.edited,"
    " e.deleted, e.key FROM events AS e JOIN rooms AS r ON r.id = e.room_id"
)
_SCANNED: Final = 20_000
"""Events that are looked at for one user's, of which there is no index: some 10 ms of a thread."""

_USER: Final = "SELECT user, nick, seen, subject FROM users"
_LAST: Final = "\U0010ffff"
"""The last character there is: what begins so is between the beginning and that."""


class Reads:
    """`chatd.journal.Journal`'s reads, on a `Reader`. ``now`` gives the time in ms."""

    def __init__(self, reader: Reader, now: Callable[[], int]) -> None:
        self._reader = reader
        self._now = now

    async def read(self, room: str, after: int, upto: int, limit: int) -> list[Event]:
        query = (
            schema.EVENT + " WHERE r.fold = ? AND e.seq > ? AND e.seq <= ? ORDER BY e.seq LIMIT ?"
        )
        values = (room, number(after), number(upto), number(limit))
        return [schema.decode(row) for row in await self._reader.rows(query, values)]

    async def read_back(self, room: str, before: int, limit: int) -> list[Event]:
        query = schema.EVENT + " WHERE r.fold = ? AND e.seq < ? ORDER BY e.seq DESC LIMIT ?"
        rows = await self._reader.rows(query, (room, number(before), number(limit)))
        return [schema.decode(row) for row in reversed(rows)]

    async def head(self, room: str) -> Head | None:
        rows = await self._reader.rows(_HEAD + " WHERE fold = ?", (room,))
        return Head(*rows[0]) if rows else None

    async def entries(self, room: str, after: int, limit: int) -> list[LogEntry]:
        query = _LINE + " WHERE r.fold = ? AND e.seq > ? ORDER BY e.seq LIMIT ?"
        rows = await self._reader.rows(query, (room, number(after), number(limit)))
        return [_line(row) for row in rows]

    async def entries_of(self, user: str, after: int) -> tuple[list[LogEntry], int | None]:
        def work(store: sqlite3.Connection) -> tuple[list[tuple[Any, ...]], int | None]:
            query = "SELECT position FROM events WHERE position > ? ORDER BY position LIMIT 1"
            query += f" OFFSET {_SCANNED - 1}"
            row = store.execute(query, (number(after),)).fetchone()
            upto = None if row is None else int(row[0])
            between = (number(after), number(2**63 if upto is None else upto), user)
            query = " WHERE e.position > ? AND e.position <= ? AND e.user = ? ORDER BY e.position"
            return store.execute(_LINE + query, between).fetchall(), upto

        rows, upto = await self._reader.run(work)
        return [_line(row) for row in rows], upto

    async def rooms(self) -> list[Head]:
        return [Head(*row) for row in await self._reader.rows(_ROOMS)]

    async def read_rooms(self, rooms: Mapping[str, int], upto: int, limit: int) -> list[Event]:
        where = " WHERE e.room_id = ? AND e.seq > ? AND e.position <= ? ORDER BY e.seq"

        def work(store: sqlite3.Connection) -> list[tuple[Any, ...]]:
            logs = []
            for room, after in rooms.items():
                if (log := _Log.find(store, room)) is not None:
                    seq = log.first - 1 + log.count(after)
                    # Read on only as far as it is asked: each gives its rows one by one.
                    logs.append(
                        store.execute(schema.EVENT + where, (log.room_id, seq, number(upto)))
                    )
            return list(islice(merge(*logs, key=itemgetter(0)), number(limit)))

        return [schema.decode(row) for row in await self._reader.run(work)]

    async def seq_at(self, room: str, position: int) -> int:
        def work(store: sqlite3.Connection) -> int:
            log = _Log.find(store, room)
            if log is None:
                return 0
            count = log.count(position)
            gone: int = store.execute("SELECT value FROM meta WHERE name = 'position'").fetchone()[
                0
            ]
            return log.first - 1 + count if count or position >= gone else 0

        return await self._reader.run(work)

    async def unread(self, room: str, user: str, after: int, most: int) -> int:
        query = (
            "SELECT count(*) FROM (SELECT 1 FROM (SELECT e.kind, e.user, e.deleted FROM events AS e"
            " JOIN rooms AS r ON r.id = e.room_id WHERE r.fold = ? AND e.seq > ?"
            " ORDER BY e.seq LIMIT ?)"
            " WHERE kind = 'message' AND user != ? AND NOT deleted LIMIT ?)"
        )
        values = (room, number(after), UNREAD_EVENTS, user, number(most))
        count: int = (await self._reader.rows(query, values))[0][0]
        return count

    async def search(self, room: str, query: str, before: int, limit: int) -> list[Event]:
        phrases = words.parse(query)
        if not phrases:
            return []

        def work(store: sqlite3.Connection) -> list[tuple[Any, ...]]:
            log = _Log.find(store, room)
            if log is None or before <= log.first:
                return []
            end = 2**63 - 1 if before > log.last else log.position(before)
            values = (fulltext.expression(log.room_id, phrases), end, number(limit))
            positions = store.execute(fulltext.FOUND, values).fetchall()
            event = schema.EVENT + " WHERE e.position = ?"
            return [store.execute(event, position).fetchone() for position in positions]

        return [schema.decode(row) for row in await self._reader.run(work)]

    async def records(self, kind: str, prefix: str = "", limit: int = -1) -> list[Record]:
        query = (
            "SELECT shelf, name, value, until FROM records WHERE shelf = ? AND name >= ?"
            " AND name < ? AND (until IS NULL OR until > ?) ORDER BY name LIMIT ?"
        )
        most = -1 if limit < 0 else number(limit)
        values = (kind, prefix, prefix + _LAST, self._now(), most)
        return [Record(*row) for row in await self._reader.rows(query, values)]

    async def user(self, user: str) -> UserRecord | None:
        rows = await self._reader.rows(_USER + " WHERE user = ?", (user,))
        return _record(rows[0]) if rows else None

    async def present(self, since: int) -> list[UserRecord]:
        query = _USER + " WHERE seen IS NULL OR seen >= ? ORDER BY user"
        return [_record(row) for row in await self._reader.rows(query, (number(since),))]

    async def subjects(self) -> list[UserRecord]:
        rows = await self._reader.rows(_USER + " WHERE subject ORDER BY user")
        return [_record(row) for row in rows]


class _Log:
    """A room's numbers that are there, which have no gap, and the positions beside them.

    Both grow alike, so that a position is found among them by halves: an index by room and position
    would cost every commit a page.
    """

    def __init__(self, store: sqlite3.Connection, room_id: int, first: int, last: int) -> None:
        self._store = store
        self.room_id = room_id
        self.first = first
        self.last = last

    @classmethod
    def find(cls, store: sqlite3.Connection, room: str) -> _Log | None:
        row = store.execute("SELECT id, head FROM rooms WHERE fold = ?", (room,)).fetchone()
        if row is None:
            return None
        room_id, head = row
        first, last = store.execute(
            "SELECT (SELECT min(seq) FROM events WHERE room_id = :room),"
            " (SELECT max(seq) FROM events WHERE room_id = :room)",
            {"room": room_id},
        ).fetchone()
        return cls(store, room_id, *((head + 1, head) if first is None else (first, last)))

    def position(self, seq: int) -> int:
        query = "SELECT position FROM events WHERE room_id = ? AND seq = ?"
        found: int = self._store.execute(query, (self.room_id, seq)).fetchone()[0]
        return found

    def count(self, position: int) -> int:
        """Tell how many of them are no further than that position."""
        return bisect_right(range(self.first, self.last + 1), position, key=self.position)


def _record(row: tuple[Any, ...]) -> UserRecord:
    user, nick, seen, subject = row
    return UserRecord(user, nick, seen, bool(subject))


def _line(row: tuple[Any, ...]) -> LogEntry:
    room, seq, at, kind, user, nick, text, of, reply_to, edited, deleted, key = row
    return LogEntry(room, seq, at, kind, user, nick, text, of, reply_to, edited, bool(deleted), key)
