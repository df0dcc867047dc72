"""A session's heartbeat: when a ping is due, and when its silence is its end. Sans-IO.

Revision 4: the server pings, ``ping_interval`` after the last pong, and the pong has
``ping_timeout``. Revision 3: the client pings, and both times together may pass without.
Times are on any one clock, in seconds.
"""

from __future__ import annotations

import math
from typing import Final, Literal

from chatd.engineio.options import Options
from chatd.engineio.packets import PING, Revision

__all__ = ["Heartbeat"]

# What a timer's call may be late by. More, and it is the loop that stood still: the pong's time
# then counts from the ping, and otherwise from when the ping was due, so that a client's own
# reckoning of interval and timeout never ends before ours.
_LATE_SECONDS: Final = 0.005


class Heartbeat:
    """One session's. Between calls it rests, or (revision 4) awaits the pong of a ping."""

    __slots__ = ("_heard", "_options", "_pinged", "_revision", "extendable")

    def __init__(self, revision: Revision, options: Options, now: float) -> None:
        self._revision = revision
        self._options = options
        # When the last life sign came; and the moment that the pong's time counts from.
        self._heard = now
        self._pinged: float | None = None
        # Whether a message would give the pong more time: ``heard_message`` is then to be called.
        self.extendable = False

    @property
    def deadline(self) -> float:
        """Tell when the silence is the end, where nothing comes before; inf while none is due."""
        if self._revision == 3:
            return self._heard + self._options.ping_interval + self._options.ping_timeout
        return math.inf if self._pinged is None else self._pinged + self._options.ping_timeout

    def heard_message(self, now: float) -> None:
        """Count the pong's time anew; once for each ping, as Node does.

        What is long on its way may stand before the pong.
        """
        if self.extendable:
            self.extendable = False
            self._pinged = now

    def heard(self, kind: int, now: float) -> bool:
        """Take a ping or a pong; False where it is not this revision's client that says it."""
        if (kind == PING) is not (self._revision == 3):
            return False
        self._heard = now
        self._pinged = None
        self.extendable = False
        return True

    def look(self, now: float, *, reading: bool) -> tuple[Literal["rest", "ping", "silent"], float]:
        """Say what is to be done, and when to look again.

        ``reading`` False: it is we who do not read what the client may have said.
        """
        options = self._options
        if self._revision == 3:
            if not reading:
                self._heard = now
            due = self.deadline
        elif self._pinged is None:
            due = self._heard + options.ping_interval
            if now >= due:
                return self._ping(max(due, now - _LATE_SECONDS))
        else:
            due = self.deadline
            if now >= due and not reading:
                # The client counts our silence, whatever keeps us.
                return self._ping(now)
        return ("rest" if now < due else "silent"), due

    def _ping(self, at: float) -> tuple[Literal["ping"], float]:
        self._pinged = at
        self.extendable = True
        # The next ping may be due before this one's time is up.
        return "ping", at + min(self._options.ping_interval, self._options.ping_timeout)
