"""The server: who may come in, and each connection's whole life from its first byte to its end."""

from __future__ import annotations

import ipaddress
import itertools
import traceback
from collections import Counter
from collections.abc import Sequence
from typing import Final

import trio
from msgspec import Struct

from chatd.logs import Log
from chatd.settings import Settings
from chatd.wire.http import HttpConnection
from chatd.wire.listener import Listener
from chatd.wire.request import Response, refusal
from chatd.wire.routes import Routes
from chatd.wire.sweeper import Sweeper
from chatd.wire.transport import Peer, SocketTransport, Transport
from chatd.wire.websocket import Handover, WebSocket

__all__ = ["Server", "ServerStatistics"]

# Above a limit so many more are let in to be told so; who comes then is closed without a word.
_TOLD: Final = 64
_RETRY: Final = (("Retry-After", "10"),)
# "No descriptors" is said once in this time, however long it lasts.
_WARN_SECONDS: Final = 60.0


class ServerStatistics(Struct, frozen=True):
    """How many there are, and what became of the rest.

    ``open`` transports, ``websockets`` among them, ``accepted`` since the start, ``refused``
    answers by HTTP status, ``turned_away`` without any, bytes ``waiting`` in all outboxes.
    """

    open: int
    websockets: int
    accepted: int
    refused: dict[int, int]
    turned_away: int
    waiting: int


class Server:
    """Serves listeners, and single transports.

    ``settings`` and ``routes`` may be replaced while it runs: new connections go by the new ones.
    ``connections`` are the WebSockets that are open.
    """

    def __init__(self, settings: Settings, routes: Routes, log: Log) -> None:
        self.routes = routes
        self.connections: set[WebSocket] = set()
        self._log = log
        self._ids = itertools.count(1)
        self._http_open: set[HttpConnection] = set()
        self._retiring = False
        self._open = 0
        self._by_address: Counter[str] = Counter()
        self._refused: Counter[int] = Counter()
        self._accepted = 0
        self._turned_away = 0
        self._warned = float("-inf")
        self._sweeper = Sweeper(settings.websocket)
        self._settings = settings

    @property
    def settings(self) -> Settings:
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._settings = settings
        self._sweeper.rhythm = settings.websocket

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

    async def sweep(self) -> None:
        """Keep the heartbeats of all connections; runs as long as any is served."""
        await self._sweeper.run()

    async def handle(self, transport: Transport) -> None:
        """Live one connection's whole life, and close its transport. Raises nothing of its."""
        address = _counted(transport.peer)
        self._accepted += 1
        self._open += 1
        self._by_address[address] += 1
        try:
            refusing, over = self._over(address)
            if over <= _TOLD:
                await self._serve(transport, refusing)
            else:
                self._turned_away += 1
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
            self._open -= 1
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]
            await transport.aclose()

    def retire(self) -> None:
        """Keep no HTTP connection waiting for another request, now and from now on.

        What is begun is answered; WebSockets are not touched. A drain waits for nobody idle.
        """
        self._retiring = True
        for http in list(self._http_open):
            http.retire()

    def statistics(self) -> ServerStatistics:
        return ServerStatistics(
            open=self._open,
            websockets=len(self.connections),
            accepted=self._accepted,
            refused=dict(self._refused),
            turned_away=self._turned_away,
            waiting=sum(websocket.outbox.waiting for websocket in self.connections),
        )

    def _over(self, address: str) -> tuple[Response | None, int]:
        """Find the answer for a connection that is one too many, and by how many it is."""
        limits = self._settings.limits
        over = self._open - limits.connections
        if over > 0:
            return refusal(503, "Too many connections; come back in a while.", _RETRY), over
        allowed = limits.connections_per_address
        if address and allowed != "off":
            over = self._by_address[address] - allowed
            if over > 0:
                return refusal(429, "Too many connections from your address.", _RETRY), over
        return None, 0

    async def _serve(self, transport: Transport, refusing: Response | None) -> None:
        connection = f"c{_base36(next(self._ids))}"
        handover = await self._http(transport, connection, refusing)
        if handover is None:
            return
        websocket = WebSocket(
            connection, transport, handover, settings=self._settings, log=self._log
        )
        self.connections.add(websocket)
        if handover.upgrade.heartbeat:
            self._sweeper.add(websocket)
        try:
            await websocket.run()
        finally:
            self._sweeper.discard(websocket)
            self.connections.discard(websocket)

    async def _http(
        self, transport: Transport, connection: str, refusing: Response | None
    ) -> Handover | None:
        # A call of its own: what HTTP needed is gone while the WebSocket lives.
        http = HttpConnection(
            transport,
            self.routes,
            self._log,
            connection=connection,
            seconds=self._settings.limits.handshake_seconds,
            refused=self._count_refusal,
            refusing=refusing,
        )
        if self._retiring:
            http.retire()
        self._http_open.add(http)
        try:
            return await http.run()
        finally:
            self._http_open.discard(http)

    def _count_refusal(self, status: int) -> None:
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


def _counted(peer: Peer) -> str:
    """Name whom a connection counts for: an IPv4 address, an IPv6 network, "" for nobody.

    A household has a whole /64, so one address of it says nothing.
    """
    if peer.kind != "tcp" or peer.loopback:
        return ""
    if ":" not in peer.address:
        return peer.address
    return str(ipaddress.ip_network((peer.address, 64), strict=False))


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"
