"""Rooms: the members of each, and the rooms of each member. Sans-IO."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Generic, TypeVar

__all__ = ["Rooms"]

M = TypeVar("M")


class Rooms(Generic[M]):
    """Members by room and rooms by member. A room without members does not exist.

    The sets are dicts, so that members stay in the order in which they joined.
    """

    __slots__ = ("_members", "_rooms")

    def __init__(self) -> None:
        self._members: dict[str, dict[M, None]] = {}
        self._rooms: dict[M, dict[str, None]] = {}

    def add(self, member: M) -> None:
        """Add a member; it is in no room yet."""
        self._rooms.setdefault(member, {})

    def join(self, member: M, rooms: Iterable[str]) -> None:
        """Put a member into rooms; do nothing if it was not added or is removed."""
        joined = self._rooms.get(member)
        if joined is None:
            return
        for room in rooms:
            joined[room] = None
            self._members.setdefault(room, {})[member] = None

    def leave(self, member: M, rooms: Iterable[str]) -> None:
        """Remove a member from rooms."""
        joined = self._rooms.get(member, {})
        for room in rooms:
            if room in joined:
                del joined[room]
                self._forget(member, room)

    def remove(self, member: M) -> None:
        """Remove a member, from all its rooms too."""
        for room in self._rooms.pop(member, ()):
            self._forget(member, room)

    def of(self, member: M) -> Iterable[str]:
        """Return the rooms of a member."""
        return self._rooms.get(member, {}).keys()

    def sizes(self) -> Mapping[str, int]:
        """Return how many members each room has."""
        return {room: len(members) for room, members in self._members.items()}

    def select(self, rooms: Collection[str], exclude: Collection[str]) -> list[M]:
        """Return members, each once.

        Args:
            rooms: Members of any of these rooms; all members if there are none.
            exclude: Members of these rooms are left out.
        """
        members = self._members
        if not rooms:
            chosen: Iterable[M] = self._rooms
        elif len(rooms) == 1:
            chosen = members.get(next(iter(rooms)), {})
        else:
            chosen = dict.fromkeys(member for room in rooms for member in members.get(room, ()))
        if not exclude:
            return list(chosen)
        left_out = {member for room in exclude for member in members.get(room, ())}
        return [member for member in chosen if member not in left_out]

    def _forget(self, member: M, room: str) -> None:
        members = self._members[room]
        del members[member]
        if not members:
            del self._members[room]
