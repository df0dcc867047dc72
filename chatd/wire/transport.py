"""What carries a connection's bytes: a plain non-blocking socket, or any stream of Trio's.

Both have the same interface. It reads, and writes whole blocks; the outbox has the queue.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Final, Literal, TypeAlias, TypeVar

import trio
from msgspec import Struct

from chatd.wire.poller import current_poller

__all__ = ["Block", "Peer", "SocketTransport", "StreamTransport", "Transport"]

Block: TypeAlias = bytes | memoryview

T = TypeVar("T")

# Linux takes 1,024 buffers in one call (IOV_MAX). 64 small frames fill several segments, and the
# list of them is built for each call.
_BLOCKS_A_CALL: Final = 64
# A stream writer joins blocks up to this size for one send_all: four TLS records of 16 KiB, which
# make the call's own cost small. A larger block is sent in such pieces, so that one can see that a
# slow peer takes it.
_JOIN_BYTES: Final = 65536
_DISCARD_BYTES: Final = 65536


class Peer(Struct, frozen=True):
    """The other end of a connection.

    Attributes:
        address: An IP address without port, ``"unix"`` or ``"memory"``. An IPv4 address is never
            written as IPv6.
        kind: What carries the bytes to this process.
        loopback: True for this machine's IP addresses and for memory.
        forwarded: True if a trusted proxy named it.
        uid: The user of the other process, for a Unix socket without a proxy.
    """

    address: str
    kind: Literal["tcp", "unix", "memory"]
    loopback: bool
    forwarded: bool = False
    uid: int | None = None

    @property
    def exempt(self) -> bool:
        """Whether limits by address do not apply: to loopback, and to Unix without a proxy."""
        return self.loopback or (self.kind != "tcp" and not self.forwarded)

    @property
    def limit_key(self) -> str:
        """The key under which limits by address count it, ``""`` if it is exempt.

        An IPv4 address, or an IPv6 network, because a household has a whole /64.
        """
        return "" if self.exempt else self._network

    @property
    def place(self) -> str:
        """Where the client is, for what belongs to an address and not to a connection.

        As ``limit_key``, but never empty: a client of this machine has the loopback address, the
        same one by IPv4 and IPv6, or by a Unix socket its user's uid.
        """
        if self.uid is not None and not self.forwarded:
            return f"uid {self.uid}"
        # `localhost` is both.
        return "127.0.0.1" if self.address == "::1" else self._network

    @property
    def _network(self) -> str:
        if ":" not in self.address:
            return self.address
        return str(ipaddress.ip_network((self.address, 64), strict=False))


class Transport(ABC):
    """A connection's bytes. Every error of the connection is ``trio.BrokenResourceError``.

    Attributes:
        peer: The other end. A PROXY header replaces it.
        listener_loopback: Whether the listener is bound to loopback.
        secure: Whether it is TLS.
        plain: The non-blocking socket that carries the bytes as they are, on which the outbox sends
            at once; None for a stream.
    """

    __slots__ = ("listener_loopback", "peer", "plain", "secure")

    def __init__(
        self,
        peer: Peer,
        plain: socket.socket | None,
        *,
        listener_loopback: bool,
        secure: bool,
    ) -> None:
        self.peer = peer
        self.listener_loopback: Final = listener_loopback
        self.secure: Final = secure
        self.plain: Final = plain

    @abstractmethod
    async def recv(self, max_bytes: int) -> bytes:
        """Wait for bytes. Return ``b""`` when the peer has closed its side."""

    def recv_now(self, max_bytes: int) -> bytes | None:
        """Return bytes that have arrived, as `recv` does, or None if nothing has.

        Only a plain socket knows; any other carrier returns None.
        """
        return None

    async def recv_each(self, max_bytes: int, take: Callable[[bytes, float], T | None]) -> T | None:
        """Pass what arrives, and when it did, to ``take`` until that returns something; return it.

        Return None when the peer has closed its side. ``take`` may be called in another task. The
        time is that of Trio's clock.
        """
        while data := await self.recv(max_bytes):
            if (taken := take(data, trio.current_time())) is not None:
                return taken
        return None

    @abstractmethod
    async def send_some(self, blocks: deque[Block]) -> int:
        """Wait until some of ``blocks`` can be sent. Return how many bytes were."""

    @abstractmethod
    async def send_all(self, data: bytes) -> None:
        """Send all of it. If cancelled, a part may have been sent."""

    @abstractmethod
    async def send_eof(self) -> None:
        """Close our side if the carrier can; the peer may still send."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close at once, even if cancelled."""

    @abstractmethod
    def give_up_after(self, seconds: float) -> None:
        """Take the peer for gone if it acknowledges nothing for so long, if the carrier can.

        For protocols in which the peer sends nothing.
        """

    async def linger(self) -> None:
        """Close our side, and discard what the peer sends until it closes too.

        Closing with bytes unread would reset the connection, and the reset may overtake the last
        bytes that were sent. The caller sets a deadline.
        """
        await self.send_eof()
        while await self.recv(_DISCARD_BYTES):
            pass


