"""Where a commit is to run: in the loop while the disk is quick, in a thread while it is not."""

from __future__ import annotations

from typing import Final

__all__ = ["CommitPlacement"]

SLOW_SECONDS: Final = 0.005
"""A commit in the loop that took longer held everybody up: the next ones run in a thread."""

QUICK_SECONDS: Final = 0.03
"""A commit in a thread hands the GIL over some five times, each up to 5 ms beside a busy loop."""

_STREAK: Final = 16
_LONGEST_STREAK: Final = 1024


class CommitPlacement:
    """Counts quick commits; each return to the loop must be earned by twice as many of them.

    With a ``_LONGEST_STREAK`` of quick ones in the loop all is forgiven.
    """

    def __init__(self, *, always_threaded: bool) -> None:
        self._always = always_threaded
        self.threaded = always_threaded
        self._quick = 0
        self._needed = _STREAK

    def inline(self, seconds: float) -> bool:
        """Note a commit in the loop; True if the next one is to run in a thread."""
        if seconds <= SLOW_SECONDS:
            self._quick += 1
            if self._quick >= _LONGEST_STREAK:
                self._needed = _STREAK
            return False
        self.threaded = True
        self._quick = 0
        return True

    def in_thread(self, seconds: float) -> bool:
        """Note a commit in a thread; True if the next one is to run in the loop again."""
        if self._always or not self.threaded:
            return False
        self._quick = self._quick + 1 if seconds <= QUICK_SECONDS else 0
        if self._quick < self._needed:
            return False
        self.threaded = False
        self._quick = 0
        self._needed = min(self._needed * 2, _LONGEST_STREAK)
        return True
