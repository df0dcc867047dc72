"""Commands about typing and read marks."""

from __future__ import annotations

from typing import Final

import trio

from chatd.chat.connection import Connection
from chatd.chat.direct import require_membership
from chatd.chat.marks import Mark
from chatd.chat.membership import Membership
from chatd.chat.replies import Commit, Reply
from chatd.chat.rights import check_may_write
from chatd.chat.sessions import is_guest
from chatd.chat.users import DAY_SECONDS
from chatd.model import Put, Refused
from chatd.protocol import commands, events

__all__ = ["read", "typing"]

TYPING_SECONDS: Final = 1.0
"""A connection's typing is sent to a room at most this often; clients repeat it."""


def typing(connection: Connection, command: commands.Typing, membership: Membership) -> Reply[None]:
    """Send ``typing`` to the other members. There is no answer."""
    room, user, now = membership.room, membership.user, trio.current_time()
    check_may_write(connection, room.key)
    if command.on:
        if now - membership.typing_at < TYPING_SECONDS:
            return Reply(None)
        membership.typing_at, membership.typing = now, True
    elif membership.typing:
        membership.typing = False
    else:
        return Reply(None)
    if not room.crowded:
        event = events.Typing(room.name, user.nick.display, user.id, command.on)
        room.feed.broadcast([event], room.subscriptions(user))
        connection.chat.roster.typing(room, event)
    return Reply(None)


async def read(connection: Connection, command: commands.Read) -> Commit | Reply[commands.ReadMark]:
    """Move the user's read mark forward, and send it to the user's other connections."""
    # A user has read their own message once it is answered.
    await connection.flushed()
    room = (await require_membership(connection, command.room)).room
    chat, user, key, seq = connection.chat, connection.user, room.key, command.seq
    if not 0 <= seq <= room.feed.visible:
        raise Refused("bad_request", f"seq must be from 0 to {room.feed.visible}.")
    before = user.marks.get(key, 0)
    if seq <= before:
        return Reply(commands.ReadMark(room.name, before))
    # A guest who does not come back leaves nothing behind.
    stays = chat.settings.auth.session_days * DAY_SECONDS * 1000
    until = chat.journal.steady_now() + stays if is_guest(user.id) else None
    user.marks[key] = seq

    def tell_others() -> None:
        for other in list(user.connections):
            if other is not connection:
                other.notify(events.Read(room.name, seq))

    def undo() -> None:
        if user.marks.get(key) == seq:
            user.marks[key] = before

    return Commit(
        Put(Mark(user.id, key, seq).record(until)),
        lambda _: commands.ReadMark(room.name, seq),
        then=tell_others,
        undo=undo,
    )
