"""The events that the daemon sends to clients. The field ``on`` of the JSON holds an event's name.

``Message``, ``Edit``, ``Delete`` and ``Topic`` are events of a room's log: they have numbers and
can be read again. The others are sent once and not kept.

Optional fields are None in Python. `Message`, `Edit` and `Notice` leave them out of the JSON; the
other events write all their fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeAlias

from msgspec import Struct, field

from chatd.model import Event

__all__ = [
    "Bye",
    "Delete",
    "Edit",
    "Epoch",
    "EventBase",
    "Hello",
    "Joined",
    "Left",
    "Limits",
    "LogEvent",
    "Message",
    "NickChange",
    "Notice",
    "Presence",
    "Read",
    "ServerEvent",
    "Topic",
    "Typing",
    "Unknown",
    "last",
    "number",
    "rfc3339",
    "shape",
]


class EventBase(Struct, frozen=True, tag_field="on", tag=str.lower):
    """The base of all events."""

    @property
    def on(self) -> str:
        """The event's name, as in the JSON."""
        return str(self.__struct_config__.tag)


class Limits(Struct, frozen=True):
    """The limits that a client has to keep to.

    Attributes:
        message_bytes: The longest text of a message, in bytes of UTF-8.
        messages_per_second: How many messages a user may send per second in the long run; None if
            there is no limit.
        messages_burst: How many messages a user may send at once; None if there is no limit.
    """

    message_bytes: int | None = None
    messages_per_second: float | None = None
    messages_burst: int | None = None


class Hello(EventBase, frozen=True):
    """The first event of a connection.

    Attributes:
        server: The daemon's name and version.
        session: The secret with which a guest becomes the same guest again; None for users with a
            token.
        user: The user's id; None before ``auth`` where guests are disabled, as is ``nick``.
        nick: The user's nick.
        op: True if the user is an operator.
        limits: The limits that the client has to keep to.
    """

    server: str
    session: str | None = None
    user: str | None = None
    nick: str | None = None
    op: bool = False
    limits: Limits = Limits()


class Message(EventBase, frozen=True, kw_only=True, omit_defaults=True):
    """A message.

    Attributes:
        room: The room's name; of a direct message ``@`` and both users' ids.
        seq: Its number in the room's log; None for a direct message between guests, which is not
            kept.
        at: When it was sent.
        nick: The sender's nick at that time; ``from`` in the JSON.
        user: The sender's user id.
        text: The current text, after all edits; None if the message was deleted.
        reply_to: The number of the message that it answers.
        edited: When it was last edited; None if never.
        deleted: True if it was deleted.
    """

    room: str
    seq: int | None = None
    at: datetime
    nick: str = field(name="from")
    user: str
    text: str | None = None
    reply_to: int | None = None
    edited: datetime | None = None
    deleted: bool = False


class Edit(EventBase, frozen=True, omit_defaults=True):
    """A message was edited.

    Attributes:
        room: The room's name.
        seq: The number of this event.
        of: The number of the edited message.
        at: When it was edited.
        nick: The editor's nick; ``from`` in the JSON.
        user: The editor's user id.
        text: The message's current text, which may come from a later edit; None if the message was
            deleted since.
    """

    room: str
    seq: int
    of: int
    at: datetime
    nick: str = field(name="from")
    user: str
    text: str | None = None


class Delete(EventBase, frozen=True):
    """A message was deleted; its number stays used.

    Attributes:
        room: The room's name.
        seq: The number of this event.
        of: The number of the deleted message.
        at: When it was deleted.
        nick: The nick of the user that deleted it; ``from`` in the JSON.
        user: That user's id.
    """

    room: str
    seq: int
    of: int
    at: datetime
    nick: str = field(name="from")
    user: str


class Topic(EventBase, frozen=True):
    """A room's topic was set.

    Attributes:
        room: The room's name.
        seq: The number of this event.
        at: When it was set.
        nick: The nick of the user that set it; ``from`` in the JSON.
        user: That user's id.
        text: The new topic; an empty text removes it.
    """

    room: str
    seq: int
    at: datetime
    nick: str = field(name="from")
    user: str
    text: str = ""


class Joined(EventBase, frozen=True):
    """A user joined a room with the first of its connections.

    Attributes:
        room: The room's name.
        nick: The user's nick.
        user: The user's id.
        op: True if the user is an operator.
    """

    room: str
    nick: str
    user: str
    op: bool = False


class Left(EventBase, frozen=True):
    """A user left a room with the last of its connections.

    Users who are kicked or banned get this event too.

    Attributes:
        room: The room's name.
        nick: The user's nick.
        user: The user's id.
        reason: ``leave``, ``lost``, ``kicked`` or ``banned``; later versions may add others.
    """

    room: str
    nick: str
    user: str
    reason: str = ""


