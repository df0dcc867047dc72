"""What precedes HTTP on a connection: a trusted proxy's PROXY header, then TLS."""

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

__all__ = ["AcceptedStream", "Preamble", "PreambleError"]

_RECV_BYTES: Final = 8192


class PreambleError(Exception):
    """The preamble is malformed or late. The message is for the log."""


class AcceptedStream(Struct, frozen=True):
    """A connection on which HTTP begins.

    Attributes:
        transport: The connection, with TLS if it has any.
        early: The bytes of HTTP that have been read.
        plain: True if the listener speaks TLS and the peer does not.
    """

    transport: Transport
    early: bytes = b""
    plain: bool = False


class Preamble:
    """Reads the preamble of one connection.

    Args:
        transport: The connection. A PROXY header replaces its ``peer``.
        trusted: Whether the peer may send a PROXY header.
        tls: The context for TLS, or None for none.
        seconds: The time limit for the whole preamble.
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

    async def run(self) -> AcceptedStream | None:
        """Read the preamble. Return None if the peer sent nothing.

        The caller closes the transport.

        Raises:
            PreambleError: The preamble is malformed or late.
            trio.BrokenResourceError: The peer is gone.
        """
        with self._scope:
            if self._trusted and not await self._read_proxy_header():
                return None
            if self._tls is None:
                return AcceptedStream(self._transport, self._early)
            return await self._secure(self._tls)
        if self._begun:
            raise PreambleError("the PROXY header or the TLS handshake took too long")
        return None

    def retire(self) -> None:
        """Stop waiting if the peer has sent nothing yet."""
        if not self._begun:
            self._scope.cancel()

    async def _read_proxy_header(self) -> bool:
        try:
            while (header := parse(self._early)) is None:
                if not await self._read():
                    return False
        except ProxyError as error:
            raise PreambleError(f"malformed PROXY header: {error}") from error
        self._early = self._early[header.size :]
        self._apply(header)
        return True

    def _apply(self, header: Header) -> None:
        if header.address is not None:
            self._transport.peer = replace(
                self._transport.peer,
                address=header.address,
                loopback=is_loopback_name(header.address),
                forwarded=True,
            )

    async def _secure(self, context: ssl.SSLContext) -> AcceptedStream | None:
        if not self._early and not await self._read():
            return None
        if self._early[0] != HANDSHAKE:
            return AcceptedStream(self._transport, self._early, plain=True)
        try:
            return AcceptedStream(await shake_hands(self._transport, context, self._early))
        except HandshakeError as error:
            raise PreambleError(str(error)) from error

    async def _read(self) -> bool:
        data = await self._transport.recv(_RECV_BYTES)
        self._early += data
        self._begun = True
        return bool(data)
