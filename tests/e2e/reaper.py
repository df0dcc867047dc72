"""No program that the tests start outlives them, however they end.

When a run is interrupted, pytest-xdist gives its processes ten seconds and then kills them, and
with them every fixture that would have ended a browser or a daemon. So a process of its own waits
for the end of this one: the kernel then closes the pipe between them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from pathlib import Path

__all__ = ["end_with_us"]


def end_with_us(pid: int) -> None:
    """Have a process, with its group if it leads one, killed when this process is gone."""
    if (began := _began(pid)) is not None:
        os.write(_pipe(), f"{pid} {began}\n".encode())


@functools.cache
def _pipe() -> int:
    """Start the process that waits, in a session of its own, and return the pipe to it."""
    reader, writer = os.pipe()
    command = [sys.executable, "-S", __file__]
    os.posix_spawn(
        *(sys.executable, command, os.environ),
        file_actions=[(os.POSIX_SPAWN_DUP2, reader, 0)],
        setsid=True,
    )
    os.close(reader)
    return writer


def _began(pid: int) -> str | None:
    """Return when a process began: with its number, that is unique. None if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def main() -> None:
    watched = sys.stdin.read().split()
    for number, began in zip(watched[::2], watched[1::2], strict=True):
        pid = int(number)
        if _began(pid) == began:
            with contextlib.suppress(OSError):
                (os.killpg if os.getpgid(pid) == pid else os.kill)(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
