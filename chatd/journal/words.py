"""The words of a search: what of a query is looked for, and what it is to be found in a text.

A word is a run of letters and digits, as in the tokenizer ``unicode61`` of SQLite's FTS5: without
regard to case and to the accents of Latin letters. Sans-IO; both journals follow it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

__all__ = ["expression", "matches", "parse"]

MOST_PHRASES: Final = 16
MOST_BYTES: Final = 512
"""What is looked for of one query; each phrase costs a walk through its word's list of events."""

# A phrase in quotes, its last quote may be missing; or what stands between spaces.
_PART: Final = re.compile(r'"([^"]*)"?|([^\s"]+)')
# What is no letter, digit or combining accent. `\w` has the underscore too.
_BETWEEN: Final = re.compile(r"(?:[^\w\u0300-\u036f]|_)+")
_WORD: Final = re.compile(r"[^\W_]+")
_ACCENT: Final = re.compile(r"[\u0300-\u036f]+")


def parse(query: str) -> tuple[str, ...]:
    """Give the phrases of a query, each of words with a space between; none: nothing to look for.

    What is over the bounds is not looked for.
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


def expression(phrases: Sequence[str]) -> str:
    """Say it in FTS5's language, of which nothing can be in a phrase."""
    return " AND ".join(f'"{phrase}"' for phrase in phrases)


def matches(phrases: Sequence[str], text: str) -> bool:
    """Tell whether the text has all the phrases."""
    have = f" {' '.join(_folded(text))} "
    return all(f" {' '.join(_folded(phrase))} " in have for phrase in phrases)


def _folded(text: str) -> list[str]:
    plain = _ACCENT.sub("", unicodedata.normalize("NFD", text))
    return _WORD.findall(plain.lower())
