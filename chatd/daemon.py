"""The daemon: its nursery tree, its settings, and how it drains.

::

    open_daemon
    └── log                      writes what a slow reader left waiting
        └── bus                  collects and commits; fans out
            ├── timers           everything that waits for a time: pings, expiry
            ├── issuer           fetches the keys at auth.jwks_url
            ├── patience         sends clients away from a store that is not back in time
            ├── node watch       compares this daemon with the others that share its store
            ├── Socket.IO        the handlers of each Socket.IO connection
            └── handlers         one task for each connection
                └── listeners    accept

It stops from the leaves to the root: listeners are cancelled, handlers say goodbye and have a
deadline, the tasks beside them are cancelled, the bus commits and fans out the rest and closes the
journal, the log is cancelled.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from chatd.chat import Chat
from chatd.chat.tokens import Keys
from chatd.gateways import HttpGateway, SocketIoGateway, routes
from chatd.journal import Journal
from chatd.journal.retention import retention_of
from chatd.journal.shared import SharedJournal
from chatd.logs import Log, now_ms
from chatd.model import GOING_AWAY
from chatd.nodes import NodeWatch
from chatd.reload import Loaded
from chatd.settings import Settings
from chatd.timers import Timers
from chatd.wire.listener import Listener
from chatd.wire.routes import Routes
from chatd.wire.server import HttpServer
from chatd.wire.tls import tls_context
from chatd.wire.transport import Transport

__all__ = ["Daemon", "open_daemon"]

LEAVING_SECONDS: Final = 30.0
"""The time over which clients are sent away from a store that cannot be reached, so that not all of
them come to the other daemons at the same moment."""

FLUSH_SECONDS: Final = 1.0
"""The part of a drain's time, at most half, in which the bus commits what it has accepted."""


class Daemon:
    """A running daemon, made by ``open_daemon``, which owns its tasks."""

    def __init__(self, settings: Settings, chat: Chat, log: Log, handlers: trio.Nursery) -> None:
        self.settings = settings
        self.chat = chat
        self.log = log
        self.socketio = SocketIoGateway(chat, log, self._refuses)
        self.http = HttpGateway(chat, log, self._refuses)
        self.server = HttpServer(
            settings, self._routes(), log, tls=tls_context(settings), timers=chat.timers
        )
        self._handlers = handlers
        self._listeners = trio.CancelScope()
        self.ends = math.inf
        """The deadline of the drain, on Trio's clock."""
        if isinstance(chat.journal, SharedJournal):
            chat.journal.hold_ms = self._hold_ms
            chat.journal.grace_ms = self._grace_ms

    def _routes(self) -> Routes:
        return routes(
            self.chat, self.log, self.socketio, self.http, lambda: self.ready, self._refuses
        )

    def _hold_ms(self) -> int:
        return int(self.settings.chat.nick_hold_seconds * 1000)

    def _grace_ms(self) -> int:
        return int(self.settings.chat.presence_grace_seconds * 1000)

    @property
    def draining(self) -> bool:
        """True once it has begun to stop."""
        return self.ends != math.inf

    @property
    def ready(self) -> bool:
        """True while new clients are accepted."""
        return not self.draining and self.store_problem is None and self.chat.bus.available

    @property
    def store_problem(self) -> str | None:
        """Why a store that daemons share cannot be used, for operators; None while it can."""
        journal = self.chat.journal
        if isinstance(journal, SharedJournal) and journal.down_since is not None:
            return journal.reason
        return None

    def apply(self, settings: Settings, loaded: Loaded | None = None) -> None:
        """Apply settings and their loaded files in one step, without a checkpoint.

        Only clients that the new settings no longer admit are disconnected.
        """
        before, self.settings = self.settings, settings
        self.chat.apply(settings)
        self.chat.bus.retain(retention_of(settings))
        self.socketio.apply()
        self.server.settings = settings
        if loaded is not None:
            self.chat.use_keys(loaded.keys)
            self.server.tls = loaded.tls
        if settings.chat.default_room != before.chat.default_room:
            self.server.routes = self._routes()  # the page contains it
        output = self.log.output
        output.level, output.addresses = settings.log.level, settings.log.addresses

    def _refuses(self) -> str | None:
        """Return why new clients are refused; None while they are accepted."""
        if self._listeners.cancel_called:
            return "the server is restarting"
        if self.store_problem is not None:
            return "the server cannot reach its store"
        return None

    def listen(self, listeners: Sequence[Listener]) -> None:
        """Accept clients on these listeners until the daemon drains, which closes them."""
        self._handlers.start_soon(self._accept, listeners)

    async def _accept(self, listeners: Sequence[Listener]) -> None:
        with self._listeners:
            await self.server.serve(listeners, handlers=self._handlers)

    def attach(self, transport: Transport) -> None:
        """Serve a connection that did not come from a listener."""
        self._handlers.start_soon(self.server.handle, transport)

    async def be_patient(self) -> None:
        """Send the clients to other daemons when the store cannot be reached for too long."""
        journal = self.chat.journal
        if not isinstance(journal, SharedJournal):
            return
        while True:
            while (since := journal.down_since) is None:
                await journal.changed.wait()
            patience = self.settings.cluster.patience_seconds
            if not await _is_back(journal, since + patience):
                await self._send_away(journal)
                await _is_back(journal, math.inf)

    async def _send_away(self, journal: SharedJournal) -> None:
        """Close the clients one after another, in a random order, until the store is back."""
        clients, began = list(self.chat.connections), trio.current_time()
        random.shuffle(clients)
        for place, client in enumerate(clients):
            if await _is_back(journal, began + place * LEAVING_SECONDS / len(clients)):
                return
            if client in self.chat.connections:
                client.end(GOING_AWAY, "the server cannot reach its store")

    async def drain(self) -> None:
        """Fail the readiness check, then close the listeners, then disconnect the clients."""
        settings = self.settings.drain
        self.ends = trio.current_time() + settings.delay_seconds + settings.seconds
        self.log.emit(
            "drain",
            clients=len(self.chat.connections),
            rooms=len(self.chat.rooms),
            seconds=settings.seconds,
        )
        await trio.sleep(settings.delay_seconds)
        self._listeners.cancel()
        self.server.retire()
        self.socketio.farewell()
        for channel in list(self.server.connections):
            channel.end(GOING_AWAY)
        self._handlers.cancel_scope.deadline = self.ends - min(FLUSH_SECONDS, settings.seconds / 2)


