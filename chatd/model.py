"""The data that all layers share: events, operations and their outcomes, refusals, closes.

Times are integers: milliseconds since the Unix epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from msgspec import Struct

__all__ = [
    "CLOSES",
    "Arrive",
    "Arrived",
    "Claim",
    "Close",
    "Depart",
    "Drop",
    "Enter",
    "Entered",
    "Erase",
    "ErrorCode",
    "Event",
    "EventKind",
    "Exit",
    "ExitReason",
    "Exited",
    "FeedEntry",
    "Forget",
    "Head",
    "Item",
    "Lease",
    "LogEntry",
    "Missed",
    "Named",
    "Operation",
    "Outcome",
    "Passed",
    "Post",
    "Progress",
    "Put",
    "Receipt",
    "Record",
    "RecordChanged",
    "Records",
    "Reentered",
    "Refusal",
    "Refused",
    "Relay",
    "Relayed",
    "Remember",
    "Renewed",
    "Restore",
    "Swept",
    "Take",
    "Taken",
    "UserRecord",
    "Wipe",
]

EventKind: TypeAlias = Literal["message", "edit", "delete", "topic"]
"""The kinds of events in a room's log."""

ErrorCode: TypeAlias = Literal[
    "bad_request",
    "too_large",
    "unauthorized",
    "forbidden",
    "not_found",
    "not_joined",
    "nick_taken",
    "rate_limited",
    "muted",
    "banned",
    "room_full",
    "unavailable",
]
"""Why a command was refused. Clients act on it, so the list only grows."""


class Refusal(Struct, frozen=True, omit_defaults=True):
    """A refusal as it is sent: the value of `Refused`.

    ``message`` is for people. ``retry_ms`` is set if the command may succeed after that many
    milliseconds.
    """

    code: ErrorCode
    message: str
    retry_ms: int | None = None


class Refused(Exception):  # noqa: N818  an answer, not an error
    """Raised to refuse a command.

    Attributes:
        refusal: The value to send.
        then: Called after it was sent.
    """

    def __init__(self, code: ErrorCode, message: str, retry_ms: int | None = None) -> None:
        super().__init__(message)
        self.refusal = Refusal(code, message, retry_ms)
        self.then: Callable[[], None] = _nothing


def _nothing() -> None: ...


class Close(Struct, frozen=True):
    """Why a connection ended, for the Close frame, the log line and the metric.

    ``reconnect`` tells the client whether reconnecting can help.
    """

    code: int
    name: str
    reason: str
    reconnect: bool


# 1005 and 1006 are never sent: RFC 6455 section 7.4.1 reserves them for local use.
NORMAL: Final = Close(1000, "normal", "the client left", reconnect=False)
GOING_AWAY: Final = Close(1001, "going_away", "the server is restarting", reconnect=True)
PROTOCOL_ERROR: Final = Close(1002, "protocol_error", "not valid WebSocket", reconnect=True)
UNSUPPORTED: Final = Close(1003, "unsupported", "only text is accepted", reconnect=True)
NO_STATUS: Final = Close(1005, "no_status", "closed without a code", reconnect=True)
LOST: Final = Close(1006, "lost", "the connection was lost", reconnect=True)
INVALID_TEXT: Final = Close(1007, "invalid_text", "not UTF-8", reconnect=True)
POLICY: Final = Close(1008, "policy", "the client broke a rule", reconnect=False)
TOO_BIG: Final = Close(1009, "too_big", "the message is too big", reconnect=False)
INTERNAL: Final = Close(1011, "internal", "an internal error", reconnect=True)
TOO_SLOW: Final = Close(4001, "too_slow", "too slow: too much was waiting", reconnect=True)
SILENT: Final = Close(4002, "silent", "no life sign in time", reconnect=True)
KICKED: Final = Close(4500, "kicked", "kicked", reconnect=False)
BANNED: Final = Close(4501, "banned", "banned", reconnect=False)
UNAUTHORIZED: Final = Close(4502, "unauthorized", "not authorized", reconnect=False)
TOO_MANY: Final = Close(4503, "too_many", "too many connections", reconnect=True)

CLOSES: Final = {close.code: close for close in vars().values() if isinstance(close, Close)}
"""All closes by their codes. The wire, the log and the metrics read this table."""


class Event(Struct, frozen=True, gc=False):
    """One event of a room's log: as it was committed, but with its present text.

    ``room`` is the room's key (see `chatd.chat.names.Name`). ``seq`` counts the room's events
    without a gap. ``position`` is the event's place among everything in the store; it grows, and in
    a store that several daemons share, items have positions too (see `Item`).

    ``text`` is the present text of the message, also in an ``edit`` that was followed by another;
    None if the message (for an ``edit``: the one that ``of`` names) was deleted or is gone.
    ``edited`` is when the text last changed.
    """

    position: int
    room: str
    seq: int
    at: int
    kind: EventKind
    user: str
    nick: str
    text: str | None
    of: int | None = None
    reply_to: int | None = None
    edited: int | None = None
    deleted: bool = False


