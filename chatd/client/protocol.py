"""``chatd.v1`` as a client speaks it: commands out, answers and events in. Sans-IO.

Whatever this version does not know is passed on as `Unknown` or left out, so that a client outlives
its daemon's next version.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import Raw, Struct, field, structs

from chatd.client.errors import Garbled

__all__ = [
    "SUBPROTOCOL",
    "Answer",
    "Bye",
    "Changed",
    "Delete",
    "Edit",
    "Entered",
    "Event",
    "Fault",
    "Found",
    "Hello",
    "Identity",
    "Joined",
    "Left",
    "Limits",
    "Member",
    "Members",
    "Message",
    "NickChange",
    "Notice",
    "Page",
    "Position",
    "Presence",
    "Read",
    "ReadMark",
    "Renamed",
    "RoomInfo",
    "RoomLeft",
    "RoomList",
    "Said",
    "Sanctioned",
    "ServerEvent",
    "Topic",
    "Typing",
    "Unknown",
    "command",
    "decode",
    "event",
    "last",
    "number",
    "result",
]

SUBPROTOCOL: Final = "chatd.v1"


class Position(Struct, frozen=True):
    """A place in a room's log; ``epoch`` names the life of the log that gave the number."""

    epoch: str
    seq: int


# ---- events


class Event(Struct, frozen=True, kw_only=True, tag_field="on"):
    """Anything the daemon tells of itself; ``on`` is its name."""

    @property
    def on(self) -> str:
        return str(self.__struct_config__.tag)


class Limits(Struct, frozen=True):
    """What a client must keep to; None where there is no limit."""

    message_bytes: int | None = None
    messages_per_second: float | None = None
    messages_burst: int | None = None


class Hello(Event, frozen=True, kw_only=True, tag="hello"):
    """The first thing said. Where guests are off, the names are None until ``auth``."""

    server: str
    session: str | None = None
    user: str | None = None
    nick: str | None = None
    op: bool = False
    limits: Limits = Limits()


class Message(Event, frozen=True, kw_only=True, tag="message"):
    """Somebody said something. A message that is not kept has no ``seq``, a deleted one no text."""

    room: str
    seq: int | None = None
    at: datetime
    nick: str = field(name="from")
    user: str
    text: str | None = None
    reply_to: int | None = None
    edited: datetime | None = None
    deleted: bool = False


class Edit(Event, frozen=True, kw_only=True, tag="edit"):
    """The message ``of`` reads otherwise now; no text where it was deleted since."""

    room: str
    seq: int
    of: int
    at: datetime
    nick: str = field(name="from")
    user: str
    text: str | None = None


class Delete(Event, frozen=True, kw_only=True, tag="delete"):
    """The message ``of`` is gone."""

    room: str
    seq: int
    of: int
    at: datetime
    nick: str = field(name="from")
    user: str


class Topic(Event, frozen=True, kw_only=True, tag="topic"):
    """The room is about something else now."""

    room: str
    seq: int
    at: datetime
    nick: str = field(name="from")
    user: str
    text: str = ""


class Presence(Event, frozen=True, kw_only=True, tag="presence"):
    """How many are in a room that is too large to tell of each."""

    room: str
    total: int


class Joined(Event, frozen=True, kw_only=True, tag="joined"):
    """Somebody came into the room."""

    room: str
    nick: str
    user: str
    op: bool = False


class Left(Event, frozen=True, kw_only=True, tag="left"):
    """Somebody left; ``reason`` is ``leave``, ``lost``, ``kicked``, ``banned`` or newer."""

    room: str
    nick: str
    user: str
    reason: str = ""


class NickChange(Event, frozen=True, kw_only=True, tag="nick"):
    """Somebody is called otherwise now; told once for each room that is shared."""

    room: str
    user: str
    before: str = field(name="from")
    nick: str = field(name="to")


class Typing(Event, frozen=True, kw_only=True, tag="typing"):
    """Somebody is writing, or, not ``active``, no more. Who is silent for a while is done too."""

    room: str
    nick: str
    user: str
    active: bool


class Read(Event, frozen=True, kw_only=True, tag="read"):
    """Another of this user's connections has read the room up to ``seq``."""

    room: str
    seq: int


class Notice(Event, frozen=True, kw_only=True, tag="notice"):
    """A line for people, from the daemon or an operator.

    ``do`` names a command: one that was refused, with its ``code``, or one that is asked for, which
    is ``auth`` before a token ends.
    """

    text: str
    do: str | None = None
    code: str | None = None
    retry_ms: int | None = None


class Bye(Event, frozen=True, kw_only=True, tag="bye"):
    """Said before the daemon closes. The client minds it by itself."""

    code: int
    reason: str = ""
    reconnect: bool = True
    retry_ms: int | None = None


class Unknown(Event, frozen=True, tag=""):
    """An event of a newer daemon, or a known one in a newer shape, as it came."""

    name: str
    fields: dict[str, Any]

    @property
    def on(self) -> str:
        return self.name


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
    | Bye
)


# ---- answers


class Identity(Struct, frozen=True):
    """Answers ``auth``: who this client is. ``session`` makes a later client the same guest."""

    user: str | None
    nick: str | None
    op: bool = False
    session: str | None = None


class Member(Struct, frozen=True):
    """Somebody in a room."""

    nick: str
    user: str
    op: bool = False


