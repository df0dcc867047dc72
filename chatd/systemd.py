"""The protocols between a service and systemd.

Notifications: sd_notify(3). Passed sockets: sd_listen_fds(3). The watchdog's time:
sd_watchdog_enabled(3).
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
"""The time that systemd has to handle the notifications. It takes a millisecond."""


class PassedDescriptor(NamedTuple):
    """A descriptor that systemd passed to this process, and its name."""

    number: int
    name: str


def passed_descriptors(
    environ: Mapping[str, str] = os.environ, pid: int | None = None
) -> list[PassedDescriptor]:
    """Return the descriptors passed to this process; none if they were for another one."""
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
    """Return the time within which systemd expects each notification, or None for no watchdog."""
    if environ.get("WATCHDOG_PID", "") not in ("", str(os.getpid() if pid is None else pid)):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 or None if microseconds.isdecimal() else None


class Notifier:
    """Notifies systemd, the service's manager. Without a NOTIFY_SOCKET it does nothing.

    Each method sends one datagram, never waits and never raises. It returns whether the datagram
    was sent: False without a NOTIFY_SOCKET, or when systemd's queue is full.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # A path, or a name in the abstract namespace, which has NUL in place of @: unix(7). The
        # other addresses of sd_notify(3) (vsock) are for a virtual machine's host.
        self._address: Final = f"\0{path[1:]}" if path.startswith("@") else path
        self._listens: Final = path.startswith(("/", "@"))

    def ready(self) -> bool:
        """Notify that clients are served from now on."""
        return self._send("READY=1")

    def reloading(self) -> bool:
        """Notify that a reload has begun. `ready` must follow, whether it succeeds or not."""
        # In one datagram: by this time systemd recognizes the READY=1 that ends the reload.
        return self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def status(self, text: str) -> bool:
        """Set the line that ``systemctl status`` shows."""
        # A line break would begin the next assignment.
        return self._send(f"STATUS={' '.join(text.splitlines())}")

    def stopping(self) -> bool:
        """Notify that the daemon is stopping."""
        return self._send("STOPPING=1")

    def extend_timeout(self, microseconds: int) -> bool:
        """Extend the time to start or to stop in, to this many microseconds from now."""
        return self._send(f"EXTEND_TIMEOUT_USEC={microseconds}")

    def watchdog(self) -> bool:
        """Reset the timer of WatchdogSec=."""
        return self._send("WATCHDOG=1")

    def store(self, descriptor: int, name: str) -> bool:
        """Store a copy of the descriptor in systemd, which passes it to the next start.

        A descriptor that systemd has already, or has no room for (FileDescriptorStoreMax=), is
        ignored silently.

        Args:
            descriptor: An open descriptor.
            name: At most 255 characters of printable ASCII, without a colon.
        """
        # FDPOLL=0: otherwise systemd drops a descriptor on a hangup or an error.
        return self._send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", (descriptor,))

    def forget(self, name: str) -> bool:
        """Close the stored descriptors of this name."""
        return self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def barrier(self, seconds: float = _BARRIER_SECONDS) -> bool:
        """Wait until systemd has handled every notification so far. Return False if it has not."""
        # sd_notify_barrier(3): systemd closes its end of the pipe, which hangs up ours.
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
