"""What the admin socket answers: the shape of each answer's JSON. Times are RFC 3339, in UTC."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from chatd.bus import BusStatistics
from chatd.journal import Statistics
from chatd.protocol.commands import Member, RoomInfo
from chatd.settings import Fault

__all__ = [
    "Announced",
    "ConnectionEntry",
    "Connections",
    "Count",
    "Draining",
    "Failure",
    "Held",
    "HeldList",
    "Imported",
    "LogLevel",
    "LogState",
    "Members",
    "Nothing",
    "Refused",
    "ReloadState",
    "Reloaded",
    "Rooms",
    "Status",
]


class Failure(Struct, frozen=True):
    """Anything that was not done: an HTTP status, and a code and words in the answer."""

    status: int
    code: str
    message: str
    faults: Sequence[Fault] = ()


class Count(Struct, frozen=True):
    """How many connections there are of a kind."""

    transport: str
    protocol: str
    connections: int


class Nothing(Struct, frozen=True):
    """It was done, and there is nothing to tell."""


class ReloadState(Struct, frozen=True):
    """What became of the last reload. ``restart``: changed, but in force only after a restart."""

    at: str
    refused: Sequence[Fault]
    restart: Sequence[str]


class Imported(Struct, frozen=True):
    """How many lines were taken up, and the store's epoch since then."""

    events: int
    epoch: str


class LogState(Struct, frozen=True):
    level: str
    lines: int
    dropped: int
    waiting_bytes: int


class Status(Struct, frozen=True):
    version: str
    pid: int
    uptime_seconds: float
    state: str
    """``ready``, ``draining``, or ``unavailable`` while the store does not commit."""
    clients: int
    users: int
    rooms: int
    by_kind: Sequence[Count]
    http_connections: int
    certificate_expires: str | None
    queue_bytes: int
    store: Statistics
    epoch: str
    bus: BusStatistics
    reload: ReloadState | None
    log: LogState


class Rooms(Struct, frozen=True):
    rooms: Sequence[RoomInfo]


class Members(Struct, frozen=True):
    """Who is in a room; without a room: who is here."""

    room: str | None
    members: Sequence[Member]


class ConnectionEntry(Struct, frozen=True):
    """One connection; ``user`` and ``nick`` are None until it has said who it is."""

    id: str
    user: str | None
    nick: str | None
    address: str
    transport: str
    protocol: str
    since: str
    rooms: Sequence[str]
    queue_bytes: int


class Connections(Struct, frozen=True):
    connections: Sequence[ConnectionEntry]


class Announced(Struct, frozen=True):
    """``receivers`` in connections."""

    receivers: int


class Held(Struct, frozen=True):
    """A ban, a mute, slow mode or a closed room. Without a room: everywhere."""

    kind: str
    user: str | None
    nick: str | None
    network: str | None
    room: str | None
    at: str
    until: str | None
    seconds: float | None
    by: str
    reason: str


class HeldList(Struct, frozen=True):
    bans: Sequence[Held]


class LogLevel(Struct, frozen=True):
    level: str


class Reloaded(Struct, frozen=True):
    """The configuration is in force, but for the keys in ``restart``.

    What the keys in ``credentials`` name was not read anew: systemd hands it over at a start.
    """

    changed: Sequence[str]
    restart: Sequence[str]
    credentials: Sequence[str] = ()


class Refused(Struct, frozen=True):
    """The configuration has faults, at least one; nothing changed."""

    faults: Sequence[Fault]


class Draining(Struct, frozen=True):
    """The daemon ends, in so many seconds at most."""

    clients: int
    seconds: float
