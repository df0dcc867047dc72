"""Listening sockets from before this process, by address, until a listener takes them.

Two kinds come in by the same door. Those of a ``.socket`` unit are systemd's own. The others are
ours from an earlier start: systemd kept them in the unit's descriptor store, clients have queued
in them meanwhile, and they are told by their names.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Collection, Sequence
from typing import Final, TypeAlias

from chatd.systemd import Notifier, PassedDescriptor

__all__ = ["Inherited", "Site", "kept_name"]

Site: TypeAlias = tuple[int, str | tuple[str, int]]
"""An address family, and a path or a host and a port, as bind(2) is given them."""

_PREFIX: Final = "listener-"


def kept_name(site: Site) -> str | None:
    """Name a socket bound there for systemd's store; None where nothing is bound any more.

    A Unix socket is named after its file: one under the same path may be another program's.
    """
    address = site[1]
    if isinstance(address, tuple):
        host, port = address
        # A name has no colon: sd_notify(3).
        return f"{_PREFIX}{host}-{port}".replace(":", "_")
    try:
        status = os.lstat(address)
    except OSError:
        return None
    return f"{_PREFIX}unix-{status.st_dev}-{status.st_ino}"


class Inherited:
    """What was handed over at the start. Raises OSError for a descriptor that is no socket."""

    def __init__(
        self, passed: Sequence[PassedDescriptor] = (), notifier: Notifier | None = None
    ) -> None:
        self._notifier: Final = Notifier({}) if notifier is None else notifier
        self._kept: Final[dict[str, socket.socket]] = {}
        self.of_units: Final[list[socket.socket]] = []
        """Sockets of ``.socket`` units that no listener has taken yet."""
        for number, name in passed:
            os.set_inheritable(number, False)
            sock = socket.socket(fileno=number)
            if name.startswith(_PREFIX):
                self._kept[name] = sock
            else:
                self.of_units.append(sock)

    def keep_only(self, sites: Collection[Site]) -> None:
        """Have systemd close what it kept for other addresses, so that they are free to bind."""
        wanted = {kept_name(site) for site in sites}
        gone = [name for name in self._kept if name not in wanted]
        for name in gone:
            self._kept.pop(name).close()
            self._notifier.forget(name)
        if gone:
            self._notifier.barrier()

    def take_kept(self, site: Site) -> socket.socket | None:
        """Give the socket of an earlier start that is bound there."""
        name = kept_name(site)
        return None if name is None else self._kept.pop(name, None)

    def take_of_unit(self, site: Site) -> socket.socket | None:
        """Give the socket of a ``.socket`` unit that is bound there."""
        for sock in self.of_units:
            if _site(sock) == site:
                self.of_units.remove(sock)
                return sock
        return None

    def close(self) -> None:
        """Close our copies of what nobody took."""
        for sock in (*self._kept.values(), *self.of_units):
            with contextlib.suppress(OSError):
                sock.close()
        self._kept.clear()
        self.of_units.clear()


def _site(sock: socket.socket) -> Site:
    name = sock.getsockname()
    return (sock.family, name if sock.family == socket.AF_UNIX else name[:2])
