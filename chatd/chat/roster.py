"""The roster: which users are in the chat, at all daemons that serve the chat together.

Every daemon of a chat has to know some facts about users and rooms: that a user came, took a nick
or entered a room, or that an operator kicked a user. A roster makes such a fact known to all
daemons, and has it carried out there.

* `LocalRoster` is for a daemon that serves its chat alone: it carries everything out at once,
  without a checkpoint.
* `chatd.chat.shared.SharedRoster` is for daemons that share a store.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from chatd.chat.acts import Act, Whisper, carry_out, impose, lift
from chatd.chat.names import Name
from chatd.chat.sanctions import Sanction
from chatd.model import Event, ExitReason, Operation, Refused, Remember, UserRecord
from chatd.protocol.commands import Member
from chatd.protocol.events import Typing

if TYPE_CHECKING:
    from chatd.chat.chat import Chat
    from chatd.chat.rooms import Room
    from chatd.chat.user import User

__all__ = ["Arrival", "LocalRoster", "Roster", "unreachable"]


def unreachable() -> Refused:
    """Return the exception to raise while a store that daemons share cannot be reached."""
    return Refused(
        "unavailable", "The server cannot reach its store now. Try again in a moment.", 1000
    )


class Arrival(Struct, frozen=True):
    """The nick of a user who arrives, and the debt of the user's flood buckets at other daemons."""

    nick: Name
    debt: bytes = b""


class Roster(Protocol):
    """Makes known to all daemons which users are in the chat, and what operators decide."""

    @property
    def shared(self) -> bool:
        """Whether other daemons serve the same chat."""
        ...

    @property
    def fan_out_seconds(self) -> float:
        """How long what was committed may take at most to come back and be fanned out."""
        ...

    # ---- users

    async def arrive(self, user_id: str, names: Iterator[Name]) -> Arrival:
        """Let a user arrive who has no connection here, under the first nick that is free.

        Args:
            user_id: The user's id.
            names: Nicks that are free as far as this daemon knows; endless.

        Raises:
            chatd.model.Refused: The store did not confirm it.
        """
        ...

    def depart(self, user_id: str, user: User | None = None) -> None:
        """Make known that a user has no connection here any longer.

        ``user`` says whether the nick is held, and has the flood buckets; None if the user is not
        known here.
        """
        ...

    def release(self, user: User) -> None:
        """Make known that the nick of a user who departed is not held any longer."""
        ...

    async def free(self, user: User) -> None:
        """Free the nick of a guest whose client has signed in as another user. Raise Refused."""
        ...

    def renaming(self, user: User, name: Name) -> Operation:
        """Return the operation that gives a user another nick."""
        ...

    def renamed(self, user: User, before: str) -> None:
        """Send the new nick to the user's rooms. The operation of `renaming` was committed."""
        ...

    async def find(self, name: Name) -> str | None:
        """Return the id of the user who has a nick; None if nobody has it.

        Raises:
            chatd.journal.Unavailable: the store cannot be read now.
        """
        ...

    async def is_present(self, user_id: str) -> bool:
        """Return whether a user is connected. Raise Unavailable."""
        ...

    # ---- rooms

    async def opened(self, room: Room) -> None:
        """Add the members that a room has at other daemons. Raise Unavailable."""
        ...

    def entered(self, room: Room, user: User) -> None:
        """Make known that a user is in a room here."""
        ...

    def exited(self, room: Room, user: User, reason: ExitReason) -> None:
        """Make known that a user is no longer in a room here."""
        ...

    def ranked(self, user: User) -> None:
        """Make known that a user has become an operator here, or is no longer one."""
        ...

    def heard(self, event: Event) -> None:
        """Count an event of a room that is open here. Its sender may be at another daemon."""
        ...

    async def is_in(self, user_id: str, room: str) -> bool:
        """Return whether a user is in a room, by its key. Raise Unavailable."""
        ...

    async def is_occupied(self, room: str) -> bool:
        """Return whether a room, by its key, has members. Raise Unavailable."""
        ...

    async def members(self, room: str) -> list[Member]:
        """Return the members of a room that is not open here, sorted by nick. Raise Unavailable."""
        ...

    async def occupied(self) -> Mapping[str, tuple[str, int]]:
        """Return the rooms that have members but are not open here. Raise Unavailable.

        The result maps each room's key to its name as written and its number of members. Rooms of
        direct messages are left out.
        """
        ...

    # ---- acts

    async def act(self, act: Act) -> None:
        """Carry out an act at every daemon. Raise Refused if the store did not confirm it."""
        ...

    def whispering(self, act: Whisper) -> Operation | None:
        """Return the operation that carries out an act; None if it is carried out now."""
        ...

    def typing(self, room: Room, event: Typing) -> None:
        """Send the event to the room's members at other daemons. It may be lost."""
        ...

    def imposed(self, sanctions: Sequence[Sanction]) -> None:
        """Put committed sanctions into force: one, and those of networks that came with it."""
        ...

    def lifted(self, sanctions: Sequence[Sanction]) -> None:
        """End sanctions, after their removal was committed."""
        ...


class LocalRoster:
    """The roster of a daemon that serves its chat alone."""

    def __init__(self, chat: Chat) -> None:
        self.shared = False
        self.fan_out_seconds = math.inf
        self._chat = chat

    async def arrive(self, user_id: str, names: Iterator[Name]) -> Arrival:
        return Arrival(next(names))

    def depart(self, user_id: str, user: User | None = None) -> None:
        """Do nothing: nobody else has to know."""

    def release(self, user: User) -> None:
        """Do nothing: nobody else has to know."""

    async def free(self, user: User) -> None:
        """Do nothing: nobody else has to know."""

    def renaming(self, user: User, name: Name) -> Operation:
        return Remember(UserRecord(user.id, name.display, None, user.subject))

    def renamed(self, user: User, before: str) -> None:
        for room in user.rooms:
            room.announce_nick(user, before)

    async def find(self, name: Name) -> str | None:
        user = self._chat.users.by_nick(name.key)
        return None if user is None else user.id

    async def is_present(self, user_id: str) -> bool:
        user = self._chat.users.get(user_id)
        return user is not None and bool(user.connections)

    async def opened(self, room: Room) -> None:
        """Do nothing: it has no members yet."""

    def entered(self, room: Room, user: User) -> None:
        room.announce_joined(user)

    def exited(self, room: Room, user: User, reason: ExitReason) -> None:
        room.remove(user)
        room.announce_left(user, reason)

    def ranked(self, user: User) -> None:
        """Do nothing: nobody else has to know."""

    def heard(self, event: Event) -> None:
        """Do nothing: its sender was charged."""

    async def is_in(self, user_id: str, room: str) -> bool:
        user = self._chat.users.get(user_id)
        return user is not None and any(room in each.memberships for each in user.connections)

    async def is_occupied(self, room: str) -> bool:
        return self._chat.rooms.get(room) is not None

    async def members(self, room: str) -> list[Member]:
        return []

    async def occupied(self) -> Mapping[str, tuple[str, int]]:
        return {}

    async def act(self, act: Act) -> None:
        await carry_out(self._chat, act)

    def whispering(self, act: Whisper) -> Operation | None:
        return None

    def typing(self, room: Room, event: Typing) -> None:
        """Do nothing: all members are here."""

    def imposed(self, sanctions: Sequence[Sanction]) -> None:
        first, *networks = sanctions
        impose(self._chat, first, networks)

    def lifted(self, sanctions: Sequence[Sanction]) -> None:
        for sanction in sanctions:
            lift(self._chat, sanction.kind, sanction.name)
