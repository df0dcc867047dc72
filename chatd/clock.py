"""A wall clock that does not follow a jump until it was confirmed.

What is kept for a time (events, bans, sessions, deleted words) ends by this clock: a clock that
runs 800 days ahead for a minute must not delete the whole history. It goes on from where it was
when the wall clock jumped against the time that has passed, and follows after `CONFIRM_SECONDS`,
when it is told to, or when the wall clock is back where it should be.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct

__all__ = ["ClockState", "SteadyClock", "boot_seconds"]

JUMP_MS: Final = 60_000
"""A smaller step is a correction: a clock that was not synchronized is off by some seconds."""

CONFIRM_SECONDS: Final = 24 * 3600.0
"""A wrong clock is noticed within a day; keeping what is old a day longer costs little."""

AWAY_MS: Final = 24 * 3600 * 1000
"""How long a store may have been closed without doubt about the clock."""


_SINCE_BOOT: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux alone has a clock that goes on while the machine is suspended."""


def boot_seconds() -> float:
    """Return the seconds since the machine booted, with those that it was suspended."""
    return time.clock_gettime(_SINCE_BOOT)


class ClockState(Struct, frozen=True):
    """A clock as it is stored, for the next process to go on from.

    Attributes:
        at: Its time, in ms since 1970.
        jump: By how much the wall clock was ahead of it, in ms; 0 if it was trusted.
        doubted: For how long it had not been trusted, in ms.
    """

    at: int
    jump: int = 0
    doubted: int = 0


class SteadyClock:
    """The wall clock, as far as it is trusted. Calling it returns the ms since 1970.

    It may be called in any thread, if ``elapsed`` may.

    Args:
        now: Returns the wall clock's time in ms since 1970.
        elapsed: Returns the seconds since some moment, however the wall clock is set.
    """

    def __init__(self, now: Callable[[], int], elapsed: Callable[[], float]) -> None:
        self._now = now
        self._elapsed = elapsed
        # The wall clock's time when `elapsed` was 0: as it was last seen, and as it is trusted.
        self._seen = self._trusted = now() - elapsed() * 1000
        self._doubted_since: float | None = None
        self.resumed = False
        """Whether the doubt is from `resume`: the store may just have been closed for long."""

    def __call__(self) -> int:
        elapsed = self._elapsed()
        begin = self._now() - elapsed * 1000
        jumped = abs(begin - self._seen) > JUMP_MS
        self._seen = begin
        if jumped:
            self.resumed = False
            self._doubted_since = None if abs(begin - self._trusted) <= JUMP_MS else elapsed
        since = self._doubted_since
        if since is None or elapsed - since >= CONFIRM_SECONDS:
            self.confirm()
        return round(self._trusted + elapsed * 1000)

    @property
    def jump(self) -> int:
        """By how many ms the wall clock was ahead of this one when it was last called."""
        return round(self._seen - self._trusted)

    def confirm(self) -> None:
        """Trust the wall clock as it was when this clock was last called."""
        self._trusted, self._doubted_since = self._seen, None

    def state(self) -> ClockState:
        """Return what `resume` needs."""
        at, since = self(), self._doubted_since
        doubted = 0 if since is None else round((self._elapsed() - since) * 1000)
        return ClockState(at, self.jump, doubted)

    def resume(self, last: ClockState) -> None:
        """Go on from an earlier process."""
        elapsed, wall = self._elapsed(), self._now()
        if -JUMP_MS <= wall - last.at <= AWAY_MS:
            return
        passed = doubted = 0
        if last.jump and (since := wall - last.at - last.jump) >= -JUMP_MS:
            # The clock that was in doubt has gone on: that counts as confirmation.
            passed, doubted = since, last.doubted + since
        self._trusted = last.at + passed - elapsed * 1000
        self._doubted_since = elapsed - doubted / 1000
        self.resumed = True
