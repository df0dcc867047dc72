"""A journal in the process's memory: the same promises as the one in a file, but for its life.

It never fails, and nothing in it waits, but for `hand_on`.
"""

from __future__ import annotations

import secrets
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from chatd.journal import FEED_BLOCKS, Statistics, Told
from chatd.journal.retention import CHUNK, Retention, Sweeps, silent
from chatd.model import Event, Head, Operation, Outcome, Post, Receipt, UserRecord

__all__ = ["MemoryJournal"]

_EVENT_BYTES: Final = 700
"""An event without its text: struct, numbers, entries in three dicts. Measured: 640."""

_Key = tuple[str, str, str]


@dataclass(slots=True)
class _Room:
    name: str
    seq: int = 0
    first: int = 1
    topic: str = ""
    events: dict[int, Event] = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class _Kept:
    event: Event
    key: _Key | None
    size: int


class MemoryJournal:
    """`chatd.journal.Journal`, by plain dicts. ``now`` gives the time in ms."""

    def __init__(
        self, *, now: Callable[[], int], retention: Retention | None = None, told: Told = silent
    ) -> None:
        self.epoch = secrets.token_hex(8)
        self.key = secrets.token_bytes(32)
        self._now = now
        self._retention = Retention() if retention is None else retention
        self._sweeps = Sweeps(self._retention, told)
        self._send, self.feed = trio.open_memory_channel[list[Event]](FEED_BLOCKS)
        self._rooms: dict[str, _Room] = {}
        self._kept: OrderedDict[int, _Kept] = OrderedDict()  # by position; the oldest is first
        self._keys: dict[_Key, _Kept] = {}
        self._users: OrderedDict[str, UserRecord] = OrderedDict()  # last remembered, last
        self._long: dict[str, None] = {}  # rooms that may hold more than keep_events
        self._position = 0
        self._bytes = 0
        self._batches = 0
        self._duplicates = 0

    @property
    def occupied(self) -> bool:
        return False

    async def commit(self, batch: Sequence[Operation]) -> list[Outcome]:
        if not batch:
            return []
        at = self._now()
        self._batches += 1
        outcomes: list[Outcome] = []
        for operation in batch:
            if isinstance(operation, Post):
                outcomes.append(self._post(operation, at))
            else:
                self._remember(operation.record)
                outcomes.append(None)
        return outcomes

    def _post(self, post: Post, at: int) -> Receipt:
        key = None if post.key is None else (post.room, post.user, post.key)
        if key is not None and (first := self._keys.get(key)) is not None:
            self._duplicates += 1
            return Receipt(first.event, duplicate=True)
        room = self._rooms.get(post.room)
        if room is None:
            room = self._rooms[post.room] = _Room(post.name)
        self._position += 1
        room.seq += 1
        event = Event(
            position=self._position,
            room=post.room,
            seq=room.seq,
            at=at,
            kind=post.kind,
            user=post.user,
            nick=post.nick,
            text=post.text,
            of=post.of,
            reply_to=post.reply_to,
        )
        kept = _Kept(event, key, _EVENT_BYTES + sys.getsizeof(post.text))
        room.events[room.seq] = event
        self._kept[self._position] = kept
        self._bytes += kept.size
        if key is not None:
            self._keys[key] = kept
        self._long[post.room] = None
        return Receipt(event)

    def _remember(self, record: UserRecord) -> None:
        self._users[record.user] = record
        self._users.move_to_end(record.user)

    async def settle(self) -> list[Event]:
        return []

    async def hand_on(self, events: list[Event]) -> None:
        try:
            self._send.send_nowait(events)
        except trio.WouldBlock:
            await self._send.send(events)

    async def read(self, room: str, after: int, upto: int, limit: int) -> list[Event]:
        log = self._rooms.get(room)
        if log is None:
            return []
        first = max(after + 1, log.first)
        last = min(upto, log.seq, first + limit - 1)
        return [log.events[seq] for seq in range(first, last + 1)]

    async def read_back(self, room: str, before: int, limit: int) -> list[Event]:
        log = self._rooms.get(room)
        if log is None:
            return []
        last = min(before - 1, log.seq)
        first = max(log.first, last - limit + 1)
        return [log.events[seq] for seq in range(first, last + 1)]

    async def head(self, room: str) -> Head | None:
        log = self._rooms.get(room)
        return None if log is None else Head(room, log.name, log.seq, log.topic)

    async def rooms(self) -> list[Head]:
        return [
            Head(room, log.name, log.seq, log.topic)
            for room, log in sorted(self._rooms.items())
            if log.events
        ]

    async def user(self, user: str) -> UserRecord | None:
        return self._users.get(user)

    async def present(self, since: int) -> list[UserRecord]:
        return sorted(
            (one for one in self._users.values() if one.seen is None or one.seen >= since),
            key=lambda one: one.user,
        )

    async def sweep(self) -> bool:
        size = self._bytes
        left = self._sweep_big(self._sweep_long(self._sweep_old(CHUNK)))
        more = left < CHUNK or self._forget_users() > 0
        self._sweeps.done(CHUNK - left, size=size, more=more)
        return more

    def _sweep_old(self, left: int) -> int:
        before = self._retention.events_before(self._now())
        while before is not None and left and self._kept:
            oldest = next(iter(self._kept.values())).event
            if oldest.at >= before:
                break
            self._remove(oldest)
            left -= 1
        return left

    def _sweep_long(self, left: int) -> int:
        keep = self._retention.keep_events
        while keep != "off" and left and self._long:
            room = next(iter(self._long))
            log = self._rooms[room]
            while left and log.seq - log.first >= keep:
                self._remove(log.events[log.first])
                left -= 1
            if log.seq - log.first < keep:
                del self._long[room]
        return left

    def _sweep_big(self, left: int) -> int:
        while left and self._kept and self._retention.excess(self._bytes):
            self._remove(next(iter(self._kept.values())).event)
            left -= 1
        return left

    def _remove(self, event: Event) -> None:
        kept = self._kept.pop(event.position)
        self._bytes -= kept.size
        if kept.key is not None:
            del self._keys[kept.key]
        room = self._rooms[event.room]
        del room.events[event.seq]
        room.first = event.seq + 1

    def _forget_users(self) -> int:
        before = self._retention.users_before(self._now())
        gone: list[str] = []
        if before is not None:
            for user, record in self._users.items():
                if record.seen is None:
                    continue
                if record.seen >= before or len(gone) == CHUNK:
                    break
                gone.append(user)
        for user in gone:
            del self._users[user]
        return len(gone)

    async def aclose(self) -> None:
        self._send.close()

    def statistics(self) -> Statistics:
        return Statistics(
            events=self._position,
            duplicates=self._duplicates,
            batches=self._batches,
            failures=0,
            swept=self._sweeps.swept,
            bytes=self._bytes,
            log_bytes=0,
            commit_seconds=0.0,
            slowest_seconds=0.0,
            threaded=False,
            waiting_blocks=self.feed.statistics().current_buffer_used,
        )
