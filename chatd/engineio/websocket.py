"""An engine's WebSockets: the transport of a session, and one that is to become it.

They are receivers of `chatd.wire.websocket`: each message is a packet.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

import trio

from chatd import model
from chatd.engineio.close_reasons import reason_of
from chatd.engineio.packets import PING, UPGRADE, PacketError, decode_frame
from chatd.engineio.session import Session
from chatd.model import Close
from chatd.timers import Timers
from chatd.wire import frames
from chatd.wire.websocket import WebSocket

__all__ = ["RejectedUpgrade", "UpgradeProbe", "WebSocketTransport"]

_PROBE_ANSWER: Final = frames.text(b"3probe")


class WebSocketTransport:
    """The WebSocket that is the transport of a session."""

    __slots__ = ("_session", "_websocket")

    def __init__(self, session: Session, websocket: WebSocket) -> None:
        self._session = session
        self._websocket = websocket

    def received(self, message: str | bytes) -> Awaitable[None] | None:
        """Handle a packet."""
        session = self._session
        if isinstance(message, str) and message[:1] == "4":
            return session.deliver(message[1:])
        try:
            packet = decode_frame(message, session.revision)
        except PacketError:
            session.end("parse error")
            return None
        return session.packet(packet)

    def goodbye_frames(self, close: Close, reason: str) -> bytes:
        """Return nothing to send before the Close frame."""
        if self._session.reason is None:
            # The wire closes it after an error: the session need not wait for the closing
            # handshake.
            self.ended(close, reason)
        return b""

    def ended(self, close: Close, reason: str) -> None:
        """End the session."""
        self._session.end_now(reason_of(close, by_peer=self._websocket.peer_closed))


class UpgradeProbe:
    """A WebSocket that is to replace polling as the transport of a session.

    The client sends ``2probe``, and ``5`` once its last GET was answered. Anything else, or nothing
    within ``seconds``, closes the WebSocket and leaves the session on polling.
    """

    __slots__ = ("_probed", "_session", "_timer", "_transport", "_websocket")

    def __init__(
        self, session: Session, websocket: WebSocket, timers: Timers, seconds: float
    ) -> None:
        self._session = session
        self._websocket = websocket
        self._probed = False
        self._transport: WebSocketTransport | None = None
        session.begin_upgrade(websocket)
        self._timer = timers.add(trio.current_time() + seconds, self._expire, websocket.fault)

    def received(self, message: str | bytes) -> Awaitable[None] | None:
        """Handle a packet of the upgrade, and then those of the session."""
        if self._transport is not None:
            return self._transport.received(message)
        if not self._probed and message == f"{PING}probe":
            self._probed = True
            self._websocket.outbox.offer(_PROBE_ANSWER, 0)
            self._session.mark_probing()
        elif self._probed and message == str(UPGRADE):
            self._timer.cancel()
            self._transport = WebSocketTransport(self._session, self._websocket)
            self._session.use_websocket(self._websocket)
        else:
            self._websocket.end(model.POLICY)
        return None

    def _expire(self, _now: float) -> None:
        self._websocket.end(model.POLICY)

    def goodbye_frames(self, close: Close, reason: str) -> bytes:
        """Return nothing to send before the Close frame."""
        return b"" if self._transport is None else self._transport.goodbye_frames(close, reason)

    def ended(self, close: Close, reason: str) -> None:
        """Leave the session on polling, or end it if this is its transport."""
        self._timer.cancel()
        if self._transport is not None:
            self._transport.ended(close, reason)
        else:
            self._session.abandon_upgrade()


class RejectedUpgrade:
    """A WebSocket for a session that has one already, or has ended: it is closed at once."""

    __slots__ = ()

    def __init__(self, websocket: WebSocket) -> None:
        websocket.end(model.POLICY)

    def received(self, message: str | bytes) -> None:
        """Do nothing: a closing WebSocket delivers no messages."""

    def goodbye_frames(self, close: Close, reason: str) -> bytes:
        """Return nothing to send before the Close frame."""
        return b""

    def ended(self, close: Close, reason: str) -> None:
        """Do nothing: no session ends with it."""
