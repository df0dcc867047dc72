"""The server: who may come in, and each connection's whole life from its first byte to its end."""

from __future__ import annotations

import itertools
import math
import traceback
from collections import Counter
from collections.abc import Sequence
from typing import Final

import trio
from msgspec import Struct

from chatd.logs import Log
from chatd.settings import Settings
from chatd.settings import WebSocket as KeepAliveOptions
from chatd.timers import Timers
from chatd.wire.admission import Admission, Visit
from chatd.wire.forwarding import FORWARDING, Forwarded, TrustedProxies, forwarded
from chatd.wire.http import HttpConnection
from chatd.wire.keepalive import KeepAlive
from chatd.wire.listener import Listener
from chatd.wire.preamble import Opened, Preamble, PreambleError
from chatd.wire.request import Response, refusal
from chatd.wire.routes import Routes
from chatd.wire.tls import ServerContext
from chatd.wire.transport import Peer, SocketTransport, Transport
from chatd.wire.websocket import Handover, WebSocket

__all__ = ["Server", "ServerStatistics"]

# Above a limit so many more are let in to be told so; who comes then is closed without a word. Of
# the 64 descriptors that are kept back it leaves the store, the log and the admin socket theirs.
_TOLD: Final = 16
_PLAIN: Final = refusal(400, "TLS is spoken here: say https:// or wss://.")
# "No descriptors" is said once in this time, however long it lasts.
_WARN_SECONDS: Final = 60.0


class ServerStatistics(Struct, frozen=True):
    """How many there are, and what became of the rest.

    ``open`` transports, ``websockets`` among them, ``accepted`` since the start, ``refused``
    answers by HTTP status, ``turned_away`` without any, bytes ``waiting`` in all outboxes. The
    certificate ``expires`` at that Unix time; inf where there is none.
    """

    open: int
    websockets: int
    accepted: int
    refused: dict[int, int]
    turned_away: int
    waiting: int
    expires: float


