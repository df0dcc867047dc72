"""The names of direct messages' rooms: ``@`` and the ids of the two users, sorted, with a comma.

A token's ``sub`` may contain a comma: it and ``%`` are percent-encoded, as ``%2C`` and ``%25``.
"""

from __future__ import annotations

from urllib.parse import unquote

__all__ = ["other_of", "pair_name", "users_of"]


def pair_name(one: str, other: str) -> str:
    """Return the name of the room of two users."""
    return "@" + ",".join(map(_encoded, sorted((one, other))))


def users_of(room: str) -> tuple[str, str]:
    """Return the ids of the users of a room of two."""
    first, _, second = room[1:].partition(",")
    return unquote(first), unquote(second)


def other_of(room: str, user: str) -> str:
    """Return the id of the other user of a room of two."""
    first, second = users_of(room)
    return second if user == first else first


def _encoded(user: str) -> str:
    return user.replace("%", "%25").replace(",", "%2C")