class Presence(EventBase, frozen=True):
    """The number of members, sent instead of ``joined`` and ``left`` in large rooms.

    Attributes:
        room: The room's name.
        total: How many users are in the room.
    """

    room: str
    total: int


class NickChange(EventBase, frozen=True, tag="nick"):
    """A user changed its nick; sent once for each room that is shared with it.

    Attributes:
        room: The room's name.
        user: The user's id.
        before: The nick until now; ``from`` in the JSON.
        nick: The new nick; ``to`` in the JSON.
    """

    room: str
    user: str
    before: str = field(name="from")
    nick: str = field(name="to")


class Typing(EventBase, frozen=True):
    """A user started or stopped typing. Clients should expire it after a few seconds.

    Attributes:
        room: The room's name.
        nick: The user's nick.
        user: The user's id.
        active: True if the user is typing.
    """

    room: str
    nick: str
    user: str
    active: bool


class Read(EventBase, frozen=True):
    """Another connection of the same user marked a room as read.

    Attributes:
        room: The room's name.
        seq: The number up to which the room is read.
    """

    room: str
    seq: int


class Notice(EventBase, frozen=True, omit_defaults=True):
    """A line for people, from the daemon or an operator.

    Attributes:
        text: The line.
        do: The command it is about: one that was refused, where a protocol cannot answer it, or,
            without ``code``, one that the daemon asks for (``auth``, before a token expires).
        code: Why that command was refused.
        retry_ms: After how many milliseconds it may succeed; None if waiting does not help.
    """

    text: str
    do: str | None = None
    code: str | None = None
    retry_ms: int | None = None


class Epoch(EventBase, frozen=True):
    """The log has another epoch, and its numbers go on: nothing was lost for this connection.

    Positions of all rooms are under the new epoch from here on. `chatd.client` follows by itself.

    Attributes:
        epoch: The new epoch.
    """

    epoch: str


class Bye(EventBase, frozen=True):
    """The last event before the daemon closes a connection. `chatd.client` obeys it by itself.

    Attributes:
        code: The close code.
        reason: Why, for people.
        reconnect: True if connecting again can help.
        retry_ms: After how many milliseconds to connect again; None if the daemon names no time.
    """

    code: int
    reason: str = ""
    reconnect: bool = True
    retry_ms: int | None = None


class Unknown(EventBase, frozen=True, tag=""):
    """An event that this version does not know, or a known one in an unexpected shape.

    Only clients make these, so that they outlive the next version of their daemon.

    Attributes:
        name: The event's name; ``on`` is the same.
        fields: The whole JSON object.
    """

    name: str
    fields: dict[str, Any]

    @property
    def on(self) -> str:
        """The event's name, as in the JSON."""
        return self.name


LogEvent: TypeAlias = Message | Edit | Delete | Topic
"""An event of a room's log."""

ServerEvent: TypeAlias = (
    Hello
    | Message
    | Edit
    | Delete
    | Topic
    | Presence
    | Joined
    | Left
    | NickChange
    | Typing
    | Read
    | Notice
    | Epoch
    | Bye
)
"""Every event that this version knows."""


def shape(room: str, event: Event) -> LogEvent:
    """Return an event of the log as clients get it, with its current text.

    ``room`` is the room's name as it is written.
    """
    at = rfc3339(event.at)
    match event.kind:
        case "message":
            return Message(
                room=room,
                seq=event.seq,
                at=at,
                nick=event.nick,
                user=event.user,
                text=event.text,
                reply_to=event.reply_to,
                edited=None if event.edited is None else rfc3339(event.edited),
                deleted=event.deleted,
            )
        case "edit":
            return Edit(room, event.seq, event.of or 0, at, event.nick, event.user, event.text)
        case "delete":
            return Delete(room, event.seq, event.of or 0, at, event.nick, event.user)
        case "topic":
            return Topic(room, event.seq, at, event.nick, event.user, event.text or "")


# The events of a batch have one time, and a message's answer has its event's.
@lru_cache(maxsize=64)
def rfc3339(milliseconds: int) -> Any:
    """Return a time as text by RFC 3339, in UTC, with milliseconds and ``Z``.

    The type is Any because the server puts this text in fields that clients read as datetimes:
    msgspec itself would write microseconds.
    """
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_second(seconds)}.{rest:03d}Z"


# Events of a page may share their second; formatting one takes 1.5 µs.
@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def number(event: ServerEvent | Unknown) -> int | None:
    """Return an event's number in its room's log; None if it is not in one."""
    return event.seq if isinstance(event, LogEvent) else None


def last(events: Sequence[ServerEvent | Unknown]) -> int | None:
    """Return the number of the last of ``events`` that has one; None if none has."""
    return next((seq for one in reversed(events) if (seq := number(one)) is not None), None)
