"""Finds the places of the keys and values of a TOML text, which tomllib does not report.

The text is one that tomllib has accepted, so nothing is checked here. Keys inside inline tables
have no separate location: they share that of the key whose value they are in.
"""

from __future__ import annotations

import re
import tomllib
from typing import Final, NamedTuple, TypeAlias

__all__ = ["KeyPath", "Location", "line_and_column", "locate"]

KeyPath: TypeAlias = tuple[str | int, ...]
"""The keys that lead to a value, and, for an element of an array, its index."""


class Location(NamedTuple):
    """Offsets into the text, in characters. Tables and elements have one: both are the same."""

    key: int
    value: int


# A multi-line string may end in up to five quotes: two of the text before the three that close it.
_TOKEN: Final = re.compile(
    r"""(?x)
    (?P<comment> \#[^\n]* )
    | "{3} (?: [^"\\] | \\[\s\S] | "{1,2}(?!") )* "{3,5} | '{3} (?: [^'] | '{1,2}(?!') )* '{3,5}
    | " (?: [^"\\\n] | \\. )* " | '[^'\n]*'
    | [\[\]{}=,.\n]
    | [^\s\[\]{}=,.\#"']+
    """
)


def locate(text: str) -> dict[KeyPath, Location]:
    r"""Return the location of each table, each key, and each element of a key's array.

    ``text`` is valid TOML with ``\n`` as its line ends.
    """
    walk = _Walk()
    for token in _TOKEN.finditer(f"{text}\n"):
        if token.lastgroup != "comment":
            walk.take(token[0], token.start())
    return walk.locations


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    """Return the line and the column of an offset; both count from 1."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


class _Walk:
    """Takes a text token by token, and knows whether it is in a header, a key or a value."""

    def __init__(self) -> None:
        self.locations: dict[KeyPath, Location] = {}
        self._table: KeyPath = ()
        self._path: KeyPath = ()
        self._in_header = False
        self._in_value = False
        self._depth = 0
        self._in_array = False
        self._element_follows = False
        self._index = 0

    def take(self, mark: str, at: int) -> None:
        if self._in_value:
            self._value(mark, at)
        elif mark == "=":
            self._in_value, self._element_follows, self._depth = True, False, 0
            self.locations[self._path] = Location(self.locations[self._path].key, -1)
        elif mark == "[":
            self._in_header, self._path = True, ()
        elif mark == "\n":
            if self._in_header:
                self._table, self._in_header = self._path, False
            self._path = self._table
        elif mark not in (".", "]"):
            self._path = (*self._path, _name(mark))
            self.locations.setdefault(self._path, Location(at, at))

    def _value(self, mark: str, at: int) -> None:
        if mark == "\n":
            if not self._depth:
                self._in_value, self._path = False, self._table
            return
        key, value = self.locations[self._path]
        if value < 0:
            self.locations[self._path] = Location(key, at)
            self._in_array, self._index = mark == "[", 0
        elif self._element_follows and mark != "]":
            self.locations[*self._path, self._index] = Location(at, at)
            self._index += 1
        if mark in ("[", "{"):
            self._depth += 1
        elif mark in ("]", "}"):
            self._depth -= 1
        self._element_follows = self._in_array and self._depth == 1 and mark in ("[", ",")


def _name(mark: str) -> str:
    if mark[0] not in "\"'":
        return mark
    name: str = tomllib.loads(f"name = {mark}")["name"]
    return name
