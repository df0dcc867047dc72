"""The words of a search: how a query is read, how a text matches it, and SQLite's index of words.

A word is a run of letters and digits, as in the tokenizer ``unicode61`` of SQLite's FTS5,
regardless of case and of the accents of Latin letters. Both journals read queries by `parse`.

The index is fed in chunks between commits (`chatd.journal.maintenance.index`), and holds the
present words of messages up to there. The text itself is stored in ``events`` alone (FTS5's
external content), so removing words takes the text once more. The room's id is a word of its own,
so that a search walks the events of its room.
"""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

__all__ = [
    "FOUND",
    "MERGE_PAGES",
    "Row",
    "add",
    "expression",
    "matches",
    "merge",
    "parse",
    "remove",
]

MOST_PHRASES: Final = 16
MOST_BYTES: Final = 512
"""Bounds of a query; each phrase costs a walk through its word's list of events."""

MERGE_PAGES: Final = 16
"""Pages that are merged with each chunk that is added: more than the chunk writes, times the levels
that it goes through, so that no merge of thousands of pages is ever due at once."""

FOUND: Final = (
    "SELECT rowid FROM words WHERE words MATCH ? AND rowid < ? ORDER BY rowid DESC LIMIT ?"
)
"""Selects the positions of messages that match an `expression`, the newest first."""

Row = tuple[int, str, int]
"""The position of a message, its text, and its room's id."""

# A phrase in quotes, of which the last may be missing; or the text between spaces.
_PART: Final = re.compile(r'"([^"]*)"?|([^\s"]+)')
# Anything but letters, digits and combining accents. `\w` includes the underscore.
_BETWEEN: Final = re.compile(r"(?:[^\w\u0300-\u036f]|_)+")
_WORD: Final = re.compile(r"[^\W_]+")
_ACCENT: Final = re.compile(r"[\u0300-\u036f]+")


def parse(query: str) -> tuple[str, ...]:
    """Return the phrases of a query, each of words with a space between; empty if it has no word.

    What exceeds the bounds is ignored.
    """
    phrases: list[str] = []
    size = 0
    for quoted, bare in _PART.findall(query[: MOST_BYTES * 2]):
        phrase = _BETWEEN.sub(" ", quoted or bare).strip()
        if not _WORD.search(phrase):
            continue
        size += len(phrase.encode())
        if size > MOST_BYTES or len(phrases) == MOST_PHRASES:
            break
        phrases.append(phrase)
    return tuple(phrases)


def matches(phrases: Sequence[str], text: str) -> bool:
    """Return whether the text has all the phrases."""
    have = f" {' '.join(_folded(text))} "
    return all(f" {' '.join(_folded(phrase))} " in have for phrase in phrases)


def _folded(text: str) -> list[str]:
    plain = _ACCENT.sub("", unicodedata.normalize("NFD", text))
    return _WORD.findall(plain.lower())


# ---- the index


def expression(room_id: int, phrases: Sequence[str]) -> str:
    """Return the phrases in FTS5's query language. No phrase contains any of its syntax."""
    text = " AND ".join(f'"{phrase}"' for phrase in phrases)
    return f'room_id : "{room_id}" AND text : ({text})'


def add(cursor: sqlite3.Cursor, rows: Iterable[Row]) -> None:
    cursor.executemany("INSERT INTO words (rowid, text, room_id) VALUES (?, ?, ?)", rows)


def remove(cursor: sqlite3.Cursor, rows: Iterable[Row]) -> None:
    """Remove what was added with exactly these values."""
    cursor.executemany(
        "INSERT INTO words (words, rowid, text, room_id) VALUES ('delete', ?, ?, ?)", rows
    )


def merge(cursor: sqlite3.Cursor, pages: int) -> bool:
    """Merge about this many pages; a negative number begins to merge everything into one part.

    Return False if there was nothing to merge. (sqlite.org/fts5.html, 6.7 and 6.8.)
    """
    connection = cursor.connection
    before = connection.total_changes
    cursor.execute("INSERT INTO words (words, rank) VALUES ('merge', ?)", (pages,))
    return connection.total_changes - before > 1
