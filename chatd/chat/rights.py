"""Who may read and write where: the one place that is asked, whatever a right depends on."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from msgspec import Struct

from chatd.chat.credentials import is_kept
from chatd.chat.names import Pattern, room_pattern
from chatd.chat.sanctions import Sanction, Sanctions
from chatd.chat.tokens import Grant
from chatd.model import Refusal
from chatd.settings import Settings

__all__ = ["refusal_to_read", "refusal_to_set_topic", "refusal_to_write"]


class Laws(Protocol):
    """The chat, as far as rights are concerned."""

    settings: Settings
    sanctions: Sanctions


class User(Protocol):
    """Somebody, by the id."""

    id: str


class Bearer(Protocol):
    """A connection, as far as its rights are concerned. ``grant`` None: it is a guest's."""

    @property
    def chat(self) -> Laws: ...

    @property
    def grant(self) -> Grant | None: ...

    @property
    def op(self) -> bool: ...

    @property
    def user(self) -> User: ...

    def banned(self, room: str = "") -> Sanction | None: ...


class Rule(Struct, frozen=True):
    """One of ``chat.rules``: who may read and write in the rooms of a pattern."""

    rooms: Pattern
    read: tuple[str, ...]
    write: tuple[str, ...]


def refusal_to_read(bearer: Bearer, room: str) -> Refusal | None:
    """Tell why a connection may not read the room of this fold; None: it may."""
    if bearer.op:
        return None
    if bearer.grant is not None and not bearer.grant.may_read(room):
        return Refusal("forbidden", "your token does not let you read there")
    sanctions = bearer.chat.sanctions
    if len(sanctions):
        if ban := bearer.banned(room):
            return sanctions.refusal(ban, "you are banned from there")
        if closed := sanctions.get("close", room, ""):
            return sanctions.refusal(closed, "the room is closed")
    rule = _rule(bearer, room)
    if rule is not None and not _is_of(bearer, rule.read):
        return Refusal("forbidden", "that room is not open to you")
    return None


def refusal_to_write(bearer: Bearer, room: str, *, words: bool = True) -> Refusal | None:
    """Tell why a connection may not say or change anything in the room; None: it may.

    Who may not read there is not in it, and is not asked about. Where no ``words`` are said,
    a mute does not count: what somebody said they may take away.
    """
    if bearer.op:
        return None
    sanctions = bearer.chat.sanctions
    if words and (mute := sanctions.mute(room, bearer.user.id)):
        return sanctions.refusal(mute, "you may say nothing there now")
    if bearer.grant is not None and not bearer.grant.may_write(room):
        return Refusal("forbidden", "your token does not let you write there")
    rule = _rule(bearer, room)
    if rule is not None and not _is_of(bearer, rule.write):
        return Refusal("forbidden", "you may read there, and not write")
    return None


def refusal_to_set_topic(bearer: Bearer, room: str, *, words: bool = True) -> Refusal | None:
    """Tell why a connection may not say what the room is about; None: it may.

    Without ``words`` it is asked of those too who are muted, and may later.
    """
    if room.startswith("@"):
        if not is_kept(room):
            return Refusal("forbidden", "between guests nothing is kept, no topic either")
    elif not (bearer.op or bearer.chat.settings.chat.topics == "members"):
        return Refusal("forbidden", "the topic is the operators' to set")
    return refusal_to_write(bearer, room, words=words)


def _rule(bearer: Bearer, room: str) -> Rule | None:
    rules = bearer.chat.settings.chat.rules
    if not rules or room.startswith("@"):
        return None
    return next((rule for rule in _compiled(rules) if rule.rooms.matches(room)), None)


def _is_of(bearer: Bearer, who: tuple[str, ...]) -> bool:
    match who:
        case ("everybody",):
            return True
        case ("users",):
            return bearer.grant is not None
        case ("operators",):
            return False  # they are not asked
        case _:
            return bearer.grant is not None and bearer.grant.user in who


@lru_cache(maxsize=8)
def _compiled(rules: tuple[str, ...]) -> list[Rule]:
    compiled: list[Rule] = []
    for text in rules:
        name, *fields = text.split(" ")
        given = dict(field.split("=", 1) for field in fields)
        rooms = room_pattern(name)
        read = given.get("read", "everybody")
        if isinstance(rooms, Pattern):
            write = given.get("write", read)
            compiled.append(Rule(rooms, tuple(read.split(",")), tuple(write.split(","))))
    return compiled
