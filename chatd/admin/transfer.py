"""Export of history as JSON Lines, and the removal of a user's data.

A line is an event of a room's log with its current text, its key and its number; times are
RFC 3339. A room that is exported, imported into an empty store and exported again gives the same
bytes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from chatd.chat.direct import DIRECT
from chatd.chat.removal import Ask, accepted, erase_room, in_chunks
from chatd.journal import Journal
from chatd.model import Forget, Wipe
from chatd.protocol.export import write_lines

__all__ = ["LINES", "export_room", "export_user", "forget", "has_written", "is_known"]

LINES: Final = 256
"""How many lines are read and sent, or committed by an import, at a time."""


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
        for start in range(0, len(lines), LINES):
            yield write_lines(lines[start : start + LINES])


async def has_written(journal: Journal, user: str) -> bool:
    """Return whether any stored event is the user's. Raise Unavailable."""
    after: int | None = 0
    while after is not None:
        entries, after = await journal.entries_of(user, after)
        if entries:
            return True
    return False


async def is_known(journal: Journal, user: str) -> bool:
    """Return whether the store has anything of a user. Raise Unavailable."""
    known = await journal.user(user) or await journal.records(DIRECT, f"{user}\0")
    return bool(known) or await has_written(journal, user)


async def forget(journal: Journal, user: str, ask: Ask) -> None:
    """Remove a user's messages, direct messages and records.

    Raises:
        Refused: The store failed half way. It can be done again.
        Unavailable: The store could not be read.
    """
    prefix = f"{user}\0"
    for record in await journal.records(DIRECT, prefix):
        await erase_room(record.name.removeprefix(prefix), ask)
    await in_chunks(Wipe(user), ask)
    accepted(await ask(Forget(user)))
