"""Direct messages: the room of two users. Both are in it without joining, and nobody else.

The room is called by the two users' ids. It is open while one of them is here, and shown to all
connections of both; what is said in it is kept where one of the two is more than a guest.
"""

from __future__ import annotations

from typing import Final

from chatd.chat.chat import Chat
from chatd.chat.connection import Connection
from chatd.chat.membership import Membership
from chatd.chat.names import Name, room_name, usable_nick
from chatd.chat.rights import check_may_read
from chatd.chat.rooms import Room
from chatd.chat.users import User
from chatd.model import Refused

__all__ = ["DIRECT", "other_of", "require_membership", "resolve"]

DIRECT: Final = "direct"
"""The shelf on which each user's conversations stand: by user, a NUL and the room."""


def resolve(chat: Chat, user: User, spelled: str) -> Name:
    """Return the room that a name means for this user: ``@nick`` becomes the room of the two.

    Raise Refused if it means none.
    """
    if not spelled.startswith("@"):
        return room_name(spelled)
    if "," in spelled:
        first, _, second = spelled[1:].partition(",")
        if user.id not in (first, second):
            raise Refused("forbidden", "that is a conversation of others")
        other = second if user.id == first else first
    else:
        nick = usable_nick(spelled[1:])
        called = None if nick is None else chat.users.called(nick.fold)
        if called is None:
            raise Refused("not_found", f"nobody here is called {spelled[1:65]}")
        other = called.id
    if other == user.id:
        raise Refused("bad_request", "that is you yourself")
    fold = "@" + ",".join(sorted((user.id, other)))
    return Name(fold, fold)


def other_of(room: str, user: str) -> str:
    """Give the other one's id."""
    first, _, second = room[1:].partition(",")
    return second if user == first else first


async def require_membership(connection: Connection, spelled: str) -> Membership:
    """Return the connection's membership in a room; open the room if it is a direct one.

    Raises:
        Refused: the connection is not in that room.
        chatd.journal.Unavailable: the store cannot be read now.
    """
    if membership := connection.member(spelled):
        return membership
    if not spelled.startswith("@"):
        raise Refused("not_joined", f"join {spelled[:64]} first")
    name = resolve(connection.chat, connection.user, spelled)
    if membership := connection.memberships.get(name.fold):
        return membership
    await open_direct(connection, name)
    return connection.memberships[name.fold]


async def open_direct(connection: Connection, name: Name) -> Room:
    """Open the room of two, and let every connection of both into it that may read there.

    Raise Refused if this connection may not, or there is no such user.
    """
    chat, user = connection.chat, connection.user
    check_may_read(connection, name.fold)
    if (room := chat.rooms.get(name.fold)) is None:
        other = other_of(name.fold, user.id)
        known = chat.users.get(other) is not None or await chat.journal.user(other) is not None
        if not known and await chat.journal.head(name.fold) is None:
            raise Refused("not_found", "nobody has that id")
        connection.charge_message(0)
        room = await chat.rooms.open(name)
    for party in name.fold[1:].split(","):
        if (here := chat.users.get(party)) is not None:
            for each in list(here.connections):
                each.enter_direct(room)
    return room
