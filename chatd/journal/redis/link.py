"""One connection to a Redis server.

A link never connects again by itself: it belongs to one process of the server, so whoever holds it
knows that nothing has been restarted or replaced since it was opened. A link that failed is closed
for good.
"""

from __future__ import annotations

import math
import socket
import ssl
from typing import Final, Protocol

import trio
from msgspec import Struct

from chatd.journal import StoreError
from chatd.journal.engine import Lost
from chatd.journal.redis.finding import Address
from chatd.journal.redis.resp import Command, ErrorReply, ProtocolError, Replies, Reply, pack

__all__ = ["Link", "Login", "open_link"]

_READ_BYTES: Final = 65536
"""A page of history then comes in a few reads."""

_BROKEN: Final = (OSError, ssl.SSLError, trio.BrokenResourceError, trio.ClosedResourceError)
"""What connecting, sending and receiving raise."""


class Login(Struct, frozen=True):
    """The user as whom to log in, and the password; without a password nobody logs in."""

    user: str = "default"
    password: str | None = None


class _Carrier(Protocol):
    """What carries a link's bytes."""

    async def send_all(self, data: bytes) -> None: ...

    async def receive_some(self) -> bytes: ...

    def close(self) -> None: ...


class _PlainCarrier:
    """TCP or a Unix socket, as a plain non-blocking socket: half the CPU of Trio's stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = socket.socket(fileno=stream.socket.detach())
        self._socket.setblocking(False)

    async def send_all(self, data: bytes) -> None:
        with memoryview(data) as rest:
            sent = 0
            while sent < len(rest):
                try:
                    sent += self._socket.send(rest[sent:])
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._socket)

    async def receive_some(self) -> bytes:
        await trio.lowlevel.wait_readable(self._socket)
        return self._socket.recv(_READ_BYTES)

    def close(self) -> None:
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()


class _TlsCarrier:
    """TLS over TCP."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self._stream = stream
        self.send_all = stream.send_all

    async def receive_some(self) -> bytes:
        return bytes(await self._stream.receive_some(_READ_BYTES))

    def close(self) -> None:
        # Without the alert that says so: it would have to wait for the peer.
        self._stream.transport_stream.socket.close()


class Link:
    """A connection that has been made: commands go out, and their replies come back in order."""

    def __init__(self, carrier: _Carrier, name: str) -> None:
        self._carrier = carrier
        self._name = name
        self._replies = Replies()
        self._open = True

    async def call(self, *commands: Command, deadline: float = math.inf) -> list[Reply]:
        """Send some commands in one write, and return their replies. One task calls at a time.

        Args:
            commands: The commands.
            deadline: On Trio's clock. At the deadline, and if the caller is cancelled, the link is
                closed: the replies that are missing would be taken for those of the next commands.

        Raises:
            Lost: The link is closed or has broken, or the deadline has passed.
        """
        if not self._open:
            raise Lost(f"the connection to {self._name} is closed")
        replies: list[Reply] = []
        with trio.CancelScope(deadline=deadline) as scope:
            try:
                await self._carrier.send_all(pack(commands))
                while len(replies) < len(commands):
                    data = await self._carrier.receive_some()
                    if not data:
                        raise ProtocolError("the server has closed the connection")
                    replies += self._replies.feed(data)
            except (*_BROKEN, ProtocolError) as error:
                self.close()
                raise Lost(f"the connection to {self._name} broke: {_reason(error)}") from error
            except trio.Cancelled:
                self.close()
                raise
        if scope.cancelled_caught:
            raise Lost(f"{self._name} did not answer in time")
        return replies

    def close(self) -> None:
        """Close the connection at once. A second call does nothing."""
        if self._open:
            self._open = False
            self._carrier.close()


async def open_link(address: Address, login: Login, *, deadline: float = math.inf) -> Link:
    """Connect to a server, log in, and agree on RESP3.

    Args:
        address: Where it is.
        login: As whom to log in.
        deadline: By when, on Trio's clock. The kernel accepts connections for a process that does
            not run: that is noticed here.

    Raises:
        Lost: The server cannot be reached, or not in time, or it is still reading its data.
        StoreError: The server does not let chatd in.
    """
    with trio.CancelScope(deadline=deadline) as scope:
        try:
            carrier = await _connect(address)
        except _BROKEN as error:
            raise Lost(f"cannot connect to {address}: {_reason(error)}") from error
    if scope.cancelled_caught:
        raise Lost(f"cannot connect to {address}: no answer in time")
    link = Link(carrier, str(address))
    hello: Command = ("HELLO", 3)
    if login.password is not None:
        hello += ("AUTH", login.user, login.password)
    [reply] = await link.call(hello, deadline=deadline)
    if isinstance(reply, ErrorReply):
        link.close()
        raise _refused(address, login, reply)
    return link


async def _connect(address: Address) -> _Carrier:
    if address.path:
        return _PlainCarrier(await trio.open_unix_socket(address.path))
    stream = await trio.open_tcp_stream(address.host, address.port)
    if address.tls is None:
        return _PlainCarrier(stream)
    secured = trio.SSLStream(stream, address.tls, server_hostname=address.host)
    try:
        await secured.do_handshake()
    except BaseException:
        stream.socket.close()
        raise
    return _TlsCarrier(secured)


def _refused(address: Address, login: Login, reply: ErrorReply) -> StoreError | Lost:
    match reply.code:
        case "NOAUTH":
            problem = "it asks for a password: set history.password_file"
        case "WRONGPASS":
            problem = (
                f"it refuses the password of the user {login.user!r}: look at history.user and "
                "history.password_file"
            )
        case "NOPROTO" | "ERR":
            problem = f"it says {str(reply)!r}: chatd needs Redis 7.0 or Valkey 7.2"
        case _:
            return Lost(f"{address} is not ready: {reply}")
    return StoreError(f"history.url: {address}: {problem}")


def _reason(error: BaseException) -> str:
    """Return why a connection failed: Trio's own exceptions have the reason as their cause."""
    if isinstance(error, trio.BrokenResourceError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
