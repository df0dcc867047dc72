"""The full-text index: which words it holds, and how they leave it.

It is fed in chunks behind the commits (`Watermarks.indexed`), and holds the present words of
messages up to there. The text itself stands in ``events`` alone (FTS5's external content), so words
that go are named to it once more. The room's id is a word of its own, so that a search walks its
room's events.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final

from chatd.journal import words

__all__ = ["MERGE_PAGES", "add", "expression", "merge", "take_out"]

MERGE_PAGES: Final = 16
"""Pages that are merged with each chunk that is added: more than the chunk writes, times the levels
that it goes through, so that no merge of thousands of pages ever becomes due at once."""

FOUND: Final = (
    "SELECT rowid FROM words WHERE words MATCH ? AND rowid < ? ORDER BY rowid DESC LIMIT ?"
)
"""Positions of messages that match, the newest first."""

Row = tuple[int, str, int]
"""Position, text, room's id."""


def add(cursor: sqlite3.Cursor, rows: Iterable[Row]) -> None:
    cursor.executemany("INSERT INTO words (rowid, text, room_id) VALUES (?, ?, ?)", rows)


def take_out(cursor: sqlite3.Cursor, rows: Iterable[Row]) -> None:
    """Take out what was added with exactly these values."""
    cursor.executemany(
        "INSERT INTO words (words, rowid, text, room_id) VALUES ('delete', ?, ?, ?)", rows
    )


def merge(cursor: sqlite3.Cursor, pages: int) -> bool:
    """Merge about so many pages; with a negative number begin to merge everything into one.

    Tells whether there was anything to do. (sqlite.org/fts5.html, 6.7 and 6.8.)
    """
    connection = cursor.connection
    before = connection.total_changes
    cursor.execute("INSERT INTO words (words, rank) VALUES ('merge', ?)", (pages,))
    return connection.total_changes - before > 1


def expression(room_id: int, phrases: tuple[str, ...]) -> str:
    return f'room_id : "{room_id}" AND text : ({words.expression(phrases)})'
