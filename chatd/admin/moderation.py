"""What operators do to users and rooms, from the admin socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import Struct
from msgspec.structs import asdict

from chatd.admin.answers import Held, HeldList
from chatd.admin.control import DaemonControl
from chatd.chat.moderation import moderate as chat_moderate
from chatd.chat.sanctions import CONSOLE
from chatd.protocol import commands
from chatd.protocol.events import rfc3339

__all__ = [
    "RemovalArguments",
    "RoomArguments",
    "SlowArguments",
    "UserArguments",
    "bans",
    "moderate",
]


class UserArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """A user, by nick or by id, or a network; in a room, or without one everywhere."""

    nick: str | None = None
    user: str | None = None
    network: str | None = None
    room: str | None = None
    seconds: float | None = None
    reason: str = ""


class RoomArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """A room."""

    room: str
    seconds: float | None = None
    reason: str = ""


class RemovalArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """A room to remove."""

    room: str
    reason: str = ""


class SlowArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """A room, and the seconds that each user has to wait between two messages."""

    room: str
    seconds: float


def moderate(
    command: type[commands.Moderate],
) -> Callable[
    [DaemonControl, UserArguments | RoomArguments | RemovalArguments | SlowArguments],
    Awaitable[commands.Sanctioned],
]:
    """Return the endpoint that carries out an operator's command."""

    async def endpoint(
        control: DaemonControl,
        arguments: UserArguments | RoomArguments | RemovalArguments | SlowArguments,
    ) -> commands.Sanctioned:
        return await chat_moderate(control.chat, CONSOLE, command(**asdict(arguments)))

    return endpoint


async def bans(control: DaemonControl, _: Struct) -> HeldList:
    """Return the sanctions that are in force: bans, mutes, slow mode and closed rooms."""
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
