"""The vocabulary of the log: all events with their levels, and all fields.

The list is closed: the type checker and the log itself refuse any other name, so that people,
alerts and queries of systemd's journal can rely on it. No field is meant for a token, a key or a
secret.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, TypedDict

from msgspec import Struct

__all__ = ["FIELDS", "LEVELS", "VOCABULARY", "Fields", "Level", "Meaning", "Name"]

Level: TypeAlias = Literal["debug", "info", "warning", "error"]
"""How important an event is. ``log.level`` is the lowest level that is written."""

LEVELS: Final[dict[Level, int]] = {"debug": 7, "info": 6, "warning": 4, "error": 3}
"""The levels as syslog's severities (RFC 5424 section 6.2.1), which are the journal's PRIORITY."""

Name: TypeAlias = Literal[
    "start",
    "listening",
    "ready",
    "warning",
    "connect",
    "auth",
    "join",
    "leave",
    "nick",
    "message",
    "edit",
    "delete",
    "topic",
    "kick",
    "ban",
    "unban",
    "mute",
    "unmute",
    "slow",
    "close",
    "remove",
    "refused",
    "disconnect",
    "fault",
    "hang",
    "store",
    "retention",
    "reload",
    "reload_refused",
    "keys",
    "announce",
    "loglevel",
    "export",
    "import",
    "backup",
    "forget",
    "token",
    "drain",
    "stop",
    "dropped",
]
"""The name of an event: ``event`` in JSON, ``CHATD_EVENT`` in the journal."""


class Meaning(Struct, frozen=True):
    """An event: its level, what happened, and its fields."""

    level: Level
    description: str
    fields: tuple[str, ...]


_CONNECTION: Final = ("connection", "user", "nick", "address", "transport", "protocol")
# What an operator did: by whom, to whom, where (no room: everywhere), for how long and why.
_ACTION: Final = ("by", "target", "nick", "network", "room", "seconds", "reason")

_EVENT: Final = ("room", "seq", "bytes", "receivers", "text")  # of a room's log

VOCABULARY: Final[dict[Name, Meaning]] = {
    "start": Meaning("info", "the daemon starts", ("version", "pid")),
    "listening": Meaning("info", "a listener is open", ("listener",)),
    "ready": Meaning("info", "clients are served from now on", ("seconds",)),
    "warning": Meaning(
        "warning", "something the operator should fix", ("detail", "setting", "address")
    ),
    "connect": Meaning("info", "a chat connection is open", _CONNECTION),
    "auth": Meaning("info", "a connection authenticated", _CONNECTION),
    "join": Meaning("info", "a connection entered a room", (*_CONNECTION, "room")),
    "leave": Meaning("info", "a connection left a room", (*_CONNECTION, "room", "reason")),
    "nick": Meaning("info", "a user changed the nick", (*_CONNECTION, "old")),
    "message": Meaning(
        "info",
        "a message was committed and fanned out",
        (*_CONNECTION, *_EVENT),
    ),
    "edit": Meaning("info", "a message was edited", (*_CONNECTION, *_EVENT, "of")),
    "delete": Meaning("info", "a message was deleted", (*_CONNECTION, *_EVENT, "of")),
    "topic": Meaning("info", "a room's topic changed", (*_CONNECTION, *_EVENT)),
    "kick": Meaning("info", "an operator removed a user", _ACTION),
    "ban": Meaning("info", "an operator banned a user or a network", _ACTION),
    "unban": Meaning("info", "an operator lifted a ban", _ACTION),
    "mute": Meaning("info", "an operator muted a user", _ACTION),
    "unmute": Meaning("info", "an operator lifted a mute", _ACTION),
    "slow": Meaning("info", "an operator set a room's slow mode", _ACTION),
    "close": Meaning("info", "an operator closed a room, or opened it again", _ACTION),
    "remove": Meaning("warning", "an operator removed a room and its events", _ACTION),
    "refused": Meaning(
        "info",
        "a request was refused",
        (
            *_CONNECTION,
            *("command", "reason", "code", "room"),
            *("method", "path", "status", "origin", "host", "setting", "omitted"),
        ),
    ),
    "disconnect": Meaning(
        "info",
        "a chat connection ended",
        (
            *_CONNECTION,
            *("code", "reason", "seconds", "bytes_in", "bytes_out", "messages_in", "messages_out"),
        ),
    ),
    "fault": Meaning(
        "error",
        "an internal error",
        (*_CONNECTION, "room", "seq", "detail", "error", "traceback"),
    ),
    "hang": Meaning(
        "error", "events do not get through; the stack of every task", ("seconds", "tasks")
    ),
    "store": Meaning(
        "warning",
        "the state of the store changed",
        ("state", "detail", "seconds", "store_bytes"),
    ),
    "retention": Meaning("info", "old events were deleted", ("events", "store_bytes")),
    "reload": Meaning(
        "info",
        "a changed configuration is in force, except for the keys that need a restart",
        ("changed", "restart", "credentials", "seconds"),
    ),
    "reload_refused": Meaning(
        "error", "the configuration has an error and was not applied", ("detail",)
    ),
    "keys": Meaning(
        "info", "the keys of tokens were fetched, after a change or a failure", ("total",)
    ),
    "announce": Meaning("info", "an operator sent a notice", ("room", "receivers", "bytes")),
    "loglevel": Meaning("info", "an operator changed the log level", ("state",)),
    "export": Meaning("info", "an operator exported history", ("room", "target")),
    "import": Meaning("info", "an operator imported history", ("events",)),
    "backup": Meaning("info", "an operator copied the store", ()),
    "forget": Meaning("info", "a user's messages and records were deleted", ("target",)),
    "token": Meaning("info", "an operator issued a token", ("target", "seconds", "detail")),
    "drain": Meaning("info", "the daemon disconnects its clients", ("clients", "rooms", "seconds")),
    "stop": Meaning("info", "the daemon stopped", ("seconds",)),
    "dropped": Meaning(
        "warning",
        "lines are missing here: the log's reader was too slow",
        ("lines", "total"),
    ),
}
"""All events."""


class Fields(TypedDict, total=False):
    """Every field a line may have. A field whose value is None is left out of its line."""

    # A connection: its id, its user's id and nick, the client's address, and its protocol.
    connection: str | int | None
    user: str | None
    nick: str | None
    address: str | None
    transport: str | None
    protocol: str | None
    # How a connection ended or a request failed: a close code or a refusal's code, and why.
    code: str | int | None
    reason: str | None
    bytes_in: int | None
    bytes_out: int | None
    messages_in: int | None
    messages_out: int | None
    # A message: its room, number, size and number of receivers, and its text with ``log.bodies``.
    # For an edit or a delete also the number of the message.
    room: str | None
    seq: int | None
    of: int | None
    bytes: int | None
    receivers: int | None
    text: str | None
    # A refused command, and how many lines of its address were left out before this one.
    command: str | None
    omitted: int | None
    # A request: its path is logged without its query, which may contain tokens.
    method: str | None
    path: str | None
    status: int | None
    origin: str | None
    host: str | None
    # An internal error: the exception, and its traceback.
    error: str | None
    traceback: str | None
    # What an operator did.
    by: str | None
    target: str | None
    network: str | None
    # Everything else.
    changed: str | None
    clients: int | None
    credentials: str | None
    detail: str | None
    events: int | None
    lines: int | None
    listener: str | None
    old: str | None
    pid: int | None
    restart: str | None
    rooms: int | None
    seconds: float | None
    setting: str | None
    state: str | None
    store_bytes: int | None
    tasks: str | None
    total: int | None
    version: str | None


FIELDS: Final = frozenset(Fields.__annotations__)
