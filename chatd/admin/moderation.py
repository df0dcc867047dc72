"""The acts of operators, from the daemon's console: the chat's own, done by who may write here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from msgspec import Struct

from chatd.admin.answers import Failure, Held, HeldList
from chatd.admin.control import Control
from chatd.chat.moderation import Deed, Moderation
from chatd.model import ErrorCode, Refusal
from chatd.protocol import commands
from chatd.protocol.events import rfc3339

__all__ = ["CONSOLE", "Person", "Place", "Slow", "bans", "moderate"]

CONSOLE: Final = "console"
"""Who did it, in the log and beside a ban. No user is called so: theirs are ids and subjects."""

_STATUSES: Final[dict[ErrorCode, int]] = {
    "forbidden": 403,
    "not_found": 404,
    "too_large": 413,
    "unavailable": 503,
}


class Person(Struct, frozen=True, forbid_unknown_fields=True):
    """Somebody, by nick or by user id, or a network; without a room: everywhere."""

    nick: str | None = None
    user: str | None = None
    network: str | None = None
    room: str | None = None
    seconds: float | None = None
    reason: str = ""


class Place(Struct, frozen=True, forbid_unknown_fields=True):
    """A room."""

    room: str
    seconds: float | None = None
    reason: str = ""


class Slow(Struct, frozen=True, forbid_unknown_fields=True):
    """A room, and how long everybody waits between two messages."""

    room: str
    seconds: float


_Act: TypeAlias = Callable[[Moderation, Deed], Awaitable[commands.Sanctioned | Refusal]]


def moderate(
    act: _Act,
) -> Callable[[Control, Person | Place | Slow], Awaitable[commands.Sanctioned | Failure]]:
    """Make the endpoint of an act."""

    async def done(
        control: Control, arguments: Person | Place | Slow
    ) -> commands.Sanctioned | Failure:
        deed = Deed(
            CONSOLE,
            arguments.room,
            getattr(arguments, "nick", None),
            getattr(arguments, "user", None),
            getattr(arguments, "network", None),
            arguments.seconds,
            getattr(arguments, "reason", ""),
        )
        outcome = await act(Moderation(control.chat), deed)
        if isinstance(outcome, Refusal):
            return Failure(_STATUSES.get(outcome.code, 400), outcome.code, outcome.message)
        return outcome

    return done


async def bans(control: Control, _: Struct) -> HeldList:
    """Tell what is held against people and over rooms."""
    return HeldList(
        [
            Held(
                kind=one.kind,
                user=one.user or None,
                nick=one.nick or None,
                network=one.network or None,
                room=one.room or None,
                at=rfc3339(one.at),
                until=None if one.until is None else rfc3339(one.until),
                seconds=one.seconds or None,
                by=one.by,
                reason=one.reason,
            )
            for one in control.chat.sanctions.all()
        ]
    )
