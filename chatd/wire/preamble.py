"""What may stand before HTTP on a connection: a trusted proxy's PROXY header, then TLS."""

from __future__ import annotations

import ssl
from typing import Final

import trio
from msgspec import Struct
from msgspec.structs import replace

from chatd.wire.origins import is_loopback_name
from chatd.wire.proxy_protocol import Header, ProxyError, parse
from chatd.wire.tls import HANDSHAKE, HandshakeError, shake_hands
from chatd.wire.transport import Transport

__all__ = ["Opened", "Preamble", "PreambleError"]

_RECV_BYTES: Final = 8192


class PreambleError(Exception):
    """What came is no good, or came too slowly; the message is for the log."""


class Opened(Struct, frozen=True):
    """A connection on which HTTP begins.

    ``early`` are its first bytes, as far as they were read. ``plain``: TLS is spoken here, and the
    peer does not.
    """

    transport: Transport
    early: bytes = b""
    plain: bool = False


class Preamble:
    """Reads the preamble of one connection.

    ``trusted``: it may have a PROXY header. What that says becomes the transport's ``peer``.
    ``seconds`` is how long all of it may take.
    """

    def __init__(
        self, transport: Transport, *, trusted: bool, tls: ssl.SSLContext | None, seconds: float
    ) -> None:
        self._transport = transport
        self._trusted = trusted
        self._tls = tls
        self._early = b""
        self._begun = False
        self._scope = trio.CancelScope(deadline=trio.current_time() + seconds)

    async def run(self) -> Opened | None:
        """Read it; None where the peer said nothing. The caller closes the transport.

        Raises PreambleError, and trio.BrokenResourceError where the peer is gone.
        """
        with self._scope:
            if self._trusted and not await self._proxy_header():
                return None
            if self._tls is None:
                return Opened(self._transport, self._early)
            return await self._secure(self._tls)
        if self._begun:
            raise PreambleError("what stands before HTTP came too slowly")
        return None

    def retire(self) -> None:
        """End now, where nothing is begun."""
        if not self._begun:
            self._scope.cancel()

    async def _proxy_header(self) -> bool:
        try:
            while (header := parse(self._early)) is None:
                if not await self._more():
                    return False
        except ProxyError as error:
            raise PreambleError(f"a malformed PROXY header: {error}") from error
        self._early = self._early[header.size :]
        self._believe(header)
        return True

    def _believe(self, header: Header) -> None:
        if header.address is not None:
            self._transport.peer = replace(
                self._transport.peer,
                address=header.address,
                loopback=is_loopback_name(header.address),
                forwarded=True,
            )

    async def _secure(self, context: ssl.SSLContext) -> Opened | None:
        if not self._early and not await self._more():
            return None
        if self._early[0] != HANDSHAKE:
            return Opened(self._transport, self._early, plain=True)
        try:
            return Opened(await shake_hands(self._transport, context, self._early))
        except HandshakeError as error:
            raise PreambleError(str(error)) from error

    async def _more(self) -> bool:
        data = await self._transport.recv(_RECV_BYTES)
        self._early += data
        self._begun = True
        return bool(data)
