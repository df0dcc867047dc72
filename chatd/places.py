"""Where each key and each value of a TOML text stands, which tomllib does not tell.

The text is one that tomllib has taken already, so this walks it and checks nothing.
"""

from __future__ import annotations

import re
import tomllib
from typing import Final, NamedTuple, TypeAlias

__all__ = ["KeyPath", "Place", "locate", "position"]

KeyPath: TypeAlias = tuple[str | int, ...]
"""The keys, and the indexes of arrays, that lead to a value."""


class Place(NamedTuple):
    """Offsets into the text, in characters; an array's element has no key: its value's, twice."""

    key: int
    value: int


_BLANK: Final = re.compile(r"[ \t\n]*(?:#[^\n]*[ \t\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_KEY_PART: Final = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
# A multi-line string may end in up to five quotes: two of its own before the three that close it.
_SCALAR: Final = re.compile(
    r'''"""(?:[^"\\]|\\[\s\S]|"{1,2}(?!"))*"{3,5}'''
    r"""|'{3}(?:[^']|'{1,2}(?!'))*'{3,5}"""
    r"""|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[^,\]}#\n]+"""
)


def locate(text: str) -> dict[KeyPath, Place]:
    r"""Find the place of every table, key and array element.

    ``text`` is valid TOML with ``\n`` as its line ends. Deep nesting raises RecursionError.
    """
    walk = _Walk(text)
    walk.document()
    return walk.places


def position(text: str, offset: int) -> tuple[int, int]:
    """Tell the line and the column, both from 1, of an offset."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


class _Walk:
    def __init__(self, text: str) -> None:
        self.places: dict[KeyPath, Place] = {}
        self._text = text
        self._at = 0
        self._elements: dict[KeyPath, int] = {}

    def document(self) -> None:
        table: KeyPath = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._assignment(table)
            self._skip(_BLANK)

    def _header(self) -> KeyPath:
        several = self._text.startswith("[[", self._at)
        self._at += 2 if several else 1
        self._skip(_SPACE)
        parts = self._key()
        self._at += 2 if several else 1
        path: KeyPath = ()
        for index, (name, offset) in enumerate(parts):
            path += (name,)
            self.places.setdefault(path, Place(offset, offset))
            if several and index == len(parts) - 1:
                self._elements[path] = self._elements.get(path, 0) + 1
            if path in self._elements:
                path += (self._elements[path] - 1,)
                self.places.setdefault(path, Place(offset, offset))
        return path

    def _assignment(self, table: KeyPath) -> None:
        path = table
        for name, offset in self._key():
            path += (name,)
            self.places.setdefault(path, Place(offset, offset))
        self._at += 1
        self._skip(_SPACE)
        self.places[path] = Place(self.places[path].key, self._at)
        self._value(path)

    def _key(self) -> list[tuple[str, int]]:
        parts: list[tuple[str, int]] = []
        while True:
            raw = self._skip(_KEY_PART)
            parts.append((_name(raw), self._at - len(raw)))
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return parts
            self._at += 1
            self._skip(_SPACE)

    def _value(self, path: KeyPath) -> None:
        match self._text[self._at]:
            case "[":
                self._array(path)
            case "{":
                self._inline_table(path)
            case _:
                self._skip(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        self._at += 1
        self._skip(_BLANK)
        index = 0
        while self._text[self._at] != "]":
            element = (*path, index)
            self.places[element] = Place(self._at, self._at)
            self._value(element)
            self._comma()
            index += 1
        self._at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        self._skip(_BLANK)
        while self._text[self._at] != "}":
            self._assignment(path)
            self._comma()
        self._at += 1

    def _comma(self) -> None:
        self._skip(_BLANK)
        if self._text[self._at] == ",":
            self._at += 1
            self._skip(_BLANK)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:  # only in a text that tomllib refuses
            raise ValueError(f"no TOML at {position(self._text, self._at)}")
        self._at = found.end()
        return found[0]


def _name(raw: str) -> str:
    if raw[0] not in "\"'":
        return raw
    name: str = tomllib.loads(f"name = {raw}")["name"]
    return name
