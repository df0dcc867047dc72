"""Connection state recovery: the log that sockets recover from, and one in memory.

A client whose connection broke comes back with its secret id and the offset of the last event that
it has received. It gets the events that it missed, and its id, rooms and data (socket.io-protocol,
"Connection state recovery"). An offset is an opaque string, appended to events as their last
argument. Every event has one: a volatile event has that of the newest event in the log. A client
that has received no event yet goes on from where the log was when it connected.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Sequence
from itertools import takewhile
from typing import Any, Final, Protocol

import trio
from msgspec import Struct

from chatd.engineio.checks import Check, Checked, count, fail, seconds

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
"""The reasons after which a client can recover: neither side wanted the connection to end."""


# Up to a day. A number of milliseconds, as in Node, is more.
_SECONDS: Final = seconds(0.001, 86_400)
_LOG_METHODS: Final = ("head", "append", "read", "remember", "recall")


class Logged(Struct, frozen=True):
    """An event in the log.

    Attributes:
        messages: Its packet: the text, then the attachments, without an offset.
        rooms: The rooms that it was sent to; empty: the whole namespace.
        but: Rooms whose members were left out.
        offset: Its offset; empty until the log has assigned one.
    """

    messages: Sequence[str | bytes]
    rooms: Collection[str] = ()
    but: Collection[str] = ()
    offset: str = ""


class Lost(Struct, frozen=True):
    """A socket that was disconnected and can recover.

    Attributes:
        pid: Its secret id, known only to its client.
        id: Its id.
        rooms: Its rooms.
        data: Its data.
        offset: Where the log was when it first connected: its recovery begins there if it has
            received no event yet.
    """

    pid: str
    id: str
    rooms: Sequence[str]
    data: dict[str, Any]
    offset: str


class RecoveryLog(Protocol):
    """A log of events and of lost sockets, by namespace.

    It bounds what it keeps, by time and by size. If ``append`` raises, the emit raises the same; if
    another method raises, that goes to ``on_error`` and the client does not recover.
    """

    def head(self, namespace: str, /) -> str:
        """Return the offset of the newest event, or of the beginning of the log."""
        ...

    async def append(self, namespace: str, event: Logged, /) -> str:
        """Log an event, and return its offset.

        Called for one event of a namespace at a time, and never cancelled.

        Args:
            namespace: The namespace's name.
            event: The event, without an offset.
        """
        ...

    async def read(self, namespace: str, after: str, lost: Lost, /) -> Sequence[Logged] | None:
        """Return events after an offset, oldest first.

        Called again with the offset of the last event, until there are no more.

        Args:
            namespace: The namespace's name.
            after: The offset. It comes from a client, so it may be any string.
            lost: The socket that recovers. Events that are not for it may be left out.

        Returns:
            The events; None if the log does not have all of them.
        """
        ...

    async def remember(self, namespace: str, lost: Lost, /) -> None:
        """Keep a lost socket until it is recalled, or for as long as this log keeps them."""

    async def recall(self, namespace: str, pid: str, /) -> Lost | None:
        """Remove and return a lost socket; return None if it is not known."""
        ...


class Recovery(Checked, frozen=True):
    """How sockets recover.

    Attributes:
        seconds: How long the log in memory keeps events and lost sockets; default 120. A ``log`` of
            your own decides for itself.
        skip_middleware: Whether a socket that recovers skips the ``use`` middleware, which it
            passed a short time ago; default True.
        log: A log of your own; default: a `MemoryLog`.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: ``seconds`` is not a time, up to a day.
    """

    seconds: float = 120.0
    skip_middleware: bool = True
    log: RecoveryLog | None = None

    @classmethod
    def checks(cls) -> dict[str, Check]:
        """Return the checks of fields for which their type is not enough."""
        return {"seconds": _SECONDS, "log": _check_log}


def _check_log(name: str, value: Any) -> Any:
    if not all(callable(getattr(value, method, None)) for method in _LOG_METHODS):
        raise fail(name, "a RecoveryLog", value)
    return value


def parse_recovery(recovery: Recovery | float | bool | None) -> Recovery | None:
    """Return what the option ``recovery`` means: True is the default, a number its seconds.

    Raises:
        TypeError: It is none of these.
        ValueError: The number is not a time.
    """
    if recovery is None or isinstance(recovery, bool):
        return Recovery() if recovery else None
    if isinstance(recovery, Recovery):
        return recovery
    return Recovery(seconds=_SECONDS("recovery", recovery))


class _NamespaceEvents:
    """The events of one namespace, by position. Those up to ``floor`` are gone."""

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
    """A recovery log in memory. It ends with the process.

    A client that has received every event of a namespace recovers however long ago the last one
    was.

    Args:
        seconds: How long events and lost sockets are kept; default 120.
        max_bytes: A bound of the events' packets, of all namespaces together; default 16 MiB. The
            oldest events go first.
        max_lost: How many lost sockets, and how many namespaces without events, are kept; default
            10,000.
        clock: A monotonic clock in seconds; default Trio's.

    Raises:
        TypeError: A bound is not a number.
        ValueError: A bound is out of range.
    """

    def __init__(
        self,
        seconds: float = 120.0,
        *,
        max_bytes: int = 16 * 1024 * 1024,
        max_lost: int = 10_000,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._seconds = _SECONDS("seconds", seconds)
        self._max_bytes = count()("max_bytes", max_bytes)
        self._max_lost = count()("max_lost", max_lost)
        self._clock = clock
        # Part of each offset, so that an offset of another log or process is not mistaken for ours.
        self._log_id = secrets.token_urlsafe(6)
        self._last = 0
        self._bytes = 0
        self._events: dict[str, _NamespaceEvents] = {}
        # The namespace of each event, in the order of the events.
        self._order: deque[str] = deque()
        # The floors of namespaces without events, and the highest floor that was dropped.
        self._floors: OrderedDict[str, int] = OrderedDict()
        self._forgotten = 0
        # Those that were lost first come first.
        self._lost: OrderedDict[tuple[str, str], tuple[float, Lost]] = OrderedDict()

    def head(self, namespace: str, /) -> str:
        """See `RecoveryLog.head`."""
        return self._offset(self._last)

    async def append(self, namespace: str, event: Logged, /) -> str:
        """See `RecoveryLog.append`."""
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
        """See `RecoveryLog.read`."""
        life, _, digits = after.rpartition(".")
        if life != self._log_id or not digits.isascii() or not digits.isdigit() or len(digits) > 16:
            return None
        position = int(digits)
        self._purge()
        kept = self._events.get(namespace)
        floor = self._floors.get(namespace, self._forgotten) if kept is None else kept.floor
        if not floor <= position <= self._last:
            return None
        # From the newest event back: usually few were missed.
        missed = takewhile(
            lambda entry: entry.position > position, reversed(kept.events if kept else ())
        )
        return [entry.event for entry in missed][::-1]

    async def remember(self, namespace: str, lost: Lost, /) -> None:
        """See `RecoveryLog.remember`."""
        now = self._clock()
        self._lost[namespace, lost.pid] = (now, lost)
        while self._lost:
            since, _ = next(iter(self._lost.values()))
            if since + self._seconds > now and len(self._lost) <= self._max_lost:
                break
            self._lost.popitem(last=False)

    async def recall(self, namespace: str, pid: str, /) -> Lost | None:
        """See `RecoveryLog.recall`."""
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
