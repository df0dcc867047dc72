"""Removal of stored events in chunks, between which other operations are committed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from chatd.chat.direct import DIRECT
from chatd.chat.marks import MARK
from chatd.model import Drop, Erase, Operation, Outcome, Progress, Refusal, Refused, Wipe
from chatd.protocol.pairs import users_of

__all__ = ["Ask", "accepted", "erase_room", "in_chunks"]

Ask: TypeAlias = Callable[[Operation], Awaitable[Outcome]]
"""Has the journal's single writer carry out an operation, and returns its outcome."""


async def erase_room(room: str, ask: Ask, *, forget: bool = False) -> None:
    """Remove a room's events, by its key; of a conversation, the two users' records too.

    Its numbers are not given again, unless it is forgotten: see `Erase`.

    Raises:
        Refused: The store failed half way. It can be done again.
    """
    await in_chunks(Erase(room, forget), ask)
    if room.startswith("@"):
        for user in users_of(room):
            for kind in (DIRECT, MARK):
                accepted(await ask(Drop(kind, f"{user}\0{room}")))


async def in_chunks(operation: Wipe | Erase, ask: Ask) -> None:
    """Carry out the whole of an operation. Raise Refused if the store fails."""
    while True:
        outcome = accepted(await ask(operation))
        if not isinstance(outcome, Progress) or outcome.upto is None:
            return
        if isinstance(operation, Wipe):
            operation = Wipe(operation.user, outcome.upto)


def accepted(outcome: Outcome) -> Outcome:
    """Return an outcome that is no refusal; raise Refused for one."""
    if isinstance(outcome, Refusal):
        raise Refused(outcome.code, outcome.message, outcome.retry_ms)
    return outcome
