"""Retention on Redis: which events, users and records are removed next.

They are read first. Then a script removes those that are still there and still as they were read,
so any node may sweep at any time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from chatd.journal.engine import Sweep
from chatd.journal.redis.batch import Batch, Chunk
from chatd.journal.redis.client import Client, call
from chatd.journal.redis.layout import MOST, Keys, decode_log_entry, front_of
from chatd.journal.redis.resp import Command
from chatd.journal.redis.scripts import PAGE
from chatd.journal.retention import (
    CHUNK,
    EXPENDABLE,
    Front,
    Retention,
    front_before,
    front_time,
    until_freed,
)

__all__ = ["Sweeper", "read_front"]

_ROW_BYTES: Final = 400
"""The estimated size of a user or a record, with its entries in the indexes."""

_CANDIDATES: Final = 1000
"""How many records are read at a time to find those that may be dropped before their time."""


async def read_front(
    client: Client, keys: Keys, room: str, limit: int
) -> tuple[Chunk | None, list[Front]]:
    """Return the first events of a room, and what retention has to know of them.

    ``Chunk.upto`` is None if these are all.
    """
    log = keys.room(room), keys.events(room)
    _, first, *records = await client.ask_one(
        call(PAGE, log, 0, MOST, limit + 1, "first", "stored")
    )
    more, records = len(records) > limit, records[:limit]
    if not records:
        return None, []
    entries = [decode_log_entry("", first + place, one) for place, one in enumerate(records)]
    events = [(entry.seq, entry.user, entry.key) for entry in entries]
    upto = int(records[-1].split(b" ", 1)[0][1:]) if more else None
    fronts = [front_of(first + place, record) for place, record in enumerate(records)]
    return Chunk(room, first, events, upto), fronts


class Sweeper:
    """Removes one chunk at a time.

    Args:
        client: The links to the server.
        keys: The names of the store's keys.
        new_batch: Returns a batch without operations.
        execute: Carries out a batch that has no number.
    """

    def __init__(
        self,
        client: Client,
        keys: Keys,
        new_batch: Callable[[], Batch],
        execute: Callable[[Batch], Awaitable[Any]],
    ) -> None:
        self._client = client
        self._keys = keys
        self._new_batch = new_batch
        self._execute = execute
        self._retention: Retention | None = None
        self._long: dict[str, None] = {}
        """Rooms that may hold more than ``keep_events``: those to which this node added events."""

    def grown(self, room: str) -> None:
        """Note that a room has grown."""
        if self._retention is not None and self._retention.keep_events != "off":
            self._long[room] = None

    async def sweep(self, retention: Retention, now: int) -> Sweep:
        """Remove one chunk of what retention drops; see `chatd.journal.engine.Engine.sweep`."""
        if retention != self._retention:
            self._retention = retention
            self._long = {}
            if retention.keep_events != "off":
                rooms = await self._client.ask_one(("ZRANGE", self._keys.order, 0, -1))
                self._long = dict.fromkeys(room.decode() for room in rooms)
        size, beside = await self._sizes()
        dropped = await self._drop_expendable() if retention.beside_fills(beside) else 0
        excess = 0 if dropped else retention.events_exceed(size + beside, beside)
        left = await self._sweep_oldest(retention, CHUNK, now, excess)
        left = await self._sweep_long(retention, left)
        ended = await self._drop_ended(retention, now)
        more = dropped + CHUNK - left + ended > 0
        due = None if more else await self._due(retention)
        return Sweep(CHUNK - left, more, due, size + beside)

    async def _sizes(self) -> tuple[int, int]:
        """Return the bytes of the events, and of what is kept beside them."""
        keys = self._keys
        size, *counts = await self._client.ask(
            ("HGET", keys.meta, "bytes"),
            ("HLEN", keys.users),
            ("HLEN", keys.records),
            ("HLEN", keys.nicks),
        )
        return int(size or 0), sum(counts) * _ROW_BYTES

    # ---- events

    async def _fronts(self) -> list[tuple[int, str]]:
        """Return the two oldest of the rooms' first events, by their times."""
        lists = self._keys.rooms, self._keys.directs
        commands: list[Command] = [("ZRANGE", one, 0, 1, "WITHSCORES") for one in lists]
        found = [pair for pairs in await self._client.ask(*commands) for pair in pairs]
        return sorted((int(time), room.decode()) for room, time in found)[:2]

    async def _sweep_oldest(self, retention: Retention, left: int, now: int, excess: int) -> int:
        before = retention.events_before(now)
        while left and (fronts := await self._fronts()):
            until = now + 1 if excess > 0 else before
            oldest, room = fronts[0]
            if until is None or until <= oldest <= now:
                break
            chunk, log = await read_front(self._client, self._keys, room, left)
            if chunk is None:
                break  # another node was quicker
            if oldest > now:
                batch = self._new_batch()
                batch.set_front(room, front_time(log, now))
                await self._execute(batch)
                continue
            limit, part = until, log
            if excess > 0:
                part = list(until_freed(log, excess))
                limit = until if len(fronts) < 2 else fronts[1][0] + 1
            upto = front_before(part, oldest, limit, now)
            excess -= sum(size for seq, _, size in part if seq <= upto)
            left -= await self._remove(chunk, upto)
        return left

    async def _sweep_long(self, retention: Retention, left: int) -> int:
        keep = retention.keep_events
        while keep != "off" and left and self._long:
            room = next(iter(self._long))
            values = await self._client.ask_one(("HMGET", self._keys.room(room), "seq", "first"))
            seq, first = (int(value or 0) for value in values)
            if seq - first >= keep:
                chunk, _ = await read_front(self._client, self._keys, room, left)
                if chunk is not None:
                    left -= await self._remove(chunk, min(seq - keep, chunk.events[-1][0]))
                first += left
            if seq - first < keep:
                self._long.pop(room, None)
        return left

    async def _remove(self, chunk: Chunk, upto: int) -> int:
        """Remove a room's events up to a number; return how many they were."""
        events = [event for event in chunk.events if event[0] <= upto]
        batch = self._new_batch()
        batch.remove_front(Chunk(chunk.room, chunk.first, events, None))
        await self._execute(batch)
        return len(events)

    # ---- what is kept beside them

    async def _drop_expendable(self) -> int:
        """Drop a chunk of what is kept for guests who may never come back."""
        keys, batch = self._keys, self._new_batch()
        away = await self._client.ask_one(
            ("ZRANGE", keys.seen, 1, "(+inf", "BYSCORE", "LIMIT", 0, _CANDIDATES, "WITHSCORES")
        )
        subjects = set(await self._client.ask_one(("ZRANGE", keys.subjects, 0, -1)))
        guests = [(user, int(seen)) for user, seen in away if user not in subjects][:CHUNK]
        if guests:
            batch.forget_users(guests)
        else:
            names = await self._expendable_records()
            if not names:
                return 0
            batch.drop_records(names)
        await self._execute(batch)
        return 1

    async def _expendable_records(self) -> list[tuple[bytes, int]]:
        """Return those records that may be dropped before their time and end first."""
        found: list[tuple[bytes, int]] = []
        place = 0
        while len(found) < CHUNK:
            ending = await self._client.ask_one(
                ("ZRANGE", self._keys.until, place, place + _CANDIDATES - 1, "WITHSCORES")
            )
            found += (
                (name, int(until))
                for name, until in ending
                if name.partition(b"\0")[0].decode() in EXPENDABLE
            )
            if len(ending) < _CANDIDATES:
                break
            place += _CANDIDATES
        return found[:CHUNK]

    async def _drop_ended(self, retention: Retention, now: int) -> int:
        """Drop a chunk of users, records and nicks whose time is over; return how many."""
        keys = self._keys
        before = retention.users_before(now)
        limit = ("LIMIT", 0, CHUNK, "WITHSCORES")
        users, records, nicks = await self._client.ask(
            ("ZRANGE", keys.seen, "-inf", f"({before or 0}", "BYSCORE", *limit),
            ("ZRANGE", keys.until, "-inf", now, "BYSCORE", *limit),
            ("ZRANGE", keys.held, "-inf", now, "BYSCORE", *limit),
        )
        batch = self._new_batch()
        if users:
            batch.forget_users(_timed(users))
        if records:
            batch.drop_records(_timed(records))
        if nicks:
            batch.end_holds(_timed(nicks))
        if batch.arguments:
            await self._execute(batch)
        return len(users) + len(records) + len(nicks)

    async def _due(self, retention: Retention) -> int | None:
        """Return when something is to be removed next, in ms since 1970."""
        fronts = await self._fronts()
        seen, until = await self._client.ask(
            ("ZRANGE", self._keys.seen, "-inf", "(+inf", "BYSCORE", "LIMIT", 0, 1, "WITHSCORES"),
            ("ZRANGE", self._keys.until, 0, 0, "WITHSCORES"),
        )
        return retention.next_due(
            fronts[0][0] if fronts else None,
            int(seen[0][1]) if seen else None,
            int(until[0][1]) if until else None,
        )


def _timed(found: Sequence[tuple[bytes, float]]) -> list[tuple[bytes, int]]:
    return [(name, int(time)) for name, time in found]
