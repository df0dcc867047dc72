"""A response that does not end. Its body is sent through an outbox, in blocks that many may share.

The client has nothing more to send. The connection is only read to notice when the client closes
it; bytes that come are ignored. Only TCP can notice a client that is gone without closing.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

import trio
from msgspec import Struct

from chatd.budgets import BYTE_SECONDS
from chatd.logs import Log
from chatd.model import GOING_AWAY, INTERNAL, LOST, Close
from chatd.settings import Settings
from chatd.wire.channel import Channel
from chatd.wire.transport import Transport

if TYPE_CHECKING:
    from chatd.wire.limiter import ConnectionSlot

__all__ = ["LAST_CHUNK", "Source", "Stream", "Streamed", "chunk"]

LAST_CHUNK: Final = b"0\r\n\r\n"
"""The end of a body in chunks."""

_RECV_BYTES: Final = 4096
# The peer's time to read the end and to close: RFC 9112 section 9.6.
_LINGER_SECONDS: Final = 1.0
_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


def chunk(data: bytes) -> bytes:
    """Return a chunk of a body: RFC 9112 section 7.1. ``data`` is not empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Source(Protocol):
    """Fills a response that does not end, for a gateway."""

    def opened(self, stream: Stream) -> None:
        """Begin to offer blocks to the stream's outbox. The head has been sent."""

    def goodbye(self, close: Close, reason: str) -> bytes:
        """Return the last block. Not called if the client is gone."""
        raise NotImplementedError

    def ended(self, close: Close, reason: str) -> None:
        """Record that the response has ended. Called once and last, even if it never began."""


class Streamed(Struct, frozen=True):
    """A response whose head has been sent: its source, and the data of its request for the log."""

    source: Source
    connection: str
    address: str
    path: str


class Stream(Channel):
    """The body of a response that does not end."""

    kind: ClassVar[str] = "sse"

    __slots__ = ("_source",)

    def __init__(
        self,
        transport: Transport,
        streamed: Streamed,
        *,
        slot: ConnectionSlot,
        settings: Settings,
        log: Log,
    ) -> None:
        super().__init__(
            transport,
            streamed.connection,
            streamed.address,
            streamed.path,
            slot=slot,
            settings=settings,
            log=log,
        )
        self._source = streamed.source

    async def _serve(self) -> None:
        options = self._settings.websocket
        # The same time as for the peer of a WebSocket.
        silence = options.ping_interval_seconds + options.ping_timeout_seconds
        self._transport.give_up_after(silence)
        try:
            self._source.opened(self)
        except Exception as error:  # the connection's boundary
            self.fault(error)
            return
        with trio.CancelScope() as self._reading:
            while self.closing is None:
                try:
                    data = await self._transport.recv(_RECV_BYTES)
                except _GONE:
                    data = b""
                if not data:
                    self.end(LOST)
                    return
                self.received_bytes += len(data)
                if self._slot is not None:
                    await self._slot.spend(len(data) * BYTE_SECONDS)

    async def _close(self) -> None:
        if self.closing is None or self.closing[0] is LOST:
            return
        self.outbox.send_final(self._goodbye())
        await self.outbox.drained()
        with trio.move_on_after(_LINGER_SECONDS), suppress(*_GONE):
            await self._transport.linger()

    def _goodbye(self) -> bytes:
        close, reason = self.closing or (INTERNAL, INTERNAL.reason)
        try:
            return self._source.goodbye(close, reason)
        except Exception as error:  # the connection's boundary
            self.fault(error)
            self.closing = (INTERNAL, INTERNAL.reason)
            return b""

    def _ended(self) -> None:
        # Without a close the task was cancelled from outside: the daemon is ending.
        close, reason = self.closing or (GOING_AWAY, GOING_AWAY.reason)
        try:
            self._source.ended(close, reason)
        except Exception as error:  # the connection's boundary
            self.fault(error)
