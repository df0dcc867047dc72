"""What a client is told, in the shape every protocol with objects gives it.

``Message``, ``Edit``, ``Delete`` and ``Topic`` are events of a room's log, and ``shape``
makes them of one; the rest is told and forgotten.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

from msgspec import UNSET, Struct, UnsetType, field

from chatd.model import Event

__all__ = [
    "Bye",
    "Delete",
    "Edit",
    "Hello",
    "Joined",
    "Left",
    "Limits",
    "Message",
    "NickChange",
    "Notice",
    "Presence",
    "Read",
    "Topic",
    "Typing",
    "rfc3339",
    "shape",
]


class ServerEvent(Struct, frozen=True, tag_field="on", tag=str.lower):
    """Anything told; its name stands in ``on``."""


class Limits(Struct, frozen=True):
    """What a client must keep to. None where there is no limit."""

    message_bytes: int
    messages_per_second: float | None
    messages_burst: int | None


class Hello(ServerEvent, frozen=True):
    """The first thing said: who the client is, and how to be it again."""

    server: str
    session: str | None
    user: str | None
    nick: str | None
    op: bool
    limits: Limits


class Message(ServerEvent, frozen=True, kw_only=True):
    """Somebody said something. What is told and not kept has no number."""

    room: str
    seq: int | UnsetType = UNSET
    at: str
    nick: str = field(name="from")
    user: str
    text: str | UnsetType = UNSET
    reply_to: int | UnsetType = UNSET
    edited: str | UnsetType = UNSET
    deleted: bool | UnsetType = UNSET


class Edit(ServerEvent, frozen=True, tag="edit"):
    """A message has another text: the present one, if it was edited again since.

    There is none where the message was deleted since.
    """

    room: str
    seq: int
    of: int
    at: str
    nick: str = field(name="from")
    user: str
    text: str | UnsetType = UNSET


class Delete(ServerEvent, frozen=True, tag="delete"):
    """A message is no more; its number is left."""

    room: str
    seq: int
    of: int
    at: str
    nick: str = field(name="from")
    user: str


class Topic(ServerEvent, frozen=True, tag="topic"):
    """What the room is about; an empty text: nothing."""

    room: str
    seq: int
    at: str
    nick: str = field(name="from")
    user: str
    text: str


class Joined(ServerEvent, frozen=True):
    """A user's first connection came into the room."""

    room: str
    nick: str
    user: str
    op: bool


class Left(ServerEvent, frozen=True):
    """A user's last connection left the room. Who was put out is told so too."""

    room: str
    nick: str
    user: str
    reason: Literal["leave", "lost", "kicked", "banned"]


class Presence(ServerEvent, frozen=True):
    """How many are in a room in which so many come and go that it is not told of each."""

    room: str
    total: int


class NickChange(ServerEvent, frozen=True, tag="nick"):
    """A user is called something else from now on."""

    room: str
    user: str
    before: str = field(name="from")
    nick: str = field(name="to")


class Typing(ServerEvent, frozen=True):
    """Somebody is writing, or no more: who hears nothing for a while takes it for no more."""

    room: str
    nick: str
    user: str
    active: bool


class Read(ServerEvent, frozen=True):
    """Another connection of the same user has read so far."""

    room: str
    seq: int


class Notice(ServerEvent, frozen=True):
    """A line for people, from the daemon or an operator.

    Where a protocol has no other way to say that a command was refused, ``do`` and the rest do.
    With ``do`` alone it asks for that command: ``auth`` before a token ends.
    """

    text: str
    do: str | UnsetType = UNSET
    code: str | UnsetType = UNSET
    retry_ms: int | UnsetType = UNSET


class Bye(ServerEvent, frozen=True):
    """The last thing said: why, and whether and when to come back."""

    code: int
    reason: str
    reconnect: bool
    retry_ms: int


def shape(room: str, event: Event) -> Message | Edit | Delete | Topic:
    """Give a logged event, with its present words, as it is told; ``room`` as it is written."""
    at = rfc3339(event.at)
    text = UNSET if event.text is None else event.text
    match event.kind:
        case "message":
            return Message(
                room=room,
                seq=event.seq,
                at=at,
                nick=event.nick,
                user=event.user,
                text=text,
                reply_to=UNSET if event.reply_to is None else event.reply_to,
                edited=UNSET if event.edited is None else rfc3339(event.edited),
                deleted=True if event.deleted else UNSET,
            )
        case "edit":
            return Edit(room, event.seq, event.of or 0, at, event.nick, event.user, text)
        case "delete":
            return Delete(room, event.seq, event.of or 0, at, event.nick, event.user)
        case "topic":
            return Topic(room, event.seq, at, event.nick, event.user, event.text or "")


def rfc3339(milliseconds: int) -> str:
    """Write a time as RFC 3339 in UTC, with milliseconds and ``Z``."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_second(seconds)}.{rest:03d}Z"


# A batch's events share their second; formatting one takes 1.5 µs.
@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
