"""Errors for data under the prefix that somebody has changed by hand."""

from __future__ import annotations

from typing import Final

from chatd.journal.engine import Damaged
from chatd.journal.redis.layout import Keys

__all__ = ["UNREADABLE", "damaged"]

UNREADABLE: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""The exceptions of decoding bytes that chatd has not written."""


def damaged(keys: Keys, key: bytes, part: bytes | str | int | None = None) -> Damaged:
    """Return the error for a key, or for one of its parts.

    Args:
        keys: The names of the store's keys.
        key: The key.
        part: The field of a hash, the member of a sorted set or the id of an entry.
    """
    name = key.decode(errors="replace")
    place = f"the key {name} in Redis"
    if part is not None:
        part = part.decode(errors="replace") if isinstance(part, bytes) else part
        place = f"{part!r} in {place}"
    elif keys.is_made_again(key):
        return Damaged(f"{place} is not as chatd has written it: run `redis-cli DEL '{name}'`")
    return Damaged(f"{place} is not as chatd has written it: restore a backup of Redis")
