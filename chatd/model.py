"""The data every floor speaks of: a room's log, what is asked of its journal, closes and refusals.

Nothing here does anything. Times are integers: milliseconds since the Unix epoch.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from msgspec import Struct

__all__ = [
    "CLOSES",
    "Close",
    "Drop",
    "Erase",
    "ErrorCode",
    "Event",
    "Forget",
    "Head",
    "Kind",
    "LogEntry",
    "Operation",
    "Outcome",
    "Post",
    "Progress",
    "Put",
    "Receipt",
    "Record",
    "Refusal",
    "Refused",
    "Remember",
    "Restore",
    "Take",
    "Taken",
    "UserRecord",
    "Wipe",
]

Kind: TypeAlias = Literal["message", "edit", "delete", "topic"]
"""What an event of a room's log is."""

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
"""Why something was refused; clients decide by it, so the list only grows."""


class Refusal(Struct, frozen=True, omit_defaults=True):
    """Why a command was refused, as its sender is answered.

    ``message`` is for people. ``retry_ms`` is set if it may succeed after that many milliseconds.
    """

    code: ErrorCode
    message: str
    retry_ms: int | None = None


class Refused(Exception):  # noqa: N818  an answer, not an error
    """Raised where a command is refused; ``refusal`` is the answer."""

    def __init__(self, code: ErrorCode, message: str, retry_ms: int | None = None) -> None:
        super().__init__(message)
        self.refusal = Refusal(code, message, retry_ms)


class Close(Struct, frozen=True):
    """Why a connection ended: for the Close frame, the log line and the metric alike.

    ``reconnect`` tells a client whether coming back can help.
    """

    code: int
    name: str
    reason: str
    reconnect: bool


# The table. 1005 and 1006 are never sent: RFC 6455 section 7.4.1 keeps them for what logs say.
NORMAL: Final = Close(1000, "normal", "the client left", reconnect=False)
GOING_AWAY: Final = Close(1001, "going_away", "the server is restarting", reconnect=True)
PROTOCOL_ERROR: Final = Close(1002, "protocol_error", "not RFC 6455", reconnect=True)
UNSUPPORTED: Final = Close(1003, "unsupported", "text is spoken here", reconnect=True)
NO_STATUS: Final = Close(1005, "no_status", "closed without a code", reconnect=True)
LOST: Final = Close(1006, "lost", "the connection was lost", reconnect=True)
INVALID_TEXT: Final = Close(1007, "invalid_text", "not UTF-8", reconnect=True)
POLICY: Final = Close(1008, "policy", "against the rules", reconnect=False)
TOO_BIG: Final = Close(1009, "too_big", "the message is too big", reconnect=False)
INTERNAL: Final = Close(1011, "internal", "a fault of the server", reconnect=True)
TOO_SLOW: Final = Close(4001, "too_slow", "too slow: more waits than may", reconnect=True)
SILENT: Final = Close(4002, "silent", "no life sign in time", reconnect=True)
KICKED: Final = Close(4500, "kicked", "kicked", reconnect=False)
BANNED: Final = Close(4501, "banned", "banned", reconnect=False)
UNAUTHORIZED: Final = Close(4502, "unauthorized", "not authorized", reconnect=False)
TOO_MANY: Final = Close(4503, "too_many", "too many connections", reconnect=True)

CLOSES: Final = {
    close.code: close
    for close in (
        NORMAL,
        GOING_AWAY,
        PROTOCOL_ERROR,
        UNSUPPORTED,
        NO_STATUS,
        LOST,
        INVALID_TEXT,
        POLICY,
        TOO_BIG,
        INTERNAL,
        TOO_SLOW,
        SILENT,
        KICKED,
        BANNED,
        UNAUTHORIZED,
        TOO_MANY,
    )
}
"""Every close code there is, by its number. The wire, the log and the metrics read this table."""


class Event(Struct, frozen=True):
    """One event of a room's log, as it was committed and as it reads now.

    ``room`` is the room's folded name; how the room is written is the room's own affair.
    ``seq`` counts in the room, ``position`` across the whole store; both without a gap.
    ``text`` is the present one: of a message that was edited since, and of an ``edit`` that was
    followed by another; None where the message that ``of`` names is deleted or gone. ``edited``
    is when a message's text last changed.
    """

    position: int
    room: str
    seq: int
    at: int
    kind: Kind
    user: str
    nick: str
    text: str | None
    of: int | None = None
    reply_to: int | None = None
    edited: int | None = None
    deleted: bool = False


