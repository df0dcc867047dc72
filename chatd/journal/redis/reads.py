"""What is read of the store in Redis: pages of logs, records, users, and who is where."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from heapq import merge
from itertools import islice
from operator import attrgetter
from typing import Final, TypeVar

import trio

from chatd.journal import UNREAD_EVENTS
from chatd.journal.engine import Holder, Node
from chatd.journal.redis.client import Client, call
from chatd.journal.redis.damage import UNREADABLE, damaged
from chatd.journal.redis.layout import (
    MOST,
    Keys,
    Standing,
    decode_event,
    decode_log_entry,
    decode_record,
    decode_user,
    field,
)
from chatd.journal.redis.resp import Command
from chatd.journal.redis.scripts import PAGE, PLACES, UNREAD
from chatd.model import Entered, Event, Head, LogEntry, Record, UserRecord

__all__ = ["RedisReads"]

_T = TypeVar("_T")

_HEAD: Final = ("name", "seq", "first", "topic")
"""The fields of a room that make its `Head`."""

_PAGE: Final = 500
"""Events, records or members read at a time: some 0.5 ms of the server's time."""

_UNREAD: Final = 1000
"""Events read at a time to count unread messages: under 0.5 ms of the server's time."""

_BITS: Final = 48
"""How many bits an event's number takes in a place of the store: see `RedisReads._scan`."""

_SCANNED: Final = 2000
"""Events read at most for one chunk of `entries_of`."""


