"""A service that cannot start tries again and again, more and more slowly.

systemd starts it again half a second after it ended, however often that was: only since version 254
can it wait longer each time, and then it counts every restart since the last manual start. So a
start that failed waits before it ends. The first one ends at once, so that `systemctl start` fails
at once; `systemctl stop` and `restart` end the wait.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["MOST_SECONDS", "Failures", "wait"]

MOST_SECONDS: Final = 30.0
"""So long after its cause is gone the service may still be down."""

_FORGOTTEN_SECONDS: Final = 2 * MOST_SECONDS
"""A failure is the first of its kind if the one before it is older."""

_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Failures:
    """The number of starts that failed one after another, in the service's runtime folder.

    Without systemd there is no such folder, and nothing waits.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        folder = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        under_systemd = folder and environ.get("NOTIFY_SOCKET")
        self._file = Path(folder, "failed-starts") if under_systemd else None

    def count(self) -> float:
        """Count another failure, and return after how many seconds this start should end."""
        if self._file is None:
            return 0.0
        try:
            before = 0
            if time.time() - self._file.stat().st_mtime < _FORGOTTEN_SECONDS:
                before = int(self._file.read_text())
        except (OSError, ValueError):
            before = 0
        try:
            self._file.write_text(str(before + 1))
        except OSError:
            return MOST_SECONDS  # it cannot be counted
        return min(MOST_SECONDS, 2.0 ** (before - 1)) if before else 0.0

    def forget(self) -> None:
        """Let the next failure be the first."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)


def wait(seconds: float) -> bool:
    """Wait, and return whether a signal ended the wait."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        return signal.sigtimedwait(_ENDING, seconds) is not None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
