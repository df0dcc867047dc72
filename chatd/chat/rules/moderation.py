"""Commands that only operators may give."""

from __future__ import annotations

from typing import Final

from chatd.chat import moderation
from chatd.chat.connection import Connection
from chatd.chat.names import room_name
from chatd.chat.replies import Reply
from chatd.model import Refused
from chatd.protocol import commands, events

__all__ = ["bans", "moderate"]

MAX_BANS: Final = 500
"""An answer has at most this many sanctions, so that it fits into any client's send queue."""


async def moderate(
    connection: Connection, command: commands.Moderate
) -> Reply[commands.Sanctioned]:
    """Carry out an operator's command."""
    _check_is_operator(connection)
    # The operator's earlier messages are fanned out before the command takes effect.
    await connection.flushed()
    return Reply(await moderation.moderate(connection.chat, connection.user.id, command))


async def bans(connection: Connection, command: commands.Bans) -> Reply[commands.SanctionList]:
    """List the sanctions that are in force in a room and in the whole chat."""
    _check_is_operator(connection)
    places = None if command.room is None else ("", room_name(command.room).key)
    chat = connection.chat
    held = [
        commands.SanctionInfo(
            kind=one.kind,
            at=events.rfc3339(one.at),
            by=one.by,
            room=room.name if (room := chat.rooms.get(one.room)) else one.room or None,
            user=one.user or None,
            nick=one.nick or None,
            network=one.network or None,
            until=None if one.until is None else events.rfc3339(one.until),
            seconds=one.seconds or None,
            reason=one.reason or None,
        )
        for one in chat.sanctions.all()
        if places is None or one.room in places
    ]
    newest = held[: -MAX_BANS - 1 : -1]
    return Reply(commands.SanctionList(newest, more=len(held) > len(newest)))


def _check_is_operator(connection: Connection) -> None:
    if not connection.op:
        raise Refused("forbidden", "Only operators can do this.")
