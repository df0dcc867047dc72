"""SQLite's index of events by room and number, which lags some hundred events behind the commits.

The rooms of a batch lie far apart in this index, so to enter an event at its commit is to write a
page for it: half of what a message in a batch of many rooms costs SQLite. So events are *filed*
many at a time, in the order of the index. The others are the last rows of ``events``, where they
are found by reading all of them, in some 30 µs. A room's filed events are always before its others.
"""

from __future__ import annotations

import sqlite3
from typing import Final

__all__ = ["FILED", "LAST", "UNFILED_EVENTS", "file", "place", "places"]

UNFILED_EVENTS: Final = 512
"""How many events are filed together at the latest. With 256, a read takes some 10 µs less while
the store is busy, and a message 0.3 µs more."""

FILED: Final = "(SELECT value FROM meta WHERE name = 'filed')"
"""An expression: the position up to which events are filed."""

LAST: Final = (
    "max(ifnull((SELECT max(seq) FROM places WHERE room_id = rooms.id), 0),"  # noqa: S608  a constant
    f" ifnull((SELECT max(seq) FROM events WHERE position > {FILED} AND room_id = rooms.id), 0),"
    " head)"
)
"""An expression: the last number of a row of ``rooms``."""


def place(room_id: str, seq: str) -> str:
    """Return an expression: the position of a room's event with this number, or NULL.

    Args:
        room_id: An expression.
        seq: An expression.
    """
    where = f"room_id = {room_id} AND seq = {seq}"
    return (
        f"ifnull((SELECT position FROM places WHERE {where}),"  # noqa: S608  our own expressions
        f" (SELECT position FROM events WHERE position > {FILED} AND {where}))"
    )


def places(room_id: str, numbers: str, *, newest: bool = False) -> str:
    """Return a query: the positions of a room's first events with certain numbers.

    It has at least as many as its parameter ``limit`` says, and no more than there are; whoever
    uses it must sort and limit them.

    Args:
        room_id: An expression.
        numbers: A condition on ``seq``.
        newest: Whether the last events are meant.
    """
    where = f"room_id = {room_id} AND {numbers}"
    order = "seq DESC" if newest else "seq"
    return (
        "SELECT position FROM"  # noqa: S608  our own expressions
        f" (SELECT position FROM places WHERE {where} ORDER BY {order} LIMIT :limit)"
        f" UNION ALL SELECT position FROM events WHERE position > {FILED} AND {where}"
    )


def file(cursor: sqlite3.Cursor) -> None:
    """File all events, inside a transaction that ends if this fails."""
    # OR FAIL: SQLite then keeps no journal of this statement, which would take a third of the time.
    cursor.execute(
        "INSERT OR FAIL INTO places SELECT room_id, seq, position FROM events"  # noqa: S608  a constant
        f" WHERE position > {FILED} ORDER BY room_id, seq"
    )
    if cursor.rowcount:
        last = "SELECT max(position) FROM events"
        cursor.execute(f"UPDATE meta SET value = ({last}) WHERE name = 'filed'")  # noqa: S608  a constant