class Server:
    """Serves listeners, and single transports.

    ``settings``, ``routes`` and ``tls`` may be replaced while it runs: new connections go by the
    new ones. ``tls``, where there is one, is spoken with whoever comes by TCP. Without ``timers``
    WebSockets are not pinged.
    ``connections`` are the WebSockets that are open. Each connection's id begins with ``name``.
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
        self._name = name
        self.routes = routes
        self.tls = tls
        self.connections: set[WebSocket] = set()
        self._log = log
        self._ids = itertools.count(1)
        self._waiting: set[Preamble | HttpConnection] = set()
        self._retiring = False
        self._admission = Admission(settings.limits)
        self._trusted = TrustedProxies(settings.http.trusted_proxies)
        self._distrusted = False
        self._refused: Counter[int] = Counter()
        self._accepted = 0
        self._turned_away = 0
        self._warned = float("-inf")
        self._timers = timers
        self._settings = settings

    @property
    def settings(self) -> Settings:
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._settings = settings
        self._admission.limits = settings.limits
        self._trusted = TrustedProxies(settings.http.trusted_proxies)

    async def serve(
        self,
        listeners: Sequence[Listener],
        *,
        handlers: trio.Nursery,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept until cancelled, and close the listeners then.

        Connections run in ``handlers``, and outlive this call: that is how a drain begins.
        """

        def welcome(transport: SocketTransport) -> None:
            handlers.start_soon(self.handle, transport)

        try:
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    nursery.start_soon(listener.accept, welcome, self._exhausted)
                task_status.started()
        finally:
            for listener in listeners:
                listener.close()

    async def handle(self, transport: Transport) -> None:
        """Live one connection's whole life, and close its transport. Raises nothing of its."""
        self._accepted += 1
        visit = self._admission.enter()
        trusted = self._trusted.trusts(transport.peer)
        if not trusted:
            visit.count_for(transport.peer)
        try:
            if self._turns_away(visit):
                return
            connection = f"{self._name}{_base36(next(self._ids))}"
            opened = await self._open(transport, connection, trusted=trusted)
            if opened is None:
                return
            transport = opened.transport
            if transport.peer.forwarded:
                visit.count_for(transport.peer)
                if self._turns_away(visit):
                    return
            await self._speak(opened, connection, visit)
        except trio.BrokenResourceError:
            pass  # the peer is gone, before it was anybody
        except Exception as error:  # the connection's boundary
            self._log.emit(
                "fault",
                address=transport.peer.address,
                error=repr(error),
                traceback=traceback.format_exc(),
            )
        finally:
            visit.leave()
            await transport.aclose()

    def retire(self) -> None:
        """Keep no HTTP connection waiting for another request, now and from now on.

        What is begun is answered; WebSockets are not touched. A drain waits for nobody idle.
        """
        self._retiring = True
        for waiting in list(self._waiting):
            waiting.retire()

    def statistics(self) -> ServerStatistics:
        return ServerStatistics(
            open=self._admission.open,
            websockets=len(self.connections),
            accepted=self._accepted,
            refused=dict(self._refused),
            turned_away=self._turned_away,
            waiting=sum(websocket.outbox.waiting for websocket in self.connections),
            expires=math.inf if self.tls is None else self.tls.expires,
        )

    def _turns_away(self, visit: Visit) -> bool:
        """Tell whether it is so far over a limit that it is not even told so."""
        if visit.over <= _TOLD:
            return False
        self._turned_away += 1
        return True

    async def _open(self, transport: Transport, connection: str, *, trusted: bool) -> Opened | None:
        tls = self.tls if transport.peer.kind == "tcp" else None
        if not trusted and tls is None:
            return Opened(transport)
        seconds = self._settings.limits.handshake_seconds
        preamble = Preamble(transport, trusted=trusted, tls=tls, seconds=seconds)
        self._waiting.add(preamble)
        try:
            return await preamble.run()
        except PreambleError as error:
            self._turned_away += 1
            self._log.emit(
                "refused",
                connection=connection,
                address=transport.peer.address,
                reason=str(error),
            )
            return None
        finally:
            self._waiting.discard(preamble)

    async def _speak(self, opened: Opened, connection: str, visit: Visit) -> None:
        handover = await self._http(opened, connection, visit)
        if handover is None:
            return
        websocket = WebSocket(
            connection, opened.transport, handover, settings=self._settings, log=self._log
        )
        timer = None
        if handover.upgrade.heartbeat and self._timers is not None:
            keep_alive = KeepAlive(websocket, self._keep_alive_options)
            timer = self._timers.add(
                websocket.last_heard + self._settings.websocket.ping_interval_seconds,
                keep_alive.fire,
                websocket.fault,
            )
        self.connections.add(websocket)
        try:
            await websocket.run()
        finally:
            self.connections.discard(websocket)
            if timer is not None:
                timer.cancel()

    def _keep_alive_options(self) -> KeepAliveOptions:
        return self._settings.websocket

    async def _http(self, opened: Opened, connection: str, visit: Visit) -> Handover | None:
        # A call of its own: what HTTP needed is gone while the WebSocket lives.
        http = HttpConnection(
            opened.transport,
            self.routes,
            self._log,
            connection=connection,
            seconds=self._settings.limits.handshake_seconds,
            gate=_Gate(self, visit, plain=opened.plain),
            early=opened.early,
        )
        if self._retiring:
            http.retire()
        self._waiting.add(http)
        try:
            return await http.run()
        finally:
            self._waiting.discard(http)

    def forwarded(self, headers: Sequence[tuple[str, str]], peer: Peer) -> Forwarded:
        """Tell for whom a peer asks that sent forwarding headers; warn of one that may not."""
        if self._trusted.trusts(peer):
            return forwarded(headers, peer, self._trusted)
        if not self._distrusted:
            self._distrusted = True
            name = next(name for name, _ in headers if name in FORWARDING)
            self._log.emit(
                "warning",
                address=peer.address,
                detail=f"a request came with {name} from who is no trusted proxy: it is ignored, "
                "then and from now on; if it was your proxy, add its address",
                setting="http.trusted_proxies",
            )
        return Forwarded(peer)

    def count_refusal(self, status: int) -> None:
        """Count an answer that refused."""
        self._refused[status] += 1

    def _exhausted(self) -> None:
        now = trio.current_time()
        if now - self._warned >= _WARN_SECONDS:
            self._warned = now
            self._log.emit(
                "warning",
                detail="no descriptors left: new connections wait; raise LimitNOFILE or lower the "
                "limit of connections",
                setting="limits.connections",
            )


class _Gate:
    """What one connection's HTTP asks: who it is that asks, and may they come in."""

    __slots__ = ("_plain", "_server", "_visit")

    def __init__(self, server: Server, visit: Visit, *, plain: bool) -> None:
        self._server = server
        self._visit = visit
        self._plain = plain

    def forwarded(self, headers: Sequence[tuple[str, str]], peer: Peer) -> Forwarded:
        return self._server.forwarded(headers, peer)

    def admit(self, peer: Peer) -> Response | None:
        return _PLAIN if self._plain else self._visit.count_for(peer)

    def refused(self, status: int) -> None:
        self._server.count_refusal(status)


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"
