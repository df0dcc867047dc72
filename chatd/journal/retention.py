"""What of the past is kept: the rule alone, for every kind of store.

The oldest go first. Age counts along positions, not times: the clock may have jumped, so a sweep
goes from the oldest position on and stops at the first event that is young enough.
"""

from __future__ import annotations

import math
from typing import Final, Literal

import trio
from msgspec import Struct

from chatd.journal.told import OperatorLog
from chatd.settings import Settings

__all__ = ["CHUNK", "Retention", "RetentionLog", "no_report", "retention_of"]

CHUNK: Final = 64
"""Events in a sweep: some 1 ms of the writer's time, which commits wait for."""

_REPORT_SECONDS: Final = 60.0
"""A store at its bound sweeps after every commit: a line a minute is enough."""

_DAY: Final = 24 * 60 * 60 * 1000


class Retention(Struct, frozen=True):
    """How long, how many, how much."""

    keep_days: int | Literal["off"] = 365
    """Events older than that go."""
    keep_events: int | Literal["off"] = "off"
    """Of each room, all but the newest so many go."""
    max_bytes: int | Literal["off"] = 2 << 30
    """While the store is bigger, its oldest events go."""
    user_days: int | Literal["off"] = 30
    """Users who were away longer are forgotten; a guest's session has ended by then."""
    purge_seconds: int = 3600
    """After that no text that was deleted, changed or removed is in the store's files."""

    def events_before(self, now: int) -> int | None:
        """Give the time before which events go, in ms; None: they stay."""
        return None if self.keep_days == "off" else now - self.keep_days * _DAY

    def users_before(self, now: int) -> int | None:
        """Give the time before which absent users are forgotten, in ms; None: never."""
        return None if self.user_days == "off" else now - self.user_days * _DAY

    def next_due(self, event: int | None, user: int | None, record: int | None) -> int | None:
        """Return when the next of these goes, in ms; None if none of them ever does.

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
        """Tell whether the files must be cleaned of what went first at that time, in ms.

        The second half of the time is for the work. A clock that went back is not waited for.
        """
        return dirty is not None and not dirty <= now < self.purge_due(dirty)

    def purge_due(self, dirty: int) -> int:
        """Return when cleaning the files begins of what went first at ``dirty``, both in ms."""
        return dirty + self.purge_seconds * 500

    def excess(self, size: int) -> bool:
        return self.max_bytes != "off" and size > self.max_bytes

    def filling(self, size: int, *, was: bool) -> bool:
        """Tell whether the store is filling up: from 90 % on, until it is under 85 % again."""
        return self.max_bytes != "off" and size * 100 >= self.max_bytes * (85 if was else 90)


def retention_of(settings: Settings) -> Retention:
    """Give the rule that a configuration has."""
    history = settings.history
    return Retention(
        keep_days=history.keep_days,
        keep_events=history.keep_events,
        max_bytes=history.max_bytes,
        purge_seconds=history.purge_seconds,
        user_days=settings.auth.session_days,
    )


def no_report(_event: str, /, **_fields: object) -> None:
    """Tell nobody."""


class RetentionLog:
    """What retention did so far, and when it is worth a word to the operator."""

    def __init__(self, retention: Retention, report: OperatorLog) -> None:
        self.retention = retention
        self.swept = 0
        self.size = 0
        self._report = report
        self._filling = False
        self._unreported = 0
        self._reported_at = -math.inf

    def done(self, events: int, *, size: int, more: bool) -> None:
        """Note one sweep: what it removed, the store's size before it, and if more is left."""
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
