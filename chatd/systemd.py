"""What the daemon tells systemd about itself: sd_notify(3), over the socket in NOTIFY_SOCKET."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Final

__all__ = ["Notifier"]


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

    def _send(self, state: str) -> bool:
        if not self._listens:
            return False
        try:
            with socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            ) as notify:
                notify.sendto(state.encode(errors="backslashreplace"), self._address)
        except (OSError, ValueError):  # ValueError: a path with a NUL in it
            return False
        return True
