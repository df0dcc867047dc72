"""Export of history as JSON Lines, and the removal of a user's data.

A line is an event of a room's log with its current text, its key and its number; times are
RFC 3339. A room that is exported, imported into an empty store and exported again gives the same
bytes. So does the whole chat: its rooms, direct messages, users, sanctions and read marks. Guests
are left out, because only the store that made a guest's session accepts it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Final, TypeVar

from msgspec.structs import replace

from chatd.chat.direct import DIRECT
from chatd.chat.marks import MARK, mark_of
from chatd.chat.removal import Ask, accepted, erase_room, in_chunks
from chatd.chat.sanctions import KINDS, sanction_of, without
from chatd.chat.sessions import forgotten_record, is_guest
from chatd.gateways.recovery import LOST, lost_user
from chatd.journal import Journal
from chatd.model import Drop, Forget, Put, Record, Wipe
from chatd.protocol.export import write_lines, write_records, write_users

__all__ = [
    "LINES",
    "bar",
    "export_all",
    "export_room",
    "export_user",
    "forget",
    "has_written",
    "is_known",
]

_T = TypeVar("_T")

LINES: Final = 256
"""How many lines are read and sent, or committed by an import, at a time."""


async def export_all(journal: Journal) -> AsyncGenerator[bytes]:
    """Yield everything that an import restores, as lines. Raises Unavailable."""
    listed = await journal.records(DIRECT)
    conversations = {record.name.partition("\0")[2] for record in listed}
    for room in (*(head.room for head in await journal.rooms()), *sorted(conversations)):
        async with aclosing(export_room(journal, room)) as lines:
            async for piece in lines:
                yield piece  # noqa: ASYNC119  whoever asks for it closes it
    for users in _portions(await journal.subjects()):
        yield write_users(users, journal.steady_now())
    for kind in (*KINDS, DIRECT, MARK):
        records = await journal.records(kind)
        for portion in _portions([each for each in records if _is_exported(each)]):
            yield write_records(portion)


def _portions(everything: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(everything), LINES):
        yield everything[start : start + LINES]


def _is_exported(record: Record) -> bool:
    """Return whether an export has a record: not a guest's, nor one that cannot be read."""
    if record.kind in (DIRECT, MARK) and is_guest(record.name.partition("\0")[0]):
        return False
    try:
        if record.kind == MARK:
            mark_of(record)
        elif record.kind != DIRECT:
            sanction_of(record)
    except ValueError:
        return False
    return True


async def export_room(journal: Journal, room: str) -> AsyncGenerator[bytes]:
    """Yield the log of a room, by its key, as lines. Raises Unavailable."""
    after = 0
    while lines := await journal.entries(room, after, LINES):
        after = lines[-1].seq
        yield write_lines(lines)


async def export_user(journal: Journal, user: str) -> AsyncGenerator[bytes]:
    """Yield everything that a user wrote, oldest first. Raises Unavailable."""
    after: int | None = 0
    while after is not None:
        lines, after = await journal.entries_of(user, after)
        for portion in _portions(lines):
            yield write_lines(portion)


async def has_written(journal: Journal, user: str) -> bool:
    """Return whether any stored event is the user's. Raise Unavailable."""
    after: int | None = 0
    while after is not None:
        entries, after = await journal.entries_of(user, after)
        if entries:
            return True
    return False


async def bar(journal: Journal, user: str, ask: Ask, *, until: int) -> None:
    """Refuse a guest's sessions from now on; the last one ends at that time, in ms."""
    if is_guest(user):
        accepted(await ask(Put(forgotten_record(journal.key, user, until))))


async def forget(journal: Journal, user: str, ask: Ask) -> None:
    """Remove a user's messages, direct messages and records, and the user's name from others'.

    Raises:
        Refused: The store failed half way. It can be done again.
        Unavailable: The store could not be read.
    """
    prefix = f"{user}\0"
    for record in await journal.records(DIRECT, prefix):
        # A guest's id is never given again, so no number in such a room is.
        await erase_room(record.name.removeprefix(prefix), ask, forget=is_guest(user))
    await in_chunks(Wipe(user), ask)
    for kind in KINDS:
        for record in await journal.records(kind):
            try:
                sanction = sanction_of(record)
            except ValueError:
                if record.name.endswith(f"\0{user}"):
                    accepted(await ask(Drop(kind, record.name)))
                continue
            left = without(sanction, user)
            if left is None:
                accepted(await ask(Drop(kind, record.name)))
            elif left != sanction:
                accepted(await ask(Put(left.record())))
    for record in await journal.records(LOST):
        if lost_user(record) == user:
            accepted(await ask(Put(replace(record, value=b""))))
    accepted(await ask(Forget(user)))


async def is_known(journal: Journal, user: str) -> bool:
    """Return whether anything is stored of a user. Raise Unavailable."""
    prefix = f"{user}\0"
    if await journal.user(user) is not None:
        return True
    for kind in (DIRECT, MARK):
        if await journal.records(kind, prefix, 1):
            return True
    return await has_written(journal, user)
