"""What a client may ask for and what it is answered, alike in every protocol."""

from __future__ import annotations

from typing import Any, TypeAlias

from msgspec import UNSET, Struct, UnsetType

__all__ = [
    "Answer",
    "Auth",
    "Ban",
    "Changed",
    "Close",
    "Command",
    "Delete",
    "Edit",
    "Entered",
    "Found",
    "History",
    "Identity",
    "Join",
    "Kick",
    "Leave",
    "Member",
    "Members",
    "Moderate",
    "Mute",
    "Nick",
    "Page",
    "Position",
    "Read",
    "ReadMark",
    "Renamed",
    "RoomInfo",
    "RoomLeft",
    "RoomList",
    "Rooms",
    "Said",
    "Sanction",
    "Sanctioned",
    "Say",
    "Search",
    "Slow",
    "Topic",
    "Typing",
    "Unban",
    "Unmute",
    "Who",
]


class Command(Struct, frozen=True, kw_only=True, tag_field="do", tag=str.lower):
    """Something asked. ``id`` is the sender's mark, by which it finds the answer."""

    id: str | int | float | None = None


class Auth(Command, frozen=True, kw_only=True):
    """Be who a ``token`` names, or the guest again to whom ``session`` was given."""

    token: str | None = None
    session: str | None = None


class Position(Struct, frozen=True):
    """A position: a number and the life of the log in which it was given."""

    epoch: str
    seq: int


class Join(Command, frozen=True, kw_only=True):
    """Be in a room, and catch up from ``since`` or get the newest ``limit`` events (100).

    Where ``messages``, it is the newest ``limit`` messages, and what came between them.
    """

    room: str
    since: Position | None = None
    limit: int | None = None
    messages: bool = False


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
    """Read a page of a room's log: after a number, or before one, or the newest.

    Where ``messages``, ``limit`` counts messages alone, unless it is read on ``after`` a number.
    """

    room: str
    before: int | None = None
    after: int | None = None
    limit: int | None = None
    messages: bool = False


class Who(Command, frozen=True, kw_only=True):
    """Ask who is in a room, by nick; ``after`` is the last nick of the page before."""

    room: str
    after: str | None = None
    limit: int | None = None


class Rooms(Command, frozen=True, kw_only=True):
    """Ask which rooms there are, by name; ``after`` is the last room of the page before."""

    after: str | None = None


class Nick(Command, frozen=True, kw_only=True):
    """Be called ``nick`` from now on."""

    nick: str


class Edit(Command, frozen=True, kw_only=True):
    """Give a message of one's own, by its number, another text."""

    room: str
    seq: int
    text: str


class Delete(Command, frozen=True, kw_only=True):
    """Take a message away, by its number: one's own, or as an operator anybody's."""

    room: str
    seq: int


class Topic(Command, frozen=True, kw_only=True):
    """Say what a room is about; an empty text: nothing."""

    room: str
    text: str


class Search(Command, frozen=True, kw_only=True):
    """Find the messages of a room that have all the words, the newest first."""

    room: str
    query: str
    limit: int | None = None
    before: int | None = None


class Typing(Command, frozen=True, kw_only=True):
    """Tell that a message is being written, or no more. It has no answer."""

    room: str
    on: bool


class Read(Command, frozen=True, kw_only=True):
    """Note that everything up to a number has been read."""

    room: str
    seq: int


class Moderate(Command, frozen=True, kw_only=True):
    """Something that is an operator's to do, in a room or, without one, everywhere."""


class Sanction(Moderate, frozen=True, kw_only=True):
    """Something done to somebody, named by nick or user id, or to a network (in CIDR)."""

    room: str | None = None
    nick: str | None = None
    user: str | None = None
    network: str | None = None
    seconds: float | None = None
    reason: str | None = None


class Kick(Sanction, frozen=True, kw_only=True):
    """Put somebody out, who may come back."""


