"""Where the next piece of work on the store runs: in the loop, or in a thread."""

from __future__ import annotations

from typing import Final

__all__ = ["SLOW_SECONDS", "Placement"]

SLOW_SECONDS: Final = 0.005
"""Work in the loop that took longer delayed all clients: the next runs in a thread."""

QUICK_SECONDS: Final = 0.03
"""Work in a thread hands the GIL over some five times, each up to 5 ms beside a busy loop."""

_STREAK: Final = 16
_LONGEST_STREAK: Final = 1024


class Placement:
    """Decides where the next piece of work runs: in the loop while it is quick, else in a thread.

    Each return to the loop takes twice as many quick pieces in the thread as the one before. After
    ``_LONGEST_STREAK`` quick ones in the loop, ``_STREAK`` are enough again.
    """

    def __init__(
        self,
        *,
        always_threaded: bool,
        slow_seconds: float = SLOW_SECONDS,
        quick_seconds: float = QUICK_SECONDS,
    ) -> None:
        self.threaded = always_threaded
        self.slow_seconds = slow_seconds
        self.quick_seconds = quick_seconds
        self._always_threaded = always_threaded
        self._quick = 0
        self._needed = _STREAK

    def ran_inline(self, seconds: float) -> bool:
        """Record a piece in the loop; return True if the next one must run in a thread."""
        if seconds <= self.slow_seconds:
            self._quick += 1
            if self._quick >= _LONGEST_STREAK:
                self._needed = _STREAK
            return False
        self.threaded = True
        self._quick = 0
        return True

    def ran_in_thread(self, seconds: float) -> bool:
        """Record a piece in a thread; return True if the next one must run in the loop again."""
        if self._always_threaded or not self.threaded:
            return False
        self._quick = self._quick + 1 if seconds <= self.quick_seconds else 0
        if self._quick < self._needed:
            return False
        self.threaded = False
        self._quick = 0
        self._needed = min(self._needed * 2, _LONGEST_STREAK)
        return True
