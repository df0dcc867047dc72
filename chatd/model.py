"""The data that all layers share: events, operations and their outcomes, refusals, closes.

Times are integers: milliseconds since the Unix epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from msgspec import Struct

__all__ = [
    "CLOSES",
    "Close",
    "Drop",
    "Erase",
    "ErrorCode",
    "Event",
    "EventKind",
    "Forget",
    "Head",
    "LogEntry",
    "Operation",
    "Outcome",
    "Post",
    "Progress",
    "Put",
    "Receipt",
    "Record",
    "Records",
    "Refusal",
    "Refused",
    "Remember",
    "Restore",
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


class Event(Struct, frozen=True):
    """One event of a room's log: as it was committed, but with its present text.

    ``room`` is the room's key (see `chatd.chat.names.Name`). ``seq`` counts the room's events,
    ``position`` those of the whole store, both without a gap. ``text`` is the present text of the
    message, also in an ``edit`` that was followed by another; None if the message (for an ``edit``:
    the one that ``of`` names) was deleted or is gone. ``edited`` is when the text last changed.
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


class Post(Struct, frozen=True):
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


Operation: TypeAlias = (
    Post | Remember | Put | Drop | Records | Take | Restore | Wipe | Erase | Forget
)


class Receipt(Struct, frozen=True):
    """The event was committed; with ``duplicate``, earlier, by a post with the same key."""

    event: Event
    duplicate: bool = False


class Taken(Struct, frozen=True):
    """The outcome of `Take`: the record; None if there was none, or it had ended."""

    record: Record | None


class Progress(Struct, frozen=True):
    """The outcome of a chunk: the position up to which it is done, or None at the end."""

    upto: int | None


Outcome: TypeAlias = Receipt | Refusal | Taken | Progress | None
"""What became of an operation. None: it was done. A `Refusal`: it broke a rule that only the store
can check (see `Post`), while the rest of the batch was committed."""


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
