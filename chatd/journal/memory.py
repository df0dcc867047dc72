"""A journal in memory. It keeps every promise of the one in a file, but ends with the process.

It never fails, and nothing in it waits except `LocalJournal.answered`.
"""

from __future__ import annotations

import secrets
import sys
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace, merge, nsmallest
from itertools import islice
from operator import attrgetter
from typing import Final

import trio
from msgspec import Struct
from msgspec.structs import replace

from chatd.clock import SteadyClock
from chatd.journal import (
    FORGOTTEN,
    NO_MESSAGE,
    NOT_YOURS,
    UNREAD_EVENTS,
    Hits,
    LocalJournal,
    OperatorLog,
    Sender,
    Statistics,
    Unavailable,
    new_epoch,
    next_time,
)
from chatd.journal.retention import (
    CHUNK,
    EXPENDABLE,
    ClockLog,
    Front,
    Retention,
    RetentionLog,
    front_before,
    front_time,
    no_report,
    until_freed,
)
from chatd.journal.rewrite import unfit
from chatd.journal.scan import Scan, search
from chatd.model import (
    Drop,
    Erase,
    Event,
    Forget,
    Head,
    LogEntry,
    Operation,
    Outcome,
    Post,
    Progress,
    Put,
    Receipt,
    Record,
    Records,
    Refusal,
    Remember,
    Restore,
    Take,
    Taken,
    UserRecord,
    Wipe,
)

__all__ = ["MemoryJournal"]

_EVENT_BYTES: Final = 700
"""The size of an event without its text: struct, numbers, entries in three dicts. Measured: 640."""

_ROW_BYTES: Final = 400
"""The size of a user or a record. Measured: 300 to 450."""

_Key = tuple[str, str, str]


class _Kept(Struct):
    """An event as stored: an edit has no text, its message has the current one."""

    event: Event
    key: _Key | None
    size: int


@dataclass(slots=True)
class _Room:
    name: str
    seq: int = 0
    first: int = 1
    gone: int = 0
    """The position of the last event that was removed."""
    topic: str = ""
    events: dict[int, _Kept] = field(default_factory=dict)

    def present(self, seq: int) -> Event:
        """Return the event with its present text."""
        event = self.events[seq].event
        if event.kind != "edit":
            return event
        target = self.events.get(event.of or 0)
        return replace(event, text=None if target is None else target.event.text)


