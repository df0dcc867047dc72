"""The commands of operators, as methods of `chatd.client.Chat`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypedDict, TypeVar, Unpack

from chatd.protocol import commands
from chatd.protocol.commands import Command, Sanctioned, SanctionList

__all__ = ["Moderation", "Person"]

_T = TypeVar("_T")


class Person(TypedDict, total=False):
    """The keywords by which operators name a person: one of the first three, and a reason.

    ``nick`` is a nick, with or without ``@``; ``user`` a user id; ``network``, for bans only, an
    address or a network in CIDR notation. ``reason`` is at most 512 bytes long, and the person can
    read it.
    """

    nick: str
    user: str
    network: str
    reason: str


class Moderation(ABC):
    """A chat's commands for operators."""

    @abstractmethod
    async def _call(self, command: Command, kind: type[_T], /) -> _T:
        """Return the answer to a command, of this kind."""

    async def kick(self, *, room: str | None = None, **who: Unpack[Person]) -> Sanctioned:
        """Remove a person. The person may come back.

        Args:
            room: The room's name. By default the whole chat.
            who: The person: ``nick`` or ``user``; and ``reason``.

        Returns:
            The user id concerned.

        Raises:
            Refused: ``forbidden`` (you are no operator, or the person is one), ``not_found`` or
                ``bad_request``.
        """
        return await self._call(commands.Kick(room=room, **who), Sanctioned)

    async def ban(
        self, *, room: str | None = None, seconds: float | None = None, **who: Unpack[Person]
    ) -> Sanctioned:
        """Keep a person or a network out. A guest's ban includes its network.

        Args:
            room: The room's name. By default the whole chat.
            seconds: For how long, more than 0. By default until `unban`.
            who: The person: ``nick``, ``user`` or ``network``; and ``reason``.

        Returns:
            The user id or the networks concerned, and when the ban ends.

        Raises:
            Refused: ``forbidden`` (you are no operator, or the person is one), ``not_found`` or
                ``bad_request``.
        """
        return await self._call(commands.Ban(room=room, seconds=seconds, **who), Sanctioned)

    async def unban(self, *, room: str | None = None, **who: Unpack[Person]) -> Sanctioned:
        """Lift a ban.

        Args:
            room: The room's name. By default a ban from the whole chat.
            who: The person, by the name that was banned: ``nick``, ``user`` or ``network``.

        Returns:
            The user id or the networks concerned.

        Raises:
            Refused: ``forbidden``, ``not_found`` (there is no such ban) or ``bad_request``.
        """
        return await self._call(commands.Unban(room=room, **who), Sanctioned)

    async def mute(
        self, *, room: str | None = None, seconds: float | None = None, **who: Unpack[Person]
    ) -> Sanctioned:
        """Keep a person from sending messages.

        Args:
            room: The room's name. By default the whole chat.
            seconds: For how long, more than 0. By default until `unmute`.
            who: The person: ``nick`` or ``user``; and ``reason``.

        Returns:
            The user id concerned, and when it ends.

        Raises:
            Refused: ``forbidden`` (you are no operator, or the person is one), ``not_found`` or
                ``bad_request``.
        """
        return await self._call(commands.Mute(room=room, seconds=seconds, **who), Sanctioned)

    async def unmute(self, *, room: str | None = None, **who: Unpack[Person]) -> Sanctioned:
        """Lift a mute.

        Args:
            room: The room's name. By default a mute in the whole chat.
            who: The person: ``nick`` or ``user``.

        Returns:
            The user id concerned.

        Raises:
            Refused: ``forbidden``, ``not_found`` (there is no such mute) or ``bad_request``.
        """
        return await self._call(commands.Unmute(room=room, **who), Sanctioned)

    async def bans(self, room: str | None = None) -> SanctionList:
        """List the sanctions that are in force: bans, mutes, slow modes and closed rooms.

        Args:
            room: List those in this room and in the whole chat. By default all.

        Returns:
            The newest sanctions, at most 500.

        Raises:
            Refused: ``forbidden`` (you are not an operator) or ``bad_request`` (the name).
        """
        return await self._call(commands.Bans(room=room), SanctionList)

    async def slow(self, room: str, seconds: float) -> Sanctioned:
        """Make all users but operators wait between two messages in a room.

        Args:
            room: The room's name.
            seconds: For how long, at most 86,400 (a day); 0 ends it.

        Raises:
            Refused: ``forbidden``, ``not_found`` or ``bad_request``.
        """
        return await self._call(commands.Slow(room=room, seconds=seconds), Sanctioned)

    async def close_room(
        self, room: str, *, seconds: float | None = None, reason: str | None = None
    ) -> Sanctioned:
        """Remove all users but operators from a room and keep it closed.

        Args:
            room: The room's name.
            seconds: For how long; 0 opens it. By default until it is opened.
            reason: A text for the users, at most 512 bytes.

        Returns:
            When it ends.

        Raises:
            Refused: ``forbidden``, ``not_found`` or ``bad_request``.
        """
        close = commands.Close(room=room, seconds=seconds, reason=reason)
        return await self._call(close, Sanctioned)

    async def remove_room(self, room: str, *, reason: str | None = None) -> None:
        """Remove a room: its members leave it, and its events go.

        Args:
            room: The room's name.
            reason: A text for the users, at most 512 bytes.

        Raises:
            Refused: ``forbidden``, ``not_found`` or ``bad_request``.
        """
        await self._call(commands.Remove(room=room, reason=reason), Sanctioned)
