"""History on its way out and in, as JSON Lines; and what the law asks to be forgotten.

A line is an event of a room's log, with its present text, its key and its number; times are
RFC 3339. A room exported, imported into an empty store and exported again gives the same bytes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct, field

from chatd.chat.direct import DIRECT, other_of
from chatd.chat.names import Name, room_name
from chatd.journal import Journal
from chatd.model import (
    Drop,
    Erase,
    Forget,
    Kind,
    LogEntry,
    Operation,
    Outcome,
    Progress,
    Refusal,
    Refused,
    Restore,
    Wipe,
)
from chatd.protocol.events import rfc3339

__all__ = ["Ask", "Importing", "export_room", "export_user", "forget"]

LINES: Final = 256
"""Of an export, read and sent at a time; and of an import, committed at a time."""

LINE_BYTES: Final = 16 << 20
"""The longest line that is read: longer than any message may be, doubled by escapes."""

Ask: TypeAlias = Callable[[Operation], Awaitable[Outcome]]
"""Has the journal's one writer do something."""


class Exported(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A line as it is written."""

    room: str
    seq: int
    at: str
    kind: Kind = field(name="on")
    nick: str = field(name="from")
    user: str
    text: str | None = None
    of: int | None = None
    reply_to: int | None = None
    edited: str | None = None
    deleted: bool = False
    key: str | None = None


_DECODER: Final = msgspec.json.Decoder(Exported)


def _written(lines: list[LogEntry]) -> bytes:
    exported = (
        Exported(
            room=line.room,
            seq=line.seq,
            at=rfc3339(line.at),
            kind=line.kind,
            nick=line.nick,
            user=line.user,
            text=line.text,
            of=line.of,
            reply_to=line.reply_to,
            edited=None if line.edited is None else rfc3339(line.edited),
            deleted=line.deleted,
            key=line.key,
        )
        for line in lines
    )
    return b"".join(msgspec.json.encode(one) + b"\n" for one in exported)


def _read(text: bytes) -> LogEntry:
    """Read one line. Raises ValueError."""
    one = _DECODER.decode(text)
    return LogEntry(
        room=one.room,
        seq=one.seq,
        at=_milliseconds(one.at),
        kind=one.kind,
        user=one.user,
        nick=one.nick,
        text=one.text,
        of=one.of,
        reply_to=one.reply_to,
        edited=None if one.edited is None else _milliseconds(one.edited),
        deleted=one.deleted,
        key=one.key,
    )


def _milliseconds(text: str) -> int:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return round(at.timestamp() * 1000)


async def export_room(journal: Journal, room: str) -> AsyncGenerator[bytes]:
    """Give a room's log, by its fold, as lines. Raises Unavailable."""
    after = 0
    while lines := await journal.entries(room, after, LINES):
        after = lines[-1].seq
        yield _written(lines)


async def export_user(journal: Journal, user: str) -> AsyncGenerator[bytes]:
    """Give everything a user said, in the order in which it was said. Raises Unavailable."""
    after: int | None = 0
    while after is not None:
        lines, after = await journal.entries_of(user, after)
        for start in range(0, len(lines), LINES):
            yield _written(lines[start : start + LINES])


class Importing:
    """Takes up lines, which come in pieces of any size."""

    def __init__(self, ask: Ask) -> None:
        self.taken = 0
        """Lines that are committed."""
        self._ask = ask
        self._seen = 0
        self._rest = b""
        self._room = ""
        self._lines: list[LogEntry] = []

    async def take(self, pieces: AsyncIterator[bytes]) -> Refusal | None:
        """Take up everything, or tell at which line it stopped; what came before is taken up."""
        async for piece in pieces:
            *whole, self._rest = (self._rest + piece).split(b"\n")
            if len(self._rest) > LINE_BYTES:
                return self._at("the line is too long")
            for text in whole:
                if refusal := await self._line(text):
                    return refusal
        if self._rest and (refusal := await self._line(self._rest)):
            return refusal
        return await self._commit()

    async def _line(self, text: bytes) -> Refusal | None:
        self._seen += 1
        if not text.strip():
            return None
        try:
            line = _read(text)
        except (ValueError, RecursionError) as error:
            return self._at(str(error))
        try:
            name = Name(line.room, line.room) if line.room.startswith("@") else room_name(line.room)
        except Refused as refused:
            return self._at(str(refused))
        if line.seq < 1:
            return self._at("a number is 1 or more")
        if name.fold != self._room or len(self._lines) == LINES:
            if refusal := await self._commit():
                return refusal
            self._room = name.fold
        self._lines.append(line)
        return None

    async def _commit(self) -> Refusal | None:
        if not self._lines:
            return None
        lines, self._lines = tuple(self._lines), []
        outcome = await self._ask(Restore(self._room, lines))
        if isinstance(outcome, Refusal):
            return outcome
        self.taken += len(lines)
        return None

    def _at(self, what: str) -> Refusal:
        return Refusal("bad_request", f"line {self._seen}: {what}")


async def forget(journal: Journal, user: str, ask: Ask) -> Refusal | None:
    """Remove what a user said, their direct messages and what is kept of them.

    Raises Unavailable. Refused half way it may be done again.
    """
    prefix = f"{user}\0"
    rooms = [record.name.removeprefix(prefix) for record in await journal.records(DIRECT, prefix)]
    for room in rooms:
        if refusal := await _through(Erase(room), ask):
            return refusal
        await ask(Drop(DIRECT, f"{other_of(room, user)}\0{room}"))
    if refusal := await _through(Wipe(user), ask):
        return refusal
    outcome = await ask(Forget(user))
    return outcome if isinstance(outcome, Refusal) else None


async def _through(operation: Wipe | Erase, ask: Ask) -> Refusal | None:
    """Do it chunk by chunk, to its end."""
    while True:
        outcome = await ask(operation)
        if isinstance(outcome, Refusal):
            return outcome
        if not isinstance(outcome, Progress) or outcome.upto is None:
            return None
        if isinstance(operation, Wipe):
            operation = Wipe(operation.user, outcome.upto)