class Post(Struct, frozen=True, gc=False):
    """Append an event to a room's log. The outcome is a `Receipt` or a `Refusal`.

    ``name`` is the room's name as written, kept if this is its first event. ``key`` is chosen by
    the sender: only the first post of a ``(room, user, key)`` is committed. ``of`` is the message
    that an ``edit`` or a ``delete`` changes; it must be the user's own, unless ``operator`` is set
    on a ``delete``. ``reply_to`` is a message that must exist.
    """

    room: str
    name: str
    user: str
    nick: str
    text: str | None
    kind: EventKind = "message"
    key: str | None = None
    of: int | None = None
    reply_to: int | None = None
    operator: bool = False


class UserRecord(Struct, frozen=True):
    """The record of a user: the nick and the last visit.

    ``seen`` is None while the user is present. ``subject`` is set for users who came with a token.
    """

    user: str
    nick: str
    seen: int | None
    subject: bool = False


class Remember(Struct, frozen=True):
    """Store a user's record in place of the former one."""

    record: UserRecord


class Record(Struct, frozen=True):
    """Something kept beside the logs, found by its kind and name: a read mark, a ban.

    ``value`` is opaque to the journal. ``until`` is when the record ends; None for never.
    """

    kind: str
    name: str
    value: bytes
    until: int | None = None


class Put(Struct, frozen=True):
    """Store a record in place of the one with its kind and name."""

    record: Record


class Drop(Struct, frozen=True):
    """Delete a record; a missing one is not an error."""

    kind: str
    name: str


class Records(Struct, frozen=True):
    """Store some records and delete others, named by kind and name: all of it or nothing."""

    put: tuple[Record, ...] = ()
    drop: tuple[tuple[str, str], ...] = ()


class Take(Struct, frozen=True):
    """Read and delete a record in one step. The outcome is `Taken`."""

    kind: str
    name: str


class LogEntry(Struct, frozen=True):
    """An event as stored, with its key, for export and import.

    ``room`` is the room's name as written. An edit has no text: its message has it.
    """

    room: str
    seq: int
    at: int
    kind: EventKind
    user: str
    nick: str
    text: str | None = None
    of: int | None = None
    reply_to: int | None = None
    edited: int | None = None
    deleted: bool = False
    key: str | None = None


class Restore(Struct, frozen=True):
    """Append exported entries to a room's log, all or none of them.

    They are refused unless they continue the room's numbers. The store then gets a new epoch,
    because its numbers have two origins.
    """

    room: str
    entries: tuple[LogEntry, ...]


class Wipe(Struct, frozen=True):
    """Redact one chunk of a user's events after a position; their numbers remain.

    The outcome is `Progress`.
    """

    user: str
    after: int = 0


class Erase(Struct, frozen=True):
    """Remove one chunk of a room's log. The outcome is `Progress`.

    With ``forget`` the room itself is forgotten with its last event. Its numbers would begin again,
    so that is for a room that can never be again.
    """

    room: str
    forget: bool = False


class Forget(Struct, frozen=True):
    """Remove what is kept of a user beside the logs: the nick, read marks and other records.

    A user's records are those whose names begin with the user's id and a NUL.
    """

    user: str


# Operations of a store that several daemons share. Each of these daemons is a node.


class Lease(Struct, frozen=True):
    """Store a record that lasts while this node lives, and ``linger_ms`` longer.

    Its ``until`` is None until the node ends. Another `Lease` or a `Put` replaces it, and `Take`
    and `Drop` delete it, at any node.
    """

    record: Record
    linger_ms: int


class Arrive(Struct, frozen=True):
    """Record that a user has connections at this node. The outcome is `Arrived`.

    ``nick`` is the user's nick as displayed, used until a `Claim` gives another one.
    """

    user: str
    nick: str
    subject: bool = False


class Depart(Struct, frozen=True):
    """Record that a user has no connection at this node any longer.

    If the user has none at another node either, the claimed nick is held until ``hold_until`` (ms;
    None: it is free at once), and ``debt`` is kept for the next `Arrived`: the state of the user's
    flood buckets, opaque to the journal.
    """

    user: str
    hold_until: int | None = None
    debt: bytes = b""


class Claim(Struct, frozen=True):
    """Give a user a nick, or refuse it with ``nick_taken``; give all of the looks or none.

    The user must have arrived at this node. ``nick`` is the nick as displayed, ``looks`` are what
    it looks like: of two nicks that share a look only one is in use. The looks of the user's former
    nick become free. A look can be had if one of these holds:

    * Nobody holds it, or this user does.
    * Its holder is at no node and is not held any longer (see `Depart`); the holder is no subject,
      or this user is one.

    A look that is in another subject's ``own`` can never be had. ``own`` are the looks of a
    subject's id, which belong to the subject from the first claim on, if no other subject has them.
    """

    user: str
    nick: str
    looks: tuple[str, ...]
    subject: bool = False
    own: tuple[str, ...] = ()


