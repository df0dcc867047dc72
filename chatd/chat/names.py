"""Names of people and rooms: what may be one, and which are the same.

PRECIS IdentifierClass (RFC 8264 section 4.2), shown as given under UsernameCasePreserved and
compared under UsernameCaseMapped (RFC 8265 section 3).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from msgspec import Struct
from precis_i18n import get_profile

from chatd.model import Refused

__all__ = ["Name", "Pattern", "nick_name", "room_name", "room_pattern", "usable_nick"]

NICK_CHARACTERS: Final = 32
ROOM_CHARACTERS: Final = 64

_RESERVED_IN_ROOMS: Final = frozenset("*:@#,")
_RESERVED_IN_NICKS: Final = _RESERVED_IN_ROOMS | {"/"}

_PRESERVED: Final = get_profile("UsernameCasePreserved")
_MAPPED: Final = get_profile("UsernameCaseMapped")


class Name(Struct, frozen=True):
    """A name as it is shown, and the fold by which it is compared."""

    shown: str
    fold: str


def nick_name(text: str) -> Name:
    """Return a nick: 1-32 characters, none of ``* : @ # , /``. Raise Refused for anything else."""
    return _name("nick", text, NICK_CHARACTERS, _RESERVED_IN_NICKS)


def usable_nick(text: str) -> Name | None:
    """Return a nick, or None if the text cannot be one."""
    try:
        return nick_name(text)
    except Refused:
        return None


def room_name(text: str) -> Name:
    """Return a room's name: 1-64 characters, none of ``* : @ # ,``, not beginning with ``/``.

    Raise Refused for anything else.
    """
    return _name("room", text, ROOM_CHARACTERS, _RESERVED_IN_ROOMS)


# PRECIS takes some 30 µs a name and every command carries one; the bound holds some 4 MiB.
@lru_cache(maxsize=8192)
def _name(what: str, text: str, characters: int, reserved: frozenset[str]) -> Name:
    if not 1 <= len(text) <= characters:
        raise Refused("bad_request", f"a {what} has 1 to {characters} characters")
    if text.startswith("/"):
        raise Refused("bad_request", f"a {what} does not begin with /")
    try:
        shown = _PRESERVED.enforce(text)
        fold = _MAPPED.enforce(text)
    except UnicodeEncodeError as error:
        raise Refused("bad_request", f"this {what} cannot be used: {_reason(error)}") from None
    # Looked for after the mapping, which turns full-width forms into these.
    if not reserved.isdisjoint(shown):
        raise Refused("bad_request", f"a {what} has none of {' '.join(sorted(reserved))}")
    if len(shown) > characters or shown.startswith("/"):
        raise Refused("bad_request", f"a {what} has 1 to {characters} characters")
    return Name(shown, fold)


def _reason(error: UnicodeEncodeError) -> str:
    character = error.object[error.start : error.start + 1]
    if not character:
        return "nothing is left of it"
    return f"U+{ord(character):04X} is not allowed there"


class Pattern(Struct, frozen=True):
    """A pattern of rooms' folds, by the parts between its ``*``."""

    parts: tuple[str, ...]

    def matches(self, fold: str) -> bool:
        if len(self.parts) == 1:
            return fold == self.parts[0]
        first, *middle, last = self.parts
        # Each part at its first place after the one before: linear in both, whoever wrote it.
        if not fold.startswith(first):
            return False
        at = len(first)
        for part in middle:
            found = fold.find(part, at)
            if found < 0:
                return False
            at = found + len(part)
        return fold.endswith(last) and len(fold) - len(last) >= at


# Direct messages have rooms of their own, whose names begin with it.
_DIRECT: Final = "@"


def room_pattern(text: str) -> Pattern:
    """Return a pattern: a room's name with ``*`` for any characters; ``@*``: direct messages.

    Raise Refused for anything else.
    """
    if not 1 <= len(text) <= ROOM_CHARACTERS:
        raise Refused("bad_request", f"a pattern of rooms has 1 to {ROOM_CHARACTERS} characters")
    if text == f"{_DIRECT}*":
        return Pattern((_DIRECT, ""))
    parts = []
    for part in text.split("*"):
        try:
            parts.append(room_name(part).fold if part else "")
        except Refused as refused:
            raise Refused("bad_request", f"this is no pattern of rooms: {refused}") from None
    return Pattern(tuple(parts))