class Entered(Struct, frozen=True):
    """Answers ``join``. ``events`` are a page of the log, oldest first; what is said later follows.

    ``recovered`` tells that they go on exactly where ``since`` ended. ``read`` is the number up to
    which this user has read, ``unread`` how many messages of others' came after it.
    ``may_set_topic`` tells whether this user may say what the room is about.
    """

    room: str
    epoch: str
    seq: int
    events: list[ServerEvent | Unknown]
    recovered: bool = False
    topic: str = ""
    may_set_topic: bool = False
    members: list[Member] = []
    member_count: int = 0
    read: int | None = None
    unread: int | None = None

    @property
    def end(self) -> int | None:
        """The last number of the page; None where it is empty."""
        return last(self.events)


class RoomLeft(Struct, frozen=True):
    """Answers ``leave``."""

    room: str


class Said(Struct, frozen=True):
    """Answers ``say``: the message is in the log. ``duplicate``: its key had been said before.

    What is not ``kept``, between two guests, has no number.
    """

    room: str
    at: datetime
    epoch: str | None = None
    seq: int | None = None
    duplicate: bool = False
    kept: bool = True


class Changed(Struct, frozen=True):
    """Answers ``edit``, ``delete`` and ``topic``: the number of the new event."""

    seq: int
    at: datetime


class ReadMark(Struct, frozen=True):
    """Answers ``read``: how far this user has read."""

    room: str
    seq: int


class Sanctioned(Struct, frozen=True):
    """Answers an operator's command: whom it met, and when it ends; None where it is open."""

    user: str | None = None
    until: datetime | None = None


class Page(Struct, frozen=True):
    """Answers ``history``: events, oldest first; ``more`` tells whether the log goes on."""

    epoch: str
    events: list[ServerEvent | Unknown]
    more: bool = False


class Found(Struct, frozen=True):
    """Answers ``search``: messages, the newest first; ``more`` tells whether there are others."""

    events: list[ServerEvent | Unknown]
    more: bool = False


class Members(Struct, frozen=True):
    """Answers ``who``: one page of members, and how many there are."""

    members: list[Member]
    member_count: int


class RoomInfo(Struct, frozen=True):
    """One room of ``rooms``. ``nick`` is the other's where it is this user's direct messages."""

    room: str
    members: int = 0
    seq: int = 0
    topic: str = ""
    nick: str | None = None
    read: int | None = None
    unread: int | None = None


class RoomList(Struct, frozen=True):
    """Answers ``rooms``: a page; ``more`` tells whether others follow."""

    rooms: list[RoomInfo]
    more: bool = False


class Renamed(Struct, frozen=True):
    """Answers ``nick``."""

    nick: str


class Fault(Struct, frozen=True):
    """A refusal as it comes over the wire. The codes are open: a newer daemon knows more."""

    code: str
    message: str = ""
    retry_ms: int | None = None


class Answer(Struct, frozen=True):
    """What the command with the number ``re`` came to: ``ok``, undecoded, or ``error``."""

    re: int | str | None
    ok: Raw = Raw(b"{}")
    error: Fault | None = None


# ---- the codec

_frame = msgspec.json.Decoder(dict[str, Any])
_EVENT: Final[Any] = ServerEvent
_event = msgspec.json.Decoder(ServerEvent)
_answer = msgspec.json.Decoder(Answer)
_encoder = msgspec.json.Encoder()

_T = TypeVar("_T")


def command(do: str, number: int, fields: dict[str, Any]) -> str:
    """Write a command; fields that are None are left out."""
    frame = {"do": do, "id": number}
    frame.update((name, value) for name, value in fields.items() if value is not None)
    return _encoder.encode(frame).decode()


def decode(frame: str | bytes) -> Answer | ServerEvent | Unknown:
    """Read a frame of the daemon's. Raises `Garbled`, and nothing else, for what is no object."""
    # Deep nesting raises RecursionError, bad UTF-8 UnicodeDecodeError.
    try:
        known: ServerEvent = _event.decode(frame)
    except msgspec.ValidationError:
        pass  # an answer, or an event this version does not know
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Garbled(str(error)) from None
    else:
        return known
    try:
        fields = _frame.decode(frame)
        if "on" not in fields and "re" in fields:
            return _answer.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Garbled(str(error)) from None
    return event(fields)


def event(fields: object) -> ServerEvent | Unknown:
    """Read an event that was decoded to plain objects, as those in answers are."""
    try:
        known: ServerEvent = msgspec.convert(fields, _EVENT)
    except msgspec.ValidationError:
        unknown = fields if isinstance(fields, dict) else {}
        return Unknown(name=str(unknown.get("on", "")), fields=unknown)
    return known


def result(ok: Raw, kind: type[_T]) -> _T:
    """Read an answer's ``ok`` as ``kind``. Raises `Garbled`."""
    try:
        if kind is not Entered and kind is not Page and kind is not Found:
            return msgspec.json.decode(ok, type=kind)
        # Events by themselves, since one that is unknown must not spoil the page.
        fields = _frame.decode(ok)
        events = msgspec.convert(fields.pop("events", []), list[Any])
        page: Any = msgspec.convert(fields | {"events": []}, kind)
        known: _T = structs.replace(page, events=[event(one) for one in events])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Garbled(str(error)) from None
    return known


def number(one: ServerEvent | Unknown) -> int | None:
    """Give an event's number in its room's log; None for what is told and forgotten."""
    return one.seq if isinstance(one, Message | Edit | Delete | Topic) else None


def last(events: Sequence[ServerEvent | Unknown]) -> int | None:
    """Give the number of the last of ``events`` that has one."""
    return next((seq for one in reversed(events) if (seq := number(one)) is not None), None)
