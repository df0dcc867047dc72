"""How far the store has come, as the writer keeps it in mind between transactions."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import Final, Literal

__all__ = ["POSITION", "Watermarks"]

POSITION: Final = (
    "SELECT max(ifnull((SELECT max(position) FROM events), 0),"
    " (SELECT value FROM meta WHERE name = 'position'))"
)
"""The store's last position, of an event that may be gone."""


@dataclass(slots=True)
class Watermarks:
    """What stands here was committed."""

    position: int = 0
    """Of the last event that somebody was told of."""
    indexed: int = 0
    """Up to which position the messages' words can be found."""
    dirty: int | None = None
    """When the first text was taken away that may still be in the files; None: there is none."""
    merge: Literal["due", "begun", "done"] = "due"
    """How far the index is merged into one, so that no part of it has words that went before."""
    later: int | None = None
    """When the first text was taken away since that began."""
    touched: dict[int, None] = field(default_factory=dict)
    """Ids of rooms that may hold more events than are kept."""
    kept: int | Literal["off"] = "off"
    """How many were kept of each room at the last look."""

    def wipe(self, cursor: sqlite3.Cursor, now: int) -> None:
        """Note, in the transaction that does it, that a text is taken away."""
        if self.merge != "due" and self.later is None:
            self.later = now
        if self.dirty is None:
            cursor.execute("UPDATE meta SET value = ? WHERE name = 'dirty'", (now,))
            # Should this not be committed, the files are cleaned once for nothing.
            self.dirty = now

    def look(self, connection: sqlite3.Connection) -> None:
        """Read again what a transaction in doubt may have moved."""
        query = "SELECT name, value FROM meta WHERE name IN ('indexed', 'dirty')"
        found = dict(connection.execute(query).fetchall())
        self.indexed, self.dirty = found["indexed"], found["dirty"]
        self.merge = "due"
