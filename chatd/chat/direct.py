"""Direct messages: the room of two users. Both are in it without joining, and no other user can be.

The room's name is made of the two users' ids. It is open while one of them is here, and all
connections of both are in it. Its messages are stored unless both are guests.
"""

from __future__ import annotations

from typing import Final

from chatd.chat.actor import Actor
from chatd.chat.chat import Chat
from chatd.chat.connection import Connection
from chatd.chat.membership import Membership
from chatd.chat.names import Name, room_name, usable_nick
from chatd.chat.rights import check_may_read
from chatd.chat.rooms import Room
from chatd.chat.user import User
from chatd.model import Refused
from chatd.protocol.pairs import other_of, pair_name, users_of

__all__ = ["DIRECT", "require_membership", "resolve"]

DIRECT: Final = "direct"
"""The namespace of each user's conversations: records named by the user, a NUL and the room."""


async def resolve(chat: Chat, user: User, written_name: str) -> Name:
    """Return the room that a name means for this user: ``@nick`` becomes the room of the two.

    Raises:
        Refused: it means none.
        chatd.journal.Unavailable: the store cannot be read now.
    """
    if not written_name.startswith("@"):
        return room_name(written_name)
    if "," in written_name:
        if user.id not in users_of(written_name):
            raise Refused("forbidden", "These are other users' direct messages.")
        other = other_of(written_name, user.id)
    else:
        nick = usable_nick(written_name[1:])
        found = None if nick is None else await chat.roster.find(nick)
        if found is None:
            raise Refused("not_found", f"There is no user named {written_name[1:65]} here.")
        other = found
    if other == user.id:
        raise Refused("bad_request", "You cannot send direct messages to yourself.")
    key = pair_name(user.id, other)
    return Name(key, key)


async def require_membership(connection: Connection, written_name: str) -> Membership:
    """Return the connection's membership in a room; open the room if it is a direct one.

    Raises:
        Refused: the connection is not in that room.
        chatd.journal.Unavailable: the store cannot be read now.
    """
    if membership := connection.membership(written_name):
        return membership
    if not written_name.startswith("@"):
        raise Refused("not_joined", f"You are not in {written_name[:64]}. Join it first.")
    name = await resolve(connection.chat, connection.user, written_name)
    if membership := connection.memberships.get(name.key):
        return membership
    await open_direct(connection, name)
    return connection.memberships[name.key]


async def open_direct(connection: Actor, name: Name) -> Room:
    """Open the room of two, and let every connection of both into it that may read there.

    The caller enters it at once, or closes it with `Rooms.close_unless_used`.

    Raise Refused if this client may not read there, or there is no such user.
    """
    chat, user = connection.chat, connection.user
    check_may_read(connection, name.key)
    if (room := chat.rooms.get(name.key)) is None:
        chat.flood.charge_page(connection)
        other = other_of(name.key, user.id)
        known = chat.users.get(other) is not None or await chat.journal.user(other) is not None
        if not known and await chat.journal.head(name.key) is None:
            raise Refused("not_found", f"There is no user with the id {other[:64]}.")
        chat.flood.charge(connection, 0)
        room = await chat.rooms.open(name, connection)
    for party in users_of(name.key):
        if (here := chat.users.get(party)) is not None:
            for each in list(here.connections):
                each.enter_direct(room)
    return room
