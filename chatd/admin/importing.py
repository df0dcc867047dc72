"""Import of history from JSON Lines: checking each line, and continuing where an import stopped.

A file is first checked as a whole and then imported: a file that was cut, or that has a line which
no client could have said, changes nothing. If an import ends halfway all the same, because the disk
is full for example, the same file can be imported again: lines that are there already are skipped.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, TypeAlias

from msgspec import Struct

from chatd.admin.answers import Imported
from chatd.admin.transfer import LINES
from chatd.chat.direct import DIRECT
from chatd.chat.marks import MARK, mark_of
from chatd.chat.names import Name, log_name, nick_name
from chatd.chat.removal import Ask
from chatd.chat.rules.messages import check_key, check_seq, message_size, topic_size
from chatd.chat.sanctions import KINDS, Sanction, sanction_of
from chatd.chat.sessions import is_guest
from chatd.chat.tokens import why_unusable
from chatd.clock import JUMP_MS
from chatd.journal import FORGOTTEN, Journal
from chatd.journal.retention import EVENT_BYTES, retention_of
from chatd.model import (
    LogEntry,
    Put,
    Record,
    Refusal,
    Refused,
    Remember,
    Restore,
    UserRecord,
)
from chatd.protocol.export import read_line
from chatd.protocol.pairs import pair_name, users_of
from chatd.settings import Settings

__all__ = ["Enter", "Importing"]

LINE_BYTES: Final = 16 << 20
"""The longest line that is read: longer than any message, even doubled by escapes."""

CHUNK_BYTES: Final = 1 << 20
"""How much text is committed at a time: some 10 ms of the writer."""

Enter: TypeAlias = Callable[[Name], AbstractAsyncContextManager[None]]
"""Keeps everybody out of a room for the duration of the block. Raises Refused if it has members."""

_MARK: Final = b"\xef\xbb\xbf"
"""What some editors put before UTF-8 (U+FEFF). It is no part of the first line."""

_FORMATS: Final[Mapping[bytes, str]] = {
    b"\x1f\x8b": "It is compressed. Use: zcat FILE | chatd import",
    b"\x28\xb5\x2f\xfd": "It is compressed. Use: zstdcat FILE | chatd import",
    b"BZh": "It is compressed. Use: bzcat FILE | chatd import",
    b"\xfd7zXZ": "It is compressed. Use: xzcat FILE | chatd import",
    b"PK\x03\x04": "It is a zip file. Unpack it first",
    b"\xff\xfe": "It is UTF-16. Convert it to UTF-8 first",
    b"\xfe\xff": "It is UTF-16. Convert it to UTF-8 first",
    b"SQLite format 3\0": "It is a store or a backup, not an export. Put it in the store's place",
    b"[": "It is a JSON array. Put each event on a line of its own, as `chatd export` does",
}
"""What files of other formats begin with, and what to do with them."""


class _Log(Struct):
    """A room of the file: what is there already, and what came so far.

    Attributes:
        head: The last number that the room had.
        stored: The next events that it had, by number.
        seq: The number of the last line.
        at: The time of the last line.
        old: How many imported lines are older than retention keeps.
        taken: How many lines were imported.
    """

    head: int
    stored: dict[int, LogEntry]
    seq: int = 0
    at: int = 0
    old: int = 0
    taken: int = 0


class Importing:
    """Imports lines, which come in pieces of any size.

    Args:
        journal: The store.
        ask: Carries out the operations.
        enter: Called before lines are committed in a room.
        settings: Their limits and their rules of retention apply.
        now: The wall clock's time in ms.
        check: Whether to check everything and change nothing.
    """

    def __init__(
        self,
        journal: Journal,
        ask: Ask,
        enter: Enter,
        *,
        settings: Settings,
        now: int,
        check: bool = False,
    ) -> None:
        self._journal = journal
        self._ask = ask
        self._enter = enter
        self._check = check
        self._limit = settings.limits.message_bytes
        self._retention = retention_of(settings)
        self._before = self._retention.events_before(journal.steady_now())
        self._latest = now + JUMP_MS
        self._seen = 0
        self._rest = b""
        self._logs: dict[str, _Log] = {}
        self._room = Name("", "")
        self._lines: list[LogEntry] = []
        self._first = 0  # the number of the first of these lines
        self._size = 0
        self._bytes = 0
        self.taken = 0
        """How many lines were imported, or would be."""
        self.skipped = 0
        """How many lines were there already."""

    async def take(self, pieces: AsyncIterator[bytes]) -> Imported:
        """Import everything.

        Raises:
            Refused: A line is not valid, or the store refused; the lines before it are imported.
            Unavailable: The store could not be read.
        """
        begun = False
        async for piece in pieces:
            self._rest += piece
            if not begun and len(self._rest) >= max(map(len, _FORMATS)):
                begun = True
                self._begin()
            *whole, self._rest = self._rest.split(b"\n") if b"\n" in piece else (self._rest,)
            if len(self._rest) > LINE_BYTES:
                raise self._refused("it is too long", self._seen + 1)
            for text in whole:
                await self._line(text)
        if not begun:
            self._begin()
        if self._rest:
            await self._line(self._rest, last=True)
        await self._commit()
        return self.result()

    def result(self) -> Imported:
        """Return what was done so far."""
        retention, size = self._retention, self._journal.statistics().bytes
        keep = retention.keep_events
        return Imported(
            events=self.taken,
            epoch=self._journal.epoch,
            skipped=self.skipped,
            too_old=sum(log.old for log in self._logs.values()),
            too_many=sum(max(0, log.taken - keep) for log in self._logs.values() if keep != "off"),
            too_big=retention.excess(size + self._bytes),
        )

    def explain(self, refused: Refused) -> str:
        """Return why it ended, and what was imported before, as sentences for people."""
        if self._check or not self.taken:
            return f"{refused} Nothing was imported."
        were = "line before it was" if self.taken == 1 else "lines before it were"
        return (
            f"{refused} {self.taken} {were} imported. Import the whole file again when that is "
            "mended: what is there already is skipped."
        )

    # ---- lines

    def _begin(self) -> None:
        self._rest = self._rest.removeprefix(_MARK)
        for beginning, advice in _FORMATS.items():
            if self._rest.startswith(beginning):
                raise Refused("bad_request", f"This is not an export of chatd. {advice}.")

    async def _line(self, text: bytes, *, last: bool = False) -> None:
        self._seen += 1
        if not text.strip():
            return
        try:
            line = read_line(text)
        except ValueError as error:
            if last and not text.rstrip().endswith(b"}"):
                raise self._refused("the file ends in the middle of it: it was cut") from error
            raise self._refused(f"{error}") from error
        try:
            if isinstance(line, LogEntry):
                taking = self._place(_checked(line, self._limit, self._latest), line)
            else:
                taking = self._keep(_checked_other(line, self._latest))
        except (ValueError, Refused) as error:
            raise self._refused(str(error)) from error
        await taking

    async def _keep(self, line: UserRecord | Record) -> None:
        """Store a user or a record, unless the store has one: that is newer."""
        if isinstance(line, UserRecord):
            known = await self._journal.user(line.user) is not None
        else:
            found = await self._journal.records(line.kind, line.name, 1)
            known = bool(found) and found[0].name == line.name
        if known:
            self.skipped += 1
            return
        if not self._check:
            operation = Remember(line) if isinstance(line, UserRecord) else Put(line)
            if isinstance(outcome := await self._ask(operation), Refusal):
                raise self._refused(outcome)
        self.taken += 1

    async def _place(self, name: Name, line: LogEntry) -> None:
        """Skip a line that is there already; otherwise let it wait to be committed."""
        log = self._logs.get(name.key)
        if log is None:
            head = await self._journal.head(name.key)
            log = self._logs[name.key] = _Log(0 if head is None else head.seq, {})
            if self._check:
                await self._try_to_enter(name)
        elif line.seq != log.seq + 1:
            raise self._refused(f"number {line.seq} of {name.display} follows {log.seq}")
        elif line.at < log.at:
            raise self._refused("its time is before that of the line before it in the room")
        log.seq, log.at = line.seq, line.at
        if line.seq <= log.head:
            await self._compare(name, line, log)
            self.skipped += 1
            return
        if name.key != self._room.key or len(self._lines) == LINES or self._size >= CHUNK_BYTES:
            await self._commit()
            self._room, self._first = name, self._seen
        self._lines.append(line)
        self._size += EVENT_BYTES + len(line.text or "")
        log.taken += 1
        if self._before is not None and line.at < self._before:
            log.old += 1

    async def _try_to_enter(self, name: Name) -> None:
        try:
            async with self._enter(name):
                pass
        except Refused as refused:
            raise self._refused(refused.refusal) from refused

    async def _compare(self, name: Name, line: LogEntry, log: _Log) -> None:
        """Raise Refused if the room's event of this number is another one."""
        if line.seq > max(log.stored, default=0):
            entries = await self._journal.entries(name.key, line.seq - 1, LINES)
            log.stored = {entry.seq: entry for entry in entries}
            if not entries:
                raise self._refused(
                    f"{name.display} had an event {line.seq} that was removed, and no number is "
                    "given again"
                )
        stored = log.stored.pop(line.seq, None)
        # One that retention removed is passed over: the next one tells whether it is this log.
        same = stored is None or (
            (stored.at, stored.kind, stored.of) == (line.at, line.kind, line.of)
            and stored.user in (line.user, FORGOTTEN)
        )
        if not same:
            raise self._refused(f"{name.display} already has another event {line.seq}")

    async def _commit(self) -> None:
        lines, self._lines = tuple(self._lines), []
        if not lines:
            return
        if not self._check:
            try:
                async with self._enter(self._room):
                    outcome = await self._ask(Restore(self._room.key, lines))
            except Refused as refused:
                raise self._refused(refused.refusal, self._first) from refused
            if isinstance(outcome, Refusal):
                raise self._refused(outcome, self._first)
        self.taken += len(lines)
        self._bytes += self._size
        self._size = 0

    def _refused(self, why: str | Refusal, line: int | None = None) -> Refused:
        refusal = Refusal("bad_request", why) if isinstance(why, str) else why
        message = f"Line {line or self._seen}: {refusal.message.rstrip('.')}."
        return Refused(refusal.code, message, refusal.retry_ms)


