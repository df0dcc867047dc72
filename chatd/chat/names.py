"""Names of users and rooms: what may be one, and which are the same.

PRECIS IdentifierClass (RFC 8264 section 4.2): displayed as written under UsernameCasePreserved, and
compared under UsernameCaseMapped (RFC 8265 section 3).
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache
from typing import Final
from unicodedata import category, normalize

from msgspec import Struct
from precis_i18n import get_profile

from chatd.chat.confusables import skeleton
from chatd.model import Refused

__all__ = [
    "RESERVED_NICKS",
    "Name",
    "Pattern",
    "as_nick",
    "log_name",
    "nick_name",
    "nick_of",
    "room_name",
    "room_pattern",
    "usable_nick",
]

NICK_CHARACTERS: Final = 32
ROOM_CHARACTERS: Final = 64

NICK_TEXT_CHARACTERS: Final = 256
"""Only the beginning of a text is made a nick."""

RESERVED_NICKS: Final = ("chatd", "console", "forgotten", "server", "system")
"""Names under which the server itself appears, in the log or in history."""

_RESERVED_IN_ROOMS: Final = frozenset("*:@#,")
_RESERVED_IN_NICKS: Final = _RESERVED_IN_ROOMS | {"/"}

_PRESERVED: Final = get_profile("UsernameCasePreserved")
_MAPPED: Final = get_profile("UsernameCaseMapped")


class Name(Struct, frozen=True):
    """A name as it is displayed, and the key by which it is compared and found."""

    display: str
    key: str

    @property
    def looks(self) -> frozenset[str]:
        """What it looks like: a name that shares one of these is easily mistaken for it."""
        look = skeleton(self.display)
        return frozenset((look, look if self.key == self.display else skeleton(self.key)))


def nick_name(text: str) -> Name:
    """Return a nick: 1-32 characters, none of ``* : @ # , /``. Raise Refused for anything else."""
    _check_length("Nicks", text, NICK_CHARACTERS)
    return _name("Nicks", "Try ann-smith.", text, NICK_CHARACTERS, _RESERVED_IN_NICKS)


def usable_nick(text: str) -> Name | None:
    """Return a nick, or None if the text cannot be one."""
    try:
        return nick_name(text)
    except Refused:
        return None


def as_nick(text: str) -> Name:
    """Return a nick that somebody has, be it one that only the server gives."""
    return usable_nick(text) or Name(text, text)


def nick_of(text: str) -> str | None:
    """Return a nick like a text, such as a person's name or mail address; None if there is none."""
    if usable_nick(text) is not None:
        return text
    # Of a mail address, what is before the @.
    first = normalize("NFC", text[:NICK_TEXT_CHARACTERS]).partition("@")[0]
    kept = "".join(each if _is_nicks(each) else " " for each in first)
    nick = "-".join(kept.split()).strip("-.")
    return nick if usable_nick(nick) is not None else None


def _is_nicks(character: str) -> bool:
    return character in "-_.'" or category(character)[0] in "LMN"


def log_name(text: str) -> Name:
    """Return the name of a room's log; logs of direct messages have names that begin with ``@``.

    Raise Refused if no room can have this name.
    """
    return Name(text, text) if text.startswith("@") else room_name(text)


def room_name(text: str) -> Name:
    """Return a room's name: 1-64 characters, none of ``* : @ # ,``, not beginning with ``/``.

    Raise Refused for anything else.
    """
    _check_length("Room names", text, ROOM_CHARACTERS)
    return _name("Room names", "Try coffee-room.", text, ROOM_CHARACTERS, _RESERVED_IN_ROOMS)


def _check_length(what: str, text: str, characters: int) -> None:
    if not 1 <= len(text) <= characters:
        raise Refused("bad_request", f"{what} have 1 to {characters} characters.")


# Most names are of these characters, which PRECIS leaves as they are, except for the case.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.-]+")


# PRECIS takes some 30 µs a name, and most commands carry one. Only called with a text whose length
# has been checked: an entry then takes 1.3 KB at most, and the cache 5 MiB.
@lru_cache(maxsize=4096)
def _name(what: str, example: str, text: str, characters: int, reserved: frozenset[str]) -> Name:
    if _PLAIN.fullmatch(text) is not None:
        return Name(text, text.lower())
    if text.startswith("/"):
        raise Refused("bad_request", f"{what} cannot begin with /. {example}")
    if any(map(str.isspace, text)):
        hyphenated = "-".join(text.split())
        with suppress(Refused):
            example = f"Try {_name(what, example, hyphenated, characters, reserved).display}."
        raise Refused("bad_request", f"{what} cannot contain spaces. {example}")
    try:
        display = _PRESERVED.enforce(text)
        key = _MAPPED.enforce(text)
    except UnicodeEncodeError as error:
        raise Refused("bad_request", f"{what} cannot {_reason(error)}. {example}") from None
    # After the mapping, which turns full-width forms into these.
    if not reserved.isdisjoint(display):
        *others, last = sorted(reserved)
        listed = f"{' '.join(others)} or {last}"
        raise Refused("bad_request", f"{what} cannot contain {listed}. {example}")
    if display.startswith("/"):
        raise Refused("bad_request", f"{what} cannot begin with /. {example}")
    _check_length(what, display, characters)
    return Name(display, key)


def _reason(error: UnicodeEncodeError) -> str:
    # These rules are about the whole name, whose first character the error points to.
    if error.reason.endswith("/bidi_rule"):
        return "mix letters written from the right with others, or put digits or signs before them"
    if error.reason.endswith("/not_idempotent"):
        return "contain characters that change again when they are normalized"
    character = error.object[error.start : error.start + 1]
    if not character:
        return "consist of such characters alone"
    if character.isprintable():
        return f"contain {character}"
    return f"contain the invisible character U+{ord(character):04X}"


class Pattern(Struct, frozen=True):
    """A pattern of rooms' keys: the parts between its ``*``."""

    parts: tuple[str, ...]

    def matches(self, key: str) -> bool:
        if len(self.parts) == 1:
            return key == self.parts[0]
        first, *middle, last = self.parts
        # Each part is matched at its first place after the previous one: linear for any pattern.
        if not key.startswith(first):
            return False
        at = len(first)
        for part in middle:
            found = key.find(part, at)
            if found < 0:
                return False
            at = found + len(part)
        return key.endswith(last) and len(key) - len(last) >= at


# The names of direct messages' rooms begin with it.
_DIRECT: Final = "@"


def room_pattern(text: str) -> Pattern:
    """Return a pattern: a room's name with ``*`` for any characters, or ``@*``: direct messages.

    Raise Refused for anything else.
    """
    if not 1 <= len(text) <= ROOM_CHARACTERS:
        raise Refused("bad_request", f"Patterns of rooms have 1 to {ROOM_CHARACTERS} characters.")
    if text == f"{_DIRECT}*":
        return Pattern((_DIRECT, ""))
    parts = []
    for part in text.split("*"):
        try:
            parts.append(room_name(part).key if part else "")
        except Refused as refused:
            raise Refused("bad_request", f"{text!r} is not a pattern of rooms. {refused}") from None
    return Pattern(tuple(parts))
