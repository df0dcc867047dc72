"""One connection to a Redis server.

A link never reconnects by itself. It belongs to one process of the server: as long as it works, the
server has been neither restarted nor replaced since the link was opened. A link that failed stays
closed.
"""

from __future__ import annotations

import math
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import trio
from msgspec import Struct

from chatd.journal import StoreError
from chatd.journal.engine import Lost
from chatd.journal.redis.address import Address
from chatd.journal.redis.resp import Command, ErrorReply, ProtocolError, Replies, Reply, pack

__all__ = ["Link", "Login", "open_link", "reading"]

_T = TypeVar("_T")

_READ_BYTES: Final = 65536
"""How much is read at once: a page of history then takes a few reads."""

_WRITE_BYTES: Final = 65536
"""How much is offered to the kernel at a time, of what it did not take at once."""

_BROKEN: Final = (OSError, ssl.SSLError, trio.BrokenResourceError, trio.ClosedResourceError)
"""The exceptions of connecting, sending and receiving."""

_FAILED: Final = (*_BROKEN, ProtocolError)
"""The exceptions after which a link cannot be used any more."""


class Login(Struct, frozen=True):
    """The user to log in as, and the password. Without a password there is no login."""

    user: str = "default"
    password: str | None = None


class _Socket:
    """TCP or a Unix socket, as a plain non-blocking socket: half the CPU of Trio's stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = socket.socket(fileno=stream.socket.detach())
        self._socket.setblocking(False)

    def send_now(self, data: bytes) -> int:
        """Send what the kernel takes at once; return how many bytes that was."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    async def send_all(self, data: bytes) -> None:
        sent = _Socket.send_now(self, data)
        while sent < len(data):
            await trio.lowlevel.wait_writable(self._socket)
            sent += _Socket.send_now(self, data[sent : sent + _WRITE_BYTES])

    async def receive_some(self) -> bytes:
        """Wait for bytes. Return ``b""`` when the peer has closed its side."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                continue

    def close(self) -> None:
        """Close it. Tasks that wait for it get `trio.ClosedResourceError`."""
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()


class _TlsSocket(_Socket):
    """TLS on a `_Socket`."""

    def __init__(self, stream: trio.SocketStream, context: ssl.SSLContext, host: str) -> None:
        super().__init__(stream)
        self._received, self._sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._sent, server_hostname=host)

    async def shake_hands(self) -> None:
        await self._run(self._tls.do_handshake)

    def send_now(self, data: bytes) -> int:
        self._tls.write(data)
        encrypted = self._sent.read()
        return len(data) if super().send_now(encrypted) == len(encrypted) else 0

    async def send_all(self, data: bytes) -> None:
        self._tls.write(data)
        await self._flush()

    async def receive_some(self) -> bytes:
        return await self._run(lambda: self._tls.read(_READ_BYTES))

    async def _run(self, step: Callable[[], _T]) -> _T:
        """Take a step of TLS, which may first have to receive and to send."""
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                await self._flush()
                if data := await super().receive_some():
                    self._received.write(data)
                else:
                    self._received.write_eof()
            else:
                await self._flush()
                return done

    async def _flush(self) -> None:
        if self._sent.pending:
            await super().send_all(self._sent.read())


class Link:
    """An open connection: it sends commands and receives their replies, in order.

    One task uses it at a time. If a deadline passes or the task is cancelled, the link is closed,
    because late replies would be taken for those of the next commands. Methods that wait raise
    `Lost` if the link is closed or breaks.
    """

    def __init__(self, carrier: _Socket, name: str) -> None:
        self._carrier = carrier
        self._name = name
        self._replies = Replies()
        self._open = True

    async def call(self, *commands: Command, deadline: float = math.inf) -> list[Reply]:
        """Send some commands in one write, and return their replies.

        Args:
            commands: The commands.
            deadline: On Trio's clock; by default there is none. A call without one is much
                cheaper: callers that already have a cancel scope give none.
        """
        if deadline < math.inf:
            return await self._in_time(self.call(*commands), deadline)
        await self.send(pack(commands))
        replies: list[Reply] = []
        while len(replies) < len(commands):
            replies += await self.receive()
        if len(replies) > len(commands):
            raise self._broken(ProtocolError("it sent more replies than it got commands"))
        return replies

    async def send(self, packed: bytes, deadline: float = math.inf) -> None:
        """Send some packed commands, whose replies `receive` returns."""
        if deadline < math.inf:
            return await self._in_time(self.send(packed), deadline)
        self._check_open()
        try:
            await self._carrier.send_all(packed)
        except _FAILED as error:
            raise self._broken(error) from error
        except trio.Cancelled:
            self.close()
            raise

    async def receive(self, deadline: float = math.inf) -> list[Reply]:
        """Return replies and pushes as soon as there are any."""
        if deadline < math.inf:
            return await self._in_time(self.receive(), deadline)
        self._check_open()
        found: list[Reply] = []
        try:
            while not found:
                if not (data := await self._carrier.receive_some()):
                    raise trio.BrokenResourceError("the server has closed the connection")
                found = self._replies.feed(data)
        except _FAILED as error:
            raise self._broken(error) from error
        except trio.Cancelled:
            self.close()
            raise
        return found

    def send_now(self, command: Command) -> None:
        """Send a command that has no reply, without waiting. If that fails, close the link."""
        if self._open:
            data = pack([command])
            try:
                if self._carrier.send_now(data) < len(data):
                    self.close()
            except _BROKEN:
                self.close()

    async def _in_time(self, work: Awaitable[_T], deadline: float) -> _T:
        with trio.CancelScope(deadline=deadline):
            return await work
        raise Lost(f"{self._name} did not answer in time")

    def _check_open(self) -> None:
        if not self._open:
            raise Lost(f"the connection to {self._name} is closed")

    def _broken(self, error: Exception) -> Lost:
        self.close()
        return Lost(f"the connection to {self._name} broke: {_reason(error)}")

    def close(self) -> None:
        """Close the connection at once. A second call does nothing."""
        if self._open:
            self._open = False
            self._carrier.close()


async def open_link(
    address: Address, login: Login, *, deadline: float = math.inf, unasked: bool = True
) -> Link:
    """Connect to a server, log in, and agree on RESP3.

    Args:
        address: Where it is.
        login: The user to log in as.
        deadline: By when, on Trio's clock. The kernel accepts connections for a stopped process
            too, so a server that does not answer is noticed only at the deadline.
        unasked: Whether to log in before the server asks for it. One without a password refuses
            that, but a server may let everybody in, with fewer rights than the user has.

    Raises:
        Lost: The server cannot be reached in time, or is still loading its data.
        StoreError: It answers, but chatd cannot speak to it, or may not log in.
    """
    carrier: _Socket | None = None
    with trio.CancelScope(deadline=deadline):
        try:
            carrier = await _connect(address)
        except (*_BROKEN, UnicodeError, OverflowError) as error:  # no host's name, or no port
            if (problem := _problem(error)) is not None:
                raise StoreError(f"history.url: {address}: {problem}") from error
            raise Lost(f"cannot connect to {address}: {_reason(error)}") from error
    if carrier is None:
        raise Lost(f"cannot connect to {address}: no answer in time")
    link = Link(carrier, str(address))
    hello: Command = ("HELLO", 3)
    login_too = hello if login.password is None else (*hello, "AUTH", login.user, login.password)
    try:
        [reply] = await link.call(login_too if unasked else hello, deadline=deadline)
    except Lost as error:
        if (problem := _problem(error.__cause__)) is not None:
            raise StoreError(f"history.url: {address}: {problem}") from error
        raise
    if not unasked and isinstance(reply, ErrorReply) and reply.code == "NOAUTH":
        [reply] = await link.call(login_too, deadline=deadline)
    if isinstance(reply, ErrorReply):
        link.close()
        raise _refused(address, login, reply)
    return link


@contextmanager
def reading(server: object) -> Iterator[None]:
    """Raise `Lost` if the code of the block finds a reply that its command never has.

    Args:
        server: The server's name in the error.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise Lost(f"{server} sent an unexpected reply: {error!r}") from error


