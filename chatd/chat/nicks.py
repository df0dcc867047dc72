"""Who has which nick. Of nicks that are the same or look alike, only one user has one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd.chat.names import Name

if TYPE_CHECKING:
    from chatd.chat.user import User

__all__ = ["Nicks"]


class Nicks:
    """The nicks that are in use, held, or reserved for a user who is being renamed."""

    def __init__(self) -> None:
        self._by_key: dict[str, User] = {}
        self._by_look: dict[str, User] = {}
        self.get = self._by_key.get
        """Returns the user whose nick has this key; None if there is none."""

    def is_free(self, name: Name, user_id: str) -> bool:
        """Return whether no other user has this nick, or one that looks like it."""
        holders = (self._by_look.get(look) for look in name.looks)
        return all(holder is None or holder.id == user_id for holder in holders)

    def take(self, user: User, name: Name) -> None:
        """Record that a user has a nick that is free."""
        self._by_key[name.key] = user
        for look in name.looks:
            self._by_look[look] = user

    def release(self, user: User, name: Name) -> None:
        """Record that a user no longer has a nick."""
        if self._by_key.get(name.key) is user:
            del self._by_key[name.key]
        for look in name.looks:
            if self._by_look.get(look) is user:
                del self._by_look[look]
