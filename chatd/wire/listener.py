"""Listeners: open every configured address, and accept connections."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import trio

from chatd.systemd import Notifier
from chatd.wire.inherited import Inherited, Site, kept_name
from chatd.wire.origins import is_loopback_name
from chatd.wire.transport import Peer, SocketTransport

__all__ = ["SYSTEMD", "ListenError", "Listener", "open_listeners"]

SYSTEMD: Final = "systemd:"
"""The address that means the sockets of the ``.socket`` unit."""

_FAMILIES: Final = {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}

# The kernel reduces it to net.core.somaxconn (4,096 on Linux since 5.4).
_BACKLOG: Final = 4096
# The kernel takes no more than this beyond what the peer's window has room for (tcp(7),
# TCP_NOTSENT_LOWAT). By default it takes up to 4 MB from us: then nobody knows for 20 s whether a
# peer that reads 200 KB/s reads at all, and a ping waits behind all of that.
_UNSENT_BYTES: Final = 128 * 1024
# Per wakeup, so that a flood of connections does not hold up the existing ones.
_ACCEPTS: Final = 16
# Without descriptors the socket stays readable, and the loop would spin without a pause.
_EXHAUSTED_SECONDS: Final = 0.1
_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
# From accept(2), for a connection that failed while queued. The next one may be fine.
_TRANSIENT: Final = {
    errno.ECONNABORTED,
    errno.EPROTO,
    errno.EPERM,
    errno.ENETDOWN,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    errno.ENONET,
    errno.EHOSTUNREACH,
    errno.EOPNOTSUPP,
    errno.ENETUNREACH,
    errno.ETIMEDOUT,
}
# Linux's struct ucred: pid, uid, gid.
_CREDENTIALS: Final = struct.Struct("3i")
_NO_IPV6: Final = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT}


class ListenError(Exception):
    """An address cannot be listened on. The message is one line: the problem and the remedy."""


class Listener:
    """One listening socket.

    Attributes:
        socket: The socket.
        address: As in the configuration, with the actual port.
        port: The port, 0 for a Unix socket.
        path: The path of a Unix socket, else None.
        loopback: Whether only this machine can reach it by IP.
        lasting: Whether it was bound here, to an address that a later start will ask for again.
    """

    def __init__(self, sock: socket.socket, *, lasting: bool = False) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.lasting = lasting
        self.path: Path | None = None
        self.port = 0
        name = sock.getsockname()
        if sock.family == socket.AF_UNIX:
            # A name in the abstract namespace begins with NUL: unix(7).
            self.path = Path(name if isinstance(name, str) else f"@{os.fsdecode(name[1:])}")
            self.site: Site = (sock.family, str(self.path))
            self.address = f"unix:{self.path}"
            self.loopback = False
        else:
            host, self.port = name[:2]
            self.site = (sock.family, (host, self.port))
            self.loopback = is_loopback_name(host)
            self.address = _written(host, self.port)
            # Accepted sockets inherit both.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
            # Chat messages are small, and Nagle's algorithm would delay them.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._inode = _inode(self.path) if lasting and self.path is not None else None

    def __repr__(self) -> str:
        return f"<Listener {self.address}>"

    async def accept(
        self, welcome: Callable[[SocketTransport], None], exhausted: Callable[[], None]
    ) -> None:
        """Pass each connection to ``welcome``, until cancelled or closed.

        ``exhausted`` is called each time no descriptor was left, before a pause.
        """
        while True:
            try:
                await trio.lowlevel.wait_readable(self.socket)
            except trio.ClosedResourceError:
                return
            try:
                self._accept_some(welcome)
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                exhausted()
                await trio.sleep(_EXHAUSTED_SECONDS)

    def _accept_some(self, welcome: Callable[[SocketTransport], None]) -> None:
        for _ in range(_ACCEPTS):
            try:
                sock, address = self.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _TRANSIENT:
                    continue
                raise
            if self.path is not None:
                peer = Peer("unix", "unix", loopback=False, uid=_uid(sock))
            else:
                peer = _tcp_peer(address[0])
            welcome(SocketTransport(sock, peer, listener_loopback=self.loopback))

    def keep(self, notifier: Notifier) -> None:
        """Store a copy in systemd, in which clients queue until the next start."""
        name = kept_name(self.site)
        if self.lasting and name is not None and notifier.store(self.socket.fileno(), name):
            self._inode = None

    def close(self) -> None:
        """Stop listening, and remove a Unix socket's file unless systemd keeps the socket."""
        if self.socket.fileno() == -1:
            return
        if self.path is not None and self._inode is not None and _inode(self.path) == self._inode:
            with contextlib.suppress(OSError):
                self.path.unlink()
        with contextlib.suppress(RuntimeError):  # outside of Trio, where nothing waits
            trio.lowlevel.notify_closing(self.socket)
        self.socket.close()