class Ban(Sanction, frozen=True, kw_only=True):
    """Keep somebody or a network out, for so many seconds or until it is taken back."""


class Unban(Sanction, frozen=True, kw_only=True):
    """Take a ban back."""


class Mute(Sanction, frozen=True, kw_only=True):
    """Let somebody say nothing."""


class Unmute(Sanction, frozen=True, kw_only=True):
    """Let somebody speak again."""


class Slow(Moderate, frozen=True, kw_only=True):
    """Have everybody in a room wait so long between two messages; 0: no more."""

    room: str
    seconds: float = 0


class Close(Moderate, frozen=True, kw_only=True):
    """Shut a room, for so many seconds or until it is opened again, with 0."""

    room: str
    seconds: float | None = None
    reason: str | None = None


class Member(Struct, frozen=True):
    """Somebody in a room."""

    nick: str
    user: str
    op: bool


class Identity(Struct, frozen=True):
    """Answers ``auth``; a guest's ``session`` is good for another ``auth.session_days``."""

    user: str
    nick: str
    op: bool
    session: str | None


class Entered(Struct, frozen=True):
    """Answers ``join``. ``seq`` is the room's last number; ``events`` are oldest first.

    ``read`` and ``unread`` are there for who marked something in the room as read, and for who has
    direct messages.
    """

    room: str
    epoch: str
    seq: int
    topic: str
    may_set_topic: bool
    members: list[Member]
    member_count: int
    events: list[Any]
    recovered: bool
    read: int | UnsetType = UNSET
    unread: int | UnsetType = UNSET


class RoomLeft(Struct, frozen=True):
    """Answers ``leave``."""

    room: str


class Said(Struct, frozen=True, kw_only=True):
    """Answers ``say``: the message's number, and whether its key had been said before.

    A direct message between guests is told and not ``kept``: it has no number.
    """

    room: str
    epoch: str | UnsetType = UNSET
    seq: int | UnsetType = UNSET
    at: str
    duplicate: bool = False
    kept: bool | UnsetType = UNSET


class Changed(Struct, frozen=True):
    """Answers ``edit``, ``delete`` and ``topic``: the number of the new event, and its time."""

    seq: int
    at: str


class Page(Struct, frozen=True):
    """Answers ``history``: ``more`` tells whether the log goes on in the direction asked."""

    epoch: str
    events: list[Any]
    more: bool


class Found(Struct, frozen=True):
    """Answers ``search``: messages, the newest first; ``more`` tells whether there may be older."""

    events: list[Any]
    more: bool


class Members(Struct, frozen=True):
    """Answers ``who``."""

    members: list[Member]
    member_count: int


class RoomInfo(Struct, frozen=True):
    """One room of ``rooms``. ``read`` and ``unread`` are as in `Entered`.

    ``nick`` is in direct messages' rooms: what the other is called, where that is known.
    """

    room: str
    members: int
    seq: int
    topic: str
    nick: str | UnsetType = UNSET
    read: int | UnsetType = UNSET
    unread: int | UnsetType = UNSET


class RoomList(Struct, frozen=True):
    """Answers ``rooms``; ``more`` is there, and true, where there are further ones."""

    rooms: list[RoomInfo]
    more: bool | UnsetType = UNSET


class Renamed(Struct, frozen=True):
    """Answers ``nick``."""

    nick: str


class ReadMark(Struct, frozen=True):
    """Answers ``read``: up to where the room is read now, which never goes back."""

    room: str
    seq: int


class Sanctioned(Struct, frozen=True, omit_defaults=True):
    """Answers what operators do: to whom it was done, and until when it holds."""

    user: str | None = None
    networks: list[str] | None = None
    until: str | None = None


Answer: TypeAlias = (
    Identity
    | Sanctioned
    | Entered
    | RoomLeft
    | Said
    | Changed
    | Page
    | Found
    | Members
    | RoomList
    | Renamed
    | ReadMark
)
