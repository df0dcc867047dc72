"""Permissions to read and write in rooms. Every rule asks this module."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import unquote

from msgspec import Struct

from chatd.chat.names import Pattern, room_pattern
from chatd.chat.sessions import is_kept
from chatd.model import Refused

if TYPE_CHECKING:
    from chatd.chat.actor import Actor

__all__ = ["check_may_read", "check_may_set_topic", "check_may_write", "may_read", "may_set_topic"]


class Rule(Struct, frozen=True):
    """One of ``chat.rules``: the users who may read and write in the rooms of a pattern."""

    rooms: Pattern
    read: tuple[str, ...]
    write: tuple[str, ...]


def may_read(connection: Actor, room: str) -> bool:
    """Return whether a connection may read the room of this key."""
    try:
        check_may_read(connection, room)
    except Refused:
        return False
    return True


def may_set_topic(connection: Actor, room: str) -> bool:
    """Return whether a connection may set the room's topic, or may once it is no longer muted."""
    try:
        check_may_set_topic(connection, room, muted=False)
    except Refused:
        return False
    return True


def check_may_read(connection: Actor, room: str) -> None:
    """Raise Refused if a connection may not read the room of this key."""
    if connection.op:
        return
    grant, chat = connection.grant, connection.chat
    if grant is not None and not grant.may_read(room):
        raise Refused("forbidden", "Your token does not let you read in this room.")
    if chat.sanctions.held:
        if ban := connection.banned(room):
            raise chat.sanctions.refused(ban, "You are banned from this room")
        if closed := chat.sanctions.get("close", room, ""):
            raise chat.sanctions.refused(closed, "This room is closed")
    if chat.settings.chat.rules:
        rule = _rule(chat.settings.chat.rules, room)
        if rule is not None and not _is_one_of(connection, rule.read):
            raise Refused("forbidden", "This room is not open to you.")


def check_may_write(connection: Actor, room: str, *, muted: bool = True) -> None:
    """Raise Refused if a connection, which is in the room, may not write there.

    Args:
        connection: The connection.
        room: The room's key.
        muted: Whether a mute counts. A muted user may still delete messages.
    """
    if connection.op:
        return
    grant, chat = connection.grant, connection.chat
    if muted and chat.sanctions.held and (mute := chat.sanctions.mute(room, connection.user.id)):
        raise chat.sanctions.refused(mute, "You are muted here")
    if grant is not None and not grant.may_write(room):
        raise Refused("forbidden", "Your token does not let you write in this room.")
    if chat.settings.chat.rules:
        rule = _rule(chat.settings.chat.rules, room)
        if rule is not None and not _is_one_of(connection, rule.write):
            raise Refused("forbidden", "You may read this room, but not write in it.")


def check_may_set_topic(connection: Actor, room: str, *, muted: bool = True) -> None:
    """Raise Refused if a connection may not set the room's topic; see `check_may_write`."""
    if room.startswith("@"):
        if not is_kept(room):
            raise Refused(
                "forbidden", "Guests cannot set a topic here: nothing is kept between two guests."
            )
    elif not (connection.op or connection.chat.settings.chat.topics == "members"):
        raise Refused("forbidden", "Only operators can set the topic.")
    check_may_write(connection, room, muted=muted)


def _rule(rules: tuple[str, ...], room: str) -> Rule | None:
    if room.startswith("@"):
        return None
    return next((rule for rule in _compiled(rules) if rule.rooms.matches(room)), None)


def _is_one_of(connection: Actor, who: tuple[str, ...]) -> bool:
    match who:
        case ("everybody",):
            return True
        case ("users",):
            return connection.grant is not None
        case ("operators",):
            return False  # they may do anything, and are not asked
        case _:
            return connection.grant is not None and connection.grant.user in who


def _who(text: str) -> tuple[str, ...]:
    return tuple(map(unquote, text.split(",")))


@lru_cache(maxsize=8)
def _compiled(rules: tuple[str, ...]) -> list[Rule]:
    compiled: list[Rule] = []
    for text in rules:
        name, *fields = text.split(" ")
        given = dict(field.split("=", 1) for field in fields)
        read = given.get("read", "everybody")
        write = given.get("write", read)
        with suppress(Refused):  # the settings have been checked
            rooms = room_pattern(name)
            compiled.append(Rule(rooms, _who(read), _who(write)))
    return compiled