class SocketTransport(Transport):
    """A connected socket, which nothing else uses. It is made non-blocking."""

    __slots__ = ("_recv", "_socket")

    def __init__(self, sock: socket.socket, peer: Peer, *, listener_loopback: bool = False) -> None:
        sock.setblocking(False)
        super().__init__(peer, sock, listener_loopback=listener_loopback, secure=False)
        self._socket = sock
        self._recv: Callable[[int], bytes] = sock.recv

    async def recv(self, max_bytes: int) -> bytes:
        while True:
            # With one message in flight, waiting first costs no more than trying first, and as a
            # checkpoint it keeps a flooding peer from holding the loop.
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._recv(max_bytes)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError from error

    def recv_now(self, max_bytes: int) -> bytes | None:
        try:
            return self._recv(max_bytes)
        except BlockingIOError:
            return None
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def recv_each(self, max_bytes: int, take: Callable[[bytes, float], T | None]) -> T | None:
        recv = self._recv
        taken: T | None = None

        def ready(now: float) -> bool:
            nonlocal taken
            try:
                data = recv(max_bytes)
            except BlockingIOError:
                return True
            except OSError as error:
                raise trio.BrokenResourceError from error
            if not data:
                return False
            taken = take(data, now)
            return taken is None

        await current_poller().watch(self._socket.fileno(), ready)
        if taken is None:
            await trio.lowlevel.checkpoint_if_cancelled()
        return taken

    async def send_some(self, blocks: deque[Block]) -> int:
        await trio.lowlevel.wait_writable(self._socket)
        try:
            # The list is made after the wait, to include what was queued meanwhile.
            return self._socket.sendmsg(list(islice(blocks, _BLOCKS_A_CALL)))
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        rest = memoryview(data)
        while True:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                pass
            except OSError as error:
                raise trio.BrokenResourceError from error
            if not rest:
                return
            await trio.lowlevel.wait_writable(self._socket)

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            # The peer may be gone already.
            if error.errno not in (errno.ENOTCONN, errno.EBADF):
                raise trio.BrokenResourceError from error

    def give_up_after(self, seconds: float) -> None:
        # By default TCP tries for a quarter of an hour. Unix sockets have no such option.
        with suppress(OSError):
            milliseconds = round(seconds * 1000)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

    async def aclose(self) -> None:
        if self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)
            current_poller().notify_closing(self._socket.fileno())
            self._socket.close()
        await trio.lowlevel.checkpoint()


class StreamTransport(Transport):
    """Any stream of Trio's: TLS, and memory streams in tests."""

    __slots__ = ("_stream",)

    def __init__(
        self, stream: trio.abc.Stream, peer: Peer, *, listener_loopback: bool = False
    ) -> None:
        tls = isinstance(stream, trio.SSLStream)
        super().__init__(peer, None, listener_loopback=listener_loopback, secure=tls)
        self._stream = stream

    async def recv(self, max_bytes: int) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_some(self, blocks: deque[Block]) -> int:
        joined = bytearray()
        for block in blocks:
            if len(block) > _JOIN_BYTES:
                joined += b"" if joined else memoryview(block)[:_JOIN_BYTES]
                break
            joined += block
            if len(joined) >= _JOIN_BYTES:
                break
        await self._stream.send_all(joined)
        return len(joined)

    async def send_all(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def send_eof(self) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()
        else:
            await trio.lowlevel.checkpoint()

    def give_up_after(self, seconds: float) -> None:
        """Do nothing: a stream in memory acknowledges nothing."""

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)