def _checked(line: LogEntry, limit: int, latest: int) -> Name:
    """Return the room's name. Raise Refused for what no client could have said, or not yet."""
    name = log_name(line.room)
    if line.room.startswith("@") and not _is_pair(line.room):
        raise Refused("bad_request", f"{line.room[:64]!r} is not a room of two users")
    for field, seq in (("seq", line.seq), ("of", line.of), ("reply_to", line.reply_to)):
        if seq is not None:
            check_seq(seq, field)
            if field != "seq" and seq >= line.seq:
                raise Refused("bad_request", f"{field} must be the number of an earlier message")
    for field, at in (("at", line.at), ("edited", line.edited)):
        _check_time(field, at, latest)
    if line.user != FORGOTTEN:
        _check_user(line.user, line.nick)
    if line.key is not None:
        check_key(line.key)
    _check_text(line, limit)
    return name


def _check_time(field: str, at: int | None, latest: int) -> None:
    if at is not None and not 0 <= at <= latest:
        when = "before 1970" if at < 0 else "in the future"
        raise Refused("bad_request", f"The time {field} lies {when}")


def _check_user(user: str, nick: str) -> None:
    nick_name(nick)
    _check_id(user)


def _check_id(user: str) -> None:
    if not is_guest(user) and (why := why_unusable(user)) is not None:
        raise Refused("bad_request", f"The user cannot be one: {why}")