class RedisReads:
    """The reads of `chatd.journal.engine.Engine`.

    Args:
        client: The links to the server.
        keys: The names of the store's keys.
        now: For tests, the time in ms since 1970 in place of the server's.

    Attributes:
        on_damage: See `chatd.journal.engine.Engine`.
    """

    def __init__(self, client: Client, keys: Keys, now: Callable[[], int] | None = None) -> None:
        self._client = client
        self._keys = keys
        self._now = now
        self.on_damage: Callable[[str], None] = _ignore
        self._ahead_ms = 0.0
        """By how much the server's clock is ahead of Trio's."""

    def _set_time(self, now: int) -> None:
        self._ahead_ms = now - trio.current_time() * 1000

    def _time(self) -> int:
        """Return the server's time, in ms since 1970, as of the last beat and since."""
        if self._now is not None:
            return self._now()
        return round(trio.current_time() * 1000 + self._ahead_ms)

    def _log(self, room: str) -> tuple[bytes, bytes]:
        """Return the keys of a room and of its events."""
        return self._keys.room(room), self._keys.events(room)

    # ---- data that somebody has changed by hand

    @contextmanager
    def _reading(self, key: bytes, part: bytes | str | None = None) -> Iterator[None]:
        """Raise `Damaged` if the code of the block cannot read a key, or a part of it."""
        try:
            yield
        except UNREADABLE as error:
            raise damaged(self._keys, key, part) from error

    def _readable(
        self,
        key: bytes,
        stored: Iterable[tuple[bytes, bytes]],
        decode: Callable[[bytes, bytes], _T],
    ) -> list[_T]:
        """Return the values of a hash that can be read, and report the others.

        Args:
            key: The hash's key.
            stored: Its fields and values.
            decode: Makes a value of a field and its bytes.
        """
        found: list[_T] = []
        for name, value in stored:
            try:
                found.append(decode(name, value))
            except UNREADABLE:
                self.on_damage(str(damaged(self._keys, key, name)))
        return found

    def _numbered(
        self, room: str, first: int, records: Iterable[bytes], decode: Callable[[int, bytes], _T]
    ) -> list[_T]:
        """Return what a room's records say, whose numbers have no gap."""
        found: list[_T] = []
        seq = first
        try:
            for seq, record in enumerate(records, first):
                found.append(decode(seq, record))
        except UNREADABLE as error:
            raise damaged(self._keys, self._keys.events(room), seq) from error
        return found

    # ---- logs

    async def _page(
        self, room: str, after: int, upto: int, limit: int, *, stored: bool = False
    ) -> tuple[str, int, list[bytes]]:
        """Return a room's name, and the first records behind a number, with the first's number."""
        state = "stored" if stored else "present"
        arguments = (_number(after), _number(upto), limit, "first", state)
        name, first, *records = await self._client.ask_one(call(PAGE, self._log(room), *arguments))
        return name.decode(), first, records

    async def read(self, room: str, after: int, upto: int, limit: int) -> list[Event]:
        events: list[Event] = []
        while len(events) < limit:
            most = min(_PAGE, limit - len(events))
            _, first, records = await self._page(room, after, upto, most)
            events += self._numbered(room, first, records, partial(decode_event, room))
            if len(records) < most:
                break
            after = first + most - 1
        return events

    async def read_back(self, room: str, before: int, limit: int) -> list[Event]:
        events: list[Event] = []
        while len(events) < limit:
            most = min(_PAGE, limit - len(events))
            arguments = (0, _number(before - 1), most, "last", "present")
            _, first, *records = await self._client.ask_one(call(PAGE, self._log(room), *arguments))
            events[:0] = self._numbered(room, first, records, partial(decode_event, room))
            if len(records) < most:
                break
            before = first
        return events

    async def read_rooms(self, rooms: Mapping[str, int], upto: int, limit: int) -> list[Event]:
        bounds = [
            call(PLACES, self._log(room), _number(after), _number(upto))
            for room, after in rooms.items()
        ]
        logs = []
        for room, (_, _, after, last) in zip(rooms, await self._client.ask(*bounds), strict=True):
            if after < last:
                logs.append(await self.read(room, after, last, limit))
        return list(islice(merge(*logs, key=attrgetter("position")), max(0, limit)))

    async def head(self, room: str) -> Head | None:
        key = self._keys.room(room)
        values = await self._client.ask_one(("HMGET", key, *_HEAD))
        with self._reading(key):
            return _head(room, values)

    async def rooms(self) -> list[Head]:
        found = await self._client.ask_one(("ZRANGE", self._keys.rooms, 0, -1))
        names = sorted(room.decode() for room in found)
        heads: list[Head] = []
        for begin in range(0, len(names), _PAGE):
            part = names[begin : begin + _PAGE]
            asked: list[Command] = [("HMGET", self._keys.room(room), *_HEAD) for room in part]
            for room, values in zip(part, await self._client.replies(*asked), strict=True):
                try:
                    head = _head(room, values)
                except UNREADABLE:
                    self.on_damage(str(damaged(self._keys, self._keys.room(room))))
                    continue
                if head is not None and not head.empty:
                    heads.append(head)
        return heads

    async def seq_at(self, room: str, position: int) -> int:
        first, gone, seq = await self._client.ask_one(
            call(PLACES, self._log(room), _number(position))
        )
        return seq if seq >= first or position >= gone else 0

    async def unread(self, room: str, user: str, after: int, most: int) -> int:
        count = 0
        for _ in range(UNREAD_EVENTS // _UNREAD):
            arguments = (_number(after), field(user), _number(most - count), _UNREAD)
            found, upto = await self._client.ask_one(call(UNREAD, self._log(room), *arguments))
            count += found
            if upto is None or count >= most:
                break
            after = upto
        return count

    async def entries(self, room: str, after: int, limit: int) -> list[LogEntry]:
        entries: list[LogEntry] = []
        while len(entries) < limit:
            most = min(_PAGE, limit - len(entries))
            name, first, records = await self._page(room, after, MOST, most, stored=True)
            entries += self._numbered(room, first, records, partial(decode_log_entry, name))
            if len(records) < most:
                break
            after = first + most - 1
        return entries

    async def entries_of(self, user: str, after: int) -> tuple[list[LogEntry], int | None]:
        with self._reading(self._keys.order):
            chunk, upto = await self._scan(user, after)
        return [entry for _, entries in chunk for entry in entries], upto

    async def _scan(
        self, user: str, after: int
    ) -> tuple[list[tuple[str, list[LogEntry]]], int | None]:
        """Return a user's entries in the next part of the store, by room, and where it ends.

        Rooms are read in the order in which they were made. A place in the store is the room's
        place in that order, above the lowest `_BITS` bits, and the number of an event.
        """
        found: list[tuple[str, list[LogEntry]]] = []
        left = _SCANNED
        place, seq = after >> _BITS, after & (1 << _BITS) - 1
        rooms = await self._client.ask_one(
            ("ZRANGE", self._keys.order, place, "+inf", "BYSCORE", "LIMIT", 0, 64, "WITHSCORES")
        )
        for name, score in rooms:
            if int(score) != place:
                place, seq = int(score), 0
            room = name.decode()
            while left > 0:
                entries = await self.entries(room, seq, min(_PAGE, left))
                left -= len(entries) + 1
                said = [entry for entry in entries if entry.user == user]
                if said:
                    found.append((room, said))
                if not entries:
                    break
                seq = entries[-1].seq
            if left <= 0:
                return found, place << _BITS | seq
        return found, (place + 1) << _BITS if len(rooms) == 64 else None

    # ---- beside the logs

    async def records(self, kind: str, prefix: str = "", limit: int = -1) -> list[Record]:
        begin = f"{kind}\0{prefix}".encode()
        low, high = b"[" + begin, b"(" + begin + b"\xff"
        now, found = self._time(), list[Record]()
        while limit < 0 or len(found) < limit:
            names: list[bytes] = await self._client.ask_one(
                ("ZRANGE", self._keys.names, low, high, "BYLEX", "LIMIT", 0, _PAGE)
            )
            if names:
                stored = await self._client.ask_one(("HMGET", self._keys.records, *names))
                kept = _present(names, stored)
                records = self._readable(self._keys.records, kept, decode_record)
                found += (each for each in records if each.until is None or each.until > now)
            if len(names) < _PAGE:
                break
            low = b"(" + names[-1]
        return found if limit < 0 else found[:limit]

    async def user(self, user: str) -> UserRecord | None:
        stored = await self._client.ask_one(("HGET", self._keys.users, user))
        with self._reading(self._keys.users, user):
            return None if stored is None else decode_user(user, stored)

    async def present(self, since: int) -> list[UserRecord]:
        return await self._users(("ZRANGE", self._keys.seen, since, "+inf", "BYSCORE"))

    async def subjects(self) -> list[UserRecord]:
        return await self._users(("ZRANGE", self._keys.subjects, 0, -1))

    async def _users(self, query: Command) -> list[UserRecord]:
        found: list[bytes] = sorted(await self._client.ask_one(query))
        users: list[UserRecord] = []
        for begin in range(0, len(found), _PAGE):
            names = found[begin : begin + _PAGE]
            stored = await self._client.ask_one(("HMGET", self._keys.users, *names))
            kept = _present(names, stored)
            users += self._readable(
                self._keys.users, kept, lambda name, value: decode_user(name.decode(), value)
            )
        return users

    # ---- who is where

    async def position(self) -> int:
        position = await self._client.ask_one(("HGET", self._keys.meta, "pos"))
        with self._reading(self._keys.meta, "pos"):
            return int(position or 0)

    async def members(self, room: str) -> list[Entered]:
        position = await self.position()
        name, total = await self._client.ask(
            ("HGET", self._keys.room(room), "name"), ("HGET", self._keys.totals, room)
        )
        if name is None:
            name = room.encode() if total is None else total.partition(b"\0")[2]
        title = name.decode(errors="replace")
        stored = await self._hash(self._keys.members(room))
        users = sorted(stored)
        nicks: dict[bytes, str] = {}
        for begin in range(0, len(users), _PAGE):
            part = users[begin : begin + _PAGE]
            standings = await self._client.ask_one(("HMGET", self._keys.nicks, *part))
            found = _present(part, standings)
            nicks.update(
                self._readable(
                    self._keys.nicks, found, lambda user, one: (user, Standing.decode(one).nick)
                )
            )

        def member(user: bytes, value: bytes) -> Entered:
            nodes, _, nick = value.decode().partition("\0")
            nick = nicks.get(user, nick)
            return Entered(
                *(position, room, title, user.decode(), nick, "+" in nodes, True, len(users))
            )

        pairs = ((user, stored[user]) for user in users)
        return self._readable(self._keys.members(room), pairs, member)

    async def occupied(self) -> dict[str, tuple[str, int]]:
        """Return the rooms with members, without those of direct messages.

        By each room's key, its name as written and the number of its members.
        """

        def total(room: bytes, value: bytes) -> tuple[str, tuple[str, int]]:
            count, _, name = value.decode().partition("\0")
            return room.decode(), (name, int(count))

        totals = (await self._hash(self._keys.totals)).items()
        rooms = ((room, value) for room, value in totals if not room.startswith(b"@"))
        return dict(self._readable(self._keys.totals, rooms, total))

    async def holder(self, look: str) -> Holder | None:
        keys = self._keys
        looks: tuple[Command, ...] = (("HGET", keys.looks, look), ("HGET", keys.own, look))
        for place, found in enumerate(await self._client.ask(*looks)):
            if found is None:
                continue
            nodes, held, stored = await self._client.ask(
                ("HGET", keys.at, found), ("ZSCORE", keys.held, found), ("HGET", keys.nicks, found)
            )
            if stored is None:
                continue
            with self._reading(keys.nicks, found):
                standing = Standing.decode(stored)
            present = nodes is not None
            is_held = held is not None and held > self._time()
            if present or is_held or standing.subject or place == 1:
                return Holder(found.decode(), standing.nick, present, standing.subject)
        return None

    async def nodes(self) -> list[Node]:
        keys = self._keys
        leases = await self._client.ask_one(
            ("ZRANGE", keys.nodes, f"({self._time()}", "+inf", "BYSCORE", "WITHSCORES")
        )
        if not leases:
            return []
        facts = await self._client.ask_one(("HMGET", keys.facts, *(node for node, _ in leases)))
        with self._reading(keys.nodes):
            return sorted(
                (
                    Node(node.decode(), int(until), about or b"")
                    for (node, until), about in zip(leases, facts, strict=True)
                ),
                key=attrgetter("node"),
            )

    async def _hash(self, key: bytes) -> dict[bytes, bytes]:
        """Return a whole hash, which is read in parts."""
        found: dict[bytes, bytes] = {}
        cursor = b"0"
        while True:
            cursor, part = await self._client.ask_one(("HSCAN", key, cursor, "COUNT", _PAGE))
            found.update(zip(part[::2], part[1::2], strict=True))
            if cursor == b"0":
                return found


def position_of(entry: bytes) -> int:
    """Return the position of an entry of the feed by its id in the stream."""
    return int(entry.partition(b"-")[0])


def _present(
    fields: Iterable[bytes], values: Iterable[bytes | None]
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the fields of a hash that it has, with their values."""
    for name, value in zip(fields, values, strict=True):
        if value is not None:
            yield name, value


def _ignore(_damage: str) -> None:
    pass


def _number(number: int) -> int:
    """Return a number that clients named so that Lua can read it."""
    return max(-1, min(number, MOST))


def _head(room: str, values: list[bytes | None]) -> Head | None:
    name, seq, first, topic = values
    if name is None:
        return None
    last = int(seq or 0)
    return Head(room, name.decode(), last, (topic or b"").decode(), int(first or 1) > last)
