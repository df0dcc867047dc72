"""Names that look alike: the skeletons of UTS 39, section 4.

Two texts with one skeleton are easily mistaken for each other, such as ``admin`` and the same with
a Cyrillic a. The table is Unicode's, without the characters that no name can contain.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from pathlib import Path

__all__ = ["skeleton"]


def skeleton(text: str) -> str:
    """Return the skeleton of a text."""
    if text.isascii():
        return text.translate(_prototypes())
    # Characters without width are no part of a name.
    split = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFD", split.translate(_prototypes()))


@cache
def _prototypes() -> dict[int, str]:
    """Return what stands for each character that is confused with others."""
    table: dict[int, str] = {}
    for line in Path(__file__).with_name("confusables.txt").read_text("ascii").splitlines():
        if not line.startswith("#"):
            prototype, _, characters = line.partition(": ")
            alike = "".join(chr(int(code, 16)) for code in prototype.split())
            table.update((int(code, 16), alike) for code in characters.split())
    return table