async def _is_back(journal: SharedJournal, deadline: float) -> bool:
    """Wait until the store can be reached, until a time on Trio's clock. Return whether it can."""
    with trio.move_on_at(deadline):
        while journal.down_since is not None:
            await journal.changed.wait()
    return journal.down_since is None


@asynccontextmanager
async def open_daemon(
    settings: Settings,
    *,
    journal: Journal,
    log: Log,
    now: Callable[[], int] = now_ms,
    keys: Keys | None = None,
) -> AsyncIterator[Daemon]:
    """Run a daemon on an open journal; it drains at the end of the block and closes the journal.

    A cancellation stops it at once.

    Raises:
        TlsError: The certificate or its key cannot be used.
    """
    timers = Timers(log)
    chat = Chat(settings, journal=journal, log=log, now=now, timers=timers, keys=keys)
    await chat.load()
    async with trio.open_nursery() as log_nursery:
        log_nursery.start_soon(log.output.run)
        async with trio.open_nursery() as bus_nursery:
            bus_nursery.start_soon(chat.bus.run)
            async with trio.open_nursery() as helpers:
                helpers.start_soon(timers.run)
                helpers.start_soon(chat.issuer.run)
                async with trio.open_nursery() as handlers:
                    daemon = Daemon(settings, chat, log, handlers)
                    if isinstance(journal, SharedJournal):
                        helpers.start_soon(NodeWatch(chat, journal).run)
                    helpers.start_soon(daemon.be_patient)
                    await helpers.start(daemon.socketio.io.run)
                    yield daemon
                    await daemon.drain()
                # Before the bus is closed: it publishes.
                helpers.cancel_scope.cancel()
            bus_nursery.cancel_scope.deadline = daemon.ends
            await chat.users.save()
            chat.bus.close()
        log_nursery.cancel_scope.cancel()