@lru_cache(maxsize=1024)  # of addresses, which have at most 60 characters
def _tcp_peer(address: str) -> Peer:
    host = address.partition("%")[0].removeprefix("::ffff:")
    return Peer(host, "tcp", loopback=is_loopback_name(host))


def _uid(sock: socket.socket) -> int:
    """Return the user of the process that connected to a Unix socket: unix(7), SO_PEERCRED."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(credentials)[1]
    return uid


def open_listeners(
    addresses: Sequence[str],
    socket_mode: int = 0o666,
    inherited: Inherited | None = None,
    *,
    setting: str | None = None,
) -> list[Listener]:
    """Open all listeners, or none.

    An inherited socket is used instead of binding. Sockets that systemd kept for other addresses
    are given up first, because they may be in the way.

    Args:
        addresses: As in the configuration.
        socket_mode: The permissions of Unix sockets.
        inherited: Sockets that were passed to this process.
        setting: The key of the configuration that has the addresses, for errors; None without one.

    Raises:
        ListenError: One address cannot be opened. The message names it.
    """
    inherited = Inherited() if inherited is None else inherited
    sites = {address: _sites(address) for address in addresses if address != SYSTEMD}
    inherited.keep_only([site for of_one in sites.values() for site in of_one])
    elsewhere = "use another address" if setting is None else f"set {setting}"
    with contextlib.ExitStack() as stack:
        listeners: list[Listener] = []

        def add(listener: Listener) -> None:
            stack.callback(listener.close)
            listeners.append(listener)

        if SYSTEMD in addresses and not inherited.of_units:
            raise ListenError(
                f'{setting or "serve()"} has "{SYSTEMD}", but systemd passed no socket: enable the '
                ".socket unit (`systemctl enable --now chatd.socket`), or name addresses"
            )
        for address, of_one in sites.items():
            port = 0
            for family, where in of_one:
                if isinstance(where, tuple):
                    where = (where[0], where[1] or port)  # noqa: PLW2901  localhost:0 has one port for both
                try:
                    add(_open((family, where), socket_mode, inherited, elsewhere))
                except _NoIPv6Error:
                    if not address.startswith("localhost:"):
                        raise
                port = listeners[-1].port
        if SYSTEMD in addresses:
            # After the others, which take the sockets that are bound to their addresses.
            while inherited.of_units:
                add(_of_unit(inherited.of_units.pop(0)))
        stack.pop_all()
    return listeners


def _sites(address: str) -> list[Site]:
    if address.startswith("unix:"):
        return [(socket.AF_UNIX, address.removeprefix("unix:"))]
    host, _, digits = address.rpartition(":")
    wrong = not host or "/" in host or not digits.isascii() or not digits.isdecimal()
    if wrong or int(digits) > 65535:
        raise ListenError(
            f'{address!r} is not an address: write "127.0.0.1:3000", "[::]:3000" or "unix:/path"'
        )
    port = int(digits)
    if host != "localhost":
        return _resolve(host, port)
    return [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET6, ("::1", port))]


def _resolve(host: str, port: int) -> list[Site]:
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise ListenError(f"{host}: there is no such host ({error})") from error
    return list(dict.fromkeys((int(entry[0]), (str(entry[4][0]), port)) for entry in found))


class _NoIPv6Error(ListenError):
    pass


def _open(site: Site, socket_mode: int, inherited: Inherited, elsewhere: str) -> Listener:
    """Open one address. ``elsewhere`` says in an error how to listen at another one."""
    if (sock := inherited.take_of_unit(site)) is not None:
        return _of_unit(sock)
    family, where = site
    kept = inherited.take_kept(site)
    if not isinstance(where, str):
        return _open_tcp(family, where, elsewhere) if kept is None else Listener(kept)
    if kept is None:
        return _open_unix(Path(where), socket_mode, elsewhere)
    with contextlib.suppress(OSError):
        Path(where).chmod(socket_mode)
    return Listener(kept)


def _of_unit(sock: socket.socket) -> Listener:
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if not listens or sock.type != socket.SOCK_STREAM or sock.family not in _FAMILIES:
        sock.close()
        raise ListenError(
            f'"{SYSTEMD}": systemd passed a socket that is not a listening stream socket: use only '
            "ListenStream= and Accept=no in the .socket unit"
        )
    return Listener(sock)


def _open_tcp(family: int, sockaddr: tuple[str, int], elsewhere: str) -> Listener:
    written = _written(*sockaddr)
    try:
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            # Without it a restart waits for the last connections' TIME_WAIT.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                both = sockaddr[0] == "::"
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
            sock.bind(sockaddr)
            sock.listen(_BACKLOG)
            stack.pop_all()
            return Listener(sock, lasting=sockaddr[1] != 0)
    except OSError as error:
        if family == socket.AF_INET6 and error.errno in _NO_IPV6:
            raise _NoIPv6Error(
                f"{written}: this machine does not have this IPv6 address"
            ) from error
        raise ListenError(_explained(written, sockaddr[1], error, elsewhere)) from error


def _open_unix(path: Path, mode: int, elsewhere: str) -> Listener:
    written = f"unix:{path}"
    _remove_stale(path, written, elsewhere)
    try:
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            # No client may connect between bind and chmod, so the umask limits it from the start.
            umask = os.umask(0o777 & ~mode)
            try:
                sock.bind(str(path))
            finally:
                os.umask(umask)
            path.chmod(mode)
            sock.listen(_BACKLOG)
            stack.pop_all()
            return Listener(sock, lasting=True)
    except OSError as error:
        raise ListenError(_explained(written, None, error, elsewhere)) from error


def _remove_stale(path: Path, written: str, elsewhere: str) -> None:
    """Remove the socket of a daemon that has died. One that answers, or a file, is left."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ListenError(f"{written}: this file is not a socket; remove it")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(str(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        return
    except BlockingIOError:
        pass  # its queue is full, so a daemon is there
    except OSError as error:
        raise ListenError(_explained(written, None, error, elsewhere)) from error
    raise ListenError(f"{written}: another program listens there; end it, or {elsewhere}")


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _explained(written: str, port: int | None, error: OSError, elsewhere: str) -> str:
    match error.errno:
        case errno.EADDRINUSE if port is not None:
            return (
                f"{written} is in use by another program (`ss -ltnp 'sport = :{port}'` shows which)"
                f"; end it, or {elsewhere}"
            )
        case errno.EADDRNOTAVAIL:
            return f"{written}: this machine does not have this address; {elsewhere}"
        case errno.EACCES | errno.EPERM if port is not None:
            return f"{written}: not allowed; ports below 1024 need CAP_NET_BIND_SERVICE"
        case errno.EACCES | errno.EPERM:
            return f"{written}: not allowed; make the folder writable for this user"
        case errno.ENOENT:
            return f"{written}: the folder does not exist; create it"
        case _:
            # A path that is too long has no number: unix(7).
            return f"{written}: {error.strerror or error}"


def _written(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
