"""Who may read and write where: the one place that is asked, whatever a right depends on."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import Protocol

from msgspec import Struct

from chatd.chat.credentials import is_kept
from chatd.chat.names import Pattern, room_pattern
from chatd.chat.sanctions import Sanction, Sanctions
from chatd.chat.tokens import Grant
from chatd.model import Refused
from chatd.settings import Settings

__all__ = ["check_may_read", "check_may_set_topic", "check_may_write", "may_read", "may_set_topic"]


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


def may_read(bearer: Bearer, room: str) -> bool:
    """Return whether a connection may read the room of this fold."""
    try:
        check_may_read(bearer, room)
    except Refused:
        return False
    return True


def may_set_topic(bearer: Bearer, room: str) -> bool:
    """Return whether a connection may set the room's topic, unless it is muted at the time."""
    try:
        check_may_set_topic(bearer, room, muted=False)
    except Refused:
        return False
    return True


def check_may_read(bearer: Bearer, room: str) -> None:
    """Raise Refused if a connection may not read the room of this fold."""
    if bearer.op:
        return
    if bearer.grant is not None and not bearer.grant.may_read(room):
        raise Refused("forbidden", "your token does not let you read there")
    sanctions = bearer.chat.sanctions
    if len(sanctions):
        if ban := bearer.banned(room):
            raise sanctions.refused(ban, "you are banned from there")
        if closed := sanctions.get("close", room, ""):
            raise sanctions.refused(closed, "the room is closed")
    rule = _rule(bearer, room)
    if rule is not None and not _is_of(bearer, rule.read):
        raise Refused("forbidden", "that room is not open to you")


def check_may_write(bearer: Bearer, room: str, *, muted: bool = True) -> None:
    """Raise Refused if a connection, which is in the room, may not write there.

    Args:
        bearer: the connection.
        room: the room's folded name.
        muted: whether a mute counts. A muted user may still delete messages.
    """
    if bearer.op:
        return
    sanctions = bearer.chat.sanctions
    if muted and (mute := sanctions.mute(room, bearer.user.id)):
        raise sanctions.refused(mute, "you may say nothing there now")
    if bearer.grant is not None and not bearer.grant.may_write(room):
        raise Refused("forbidden", "your token does not let you write there")
    rule = _rule(bearer, room)
    if rule is not None and not _is_of(bearer, rule.write):
        raise Refused("forbidden", "you may read there, and not write")


def check_may_set_topic(bearer: Bearer, room: str, *, muted: bool = True) -> None:
    """Raise Refused if a connection may not set the room's topic; see `check_may_write`."""
    if room.startswith("@"):
        if not is_kept(room):
            raise Refused("forbidden", "between guests nothing is kept, no topic either")
    elif not (bearer.op or bearer.chat.settings.chat.topics == "members"):
        raise Refused("forbidden", "the topic is the operators' to set")
    check_may_write(bearer, room, muted=muted)


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
        read = given.get("read", "everybody")
        write = given.get("write", read)
        with suppress(Refused):
            compiled.append(
                Rule(room_pattern(name), tuple(read.split(",")), tuple(write.split(",")))
            )
    return compiled
