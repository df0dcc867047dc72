"""What may stand in the log: every event by name with its level, every field with its meaning.

The list is closed. A name that is not in it is refused by the type checker and at run time, so
whoever reads the log (people, alerts, queries in systemd's journal) can rely on this page. No
field holds a token, a key or a secret: there is none to put it in.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, TypedDict

from msgspec import Struct

__all__ = ["FIELDS", "LEVELS", "VOCABULARY", "Fields", "Level", "Meaning", "Name"]

Level: TypeAlias = Literal["debug", "info", "warning", "error"]
"""How much an event matters. ``log.level`` names the least that is written."""

LEVELS: Final[dict[Level, int]] = {"debug": 7, "info": 6, "warning": 4, "error": 3}
"""The levels with syslog's severities (RFC 5424 section 6.2.1): the journal's PRIORITY."""

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
    "refused",
    "disconnect",
    "fault",
    "hang",
    "store",
    "retention",
    "reload",
    "reload_refused",
    "announce",
    "loglevel",
    "export",
    "import",
    "backup",
    "forget",
    "drain",
    "stop",
    "dropped",
]
"""The name of an event: ``event`` in JSON, ``CHATD_EVENT`` in the journal."""


class Meaning(Struct, frozen=True):
    """What one event says: its level, what happened, and the fields it comes with."""

    level: Level
    says: str
    fields: tuple[str, ...]


_CONNECTION: Final = ("connection", "user", "nick", "address", "transport", "protocol")
# What an operator did: who it was, to whom or what, where (no room: everywhere), for how long.
_DEED: Final = ("by", "target", "nick", "network", "room", "seconds", "reason")

_LOGGED: Final = ("room", "seq", "bytes", "receivers", "text")  # an event of a room's log

VOCABULARY: Final[dict[Name, Meaning]] = {
    "start": Meaning("info", "the daemon begins", ("version", "pid")),
    "listening": Meaning("info", "a listener is open", ("listener",)),
    "ready": Meaning("info", "clients are served from now on", ("seconds",)),
    "warning": Meaning(
        "warning", "something the operator should mend", ("detail", "setting", "address")
    ),
    "connect": Meaning("info", "a chat connection is open", _CONNECTION),
    "auth": Meaning("info", "a connection is somebody who was here before", _CONNECTION),
    "join": Meaning("info", "a connection entered a room", (*_CONNECTION, "room")),
    "leave": Meaning("info", "a connection left a room", (*_CONNECTION, "room", "reason")),
    "nick": Meaning("info", "a user is called otherwise now", (*_CONNECTION, "old")),
    "message": Meaning(
        "info",
        "a message was said and committed",
        (*_CONNECTION, *_LOGGED),
    ),
    "edit": Meaning("info", "a message has another text", (*_CONNECTION, *_LOGGED, "of")),
    "delete": Meaning("info", "a message was taken away", (*_CONNECTION, *_LOGGED, "of")),
    "topic": Meaning("info", "a room has another topic", (*_CONNECTION, *_LOGGED)),
    "kick": Meaning("info", "an operator put somebody out", _DEED),
    "ban": Meaning("info", "an operator keeps somebody, or a network, out", _DEED),
    "unban": Meaning("info", "an operator took a ban back", _DEED),
    "mute": Meaning("info", "an operator lets somebody say nothing", _DEED),
    "unmute": Meaning("info", "an operator lets somebody speak again", _DEED),
    "slow": Meaning("info", "an operator set a room's slow mode", _DEED),
    "close": Meaning("info", "an operator shut a room, or opened it again", _DEED),
    "refused": Meaning(
        "info",
        "a request was refused",
        (
            *_CONNECTION,
            *("reason", "code", "room", "method", "path", "status", "origin", "host", "setting"),
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
        "an error of chatd's own",
        (*_CONNECTION, "room", "seq", "detail", "error", "traceback"),
    ),
    "hang": Meaning(
        "error", "events do not get through; this is where every task stands", ("seconds", "tasks")
    ),
    "store": Meaning(
        "warning",
        "the store is not as it should be, or is again",
        ("state", "detail", "seconds", "store_bytes"),
    ),
    "retention": Meaning("info", "old events were deleted", ("events", "store_bytes")),
    "reload": Meaning(
        "info",
        "a changed configuration is in force; what is named as needing a restart is not",
        ("changed", "restart", "credentials", "seconds"),
    ),
    "reload_refused": Meaning(
        "error", "the configuration has a fault, and the one in force stays", ("detail",)
    ),
    "announce": Meaning(
        "info", "an operator told everybody something", ("room", "receivers", "bytes")
    ),
    "loglevel": Meaning("info", "an operator changed what is logged", ("state",)),
    "export": Meaning("info", "history was given to an operator", ("room", "target")),
    "import": Meaning("info", "history was taken up from elsewhere", ("events",)),
    "backup": Meaning("info", "a copy of the store was given to an operator", ()),
    "forget": Meaning(
        "info", "what a user said, and what was kept of them, is removed", ("target",)
    ),
    "drain": Meaning("info", "the daemon sends its clients away", ("clients", "rooms", "seconds")),
    "stop": Meaning("info", "the daemon ended", ("seconds",)),
    "dropped": Meaning(
        "warning", "the log's reader was too slow; lines are missing here", ("lines", "total")
    ),
}
"""Every event there is."""


class Fields(TypedDict, total=False):
    """Every field a line may have. A field whose value is None is left out of its line."""

    # A connection: its id, its user's id and nick, the client's address, and its protocol.
    connection: str | int | None
    user: str | None
    nick: str | None
    address: str | None
    transport: str | None
    protocol: str | None
    # How a connection ended or a request failed: a close code, a refusal's code, and words.
    code: str | int | None
    reason: str | None
    bytes_in: int | None
    bytes_out: int | None
    messages_in: int | None
    messages_out: int | None
    # A message: where, its number there, its size, how many it went to; its words if
    # ``log.bodies`` is on. Of an edit or a delete, the message's number too.
    room: str | None
    seq: int | None
    of: int | None
    bytes: int | None
    receivers: int | None
    text: str | None
    # A request: its path never has its query, in which tokens may stand.
    method: str | None
    path: str | None
    status: int | None
    origin: str | None
    host: str | None
    # A fault: the exception's class or words, and where it came from.
    error: str | None
    traceback: str | None
    # What an operator did, to whom.
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
