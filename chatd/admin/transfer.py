"""Export of history as JSON Lines, and the removal of a user's data.

A line is an event of a room's log with its current text, its key and its number; times are
RFC 3339. A room that is exported, imported into an empty store and exported again gives the same
bytes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final, TypeAlias

from chatd.chat.direct import DIRECT
from chatd.chat.names import Name, room_name
from chatd.journal import Journal
from chatd.model import (
    Drop,
    Erase,
    Forget,
    Operation,
    Outcome,
    Progress,
    Refusal,
    Refused,
    Wipe,
)
from chatd.protocol.export import write_lines
from chatd.protocol.pairs import other_of

__all__ = ["LINES", "Ask", "export_room", "export_user", "forget", "has_written", "log_name"]

LINES: Final = 256
"""How many lines are read and sent, or committed by an import, at a time."""

Ask: TypeAlias = Callable[[Operation], Awaitable[Outcome]]
"""Has the journal's single writer carry out an operation, and returns its outcome."""


def log_name(text: str) -> Name:
    """Return the name of a room's log; logs of direct messages have names that begin with ``@``.

    Raises:
        Refused: No room can have this name.
    """
    return Name(text, text) if text.startswith("@") else room_name(text)


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


async def forget(journal: Journal, user: str, ask: Ask) -> None:
    """Remove a user's messages, direct messages and records.

    Raises:
        Refused: The store failed half way. It can be done again.
        Unavailable: The store could not be read.
    """
    prefix = f"{user}\0"
    rooms = [record.name.removeprefix(prefix) for record in await journal.records(DIRECT, prefix)]
    for room in rooms:
        await _in_chunks(Erase(room), ask)
        await ask(Drop(DIRECT, f"{other_of(room, user)}\0{room}"))
    await _in_chunks(Wipe(user), ask)
    _accepted(await ask(Forget(user)))


async def _in_chunks(operation: Wipe | Erase, ask: Ask) -> None:
    while True:
        outcome = _accepted(await ask(operation))
        if not isinstance(outcome, Progress) or outcome.upto is None:
            return
        if isinstance(operation, Wipe):
            operation = Wipe(operation.user, outcome.upto)


def _accepted(outcome: Outcome) -> Outcome:
    if isinstance(outcome, Refusal):
        raise Refused(outcome.code, outcome.message, outcome.retry_ms)
    return outcome
