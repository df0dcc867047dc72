"""Signs of life that are no words: who is writing, and how far somebody has read."""

from __future__ import annotations

from functools import partial
from typing import Final

import trio

from chatd.chat.connection import Answered, Connection
from chatd.chat.credentials import is_guest
from chatd.chat.direct import place
from chatd.chat.membership import Membership
from chatd.chat.rights import check_may_write
from chatd.chat.users import DAY_SECONDS, MARK
from chatd.model import Outcome, Put, Record, Refusal, Refused
from chatd.protocol import commands, events

__all__ = ["read", "typing"]

TYPING_SECONDS: Final = 1.0
"""A connection is told to write at most this often in a room; a client says so every few."""


async def typing(connection: Connection, command: commands.Typing, answered: Answered) -> None:
    """Tell the others that somebody writes, or no more. Only a refusal is answered."""
    membership = await place(connection, command.room)
    check_may_write(connection, membership.room.topic.room)
    room, user, now = membership.room, connection.user, trio.current_time()
    crowd = connection.chat.settings.limits.presence_members
    if command.on:
        if now - membership.typed < TYPING_SECONDS:
            return
        membership.typed, membership.types = now, True
    elif membership.types:
        membership.types = False
    else:
        return
    if len(room.members) <= crowd:
        told = events.Typing(room.name, user.nick.shown, user.id, command.on)
        room.topic.tell([told], room.places(user))


async def read(connection: Connection, command: commands.Read, answered: Answered) -> None:
    """Note how far the user has read; never back. Their other connections are told."""
    # What it said itself counts as soon as it is answered.
    await connection.settled()
    membership = await place(connection, command.room)
    chat, user, topic = connection.chat, connection.user, membership.room.topic
    if not 0 <= command.seq <= topic.visible:
        raise Refused("bad_request", f"the room's numbers go from 1 to {topic.visible}")
    before = user.marks.get(topic.room, 0)
    if command.seq <= before:
        answered(commands.ReadMark(topic.name, before))
        return
    # A guest who does not come back leaves nothing behind.
    stays = chat.settings.auth.session_days * DAY_SECONDS * 1000
    until = chat.now() + stays if is_guest(user.id) else None
    record = Record(MARK, f"{user.id}\0{topic.room}", str(command.seq).encode(), until)
    user.marks[topic.room] = command.seq
    await connection.publish(
        Put(record), partial(_marked, connection, membership, command.seq, before, answered)
    )


def _marked(
    connection: Connection,
    membership: Membership,
    seq: int,
    before: int,
    answered: Answered,
    outcome: Outcome,
) -> None:
    user, topic = connection.user, membership.room.topic
    if isinstance(outcome, Refusal):
        if user.marks.get(topic.room) == seq:
            user.marks[topic.room] = before
        answered(outcome)
        return
    answered(commands.ReadMark(topic.name, seq))
    for other in list(user.connections):
        if other is not connection:
            other.tell(events.Read(topic.name, seq))
