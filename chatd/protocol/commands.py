"""The commands that clients send, and then their answers.

The field ``do`` of the JSON holds a command's name. An optional field is None in Python and missing
in the JSON, unless an answer's docstring says otherwise.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeAlias

from msgspec import Struct, field

from chatd.protocol.events import ServerEvent, Unknown, last

__all__ = [
    "Answer",
    "AnyCommand",
    "Auth",
    "Ban",
    "Bans",
    "Changed",
    "Close",
    "Command",
    "Delete",
    "Edit",
    "Entered",
    "Fault",
    "Found",
    "History",
    "Identity",
    "InRoom",
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
    "Remove",
    "Renamed",
    "Result",
    "RoomInfo",
    "RoomLeft",
    "RoomList",
    "Rooms",
    "Said",
    "Sanction",
    "SanctionInfo",
    "SanctionList",
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


class Command(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="do", tag=str.lower):
    """The base of all commands. ``id`` is the client's own; the answer repeats it."""

    id: str | int | float | None = None


class Position(Struct, frozen=True):
    """A place in a room's log.

    Attributes:
        epoch: Names the life of the log that gave the number; a restored log has another.
        seq: The number of an event; 0 is before the first.
    """

    epoch: str
    seq: int


# ---- commands


class InRoom(Command, frozen=True, kw_only=True):
    """The base of commands about a room that the connection must be in."""

    room: str


class Auth(Command, frozen=True, kw_only=True):
    """Become the user that ``token`` names, or the guest that was given ``session``."""

    token: str | None = None
    session: str | None = None


class Join(Command, frozen=True, kw_only=True):
    """Join a room and read a page of its log: after ``since``, or the newest events.

    ``limit`` is the size of the page: 100 by default, at most 500. With ``messages`` it counts
    messages only.
    """

    room: str
    since: Position | None = None
    limit: int | None = None
    messages: bool = False


class Leave(Command, frozen=True, kw_only=True):
    """Leave a room. No event of the room follows the answer."""

    room: str


class Say(InRoom, frozen=True, kw_only=True):
    """Send a message. Of one user's messages with the same ``key`` only the first counts.

    ``reply_to`` is the number of the message that it answers.
    """

    text: str
    key: str | None = None
    reply_to: int | None = None


class History(Command, frozen=True, kw_only=True):
    """Read a page of a room's log: before a number, after one, or the newest events.

    ``limit`` is 100 by default, at most 500. With ``messages`` it counts messages only, except
    ``after`` a number.
    """

    room: str
    before: int | None = None
    after: int | None = None
    limit: int | None = None
    messages: bool = False


class Who(Command, frozen=True, kw_only=True):
    """List a room's members by nick; ``after`` is the last nick of the previous page."""

    room: str
    after: str | None = None
    limit: int | None = None


class Rooms(Command, frozen=True, kw_only=True):
    """List the rooms by name; ``after`` is the last room of the previous page."""

    after: str | None = None


class Nick(Command, frozen=True, kw_only=True):
    """Change the user's nick."""

    nick: str


class Edit(InRoom, frozen=True, kw_only=True):
    """Change the text of one of the user's own messages."""

    seq: int
    text: str


class Delete(InRoom, frozen=True, kw_only=True):
    """Delete one of the user's own messages, or, as an operator, any message."""

    seq: int


class Topic(InRoom, frozen=True, kw_only=True):
    """Set a room's topic; an empty text removes it."""

    text: str


class Search(Command, frozen=True, kw_only=True):
    """Find the messages that have all words of ``query``, the newest first.

    ``room`` is None for all rooms that one is in; ``before`` is then a time, otherwise a number.
    ``sender`` is a nick.
    """

    room: str | None = None
    query: str
    sender: str | None = field(default=None, name="from")
    limit: int | None = None
    before: int | datetime | None = None


class Typing(InRoom, frozen=True, kw_only=True):
    """Report that the user started or stopped typing. It has no answer."""

    on: bool


class Read(Command, frozen=True, kw_only=True):
    """Mark a room as read up to a number."""

    room: str
    seq: int


class Moderate(Command, frozen=True, kw_only=True):
    """The base of the operators' commands, for a room or, without one, for the whole chat."""


class Sanction(Moderate, frozen=True, kw_only=True):
    """The base of the sanctions against a user (by nick or id) or a network (in CIDR notation)."""

    room: str | None = None
    nick: str | None = None
    user: str | None = None
    network: str | None = None
    seconds: float | None = None
    reason: str | None = None


class Kick(Sanction, frozen=True, kw_only=True):
    """Remove a user. The user may come back."""