async def _connect(address: Address) -> _Socket:
    if address.path:
        return _Socket(await trio.open_unix_socket(address.path))
    stream = await trio.open_tcp_stream(address.host, address.port)
    if address.tls is None:
        return _Socket(stream)
    secured = _TlsSocket(stream, address.tls, address.host)
    try:
        await secured.shake_hands()
    except BaseException:
        secured.close()
        raise
    return secured


def _refused(address: Address, login: Login, reply: ErrorReply) -> StoreError | Lost:
    match reply.code:
        case "NOAUTH":
            problem = "the server asks for a password: set history.password_file"
        case "WRONGPASS":
            problem = (
                f"the server refuses the password of the user {login.user!r}: check "
                "history.user and history.password_file"
            )
        case "NOPROTO":
            problem = "the server does not know RESP3: chatd needs Redis 7.0, Valkey 7.2 or newer"
        case "DENIED":
            problem = (
                "the server refuses other machines (protected-mode): give its user a password, "
                "and set history.password_file"
            )
        case "ERR" if "unknown command" in str(reply):  # which repeats the password
            problem = (
                "the server does not know the command HELLO: chatd needs Redis 7.0, Valkey 7.2 or "
                "newer"
            )
        case _:
            return Lost(f"{address} is not ready: {reply}")
    return StoreError(f"history.url: {address}: {problem}")


def _problem(error: BaseException | None) -> str | None:
    """Return what is wrong with a server that answered; None if it did not, or not properly."""
    match error:
        case ssl.SSLCertVerificationError():
            reason = error.verify_message.rstrip(".")
            return (
                f"the server's certificate is not trusted: {reason}: check "
                "history.tls_ca_file, and the name in the certificate"
            )
        case ssl.SSLError() if "CERTIFICATE_REQUIRED" in (error.reason or ""):
            return "the server wants a certificate from chatd: set its tls-auth-clients to no"
        case ssl.SSLError() if "WRONG_VERSION_NUMBER" in (error.reason or ""):
            return "the server does not use TLS at this port: write redis:// for rediss://"
        case ProtocolError():
            return (
                "this is not a Redis server, or one that uses TLS at this port: write rediss:// "
                "for redis:// then"
            )
        case _:
            return None


def _reason(error: BaseException) -> str:
    """Return why a connection failed: Trio's own exceptions have the reason as their cause."""
    if isinstance(error.__cause__, BaseExceptionGroup):  # one error for each address of a name
        errors = [one for one in error.__cause__.exceptions if isinstance(one, OSError)]
        return " and ".join(dict.fromkeys(os.strerror(one.errno or 0) for one in errors))
    if isinstance(error, trio.BrokenResourceError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
