"""The answers of the admin socket, as their JSON has them. Times are RFC 3339, in UTC."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from chatd.bus import BusStatistics
from chatd.journal import Statistics
from chatd.protocol.commands import Member, RoomInfo
from chatd.settings import Fault

__all__ = [
    "Announced",
    "Clock",
    "ConnectionEntry",
    "Connections",
    "Count",
    "Done",
    "Draining",
    "Held",
    "HeldList",
    "Imported",
    "LogLevel",
    "LogState",
    "Members",
    "NodeEntry",
    "Nodes",
    "ReloadState",
    "Rooms",
    "Status",
    "StoreState",
    "Token",
]


class Count(Struct, frozen=True):
    """The number of connections of one transport and protocol."""

    transport: str
    protocol: str
    connections: int


class Done(Struct, frozen=True):
    """The request was carried out, and there is nothing more to say."""


class Token(Struct, frozen=True):
    """A token, which was issued."""

    token: str


class ReloadState(Struct, frozen=True):
    """The result of the last reload. ``restart``: changed keys that still need a restart."""

    at: str
    refused: Sequence[Fault]
    restart: Sequence[str]


class Imported(Struct, frozen=True):
    """What an import did, or would do.

    Attributes:
        events: How many lines were imported.
        epoch: The store's epoch from then on.
        skipped: How many lines were there already.
        too_old: How many of the imported ones retention will remove for their age.
        too_many: How many it will remove because of history.keep_events.
        too_big: Whether the store will be larger than history.max_bytes.
    """

    events: int
    epoch: str
    skipped: int = 0
    too_old: int = 0
    too_many: int = 0
    too_big: bool = False


class LogState(Struct, frozen=True):
    level: str
    lines: int
    dropped: int
    waiting_bytes: int


class StoreState(Statistics, frozen=True):
    """The journal's statistics.

    Attributes:
        waiting_blocks: How many committed blocks wait for the fan-out.
        problem: Why a store that daemons share cannot be used; None while it can.
    """

    waiting_blocks: int
    problem: str | None


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
    store: StoreState
    epoch: str
    bus: BusStatistics
    reload: ReloadState | None
    log: LogState


class Rooms(Struct, frozen=True):
    rooms: Sequence[RoomInfo]


class Members(Struct, frozen=True):
    """The members of a room; without a room, all connected users."""

    room: str | None
    members: Sequence[Member]


class ConnectionEntry(Struct, frozen=True):
    """One connection. ``user`` and ``nick`` are None until it has authenticated."""

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


class NodeEntry(Struct, frozen=True):
    """A daemon on the shared store, as of its last sign of life.

    Attributes:
        node: Its id, which is new at each start.
        here: Whether it is the one that answers.
        lease_seconds: When it counts as dead unless it gives another sign of life.
        version: The version of chatd. It and all that follow are None until the node's first sign
            of life.
        host: The name of its machine.
        clients: How many chat connections it has.
        lag: How many entries of the store's feed it had not read yet.
        epoch: The epoch of the store that it is in.
        lost_positions: How many of the positions that it has read since its start are lost.
        clock_seconds: How far its clock is ahead of the store's.
        proof_seconds: How long replicas took to confirm what it showed, on average; None if
            history.replicas is 0, or it has shown nothing yet.
    """

    node: str
    here: bool
    lease_seconds: float
    version: str | None = None
    host: str | None = None
    clients: int | None = None
    lag: int | None = None
    epoch: str | None = None
    lost_positions: int | None = None
    clock_seconds: float | None = None
    proof_seconds: float | None = None


class Nodes(Struct, frozen=True):
    """The daemons that share the store."""

    nodes: Sequence[NodeEntry]


class Announced(Struct, frozen=True):
    """How many connections received the announcement."""

    receivers: int


class Held(Struct, frozen=True):
    """A ban, a mute, slow mode or a closed room. Without a room it applies everywhere."""

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


class Clock(Struct, frozen=True):
    """The wall clock, and the time by which bans, sessions and retention end.

    They differ while a jump of the wall clock is not confirmed: it is ``jump_seconds`` ahead.
    """

    wall: str
    ends_by: str
    jump_seconds: float


class Draining(Struct, frozen=True):
    """The daemon is stopping, within ``seconds``."""

    clients: int
    seconds: float
