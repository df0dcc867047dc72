"""The HTTP server: takes connections from listeners and serves each one until it ends."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

import trio
from msgspec import Struct

from chatd.budgets import CONNECTION_SECONDS, TLS_SECONDS
from chatd.changed import Changed
from chatd.logs import Log
from chatd.model import GOING_AWAY
from chatd.settings import Settings
from chatd.settings import WebSocket as KeepAliveOptions
from chatd.timers import Timer, Timers, ping_due
from chatd.wire.forwarding import FORWARDING, STANDARD, Forwarded, TrustedProxies, forwarded
from chatd.wire.http import HttpConnection
from chatd.wire.keepalive import KeepAlive
from chatd.wire.limiter import ConnectionLimiter, ConnectionSlot
from chatd.wire.listener import Listener
from chatd.wire.preamble import AcceptedStream, Preamble, PreambleError
from chatd.wire.routes import Routes
from chatd.wire.streaming import Stream, Streamed
from chatd.wire.tls import ServerContext
from chatd.wire.transport import Peer, SocketTransport, Transport
from chatd.wire.websocket import WebSocket

__all__ = ["HttpServer", "HttpServerStatistics"]

# This many connections over a limit are answered with 503 or 429; more are closed silently. It is
# a part of the 64 descriptors that are kept back for the store, the log and the admin socket.
_ANSWERED_EXCESS: Final = 16
# "No descriptors left" is logged at most this often.
_WARN_SECONDS: Final = 60.0


class HttpServerStatistics(Struct, frozen=True):
    """A server's counts.

    Attributes:
        open: Connections.
        websockets: Those of them that are WebSockets.
        accepted: Connections since the start.
        refused: Refusals by HTTP status.
        turned_away: Connections that were closed without an answer.
        waiting: Bytes in all outboxes.
        expires: When the certificate expires, as a Unix time. Infinite without one.
    """

    open: int
    websockets: int
    accepted: int
    refused: dict[int, int]
    turned_away: int
    waiting: int
    expires: float


class HttpServer:
    """Serves HTTP and WebSocket on listeners and on single transports.

    ``settings``, ``routes`` and ``tls`` may be replaced while it runs, for later connections.

    Args:
        settings: Limits, times, and the proxies to trust.
        routes: The handlers of the requests.
        log: Where refusals and faults are logged.
        tls: The certificate for connections by TCP, or None for plain HTTP.
        timers: Run by the caller. Without them WebSockets are not pinged.
        name: What the ids of its connections begin with.
    """

    def __init__(
        self,
        settings: Settings,
        routes: Routes,
        log: Log,
        *,
        tls: ServerContext | None = None,
        timers: Timers | None = None,
        name: str = "c",
    ) -> None:
        self.log = log
        self.routes = routes
        self.tls = tls
        self.connections: set[WebSocket | Stream] = set()
        """The WebSockets and the responses without an end that are open."""
        self.released = Changed()
        """Notified when a connection has ended."""
        self._settings = settings
        self._timers = timers
        self._name = name
        self._ids = itertools.count(1)
        self._idle: set[Preamble | HttpConnection] = set()
        self._retiring = False
        self._limiter = ConnectionLimiter(settings.limits)
        self._trusted = TrustedProxies(settings.http.trusted_proxies)
        # The keys for which an ignored forwarding header has been logged.
        self._ignored: set[str] = set()
        self._refused: Counter[int] = Counter()
        self._accepted = 0
        self._turned_away = 0
        self._warned = float("-inf")

    @property
    def settings(self) -> Settings:
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._settings = settings
        self._limiter.limits = settings.limits
        self._trusted = TrustedProxies(settings.http.trusted_proxies)

    async def serve(
        self,
        listeners: Sequence[Listener],
        *,
        handlers: trio.Nursery,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept connections until cancelled, then close the listeners.

        Connections run in ``handlers`` and outlive this call: a drain begins by cancelling it.
        """

        def welcome(transport: SocketTransport) -> None:
            handlers.start_soon(self.handle, transport)

        try:
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    nursery.start_soon(listener.accept, welcome, self._warn_exhausted)
                task_status.started()
        finally:
            for listener in listeners:
                listener.close()

    async def handle(self, transport: Transport) -> None:
        """Serve one connection until it ends, and close its transport.

        An exception of the connection's is logged and not raised.
        """
        self._accepted += 1
        channel = timer = None
        slot = self._limiter.take()
        trusted = self._trusted.trusts(transport.peer)
        if not trusted:
            slot.count_for(transport.peer)
        try:
            if self._turns_away(slot):
                return
            await slot.spend(CONNECTION_SECONDS)
            connection = f"{self._name}{_base36(next(self._ids))}"
            stream = await self._read_preamble(transport, connection, trusted=trusted)
            if stream is None:
                return
            transport = stream.transport
            if transport.peer.forwarded:
                slot.count_for(transport.peer)
                if self._turns_away(slot):
                    return
                await slot.spend(CONNECTION_SECONDS)
            if stream.transport.secure:
                await slot.spend(TLS_SECONDS)
            channel = await self._serve_http(stream, connection, slot)
            if channel is not None:
                self.connections.add(channel)
                if isinstance(channel, WebSocket):
                    timer = self._keep_alive(channel)
                if self._retiring:
                    channel.end(GOING_AWAY)
                await channel.run()
        except trio.BrokenResourceError:
            pass  # the peer is gone
        except Exception as error:  # the connection's boundary
            self.log.fault(
                error,
                address=transport.peer.address,
            )
        finally:
            if channel is not None:
                self.connections.discard(channel)
            if timer is not None:
                timer.cancel()
            slot.release()
            self.released.notify()
            await transport.aclose()

    def retire(self) -> None:
        """Close idle HTTP connections, and every other one after its present request.

        Those that are open, WebSockets and responses without an end, are not affected.
        """
        self._retiring = True
        for idle in list(self._idle):
            idle.retire()

    def statistics(self) -> HttpServerStatistics:
        return HttpServerStatistics(
            open=self._limiter.open,
            websockets=sum(isinstance(each, WebSocket) for each in self.connections),
            accepted=self._accepted,
            refused=dict(self._refused),
            turned_away=self._turned_away,
            waiting=sum(channel.outbox.waiting for channel in self.connections),
            expires=math.inf if self.tls is None else self.tls.expires,
        )

    # For HttpConnection

    def forwarded(self, headers: Sequence[tuple[str, str]], peer: Peer) -> Forwarded:
        """Return who sent a request that has forwarding headers.

        Headers of a peer that is not a trusted proxy are ignored, and so are those of the kind that
        ``http.forwarded_header`` does not name. The log has one warning for each.
        """
        names = [name for name, _ in headers if name in FORWARDING]
        believed = self._settings.http.forwarded_header
        if not self._trusted.trusts(peer):
            self._warn_ignored(
                names[0],
                peer,
                "from an address that is not a trusted proxy; if it is your proxy, add its address",
                "http.trusted_proxies",
            )
            return Forwarded(peer)
        ignored = [name for name in names if (name == "forwarded") is not (believed == STANDARD)]
        if ignored and believed.lower() not in names:
            self._warn_ignored(
                ignored[0],
                peer,
                f"from a proxy that does not send {believed}; name the header that it sends",
                "http.forwarded_header",
            )
        return forwarded(headers, peer, self._trusted, standard=believed == STANDARD)

    def _warn_ignored(self, name: str, peer: Peer, why: str, setting: str) -> None:
        if setting not in self._ignored:
            self._ignored.add(setting)
            detail = f"ignoring {name} {why} (this is logged once)"
            self.log.emit("warning", address=peer.address, detail=detail, setting=setting)

    def count_refusal(self, status: int) -> None:
        """Count an answer that refuses a request."""
        self._refused[status] += 1

    # The parts of a connection's life

    def _turns_away(self, slot: ConnectionSlot) -> bool:
        """Return whether the limit is exceeded so far that this connection gets no answer."""
        if slot.excess <= _ANSWERED_EXCESS:
            return False
        self._turned_away += 1
        return True

    async def _read_preamble(
        self, transport: Transport, connection: str, *, trusted: bool
    ) -> AcceptedStream | None:
        tls = self.tls if transport.peer.kind == "tcp" else None
        if not trusted and tls is None:
            return AcceptedStream(transport)
        seconds = self._settings.limits.handshake_seconds
        preamble = Preamble(transport, trusted=trusted, tls=tls, seconds=seconds)
        self._idle.add(preamble)
        try:
            return await preamble.run()
        except PreambleError as error:
            self._turned_away += 1
            self.log.emit(
                "refused",
                connection=connection,
                address=transport.peer.address,
                reason=str(error),
            )
            return None
        finally:
            self._idle.discard(preamble)

    async def _serve_http(
        self, stream: AcceptedStream, connection: str, slot: ConnectionSlot
    ) -> WebSocket | Stream | None:
        # In a separate call, so that HTTP's objects are freed before the rest starts.
        http = HttpConnection(self, stream, slot, connection=connection)
        if self._retiring:
            http.retire()
        self._idle.add(http)
        try:
            handover = await http.run()
        finally:
            self._idle.discard(http)
        if handover is None:
            return None
        settings, log = self._settings, self.log
        if isinstance(handover, Streamed):
            return Stream(stream.transport, handover, slot=slot, settings=settings, log=log)
        return WebSocket(stream.transport, handover, slot=slot, settings=settings, log=log)

    def _keep_alive(self, websocket: WebSocket) -> Timer | None:
        if self._timers is None or not websocket.upgrade.keep_alive:
            return None
        return self._timers.add(
            ping_due(websocket.last_heard, self._settings.websocket.ping_interval_seconds),
            KeepAlive(websocket, self._keep_alive_options).fire,
            websocket.fault,
        )

    def _keep_alive_options(self) -> KeepAliveOptions:
        return self._settings.websocket

    def _warn_exhausted(self) -> None:
        now = trio.current_time()
        if now - self._warned >= _WARN_SECONDS:
            self._warned = now
            self.log.emit(
                "warning",
                detail="no file descriptors left, new connections wait: raise LimitNOFILE or "
                "lower limits.connections",
                setting="limits.connections",
            )


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"
