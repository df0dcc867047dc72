"""Listeners: opening every configured address with clear errors, and accepting without spinning."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import trio

from chatd.wire.origins import is_loopback_name
from chatd.wire.transport import Peer, SocketTransport

__all__ = ["ListenError", "Listener", "open_listeners"]

# The kernel cuts it to net.core.somaxconn (4,096 on Linux since 5.4).
_BACKLOG: Final = 4096
# Accepting is bounded a wakeup, so that a flood of connections does not hold those that are there.
_ACCEPTS: Final = 64
# Without descriptors the socket stays readable: the wait is what keeps the loop from spinning.
_EXHAUSTED_SECONDS: Final = 0.1
_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
# What accept(2) gives for a connection that died in the queue, or for its network: the next one
# may be fine.
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
_NO_IPV6: Final = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT}


class ListenError(Exception):
    """An address cannot be listened on; the message is one line for the operator."""


class Listener:
    """One listening socket.

    ``address`` is how it is written in the configuration, with its real port; ``loopback`` whether
    only this machine can reach it by IP.
    """

    def __init__(self, sock: socket.socket, *, path: Path | None = None) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.path = path
        if path is not None:
            self.address = f"unix:{path}"
            self.loopback = False
            status = path.stat()
            self._inode = (status.st_dev, status.st_ino)
        else:
            host, self.port = sock.getsockname()[:2]
            self.loopback = is_loopback_name(host)
            self.address = _written(host, self.port)

    def __repr__(self) -> str:
        return f"<Listener {self.address}>"

    async def accept(
        self, welcome: Callable[[SocketTransport], None], exhausted: Callable[[], None]
    ) -> None:
        """Hand each connection to ``welcome``, until cancelled or closed.

        ``exhausted`` is called each time no descriptor was left, with a pause after it.
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
                peer = Peer("unix", "unix", loopback=False)
            else:
                # A chat's frames are small and wait for nothing (Nagle would hold them).
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                host = address[0].partition("%")[0].removeprefix("::ffff:")
                peer = Peer(host, "tcp", loopback=is_loopback_name(host))
            welcome(SocketTransport(sock, peer, listener_loopback=self.loopback))

    def close(self) -> None:
        """Stop listening; a Unix socket's file goes, if it is still ours."""
        if self.socket.fileno() == -1:
            return
        if self.path is not None:
            with contextlib.suppress(OSError):
                status = self.path.lstat()
                if (status.st_dev, status.st_ino) == self._inode:
                    self.path.unlink()
        with contextlib.suppress(RuntimeError):  # not in a Trio run: then nobody waits either
            trio.lowlevel.notify_closing(self.socket)
        self.socket.close()


def open_listeners(addresses: Sequence[str], socket_mode: int = 0o666) -> list[Listener]:
    """Open all or none. Raises ListenError, naming the address that cannot be had."""
    with contextlib.ExitStack() as stack:
        listeners: list[Listener] = []
        for address in addresses:
            for listener in _open(address, socket_mode):
                stack.callback(listener.close)
                listeners.append(listener)
        stack.pop_all()
    return listeners


def _open(address: str, socket_mode: int) -> list[Listener]:
    if address.startswith("unix:"):
        return [_open_unix(Path(address.removeprefix("unix:")), socket_mode)]
    host, _, digits = address.rpartition(":")
    if not host or not digits.isdecimal() or int(digits) > 65535:
        raise ListenError(
            f'{address!r} is no address: write "127.0.0.1:3000", "[::]:3000" or "unix:/path"'
        )
    port = int(digits)
    if host != "localhost":
        return [_open_tcp(address, family, sockaddr) for family, sockaddr in _resolve(host, port)]
    first = _open_tcp(address, socket.AF_INET, ("127.0.0.1", port))
    try:
        return [first, _open_tcp(address, socket.AF_INET6, ("::1", first.port))]
    except _NoIPv6Error:
        return [first]
    except ListenError:
        first.close()
        raise


def _resolve(host: str, port: int) -> list[tuple[int, tuple[str, int]]]:
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise ListenError(f"{host}: no such host, so nothing can listen there ({error})") from error
    return list(dict.fromkeys((int(entry[0]), (str(entry[4][0]), port)) for entry in found))


class _NoIPv6Error(ListenError):
    pass


def _open_tcp(address: str, family: int, sockaddr: tuple[str, int]) -> Listener:
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
            return Listener(sock)
    except OSError as error:
        if family == socket.AF_INET6 and error.errno in _NO_IPV6:
            raise _NoIPv6Error(f"{written}: this machine has no such IPv6 address") from error
        raise ListenError(_explained(written, sockaddr[1], error)) from error


def _open_unix(path: Path, mode: int) -> Listener:
    written = f"unix:{path}"
    _remove_stale(path, written)
    try:
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            # Nobody may connect between bind and chmod: it is born with no more than its mode.
            umask = os.umask(0o777 & ~mode)
            try:
                sock.bind(str(path))
            finally:
                os.umask(umask)
            path.chmod(mode)
            sock.listen(_BACKLOG)
            stack.pop_all()
            return Listener(sock, path=path)
    except OSError as error:
        raise ListenError(_explained(written, None, error)) from error


def _remove_stale(path: Path, written: str) -> None:
    """Remove the socket of a daemon that died. One that still answers, or a file, is left."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ListenError(f"{written}: there is a file of that name, and it is no socket")
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
        pass  # its queue is full: somebody is there
    except OSError as error:
        raise ListenError(_explained(written, None, error)) from error
    raise ListenError(f"{written}: another program listens there")


def _explained(written: str, port: int | None, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE if port is not None:
            return (
                f"{written} is in use by another program (`ss -ltnp 'sport = :{port}'` shows which)"
                "; end it, or set listen.addresses"
            )
        case errno.EADDRNOTAVAIL:
            return f"{written}: this machine has no such address; set listen.addresses"
        case errno.EACCES | errno.EPERM if port is not None:
            return f"{written}: not allowed; ports below 1024 need the right to bind them"
        case errno.EACCES | errno.EPERM:
            return f"{written}: not allowed; the folder must be writable for this user"
        case errno.ENOENT:
            return f"{written}: there is no such folder"
        case _:
            return f"{written}: {os.strerror(error.errno or 0)}"


def _written(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
