"""Connection state recovery: the log that sockets recover from, and one in memory.

A client whose connection broke comes back with its private id and the offset of the last event it
saw; it gets what it missed, and its id, rooms and data (socket.io-protocol, "Connection state
recovery"). An offset is an opaque string, appended to events as their last argument. Every event
has one, volatile ones too (theirs is the newest in the log), and a client that has seen none yet
goes on from where the log stood when it came.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Sequence
from itertools import takewhile
from typing import Any, Final, Protocol

import trio
from msgspec import Struct

__all__ = [
    "RECOVERABLE",
    "Logged",
    "Lost",
    "MemoryLog",
    "Recovery",
    "RecoveryLog",
    "parse_recovery",
]

RECOVERABLE: Final = frozenset(
    {
        "transport error",
        "transport close",
        "forced close",
        "ping timeout",
        "too slow",
        "server shutting down",
        "forced server close",
    }
)
"""How a connection may end so that its client may recover: by anything but anybody's wish."""


class Logged(Struct, frozen=True):
    """An event in the log: its packet (text, then attachments), and whom it was for.

    ``rooms`` are those it went to (none: everybody), ``but`` those left out. ``offset`` is empty
    until the log gave it.
    """

    messages: Sequence[str | bytes]
    rooms: Collection[str] = ()
    but: Collection[str] = ()
    offset: str = ""


class Lost(Struct, frozen=True):
    """A socket whose connection broke, as it comes back.

    ``pid`` is its private id, known to its client alone. ``offset`` is where the log stood when
    it first came: what it missed from the start if it has seen nothing yet.
    """

    pid: str
    id: str
    rooms: Sequence[str]
    data: dict[str, Any]
    offset: str


class RecoveryLog(Protocol):
    """A log of events and of lost sockets, for each namespace.

    It bounds what it keeps, by time and by size. What it raises, an emit raises, and an admission
    takes for "not recovered" after telling ``on_error``.
    """

    def head(self, namespace: str, /) -> str:
        """Give the offset of the newest event, or of the log's begin."""
        ...

    async def append(self, namespace: str, event: Logged, /) -> str:
        """Log an event, give its offset.

        Called for one event of a namespace at a time, and never cancelled.
        """
        ...

    async def read(self, namespace: str, after: str, lost: Lost, /) -> Sequence[Logged] | None:
        """Give the events behind an offset, oldest first; None if that cannot be told (any more).

        ``after`` may be anything: it comes from a client. Events that do not concern ``lost`` may
        be left out. Asked again, with the last one's offset, until there are none.
        """
        ...

    async def remember(self, namespace: str, lost: Lost, /) -> None:
        """Keep a lost socket until it is recalled, or for as long as this log keeps them."""

    async def recall(self, namespace: str, pid: str, /) -> Lost | None:
        """Give a lost socket, once; None for one that is not known (any more)."""
        ...


class Recovery(Struct, frozen=True):
    """How sockets recover.

    ``seconds`` is for how long the log in memory keeps what it is told; a ``log`` of one's own has
    its own time. A recovered socket passes no middleware again where ``skip_middleware``: it did,
    that short a time ago.
    """

    seconds: float = 120.0
    skip_middleware: bool = True
    log: RecoveryLog | None = None


def parse_recovery(recovery: Recovery | float | bool | None) -> Recovery | None:
    """Give what ``recovery=`` means: True is the defaults, a number its seconds."""
    if recovery is None or recovery is False:
        return None
    if recovery is True:
        return Recovery()
    return Recovery(seconds=recovery) if isinstance(recovery, int | float) else recovery


class _NamespaceEvents:
    """One namespace's events, by position; those up to ``floor`` are gone."""

    __slots__ = ("events", "floor")

    def __init__(self, floor: int) -> None:
        self.events: deque[_Entry] = deque()
        self.floor = floor


class _Entry(Struct):
    position: int
    at: float
    size: int
    event: Logged


class MemoryLog:
    """A log in memory: events and lost sockets of the last ``seconds``, up to ``max_bytes``.

    The bound counts the events' packets, of all namespaces; the oldest go first. At most
    ``max_lost`` sockets, and empty namespaces, are remembered. It ends with the process.

    Who saw all there was of a namespace recovers, however long ago that was.
    """

    def __init__(
        self,
        seconds: float = 120.0,
        *,
        max_bytes: int = 16 * 1024 * 1024,
        max_lost: int = 10_000,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._max_lost = max_lost
        self._clock = clock
        # So that an offset of another process, or of another log of this one, is not taken for
        # one of ours.
        self._log_id = secrets.token_urlsafe(6)
        self._last = 0
        self._bytes = 0
        self._events: dict[str, _NamespaceEvents] = {}
        # All events' namespaces, the oldest event's first.
        self._order: deque[str] = deque()
        # The floors of namespaces without events, and the highest of those forgotten.
        self._floors: OrderedDict[str, int] = OrderedDict()
        self._forgotten = 0
        # The longest lost first.
        self._lost: OrderedDict[tuple[str, str], tuple[float, Lost]] = OrderedDict()

    def head(self, namespace: str, /) -> str:
        return self._offset(self._last)

    async def append(self, namespace: str, event: Logged, /) -> str:
        kept = self._events.get(namespace)
        if kept is None:
            floor = self._floors.pop(namespace, self._forgotten)
            kept = self._events[namespace] = _NamespaceEvents(floor)
        self._last += 1
        offset = self._offset(self._last)
        size = sum(map(len, event.messages))
        logged = Logged(event.messages, event.rooms, event.but, offset)
        kept.events.append(_Entry(self._last, self._clock(), size, logged))
        self._order.append(namespace)
        self._bytes += size
        self._purge()
        return offset

    async def read(self, namespace: str, after: str, _lost: Lost, /) -> Sequence[Logged] | None:
        life, _, digits = after.rpartition(".")
        if life != self._log_id or not digits.isascii() or not digits.isdigit() or len(digits) > 16:
            return None
        position = int(digits)
        self._purge()
        kept = self._events.get(namespace)
        floor = self._floors.get(namespace, self._forgotten) if kept is None else kept.floor
        if not floor <= position <= self._last:
            return None
        # From the newest back: what was missed is mostly little.
        missed = takewhile(
            lambda entry: entry.position > position, reversed(kept.events if kept else ())
        )
        return [entry.event for entry in missed][::-1]

    async def remember(self, namespace: str, lost: Lost, /) -> None:
        now = self._clock()
        self._lost[namespace, lost.pid] = (now, lost)
        while self._lost:
            since, _ = next(iter(self._lost.values()))
            if since + self._seconds > now and len(self._lost) <= self._max_lost:
                break
            self._lost.popitem(last=False)

    async def recall(self, namespace: str, pid: str, /) -> Lost | None:
        since, lost = self._lost.pop((namespace, pid), (0.0, None))
        return lost if lost is not None and since + self._seconds > self._clock() else None

    def _offset(self, position: int) -> str:
        return f"{self._log_id}.{position}"

    def _purge(self) -> None:
        stale = self._clock() - self._seconds
        while self._order:
            name = self._order[0]
            kept = self._events[name]
            entry = kept.events[0]
            if entry.at > stale and self._bytes <= self._max_bytes:
                break
            self._order.popleft()
            kept.events.popleft()
            kept.floor = entry.position
            self._bytes -= entry.size
            if not kept.events:
                del self._events[name]
                self._floors[name] = kept.floor
                if len(self._floors) > self._max_lost:
                    _, self._forgotten = self._floors.popitem(last=False)
