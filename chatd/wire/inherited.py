"""Listening sockets that systemd passed to this process, until a listener takes them.

There are two kinds. Those of a ``.socket`` unit are systemd's own. The others were opened by an
earlier start of chatd and kept in the unit's descriptor store, where clients have queued meanwhile.
Their names begin with ``listener-``.
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
"""An address family, and a path or a host and a port: the arguments of bind(2)."""

_PREFIX: Final = "listener-"


def kept_name(site: Site) -> str | None:
    """Return the name in systemd's store of a socket bound there; None if nothing is bound.

    A Unix socket is named by its inode, because its path may be another program's by now.
    """
    address = site[1]
    if isinstance(address, tuple):
        host, port = address
        # A name must not have a colon: sd_notify(3).
        return f"{_PREFIX}{host}-{port}".replace(":", "_")
    try:
        status = os.lstat(address)
    except OSError:
        return None
    return f"{_PREFIX}unix-{status.st_dev}-{status.st_ino}"


class Inherited:
    """The sockets that were passed at the start.

    ``of_units`` are those of ``.socket`` units that no listener has taken yet.

    Raises:
        OSError: A descriptor is not a socket.
    """

    def __init__(
        self, passed: Sequence[PassedDescriptor] = (), notifier: Notifier | None = None
    ) -> None:
        self._notifier: Final = Notifier({}) if notifier is None else notifier
        self._kept: Final[dict[str, socket.socket]] = {}
        self.of_units: Final[list[socket.socket]] = []
        for number, name in passed:
            os.set_inheritable(number, False)
            sock = socket.socket(fileno=number)
            if name.startswith(_PREFIX):
                self._kept[name] = sock
            else:
                self.of_units.append(sock)

    def keep_only(self, sites: Collection[Site]) -> None:
        """Close the kept sockets of other addresses, in systemd's store too, to free them."""
        wanted = {kept_name(site) for site in sites}
        gone = [name for name in self._kept if name not in wanted]
        for name in gone:
            self._kept.pop(name).close()
            self._notifier.forget(name)
        if gone:
            self._notifier.barrier()

    def take_kept(self, site: Site) -> socket.socket | None:
        """Return the socket of an earlier start that is bound there, or None."""
        name = kept_name(site)
        return None if name is None else self._kept.pop(name, None)

    def take_of_unit(self, site: Site) -> socket.socket | None:
        """Return the socket of a ``.socket`` unit that is bound there, or None."""
        for sock in self.of_units:
            if _site(sock) == site:
                self.of_units.remove(sock)
                return sock
        return None

    def close(self) -> None:
        """Close this process's copies of the sockets that were not taken."""
        for sock in (*self._kept.values(), *self.of_units):
            with contextlib.suppress(OSError):
                sock.close()
        self._kept.clear()
        self.of_units.clear()


def _site(sock: socket.socket) -> Site:
    name = sock.getsockname()
    return (sock.family, name if sock.family == socket.AF_UNIX else name[:2])
