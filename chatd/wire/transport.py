"""What carries a connection's bytes: a plain non-blocking socket of ours, or any stream of Trio's.

Both have one face. Reading and whole writes are here; what a connection queues is the outbox's.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final, Literal, TypeAlias

import trio
from msgspec import Struct

__all__ = ["Block", "Peer", "SocketTransport", "StreamTransport", "Transport"]

Block: TypeAlias = bytes | memoryview

# Linux takes 1,024 buffers in one call (IOV_MAX). 64 small frames fill a segment several times
# over, and the list of them is built anew for each call.
_BLOCKS_A_CALL: Final = 64
# What a stream writer joins for one send_all: a TLS record holds 16 KiB, four of them are enough
# to make the calls cheap, and a cut connection loses no more than that much work.
_JOIN_BYTES: Final = 65536


class Peer(Struct, frozen=True):
    """Who is at the other end.

    ``address`` is an IP address without port (an IPv4 one is never written as IPv6), ``"unix"`` or
    ``"memory"``. ``kind`` is what carries the bytes to us. ``loopback`` is true for this machine's
    own IP addresses and for memory. ``forwarded``: a trusted proxy says so, and speaks for them.
    """

    address: str
    kind: Literal["tcp", "unix", "memory"]
    loopback: bool
    forwarded: bool = False

    @property
    def exempt(self) -> bool:
        """Tell whether limits by address do not hold: for loopback, and Unix without a proxy."""
        return self.loopback or (self.kind != "tcp" and not self.forwarded)

    @property
    def counted_as(self) -> str:
        """Name whom limits by address count this for; ``""`` where it is exempt.

        An IPv4 address, or an IPv6 network: a household has a whole /64, so one address of it says
        nothing.
        """
        if self.exempt:
            return ""
        if ":" not in self.address:
            return self.address
        return str(ipaddress.ip_network((self.address, 64), strict=False))


class Transport(ABC):
    """The face both kinds have. Every error of the connection is ``trio.BrokenResourceError``.

    ``peer`` may be replaced by whom it speaks for, as a PROXY header tells.
    ``listener_loopback`` tells whether the listener that took the connection is bound to loopback,
    ``secure`` whether it is TLS.
    ``send_now`` gives the kernel what it takes at once, and raises BlockingIOError where it takes
    nothing. It is an attribute, so that the outbox can keep the socket's own method and call
    nothing in between. ``writes_directly`` tells whether it is worth calling.
    """

    __slots__ = ("listener_loopback", "peer", "secure", "send_now", "writes_directly")

    def __init__(
        self,
        peer: Peer,
        send_now: Callable[[Block], int] | None,
        *,
        listener_loopback: bool,
        secure: bool,
    ) -> None:
        self.peer = peer
        self.listener_loopback: Final = listener_loopback
        self.secure: Final = secure
        self.send_now = send_now or _never_now
        self.writes_directly: Final = send_now is not None

    @abstractmethod
    async def recv(self, max_bytes: int) -> bytes:
        """Wait for bytes; ``b""`` when the peer has ended its side."""

    @abstractmethod
    async def send_some(self, blocks: deque[Block]) -> int:
        """Wait until some of ``blocks`` can go out; return how many bytes went."""

    @abstractmethod
    async def send_all(self, data: bytes) -> None:
        """Send all of it. Cancelled, it may have sent a part."""

    @abstractmethod
    async def send_eof(self) -> None:
        """End our side where the carrier can; the peer may still send."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close at once, whatever waits. Always closes, cancelled or not."""


def _never_now(data: Block) -> int:
    raise BlockingIOError


class SocketTransport(Transport):
    """A connected socket that is ours alone, set to non-blocking here."""

    __slots__ = ("_recv", "_socket")

    def __init__(self, sock: socket.socket, peer: Peer, *, listener_loopback: bool = False) -> None:
        sock.setblocking(False)
        super().__init__(peer, sock.send, listener_loopback=listener_loopback, secure=False)
        self._socket = sock
        self._recv: Callable[[int], bytes] = sock.recv

    async def recv(self, max_bytes: int) -> bytes:
        while True:
            # Waiting first costs no more than trying first where the peer is asked and answers,
            # and it is a checkpoint in any case: a peer that floods does not hold the loop.
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._recv(max_bytes)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError from error

    async def send_some(self, blocks: deque[Block]) -> int:
        await trio.lowlevel.wait_writable(self._socket)
        try:
            # The list is made after the wait: what came in meanwhile goes out too.
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
                rest = rest[self.send_now(rest) :]
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
            # The peer may be gone already: then there is nobody to tell.
            if error.errno not in (errno.ENOTCONN, errno.EBADF):
                raise trio.BrokenResourceError from error

    async def aclose(self) -> None:
        if self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        await trio.lowlevel.checkpoint()


class StreamTransport(Transport):
    """Any stream of Trio's: memory streams in tests, TLS."""

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

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)