class Enter(Struct, frozen=True):
    """Record that a user is in a room at this node, or has another ``op`` there.

    ``room`` is the room's key, ``name`` its name as written, ``op`` whether others see the user as
    an operator.
    """

    room: str
    name: str
    user: str
    nick: str
    op: bool = False


ExitReason: TypeAlias = Literal["leave", "lost", "kicked", "banned"]
"""Why a user left a room."""


class Exit(Struct, frozen=True):
    """Record that a user is no longer in a room at this node; it is no error if there was none."""

    room: str
    user: str
    reason: ExitReason


class Relay(Struct, frozen=True):
    """Hand something to all nodes, this one too, at its place in the order: see `Relayed`."""

    kind: str
    body: bytes


Operation: TypeAlias = (
    Post
    | Remember
    | Put
    | Drop
    | Records
    | Take
    | Restore
    | Wipe
    | Erase
    | Forget
    | Lease
    | Arrive
    | Depart
    | Claim
    | Enter
    | Exit
    | Relay
)


class Receipt(Struct, frozen=True, gc=False):
    """The event was committed; with ``duplicate``, earlier, by a post with the same key."""

    event: Event
    duplicate: bool = False


class Taken(Struct, frozen=True):
    """The outcome of `Take`: the record; None if there was none, or it had ended."""

    record: Record | None


class Arrived(Struct, frozen=True):
    """The outcome of `Arrive`: whether the user is at another node too, and the debt left behind.

    ``nick`` is the nick that the user had claimed and still holds; None if there is none.
    """

    elsewhere: bool = False
    debt: bytes = b""
    nick: str | None = None


class Progress(Struct, frozen=True):
    """The outcome of a chunk: the position up to which it is done, or None at the end."""

    upto: int | None


Outcome: TypeAlias = Receipt | Refusal | Taken | Progress | Arrived | None
"""What became of an operation. None: it was done. A `Refusal`: it broke a rule that only the store
can check (see `Post`), while the rest of the batch was committed."""


# Items: what a node learns from the feed of a shared store beside the events, in one order with
# them. An item has the state after the change, so that applying it twice does no harm.


class RecordChanged(Struct, frozen=True, tag=True):
    """A record that nodes hold in memory was stored, or deleted (``record`` is None).

    `chatd.journal.engine.REPLICATED` names the kinds. A record that ends by its ``until`` has no
    item.
    """

    position: int
    kind: str
    name: str
    record: Record | None


class Named(Struct, frozen=True, tag=True):
    """A user who had the nick ``before`` has another one."""

    position: int
    user: str
    nick: str
    before: str


class Entered(Struct, frozen=True, tag=True):
    """A user is in a room. Also what is read of a room's members.

    Attributes:
        position: The place in the order.
        room: The room's key.
        name: The room's name as written.
        user: The user's id.
        nick: The user's nick as displayed.
        op: Whether others see the user as an operator.
        first: Whether the user was not in the room before, at any node.
        total: How many users are in the room now.
    """

    position: int
    room: str
    name: str
    user: str
    nick: str
    op: bool
    first: bool
    total: int


class Exited(Struct, frozen=True, tag=True):
    """A user left a room at a node; ``last``: at the last one. ``total`` is as in `Entered`."""

    position: int
    room: str
    user: str
    nick: str
    reason: ExitReason
    last: bool
    total: int


class Relayed(Struct, frozen=True, tag=True):
    """What a node handed to all nodes; ``body`` is opaque to the journal.

    ``position`` is 0 if it was published: then it has no place in the order, and may be lost.
    """

    position: int
    kind: str
    body: bytes


class Swept(Struct, frozen=True, tag=True):
    """Stored events of a room were removed or redacted; ``first`` is the first one that is left.

    What is kept of the room in memory is no longer true. ``first`` is the next number if none is
    left.
    """

    position: int
    room: str
    first: int


class Renewed(Struct, frozen=True, tag=True):
    """The store has a new epoch.

    With ``lost``, events that this node had shown are gone: its clients must begin anew.
    """

    position: int
    epoch: str
    lost: bool = False


class Missed(Struct, frozen=True, tag=True):
    """The feed has a gap before this position: what is kept in memory must be read anew."""

    position: int


class Reentered(Struct, frozen=True, tag=True):
    """A new id of this node: it must publish anew which users it has, and their rooms."""

    position: int


class Passed(Struct, frozen=True, tag=True):
    """What is between the entry before and this position is of rooms that are not open here."""

    position: int


Item: TypeAlias = (
    RecordChanged
    | Named
    | Entered
    | Exited
    | Relayed
    | Swept
    | Renewed
    | Missed
    | Reentered
    | Passed
)

FeedEntry: TypeAlias = Event | Item
"""What the journal puts on the bus's channel ``committed``. A store of one daemon has events only.
"""


class Head(Struct, frozen=True):
    """A room as the journal knows it: its key, its name as written, its last number, its topic.

    ``empty``: whether all of its events are gone; then the room no longer exists, but its numbers
    go on.
    """

    room: str
    name: str
    seq: int
    topic: str = ""
    empty: bool = False
