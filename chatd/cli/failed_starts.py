"""A service that cannot start tries again and again, more and more slowly.

systemd starts it again half a second after it ended, however often that was: only since version 254
can it wait longer each time, and then it counts every restart since the last manual start. So a
start that failed waits before it ends. The first one ends at once, so that `systemctl start` fails
at once; `systemctl stop` and `restart` end the wait.
"""

from __future__ import annotations

import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

__all__ = ["MOST_SECONDS", "Failures", "interruptible"]

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


@contextmanager
def interruptible() -> Iterator[Callable[[float], bool]]:
    """Catch signals, and yield a function that waits: it returns whether one ended the wait.

    They are caught and not blocked, because threads that the start left behind do not block them.
    """
    near, far = socket.socketpair()
    with near, far:
        far.setblocking(False)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        handlers = {number: signal.signal(number, _caught) for number in _ENDING}
        descriptor = signal.set_wakeup_fd(far.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)

        def wait(seconds: float) -> bool:
            return bool(select.select([near], [], [], seconds)[0])

        try:
            yield wait
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _caught(number: int, frame: FrameType | None) -> None:
    """Do nothing: the interpreter has written to the socket."""