class MemoryJournal(LocalJournal):
    """`chatd.journal.Journal` on plain dicts.

    Args:
        now: Returns the time in ms since 1970.
        elapsed: Returns the seconds since some moment, however the wall clock is set.
        retention: The limits of retention; by default `Retention`'s defaults.
        report: Where to report what operators should know.
    """

    def __init__(
        self,
        *,
        now: Callable[[], int],
        elapsed: Callable[[], float] = trio.current_time,
        retention: Retention | None = None,
        report: OperatorLog = no_report,
    ) -> None:
        self.epoch = new_epoch()
        self.key = secrets.token_bytes(32)
        self.position = 0
        self._now = now
        self._clock = SteadyClock(now, elapsed)
        self._clock_log = ClockLog(report)
        self._at = 0  # the last time that an event was given
        self._retention = Retention() if retention is None else retention
        self._retention_log = RetentionLog(self._retention, report)
        self._rooms: dict[str, _Room] = {}
        self._kept: dict[int, _Kept] = {}  # by position; the oldest is first
        self._keys: dict[_Key, _Kept] = {}
        self._users: OrderedDict[str, UserRecord] = OrderedDict()  # last remembered, last
        self._records: dict[tuple[str, str], Record] = {}
        self._long: dict[str, None] = {}  # rooms that may hold more than keep_events
        # The rooms' first events: their times, the rooms, and their numbers. The first one is next
        # in retention, unless it was removed meanwhile.
        self._fronts: list[tuple[int, str, int]] = []
        self._bytes = 0
        self._batches = 0
        self._duplicates = 0

    async def newest(self) -> int:
        return self.position

    @property
    def writer_blocked(self) -> bool:
        return False

    @property
    def in_place(self) -> bool:
        return True

    def steady_now(self) -> int:
        return self._clock()

    def confirm_clock(self) -> None:
        self._clock()
        self._clock.confirm()
        self._clock_log.look(self._clock)

    async def commit(self, batch: Sequence[Operation]) -> list[Outcome]:
        if not batch:
            return []
        at = self._at = next_time(self._at, self._now())
        self._batches += 1
        return [self._do(operation, at) for operation in batch]

    def _do(self, operation: Operation, at: int) -> Outcome:
        # Most are posts. A class pattern takes five times as long as this test.
        if type(operation) is Post:
            return self._post(operation, at)
        match operation:
            case Restore():
                return self._restore(operation)
            case Wipe():
                return self._wipe(operation)
            case Erase():
                return self._erase(operation)
            case Forget(user):
                self._users.pop(user, None)
                for key in [key for key in self._records if key[1].startswith(f"{user}\0")]:
                    del self._records[key]
            case Remember(record):
                self._users[record.user] = record
                self._users.move_to_end(record.user)
            case Put(record):
                self._records[record.kind, record.name] = record
            case Records(put, drop):
                self._records.update({(record.kind, record.name): record for record in put})
                for key in drop:
                    self._records.pop(key, None)
            case Drop(kind, name):
                self._records.pop((kind, name), None)
            case Take(kind, name):
                taken = self._records.pop((kind, name), None)
                return Taken(taken if taken is not None and _lasts(taken, self._clock()) else None)
            case _:
                raise TypeError(f"{operation} is for a store that several daemons share")
        return None

    def _post(self, post: Post, at: int) -> Receipt | Refusal:
        key = None if post.key is None else (post.room, post.user, post.key)
        if key is not None and (first := self._keys.get(key)) is not None:
            self._duplicates += 1
            event = self._rooms[post.room].present(first.event.seq)
            return Receipt(event, duplicate=True)
        kind, text = post.kind, post.text
        if (kind != "message" or post.reply_to is not None) and (
            refusal := self._change(post, at)
        ) is not None:
            return refusal
        room = self._rooms.get(post.room)
        if room is None:
            room = self._rooms[post.room] = _Room(post.name)
        if kind == "topic":
            room.topic = text or ""
        self.position = position = self.position + 1
        room.seq = seq = room.seq + 1
        event = Event(
            position, post.room, seq, at, kind, post.user, post.nick, text, post.of, post.reply_to
        )
        stored = replace(event, text=None) if kind == "edit" else event
        kept = _Kept(stored, key, _size(stored))
        room.events[seq] = self._kept[position] = kept
        self._bytes += kept.size
        if room.first == seq:
            self._add_front(post.room, room)
        if key is not None:
            self._keys[key] = kept
        self._long[post.room] = None
        return Receipt(event)

    def _change(self, post: Post, at: int) -> Refusal | None:
        """Apply an edit or a delete to its message; return why it is refused, or None."""
        if post.reply_to is not None and self._message(post.room, post.reply_to) is None:
            return NO_MESSAGE
        if post.kind not in ("edit", "delete"):
            return None
        target = self._message(post.room, post.of)
        if target is None or target.event.deleted:
            return NO_MESSAGE
        if target.event.user != post.user and not (post.kind == "delete" and post.operator):
            return NOT_YOURS
        if post.kind == "edit":
            target.event = replace(target.event, text=post.text, edited=at)
        else:
            target.event = replace(target.event, text=None, edited=None, deleted=True)
        self._bytes -= target.size
        target.size = _size(target.event)
        self._bytes += target.size
        return None

    def _restore(self, operation: Restore) -> Refusal | None:
        entries = operation.entries
        room = self._rooms.get(operation.room) or _Room(entries[0].room)
        keys = [
            (operation.room, entry.user, entry.key) for entry in entries if entry.key is not None
        ]
        if (refusal := unfit(operation, room.seq, empty=not room.events)) is not None:
            return refusal
        if any(key in self._keys for key in keys):
            name = entries[0].room
            message = f"{name} already has a message with one of these keys."
            return Refusal("bad_request", message)
        was_empty = not room.events
        if was_empty:
            room.first = entries[0].seq
        self._rooms[operation.room] = room
        for entry in entries:
            self.position += 1
            event = Event(
                *(self.position, operation.room, entry.seq, entry.at, entry.kind, entry.user),
                *(entry.nick, entry.text, entry.of, entry.reply_to, entry.edited, entry.deleted),
            )
            key = None if entry.key is None else (operation.room, entry.user, entry.key)
            kept = _Kept(event, key, _size(event))
            room.events[entry.seq] = self._kept[self.position] = kept
            self._bytes += kept.size
            if key is not None:
                self._keys[key] = kept
            if entry.kind == "topic":
                room.topic = entry.text or ""
        room.seq = entries[-1].seq
        if was_empty:
            self._add_front(operation.room, room)
        self._long[operation.room] = None
        self.epoch = new_epoch()
        return None

    def _wipe(self, operation: Wipe) -> Progress:
        for kept in self._kept.values():
            event = kept.event
            if event.user != operation.user:
                continue
            if kept.key is not None:
                del self._keys[kept.key]
                kept.key = None
            room = self._rooms[event.room]
            if event.kind == "topic" and room.topic == event.text:
                room.topic = ""
            said = event.kind == "message"
            kept.event = replace(
                event,
                user=FORGOTTEN,
                nick=FORGOTTEN,
                text="" if event.kind == "topic" else None,
                edited=None,
                deleted=said,
            )
            self._bytes -= kept.size
            kept.size = _size(kept.event)
            self._bytes += kept.size
        return Progress(None)

    def _erase(self, operation: Erase) -> Progress:
        room = self._rooms.get(operation.room)
        if room is not None:
            room.topic = ""
            if room.events:
                self._remove_front(operation.room, room.seq)
            if operation.forget:
                del self._rooms[operation.room]
                self._long.pop(operation.room, None)
                self._fronts = [front for front in self._fronts if front[1] != operation.room]
                heapify(self._fronts)
        return Progress(None)

    def _message(self, room: str, seq: int | None) -> _Kept | None:
        log = self._rooms.get(room)
        kept = None if log is None or seq is None else log.events.get(seq)
        return kept if kept is not None and kept.event.kind == "message" else None

    async def recover(self) -> list[Event]:
        return []

    async def read(self, room: str, after: int, upto: int, limit: int) -> list[Event]:
        log = self._rooms.get(room)
        if log is None:
            return []
        first = max(after + 1, log.first)
        last = min(upto, log.seq, first + limit - 1)
        return [log.present(seq) for seq in range(first, last + 1)]

    async def read_back(self, room: str, before: int, limit: int) -> list[Event]:
        log = self._rooms.get(room)
        if log is None:
            return []
        last = min(before - 1, log.seq)
        first = max(log.first, last - limit + 1)
        return [log.present(seq) for seq in range(first, last + 1)]

    async def head(self, room: str) -> Head | None:
        log = self._rooms.get(room)
        return None if log is None else Head(room, log.name, log.seq, log.topic, not log.events)

    async def entries(self, room: str, after: int, limit: int) -> list[LogEntry]:
        log = self._rooms.get(room)
        if log is None:
            return []
        first = max(after + 1, log.first)
        last = min(log.seq, first + limit - 1)
        return [_entry(log, log.events[seq]) for seq in range(first, last + 1)]

    async def entries_of(self, user: str, after: int) -> tuple[list[LogEntry], int | None]:
        said = (kept for kept in self._kept.values() if kept.event.user == user)
        return [
            _entry(self._rooms[kept.event.room], kept)
            for kept in said
            if kept.event.position > after
        ], None

    async def backup(self) -> AsyncGenerator[bytes]:
        raise Unavailable("The history is in memory: there is no store to copy.")
        yield b""

    async def rooms(self) -> list[Head]:
        return [
            Head(room, log.name, log.seq, log.topic)
            for room, log in sorted(self._rooms.items())
            if log.events and not room.startswith("@")
        ]

    async def read_rooms(self, rooms: Mapping[str, int], upto: int, limit: int) -> list[Event]:
        logs = []
        for room, after in rooms.items():
            if (log := self._rooms.get(room)) is not None:
                begin, end = _count(log, after), _count(log, upto)
                logs.append(map(log.present, range(log.first + begin, log.first + end)))
        return list(islice(merge(*logs, key=attrgetter("position")), max(0, limit)))

    async def seq_at(self, room: str, position: int) -> int:
        log = self._rooms.get(room)
        if log is None:
            return 0
        count = _count(log, position)
        return log.first - 1 + count if count or position >= log.gone else 0

    async def unread(self, room: str, user: str, after: int, most: int) -> int:
        log = self._rooms.get(room)
        if log is None:
            return 0
        first = max(after + 1, log.first)
        events = (
            log.events[seq].event
            for seq in range(first, min(log.seq, first + UNREAD_EVENTS - 1) + 1)
        )
        others = (one for one in events if _unread(one, user))
        return sum(1 for _ in islice(others, max(0, most)))

    async def search(
        self,
        query: str,
        rooms: Mapping[str, int],
        limit: int,
        *,
        sender: Sender | None = None,
        before: int | None = None,
    ) -> Hits:
        return await search(self._newest, query, rooms, limit, sender, before)

    async def _newest(
        self, scan: Scan, room: str, below: int, before: int | None, most: int
    ) -> list[Event]:
        """Return the newest messages that a scan finds in a room, before a number and a time."""
        log = self._rooms.get(room)
        return [] if log is None else await _scan(scan, log, _end(log, below, before), most)

    async def records(self, kind: str, prefix: str = "", limit: int = -1) -> list[Record]:
        now = self._clock()
        found = sorted(
            (
                record
                for record in self._records.values()
                if record.kind == kind and record.name.startswith(prefix) and _lasts(record, now)
            ),
            key=attrgetter("name"),
        )
        return found if limit < 0 else found[:limit]

    async def user(self, user: str) -> UserRecord | None:
        return self._users.get(user)

    async def present(self, since: int) -> list[UserRecord]:
        return sorted(
            (one for one in self._users.values() if one.seen is None or one.seen >= since),
            key=lambda one: one.user,
        )

    @property
    def indexed(self) -> bool:
        return True  # `search` reads the texts themselves

    async def index(self) -> float | None:
        return None

    def reindex(self) -> None:
        pass

    async def subjects(self) -> list[UserRecord]:
        return sorted(
            (one for one in self._users.values() if one.subject), key=lambda one: one.user
        )

    async def sweep(self) -> bool:
        self._clock_log.look(self._clock)
        size, beside, now = self._bytes, self._bytes_beside(), self._clock()
        dropped = self._drop_expendable() if self._retention.beside_fills(beside) else 0
        excess = 0 if dropped else self._retention.events_exceed(size + beside, beside)
        left = self._sweep_long(self._sweep_oldest(CHUNK, now, excess))
        removed = CHUNK - left + dropped
        more = removed + self._forget_users(now) + self._drop_records(now) > 0
        self._retention_log.done(CHUNK - left, size=size + beside, more=more)
        self._retention_log.dropped(dropped=dropped > 0, more=more)
        stuck = not more and self._retention.excess(size + beside)
        self._retention_log.stuck(size + beside, beside, stuck=stuck)
        return more

    def _bytes_beside(self) -> int:
        return (len(self._users) + len(self._records)) * _ROW_BYTES

    def due_in(self) -> float | None:
        front = self._front()
        due = self._retention.next_due(
            None if front is None else front[0],
            next((one.seen for one in self._users.values() if one.seen is not None), None),
            min(
                (one.until for one in self._records.values() if one.until is not None), default=None
            ),
        )
        return None if due is None else max(0, due - self._clock()) / 1000

    def _add_front(self, key: str, room: _Room) -> None:
        at, now = room.events[room.first].event.at, self._clock()
        if at > now:
            at = front_time(self._log(key, CHUNK), now)
        heappush(self._fronts, (at, key, room.first))

    def _front(self) -> tuple[int, str, int] | None:
        """Return the oldest of the rooms' first events; see `_fronts`."""
        while self._fronts:
            front = self._fronts[0]
            room = self._rooms[front[1]]
            if room.events and room.first == front[2]:
                return front
            heappop(self._fronts)
        return None

    def _sweep_oldest(self, left: int, now: int, excess: int) -> int:
        before = self._retention.events_before(now)
        while left and (front := self._front()) is not None:
            until = now + 1 if excess > 0 else before
            if until is None:
                break
            oldest, key, first = front
            if oldest > now:
                log = self._log(key, CHUNK)
                heapreplace(self._fronts, (front_time(log, now), key, first))
                continue
            if oldest >= until:
                break
            heappop(self._fronts)
            following, log, limit = self._front(), self._log(key, left), until
            if excess > 0:
                log = until_freed(log, excess)
                limit = until if following is None else following[0] + 1
            upto = front_before(log, oldest, limit, now)
            excess -= sum(size for seq, _, size in log if seq <= upto)
            left -= self._remove_front(key, upto)
        return left

    def _log(self, key: str, limit: int) -> Sequence[Front]:
        """Return a room's first events."""
        room = self._rooms[key]
        numbers = range(room.first, min(room.seq, room.first + limit - 1) + 1)
        return [(seq, room.events[seq].event.at, room.events[seq].size) for seq in numbers]

    def _sweep_long(self, left: int) -> int:
        keep = self._retention.keep_events
        while keep != "off" and left and self._long:
            key = next(iter(self._long))
            log = self._rooms[key]
            if log.events and log.seq - log.first >= keep:
                left -= self._remove_front(key, min(log.seq - keep, log.first + left - 1))
            if not log.events or log.seq - log.first < keep:
                del self._long[key]
        return left

    def _remove_front(self, key: str, upto: int) -> int:
        """Remove a room's events up to a number; return how many."""
        room = self._rooms[key]
        removed = range(room.first, upto + 1)
        for seq in removed:
            kept = room.events.pop(seq)
            room.gone = kept.event.position
            del self._kept[room.gone]
            self._bytes -= kept.size
            if kept.key is not None:
                del self._keys[kept.key]
        room.first = upto + 1
        if room.events:
            self._add_front(key, room)
        return len(removed)

    def _drop_expendable(self) -> int:
        """Drop a chunk of what is kept for guests who may never come back."""
        away = (user for user, one in self._users.items() if one.seen and not one.subject)
        if gone := list(islice(away, CHUNK)):
            for user in gone:
                del self._users[user]
            return len(gone)
        expendable = (
            (one.until, name)
            for name, one in self._records.items()
            if one.until is not None and one.kind in EXPENDABLE
        )
        first = nsmallest(CHUNK, expendable)
        for _, name in first:
            del self._records[name]
        return len(first)

    def _forget_users(self, now: int) -> int:
        before = self._retention.users_before(now)
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

    def _drop_records(self, now: int) -> int:
        over = (name for name, record in self._records.items() if not _lasts(record, now))
        gone = list(islice(over, CHUNK))
        for name in gone:
            del self._records[name]
        return len(gone)

    def retain(self, retention: Retention) -> None:
        self._retention = self._retention_log.retention = retention
        self._long = dict.fromkeys(self._rooms)

    async def aclose(self) -> None:
        pass

    def statistics(self) -> Statistics:
        return Statistics(
            events=self.position,
            duplicates=self._duplicates,
            batches=self._batches,
            failures=0,
            swept=self._retention_log.swept,
            bytes=self._bytes + self._bytes_beside(),
            log_bytes=0,
            log_held_seconds=0.0,
            clock_jump_seconds=self._clock.jump / 1000,
            commit_seconds=0.0,
            slowest_seconds=0.0,
            threaded=False,
        )


