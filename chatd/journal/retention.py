"""Retention: how long, how many and how much of the past is kept, for every kind of store.

Each room loses its log from the front only, so that its numbers stay without a gap. The next to
lose is the room whose first event is the oldest by its time. Of what is kept beside the events
(users, read marks, bans …), a bound of its own keeps it from pushing the events out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, Protocol, TypeAlias

import trio
from msgspec import Struct

from chatd.clock import CONFIRM_SECONDS, SteadyClock
from chatd.settings import Settings

__all__ = [
    "CHUNK",
    "EVENT_BYTES",
    "EXPENDABLE",
    "ROW_BYTES",
    "Front",
    "OperatorLog",
    "Retention",
    "RetentionLog",
    "front_before",
    "front_time",
    "no_report",
    "retention_of",
    "until_freed",
]

CHUNK: Final = 64
"""Events removed by one sweep: some 1 ms of the writer's time, for which commits wait."""

EXPENDABLE: Final = ("lost", "mark")
"""Kinds of records that may be removed before their time: where a Socket.IO client that lost its
connection was, and how far somebody has read. Sanctions never are."""

ROW_BYTES: Final = 90
"""Of a user or a record beside its texts, with its entry in an index and the free part of its page.
"""

EVENT_BYTES: Final = 100
"""Of an event beside its text."""

BESIDE_SHARE: Final = 4
"""What is kept beside the events may use a quarter of ``max_bytes``. The events are not removed for
its sake once they use less than a quarter themselves."""

_REPORT_SECONDS: Final = 60.0
"""A store at its limit sweeps after every commit: a line a minute is enough."""

_DAY: Final = 24 * 60 * 60 * 1000


class OperatorLog(Protocol):
    """The receiver of a store's reports to operators. Called in the loop, never in a thread.

    ``store`` comes with ``state`` (``slow``, ``quick``, ``failed``, ``recovered``, ``damaged``,
    ``misplaced``, ``missing``, ``renewed``, ``filling``, ``crowded``, ``stuck``, ``held``,
    ``clock_jumped`` or ``clock_trusted``) and a ``detail`` for people; ``retention`` with the
    number of events removed and the size before.
    """

    def __call__(
        self,
        event: Literal["store", "retention"],
        /,
        *,
        state: str | None = None,
        detail: str | None = None,
        seconds: float | None = None,
        events: int | None = None,
        store_bytes: int | None = None,
    ) -> None: ...


def no_report(_event: str, /, **_fields: object) -> None:
    """Report nothing."""


class Retention(Struct, frozen=True):
    """The limits of retention."""

    keep_days: int | Literal["off"] = 365
    """Events older than this many days are removed."""
    keep_events: int | Literal["off"] = "off"
    """Of each room, only this many of the newest events are kept."""
    max_bytes: int | Literal["off"] = 2 << 30
    """While the store is bigger, its oldest events are removed."""
    user_days: int | Literal["off"] = 30
    """Users who were away longer are forgotten; a guest's session has ended by then."""
    purge_seconds: int = 3600
    """Within this time, texts that were deleted, changed or removed leave the store's files."""

    def events_before(self, now: int) -> int | None:
        """Return the time before which events are removed, in ms; None if they are kept."""
        return None if self.keep_days == "off" else now - self.keep_days * _DAY

    def users_before(self, now: int) -> int | None:
        """Return the time before which absent users are forgotten, in ms; None for never."""
        return None if self.user_days == "off" else now - self.user_days * _DAY

    def next_due(self, event: int | None, user: int | None, record: int | None) -> int | None:
        """Return when the next of these is removed, in ms; None if none of them ever is.

        Args:
            event: The time of the oldest event.
            user: When the user who has been away longest was last seen.
            record: When the first record ends.
        """
        times: list[int] = []
        if event is not None and self.keep_days != "off":
            times.append(event + self.keep_days * _DAY + 1)
        if user is not None and self.user_days != "off":
            times.append(user + self.user_days * _DAY + 1)
        if record is not None:
            times.append(record)
        return min(times, default=None)

    def purges(self, dirty: int | None, now: int) -> bool:
        """Return whether cleaning the files of texts that went at ``dirty`` is due, in ms.

        A clock that was set back is not waited for.
        """
        return dirty is not None and not dirty <= now < self.purge_due(dirty)

    def purge_due(self, dirty: int) -> int:
        """Return when to begin cleaning the files; half of the time is left for the work."""
        return dirty + self.purge_seconds * 500

    def may_be_beside(self, size: int) -> bool:
        """Return whether a store of that size may hold too much beside the events."""
        return self.max_bytes != "off" and size * BESIDE_SHARE > self.max_bytes

    def beside_fills(self, beside: int) -> bool:
        """Return whether what is kept beside the events uses more bytes than its share."""
        return self.max_bytes != "off" and beside * BESIDE_SHARE > self.max_bytes

    def events_exceed(self, size: int, beside: int) -> int:
        """Return by how many bytes the events must shrink, where some bytes are not theirs."""
        if self.max_bytes == "off":
            return 0
        least = self.max_bytes // BESIDE_SHARE
        return max(0, min(size - self.max_bytes, size - beside - least))

    def excess(self, size: int) -> bool:
        """Return whether the store is too big."""
        return self.max_bytes != "off" and size > self.max_bytes

    def filling(self, size: int, *, was: bool) -> bool:
        """Return whether the store is filling up: from 90 %, until it is under 85 % again."""
        return self.max_bytes != "off" and size * 100 >= self.max_bytes * (85 if was else 90)


