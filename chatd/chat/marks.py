"""Read marks: up to which number of a room a user has read. Each is a record of the journal."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from chatd.model import Record

__all__ = ["MARK", "REMEDY", "Mark", "mark_of"]

MARK: Final = "mark"
"""The namespace of read marks: records named by the user, a NUL and the room's key."""

REMEDY: Final = "the user's next read mark in that room replaces it"
"""What becomes of a record that should hold a read mark, and cannot be read."""

_DIGITS: Final = 16
"""More than any number of an event has."""


class Mark(Struct, frozen=True):
    """A read mark: the user's id, the room's key, and the last number that the user has read."""

    user: str
    room: str
    seq: int

    def record(self, until: int | None) -> Record:
        """Return the record of the mark; it ends at that time, in ms since 1970."""
        return Record(MARK, f"{self.user}\0{self.room}", str(self.seq).encode(), until)


def mark_of(record: Record) -> Mark:
    """Return the read mark that a record holds.

    Raises:
        ValueError: It holds none, because somebody has changed it by hand.
    """
    if not record.value.isdigit() or len(record.value) > _DIGITS:
        raise ValueError("It is not a read mark")
    user, _, room = record.name.partition("\0")
    return Mark(user, room, int(record.value))
