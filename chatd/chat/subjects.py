"""Nicks that only their owners may have: the server's, and those of the users that tokens name.

Nobody else may take a subject's id as a nick, and no guest may take a subject's last nick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from chatd.chat.names import RESERVED_NICKS, Name, nick_name, usable_nick

__all__ = ["Subjects"]

_SERVERS: Final = frozenset().union(*(nick_name(nick).looks for nick in RESERVED_NICKS))
"""What the names of the server's own look like."""


class Subjects:
    """The known subjects, by what their ids and nicks look like.

    Args:
        operators: Returns the ids in ``chat.operators``, whether or not these users came yet.
    """

    def __init__(self, operators: Callable[[], Iterable[str]]) -> None:
        self._operators = operators
        self._ids: dict[str, str] = {}
        self._nicks: dict[str, str] = {}
        """By the present nick or the last one."""

    def learn(self, user_id: str, nick: Name) -> None:
        """Record a subject and its nick."""
        for look in _looks_of(user_id):
            self._ids.setdefault(look, user_id)
        for look in nick.looks:
            self._nicks[look] = user_id

    def forget_nicks(self, user_id: str) -> None:
        """Record that a subject no longer has a nick."""
        self._nicks = {look: owner for look, owner in self._nicks.items() if owner != user_id}

    def forget(self, user_id: str) -> None:
        """Forget a subject."""
        self._ids = {look: owner for look, owner in self._ids.items() if owner != user_id}
        self.forget_nicks(user_id)

    def is_anothers(self, name: Name, user_id: str, *, subject: bool) -> bool:
        """Return whether a nick is reserved for the server, or for a subject but this user.

        ``subject``: whether this user is one. Only guests are kept from other subjects' nicks.
        """
        looks = name.looks
        if not looks.isdisjoint(_SERVERS):
            return True
        registries = (self._ids,) if subject else (self._ids, self._nicks)
        owners = {each.get(look, user_id) for each in registries for look in looks}
        for operator in self._operators():
            if not looks.isdisjoint(_looks_of(operator)):
                owners.add(operator)
        return owners != {user_id}


def _looks_of(user_id: str) -> frozenset[str]:
    """Return what a user's id looks like as a nick; nothing if it cannot be one."""
    name = usable_nick(user_id)
    return frozenset() if name is None else name.looks