Front: TypeAlias = tuple[int, int, int]
"""The number, the time and about the bytes of one of a room's first events."""


def until_freed(log: Sequence[Front], excess: int) -> Sequence[Front]:
    """Return as many of a room's first events as free so many bytes; at least one."""
    freed = 0
    for place, (_, _, size) in enumerate(log, 1):
        freed += size
        if freed >= excess:
            return log[:place]
    return log


def front_time(log: Sequence[Front], now: int) -> int:
    """Return the time by which a room's first event goes, if its own lies in the future.

    It was said while the clock was ahead, but before what follows it.

    Args:
        log: The room's first events.
        now: The present time.
    """
    return next((at for _, at, _ in log if at <= now), now)


def front_before(log: Sequence[Front], oldest: int, before: int, now: int) -> int:
    """Return the number up to which a room's front is older than a time; at least the first.

    An event of the future holds up nothing: it goes with the next one that is not. Where the first
    one is of the future it goes by ``oldest`` (see `front_time`), and those behind it with it.

    Args:
        log: The room's first events.
        oldest: The time by which the first one goes.
        before: The time.
        now: The present time.
    """
    upto = log[0][0]
    follow = log[0][1] > now
    for seq, at, _ in log:
        if at > now:
            upto = seq if follow else upto
        elif at < before or (seq == log[0][0] and oldest < before):
            upto, follow = seq, False
        else:
            break
    return upto


def retention_of(settings: Settings) -> Retention:
    """Return the rule of a configuration."""
    history = settings.history
    return Retention(
        keep_days=history.keep_days,
        keep_events=history.keep_events,
        max_bytes=history.max_bytes,
        purge_seconds=history.purge_seconds,
        user_days=settings.auth.session_days,
    )


class RetentionLog:
    """Counts what retention removed, and reports it to the operators."""

    def __init__(self, retention: Retention, report: OperatorLog) -> None:
        self.retention = retention
        self.swept = 0
        self.size = 0
        self._report = report
        self._filling = False
        self._crowded = False
        self._stuck = False
        self._unreported = 0
        self._reported_at = -math.inf

    def done(self, events: int, *, size: int, more: bool) -> None:
        """Record one sweep: the removed events, the store's size before, whether more is left."""
        self.swept += events
        self.size = size
        self._unreported += events
        if self.retention.filling(size, was=self._filling) is not self._filling:
            self._filling = not self._filling
            if self._filling:
                bound = f"history.max_bytes is {self.retention.max_bytes}"
                self._report("store", state="filling", store_bytes=size, detail=bound)
        now = trio.current_time()
        if self._unreported and not more and now - self._reported_at >= _REPORT_SECONDS:
            self._report("retention", events=self._unreported, store_bytes=size)
            self._unreported = 0
            self._reported_at = now

    def dropped(self, *, dropped: bool, more: bool) -> None:
        """Report that guests are forgotten for the sake of the bound, once until all fits."""
        if dropped and not self._crowded:
            self._report(
                "store",
                state="crowded",
                detail="users, read marks and sanctions use more than a quarter of "
                "history.max_bytes. The nicks and read marks of guests who left longest ago are "
                "removed",
            )
        self._crowded = dropped or (self._crowded and more)

    def stuck(self, size: int, beside: int, *, stuck: bool) -> None:
        """Report a store that is too big and cannot shrink, once until it is small enough."""
        if stuck and not self._stuck:
            self._report(
                "store",
                state="stuck",
                store_bytes=size,
                detail=f"history.max_bytes is {self.retention.max_bytes}, and retention may delete "
                f"nothing more: some {beside} bytes are users, sanctions and read marks. Raise "
                "history.max_bytes",
            )
        self._stuck = stuck


class ClockLog:
    """Reports to the operators when the wall clock is no longer trusted, and when it is again."""

    def __init__(self, report: OperatorLog) -> None:
        self._report = report
        self._jumped = False

    def look(self, clock: SteadyClock, due: int | None = None) -> None:
        """Report a change since the last look.

        A store that was closed for long is not worth a report if nothing is kept because of it.
        ``due`` is when the next event, user or record is removed.
        """
        now = clock()
        jump = clock.jump / 1000
        kept = due is not None and due <= now + clock.jump
        if bool(jump) is self._jumped or (jump and clock.resumed and not kept):
            return
        self._jumped = bool(jump)
        if not jump:
            self._report("store", state="clock_trusted", detail="the wall clock is trusted again")
            return
        hours = CONFIRM_SECONDS / 3600
        self._report(
            "store",
            state="clock_jumped",
            seconds=jump,
            detail=f"the wall clock jumped {'ahead' if jump > 0 else 'back'}"
            f"{', or chatd was stopped for long' if clock.resumed else ''}. Until it is back, or "
            f"has stayed so for {hours:.0f} hours, nothing is deleted for its age, and bans and "
            "sessions end by the time before. If it is right now, run `chatd ctl clock confirm`; "
            "if not, set it",
        )