class Ban(Sanction, frozen=True, kw_only=True):
    """Keep a user or a network out, for ``seconds`` or until ``unban``."""


class Unban(Sanction, frozen=True, kw_only=True):
    """Lift a ban."""


class Mute(Sanction, frozen=True, kw_only=True):
    """Keep a user from sending messages, for ``seconds`` or until ``unmute``."""


class Unmute(Sanction, frozen=True, kw_only=True):
    """Lift a mute."""


class Slow(Moderate, frozen=True, kw_only=True):
    """Set the seconds that each user has to wait between two messages in a room; 0 ends it."""

    room: str
    seconds: float = 0


class Close(Moderate, frozen=True, kw_only=True):
    """Close a room, for ``seconds`` or until it is opened by ``seconds`` of 0."""

    room: str
    seconds: float | None = None
    reason: str | None = None


class Remove(Moderate, frozen=True, kw_only=True):
    """Remove a room: its members leave it, and its events go. Its numbers are not given again."""

    room: str
    reason: str | None = None


class Bans(Command, frozen=True, kw_only=True):
    """List the sanctions that are in force: bans, mutes, slow modes and closed rooms.

    With ``room``, those in the room and those in the whole chat.
    """

    room: str | None = None


AnyCommand: TypeAlias = (
    Auth
    | Join
    | Leave
    | Say
    | History
    | Who
    | Rooms
    | Nick
    | Edit
    | Delete
    | Topic
    | Search
    | Typing
    | Read
    | Kick
    | Ban
    | Unban
    | Mute
    | Unmute
    | Slow
    | Close
    | Remove
    | Bans
)
"""Every command that there is."""


# ---- answers


class Member(Struct, frozen=True):
    """A user in a room.

    Attributes:
        nick: The user's nick.
        user: The user's id.
        op: True if the user is an operator.
    """

    nick: str
    user: str
    op: bool = False


class Identity(Struct, frozen=True):
    """Answers ``auth``: the client's user. Its JSON has all fields.

    Attributes:
        user: The user's id; None until ``auth`` where guests are disabled, as is ``nick``.
        nick: The user's nick.
        op: True if the user is an operator.
        session: The secret with which a guest becomes the same guest again, valid for
            ``auth.session_days`` more; None for users with a token.
    """

    user: str | None
    nick: str | None
    op: bool = False
    session: str | None = None


class Entered(Struct, frozen=True, omit_defaults=True):
    """Answers ``join``. Only ``read`` and ``unread`` may be missing in the JSON.

    Attributes:
        room: The room's name as it is written.
        epoch: The epoch of the log.
        seq: The number of the room's last event.
        events: A page of the log, oldest first. Newer events follow one by one.
        recovered: True if ``events`` continue exactly where ``since`` ended.
        topic: The room's topic; empty if there is none.
        may_set_topic: True if this user may set the topic.
        members: The first 100 members, by nick.
        member_count: How many members there are.
        read: The number up to which this user has read the room; None if it never marked anything
            as read.
        unread: How many messages of others came after that.
    """

    # The JSON leaves out a default that is a value, but not one that a function makes.
    room: str
    epoch: str
    seq: int
    events: list[ServerEvent | Unknown]
    recovered: bool = field(default_factory=bool)
    topic: str = field(default_factory=str)
    may_set_topic: bool = field(default_factory=bool)
    members: list[Member] = field(default_factory=list[Member])
    member_count: int = field(default_factory=int)
    read: int | None = None
    unread: int | None = None

    @property
    def end(self) -> int | None:
        """The last number of ``events``; None if there is none."""
        return last(self.events)


class RoomLeft(Struct, frozen=True):
    """Answers ``leave``.

    Attributes:
        room: The room's name as it is written.
    """

    room: str


class Said(Struct, frozen=True, omit_defaults=True):
    """Answers ``say``: the message is in the log, or was delivered if it is not ``kept``.

    Attributes:
        room: The room's name as it is written.
        at: When it was sent.
        epoch: The epoch of the log; None for a message that is not kept.
        seq: Its number in the log; None for a message that is not kept.
        duplicate: True if the same key was used before; ``seq`` and ``at`` are then the first
            message's.
        kept: False for a direct message between guests, which is in no log.
    """

    room: str
    at: datetime
    epoch: str | None = None
    seq: int | None = None
    duplicate: bool = field(default_factory=bool)  # always in the JSON
    kept: bool = True


class Changed(Struct, frozen=True):
    """Answers ``edit``, ``delete`` and ``topic``.

    Attributes:
        seq: The number of the new event.
        at: The time of the new event.
    """

    seq: int
    at: datetime