class Post(Struct, frozen=True):
    """Asks the journal for one more event in a room's log.

    ``name`` is how the room is written, kept when this is the room's first event. ``key`` is the
    sender's own: the same ``(room, user, key)`` is committed once, whatever else differs.
    ``of`` is the message that an ``edit`` or a ``delete`` changes: its author's alone, where
    ``operator`` is not set. ``reply_to`` is a message that must be there.
    """

    room: str
    name: str
    user: str
    nick: str
    text: str | None
    kind: Kind = "message"
    key: str | None = None
    of: int | None = None
    reply_to: int | None = None
    operator: bool = False


class UserRecord(Struct, frozen=True):
    """What is kept of a user: the nick they chose and when they were last here.

    ``seen`` is None while the user is present. ``subject``: they came by a token, not as a guest.
    """

    user: str
    nick: str
    seen: int | None
    subject: bool = False


class Remember(Struct, frozen=True):
    """Asks the journal to keep this of a user, in place of what was kept."""

    record: UserRecord


class Record(Struct, frozen=True):
    """Something kept beside the logs, found by its shelf and name: a read mark, a ban.

    The journal does not look into ``value``. ``until`` is when it may be thrown away; None: never.
    """

    kind: str
    name: str
    value: bytes
    until: int | None = None


class Put(Struct, frozen=True):
    """Asks the journal to keep a record, in place of what had its name."""

    record: Record


class Drop(Struct, frozen=True):
    """Asks the journal to keep a record no more; none by that name is no fault."""

    kind: str
    name: str


class Take(Struct, frozen=True):
    """Asks the journal for a record and to keep it no more, in one step: answered by `Taken`."""

    kind: str
    name: str


class LogEntry(Struct, frozen=True):
    """An event of a room's log as it is stored, to be taken elsewhere: with its key.

    ``room`` is how the room is written. An edit has no text of its own: its message has.
    """

    room: str
    seq: int
    at: int
    kind: Kind
    user: str
    nick: str
    text: str | None = None
    of: int | None = None
    reply_to: int | None = None
    edited: int | None = None
    deleted: bool = False
    key: str | None = None


class Restore(Struct, frozen=True):
    """Asks the journal to take up lines that come from elsewhere, at the end of a room's log.

    All or none of them: they are refused where they do not go on from the room's last number.
    After it the store has another epoch, as its numbers have two origins.
    """

    room: str
    entries: tuple[LogEntry, ...]


class Wipe(Struct, frozen=True):
    """Asks for all that a user said to be taken away, behind a position, one chunk of it.

    What is left are the numbers. Answered by `Progress`.
    """

    user: str
    after: int = 0


class Erase(Struct, frozen=True):
    """Asks for a room's whole log to be removed, one chunk of it. Answered by `Progress`."""

    room: str


class Forget(Struct, frozen=True):
    """Asks for what is kept of a user beside the logs to be removed: nick, read marks and such.

    Records are the user's if their name begins with the user's id and a NUL.
    """

    user: str


Operation: TypeAlias = Post | Remember | Put | Drop | Take | Restore | Wipe | Erase | Forget


class Receipt(Struct, frozen=True):
    """The journal's word that ``event`` is committed; ``duplicate`` if its key was there before."""

    event: Event
    duplicate: bool = False


class Taken(Struct, frozen=True):
    """Answers a `Take`: what was there, or None where nothing was, or its time was over."""

    record: Record | None


class Progress(Struct, frozen=True):
    """Answers what is done in chunks: up to which position it is, or None where it is done."""

    upto: int | None


Outcome: TypeAlias = Receipt | Refusal | Taken | Progress | None
"""What became of an operation. None: done, with nothing to tell. A Refusal, where the rest of the
batch was committed: this one broke a rule that only the store can tell (`Post`)."""


class Head(Struct, frozen=True):
    """A room as its journal knows it: its fold, how it is written, its last number, its topic."""

    room: str
    name: str
    seq: int
    topic: str = ""
