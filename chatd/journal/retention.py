"""Retention: how long, how many and how much of the past is kept, for every kind of store.

The oldest events go first, in the order of positions, not of times: the clock may have jumped. So
the age rule stops at the first event that is young enough.
"""

from __future__ import annotations

import math
from typing import Final, Literal, Protocol

import trio
from msgspec import Struct

from chatd.settings import Settings

__all__ = ["CHUNK", "OperatorLog", "Retention", "RetentionLog", "no_report", "retention_of"]

CHUNK: Final = 64
"""Events removed by one sweep: some 1 ms of the writer's time, for which commits wait."""

_REPORT_SECONDS: Final = 60.0
"""A store at its limit sweeps after every commit: a line a minute is enough."""

_DAY: Final = 24 * 60 * 60 * 1000


class OperatorLog(Protocol):
    """The receiver of a store's reports to operators. Called in the loop, never in a thread.

    ``store`` comes with ``state`` (``slow``, ``quick``, ``failed``, ``recovered``, ``misplaced``,
    ``missing``, ``renewed`` or ``filling``) and a ``detail`` for people; ``retention`` with the
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

    def excess(self, size: int) -> bool:
        return self.max_bytes != "off" and size > self.max_bytes

    def filling(self, size: int, *, was: bool) -> bool:
        """Return whether the store is filling up: from 90 %, until it is under 85 % again."""
        return self.max_bytes != "off" and size * 100 >= self.max_bytes * (85 if was else 90)


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
