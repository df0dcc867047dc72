"""What a client may ask for and what it is answered, alike in every protocol."""

from __future__ import annotations

from typing import Any, TypeAlias

from msgspec import Struct

__all__ = [
    "Answer",
    "Auth",
    "Authenticated",
    "Command",
    "History",
    "Join",
    "Joined",
    "Leave",
    "Left",
    "Member",
    "Members",
    "Nick",
    "Page",
    "Renamed",
    "RoomEntry",
    "RoomList",
    "Rooms",
    "Said",
    "Say",
    "Since",
    "Who",
]


class Command(Struct, frozen=True, kw_only=True, tag_field="do", tag=str.lower):
    """Something asked. ``id`` is the sender's mark, by which it finds the answer."""

    id: str | int | float | None = None


class Auth(Command, frozen=True, kw_only=True):
    """Be the guest again to whom ``session`` was given."""

    session: str


class Since(Struct, frozen=True):
    """A position: a number and the life of the log in which it was given."""

    epoch: str
    seq: int


class Join(Command, frozen=True, kw_only=True):
    """Be in a room, and catch up from ``since`` or get the newest ``limit`` events (100)."""

    room: str
    since: Since | None = None
    limit: int | None = None


class Leave(Command, frozen=True, kw_only=True):
    """Leave a room; nothing of it follows the answer."""

    room: str


class Say(Command, frozen=True, kw_only=True):
    """Say a text in a room. The same ``key`` of the same user is said once.

    ``reply_to`` is the number of the message it answers.
    """

    room: str
    text: str
    key: str | None = None
    reply_to: int | None = None


class History(Command, frozen=True, kw_only=True):
    """Read a page of a room's log: after a number, or before one, or the newest."""

    room: str
    before: int | None = None
    after: int | None = None
    limit: int | None = None


class Who(Command, frozen=True, kw_only=True):
    """Ask who is in a room, by nick; ``after`` is the last nick of the page before."""

    room: str
    after: str | None = None
    limit: int | None = None


class Rooms(Command, frozen=True, kw_only=True):
    """Ask which rooms there are."""


class Nick(Command, frozen=True, kw_only=True):
    """Be called ``nick`` from now on."""

    nick: str


class Member(Struct, frozen=True):
    """Somebody in a room."""

    nick: str
    user: str
    op: bool


class Authenticated(Struct, frozen=True):
    """Answers ``auth``; ``session`` is good for another ``auth.session_days``."""

    user: str
    nick: str
    op: bool
    session: str


class Joined(Struct, frozen=True):
    """Answers ``join``. ``seq`` is the room's last number; ``events`` are oldest first."""

    room: str
    epoch: str
    seq: int
    topic: str
    members: list[Member]
    member_count: int
    events: list[Any]
    recovered: bool


class Left(Struct, frozen=True):
    """Answers ``leave``."""

    room: str


class Said(Struct, frozen=True):
    """Answers ``say``: the message's number, and whether its key had been said before."""

    room: str
    epoch: str
    seq: int
    at: str
    duplicate: bool


class Page(Struct, frozen=True):
    """Answers ``history``: ``more`` tells whether the log goes on in the direction asked."""

    epoch: str
    events: list[Any]
    more: bool


class Members(Struct, frozen=True):
    """Answers ``who``."""

    members: list[Member]
    member_count: int


class RoomEntry(Struct, frozen=True):
    """One room of ``rooms``."""

    room: str
    members: int
    seq: int
    topic: str


class RoomList(Struct, frozen=True):
    """Answers ``rooms``."""

    rooms: list[RoomEntry]


class Renamed(Struct, frozen=True):
    """Answers ``nick``."""

    nick: str


Answer: TypeAlias = Authenticated | Joined | Left | Said | Page | Members | RoomList | Renamed