def _checked_other(line: UserRecord | Record, latest: int) -> UserRecord | Record:
    """Return what to store of a line that is no event. Raise as `_checked` does."""
    if isinstance(line, UserRecord):
        _check_user(line.user, line.nick)
        _check_time("seen", line.seen, latest)
        return line
    if line.kind in KINDS:
        return _checked_sanction(line, latest).record()
    user, _, room = line.name.partition("\0")
    if line.kind == MARK:
        check_seq(mark_of(line).seq, "value")
        if user and log_name(room).key == room:
            return line
    if line.kind == DIRECT and not line.value and _is_pair(room) and user in users_of(room):
        return line
    raise Refused("bad_request", f"It is not a record of chatd: {line.kind[:32]!r}")


def _checked_sanction(line: Record, latest: int) -> Sanction:
    sanction = sanction_of(line)
    _check_time("at", sanction.at, latest)
    if sanction.room and log_name(sanction.room).key != sanction.room:
        raise Refused("bad_request", f"{sanction.room[:64]!r} is not the key of a room")
    if sanction.user:
        _check_id(sanction.user)
    for nick in filter(None, (sanction.nick, sanction.by_nick)):
        nick_name(nick)
    return sanction


def _check_text(line: LogEntry, limit: int) -> None:
    changes = line.kind in ("edit", "delete")
    if changes is not (line.of is not None):
        raise Refused("bad_request", "An edit or a delete needs of, and nothing else has it")
    if line.deleted and line.kind != "message":
        raise Refused("bad_request", "Only a message can be deleted")
    if changes or line.deleted:
        if line.text is not None:
            raise Refused("bad_request", "Only a message or a topic that is there has a text")
    elif line.text is None:
        raise Refused("bad_request", "The text is missing")
    elif line.kind == "topic":
        topic_size(line.text)
    else:
        message_size(line.text, limit)


def _is_pair(room: str) -> bool:
    one, other = users_of(room)
    return bool(one and other) and one != other and pair_name(one, other) == room
