"""The acts of operators, from the daemon's console: the chat's own, done by who may write here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from msgspec import Struct
from msgspec.structs import asdict

from chatd.admin.answers import Failure, Held, HeldList
from chatd.admin.control import Control
from chatd.chat.moderation import moderate as chat_moderate
from chatd.model import ErrorCode, Refused
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


def moderate(
    command: type[commands.Moderate],
) -> Callable[[Control, Person | Place | Slow], Awaitable[commands.Sanctioned | Failure]]:
    """Return the endpoint that carries out an operator's command."""

    async def endpoint(
        control: Control, arguments: Person | Place | Slow
    ) -> commands.Sanctioned | Failure:
        try:
            return await chat_moderate(control.chat, CONSOLE, command(**asdict(arguments)))
        except Refused as refused:
            refusal = refused.refusal
            return Failure(_STATUSES.get(refusal.code, 400), refusal.code, refusal.message)

    return endpoint


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