def _entry(room: _Room, kept: _Kept) -> LogEntry:
    event, key = kept.event, kept.key
    return LogEntry(
        *(room.name, event.seq, event.at, event.kind, event.user, event.nick, event.text),
        *(event.of, event.reply_to, event.edited, event.deleted),
        None if key is None else key[2],
    )


def _size(event: Event) -> int:
    return _EVENT_BYTES + sys.getsizeof(event.text)


def _lasts(record: Record, now: int) -> bool:
    return record.until is None or record.until > now


def _unread(event: Event, user: str) -> bool:
    return event.kind == "message" and not event.deleted and event.user != user


def _end(log: _Room, below: int, before: int | None) -> int:
    """Return the number before which a search begins; times are taken to grow with the numbers."""
    end = min(below, log.seq + 1)
    if before is None:
        return end
    numbers = range(log.first, end)
    return log.first + bisect_left(numbers, before, key=lambda seq: log.events[seq].event.at)


async def _scan(scan: Scan, log: _Room, end: int, most: int) -> list[Event]:
    """Return the newest of a room's messages with smaller numbers than ``end``."""
    found: list[Event] = []
    for seq in range(end - 1, log.first - 1, -1):
        kept = log.events.get(seq)  # the log changes meanwhile
        if kept is not None and scan.finds(kept.event):
            found.append(kept.event)
            if len(found) == most:
                break
        await scan.let_others_run()
    return found


def _count(log: _Room, position: int) -> int:
    """Return how many of the log's events are at that position or before it."""
    numbers = range(log.first, log.seq + 1)
    return bisect_right(numbers, position, key=lambda seq: log.events[seq].event.position)