class Page(Struct, frozen=True):
    """Answers ``history``.

    Attributes:
        epoch: The epoch of the log.
        events: Events of the log, oldest first.
        more: True if there are more events in the direction that was asked for.
    """

    epoch: str
    events: list[ServerEvent | Unknown]
    more: bool = False


class Found(Struct, frozen=True, omit_defaults=True):
    """Answers ``search``. Only the last field may be missing in the JSON.

    Attributes:
        events: Messages, the newest first.
        more: True if there may be older ones.
        incomplete: True while the server still makes its index: old messages may be missing.
    """

    events: list[ServerEvent | Unknown]
    more: bool = field(default_factory=bool)
    incomplete: bool = False


class Members(Struct, frozen=True):
    """Answers ``who``.

    Attributes:
        members: A page of members, by nick.
        member_count: How many members the room has.
    """

    members: list[Member]
    member_count: int


class RoomInfo(Struct, frozen=True, omit_defaults=True):
    """One room of the answer to ``rooms``. Only the last three fields may be missing in the JSON.

    Attributes:
        room: The room's name as it is written.
        members: How many members it has.
        seq: The number of its last event; 0 if it has none.
        topic: Its topic; empty if there is none.
        nick: For direct messages, the other user's nick, if it is known.
        read: The number up to which this user has read the room; None if it never marked anything
            as read.
        unread: How many messages of others came after that.
    """

    room: str
    members: int = field(default_factory=int)
    seq: int = field(default_factory=int)
    topic: str = field(default_factory=str)
    nick: str | None = None
    read: int | None = None
    unread: int | None = None


class RoomList(Struct, frozen=True, omit_defaults=True):
    """Answers ``rooms``.

    Attributes:
        rooms: A page of rooms: direct messages first, then by name.
        more: True if others follow.
    """

    rooms: list[RoomInfo]
    more: bool = False


class Renamed(Struct, frozen=True):
    """Answers ``nick``.

    Attributes:
        nick: The nick as it is displayed.
    """

    nick: str


class ReadMark(Struct, frozen=True):
    """Answers ``read``.

    Attributes:
        room: The room's name as it is written.
        seq: The number up to which the room is read; it never goes back.
    """

    room: str
    seq: int


class Sanctioned(Struct, frozen=True, omit_defaults=True):
    """Answers the commands of operators.

    Attributes:
        user: The id of the user concerned; None if it was a network or a room.
        until: When the sanction ends; None if it has no end.
        networks: The networks concerned, in CIDR notation; None if there are none. It is empty for
            the ban of a guest whose address is not known.
    """

    user: str | None = None
    until: datetime | None = None
    networks: list[str] | None = None


class SanctionInfo(Struct, frozen=True, omit_defaults=True):
    """One sanction of the answer to ``bans``.

    Attributes:
        kind: ``ban``, ``mute``, ``slow`` or ``close``.
        at: When it was imposed.
        by: The operator's user id, or ``console``.
        room: The room; None if it applies to the whole chat.
        user: The id of the user it applies to; None if it applies to a network or a room.
        nick: The user's nick at that time.
        network: The network it applies to, in CIDR notation.
        until: When it ends; None if it has no end.
        seconds: For ``slow``, the time between two messages.
        reason: Why; None if the operator gave no reason.
    """

    kind: str
    at: datetime
    by: str
    room: str | None = None
    user: str | None = None
    nick: str | None = None
    network: str | None = None
    until: datetime | None = None
    seconds: float | None = None
    reason: str | None = None


class SanctionList(Struct, frozen=True, omit_defaults=True):
    """Answers ``bans``.

    Attributes:
        bans: The sanctions, the newest first; at most 500.
        more: True if there are older ones.
    """

    bans: list[SanctionInfo]
    more: bool = False


Result: TypeAlias = (
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
    | SanctionList
    | Renamed
    | ReadMark
)
"""The answer to a command that succeeded."""


class Fault(Struct, frozen=True):
    """A refusal as a client reads it: later versions may have other codes.

    Attributes:
        code: Why, for programs.
        message: Why, for people.
        retry_ms: After how many milliseconds the command may succeed; None if waiting does not
            help.
    """

    code: str
    message: str = ""
    retry_ms: int | None = None


class Answer(Struct, frozen=True, omit_defaults=True):
    """The answer to a command in ``chatd.v1``: exactly one of ``ok`` and ``error`` is set.

    Attributes:
        re: The command's ``id``; None if it had none, or none that could be read.
        ok: The `Result`, if the command succeeded. A client reads it with `codec.read_result`.
        error: A `chatd.model.Refusal`, otherwise. A client reads it as a `Fault`.
    """

    re: str | int | float | None
    ok: Any = None
    error: Any = None
