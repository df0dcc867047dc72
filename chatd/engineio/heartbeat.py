"""A session's heartbeat: when a ping is due, and when the client counts as silent. Sans-IO.

Revision 4: the server sends a ping ``ping_interval`` after the last pong, and the client has
``ping_timeout`` to answer it, from when it can have the ping. Revision 3: the client sends pings,
and may be silent for both times together. All times are in seconds on the same clock.
"""

from __future__ import annotations

import math
from typing import Literal

from chatd.engineio.options import Options
from chatd.engineio.packets import PING, Revision
from chatd.timers import check_due, ping_due

__all__ = ["Heartbeat"]


class Heartbeat:
    """The heartbeat of one session.

    Attributes:
        extendable: Whether a message would give the pong more time, so that ``heard_message`` must
            be called.
    """

    __slots__ = ("_heard", "_options", "_pinged", "_revision", "extendable")

    def __init__(self, revision: Revision, options: Options, now: float) -> None:
        self._revision = revision
        self._options = options
        # When the client's last heartbeat came, and when the time for the pong began.
        self._heard = now
        self._pinged: float | None = None
        self.extendable = False

    @property
    def deadline(self) -> float:
        """When the client counts as silent unless a heartbeat comes before; inf if none is due."""
        if self._revision == 3:
            return self._heard + self._options.ping_interval + self._options.ping_timeout
        return math.inf if self._pinged is None else self._pinged + self._options.ping_timeout

    def heard_message(self, now: float) -> None:
        """Restart the time for the pong; once for each ping, as Node does.

        A large message may be on its way before the pong.
        """
        if self.extendable:
            self.extendable = False
            self._pinged = now

    def extend(self, now: float) -> None:
        """Restart the client's time: until now its heartbeat could not reach us, or ours not it."""
        if self._revision == 3:
            self._heard = now
        elif self._pinged is not None:
            self._pinged = now

    def heard(self, kind: int, now: float) -> bool:
        """Handle a client's ping or pong. Return False if its revision does not send that."""
        if (kind == PING) is not (self._revision == 3):
            return False
        self._heard = now
        self._pinged = None
        self.extendable = False
        return True

    def look(self, now: float, *, reading: bool) -> tuple[Literal["rest", "ping", "silent"], float]:
        """Return what to do now, and when to look again.

        Args:
            now: The time at which it was due, as `Timers` passes it.
            reading: Whether the server reads from the client; if not, its silence proves nothing.
        """
        options = self._options
        if self._revision == 3:
            if not reading:
                self._heard = now
            due = check_due(self._heard, options.ping_interval + options.ping_timeout)
        elif self._pinged is None:
            due = ping_due(self._heard, options.ping_interval)
            if now >= due:
                return self._ping(now)
        else:
            due = check_due(self._pinged, options.ping_timeout)
            if now >= due and not reading:
                # The client counts our silence, whatever the reason.
                return self._ping(now)
        return ("rest" if now < due else "silent"), due

    def _ping(self, at: float) -> tuple[Literal["ping"], float]:
        self._pinged = at
        self.extendable = True
        # The next ping may be due before this one's time is up.
        return "ping", check_due(at, min(self._options.ping_interval, self._options.ping_timeout))
