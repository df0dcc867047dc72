"""What the daemon and systemd tell each other.

sd_notify(3) over the socket in NOTIFY_SOCKET, sockets handed over as sd_listen_fds(3) has it, and
the watchdog's time as sd_watchdog_enabled(3) has it.
"""

from __future__ import annotations

import array
import os
import select
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

__all__ = ["Notifier", "PassedDescriptor", "passed_descriptors", "watchdog_seconds"]

_FIRST_DESCRIPTOR: Final = 3  # SD_LISTEN_FDS_START

_BARRIER_SECONDS: Final = 5.0
"""How long the manager has to act on what it was told; it takes a millisecond."""


class PassedDescriptor(NamedTuple):
    """A descriptor that the manager handed over, and the name it has there."""

    number: int
    name: str


def passed_descriptors(
    environ: Mapping[str, str] = os.environ, pid: int | None = None
) -> list[PassedDescriptor]:
    """Give what was handed over to this process; nothing where it was meant for another one."""
    if environ.get("LISTEN_PID") != str(os.getpid() if pid is None else pid):
        return []
    count = environ.get("LISTEN_FDS", "")
    if not count.isdecimal():
        return []
    numbers = range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count))
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    names += ["unknown"] * (len(numbers) - len(names))
    return [PassedDescriptor(*pair) for pair in zip(numbers, names, strict=False)]


def watchdog_seconds(
    environ: Mapping[str, str] = os.environ, pid: int | None = None
) -> float | None:
    """Tell within what time the manager wants a sign of life; None where it wants none."""
    if environ.get("WATCHDOG_PID", "") not in ("", str(os.getpid() if pid is None else pid)):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 or None if microseconds.isdecimal() else None


class Notifier:
    """Tells the service's manager how the daemon is; says nothing where nobody listens.

    Each call is one datagram, never waits and never raises. It gives whether the datagram was
    taken: False without a NOTIFY_SOCKET, or when the manager's queue is full.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # A path, or a name in the abstract namespace: unix(7) has a NUL where the variable has @.
        # What else sd_notify(3) allows (vsock) speaks to a virtual machine's host.
        self._address: Final = f"\0{path[1:]}" if path.startswith("@") else path
        self._listens: Final = path.startswith(("/", "@"))

    def ready(self) -> bool:
        """Tell that clients are served from now on."""
        return self._send("READY=1")

    def reloading(self) -> bool:
        """Tell that the configuration is read again; ``ready`` follows, whatever becomes of it."""
        # One datagram: systemd takes READY=1 for this reload's end by the time in it.
        return self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def status(self, text: str) -> bool:
        """Tell in one line what ``systemctl status`` is to show."""
        # A line break would begin the next assignment.
        return self._send(f"STATUS={' '.join(text.splitlines())}")

    def stopping(self) -> bool:
        """Tell that the daemon has begun to end."""
        return self._send("STOPPING=1")

    def extend_timeout(self, microseconds: int) -> bool:
        """Ask for so many more microseconds, from now, to start or to stop in."""
        return self._send(f"EXTEND_TIMEOUT_USEC={microseconds}")

    def watchdog(self) -> bool:
        """Give the sign of life that the unit's WatchdogSec= asks for."""
        return self._send("WATCHDOG=1")

    def store(self, descriptor: int, name: str) -> bool:
        """Have the manager keep a copy of the descriptor, and hand it to the next start.

        ``name`` is of printable ASCII without a colon, at most 255 characters. What the manager has
        already, or has no room for (FileDescriptorStoreMax=), it does not take, and does not tell.
        """
        # FDPOLL=0: a listening socket's events are no reason to drop it.
        return self._send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", (descriptor,))

    def forget(self, name: str) -> bool:
        """Have the manager close what it keeps under this name."""
        return self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def barrier(self, seconds: float = _BARRIER_SECONDS) -> bool:
        """Wait until the manager has acted on all it was told so far; False if it does not."""
        # sd_notify_barrier(3): it closes its copy of the pipe's end, which hangs up ours.
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                sent = self._send("BARRIER=1", (theirs,))
            finally:
                os.close(theirs)
            poll = select.poll()
            poll.register(ours, 0)
            return sent and bool(poll.poll(seconds * 1000))
        finally:
            os.close(ours)

    def _send(self, state: str, descriptors: Sequence[int] = ()) -> bool:
        if not self._listens:
            return False
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        try:
            with socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            ) as notify:
                notify.sendmsg(
                    [state.encode(errors="backslashreplace")],
                    rights if descriptors else (),
                    0,
                    self._address,
                )
        except (OSError, ValueError):  # ValueError: a path with a NUL in it
            return False
        return True
