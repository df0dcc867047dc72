"""The daemon: its nursery tree, its signals, reload, and how it stops.

::

    run                          SIGTERM, SIGINT: drain; a second one: stop at once; SIGHUP: reload
    ├── administration           the admin socket and the metrics listener, until the very end
    └── log                      writes what a slow reader left waiting
        └── bus                  collects and commits; fans out
            ├── timers           everything that waits for a time: pings, expiry
            ├── Socket.IO        the handlers of each Socket.IO connection
            └── handlers         one task for each connection
                └── listeners    accept

It stops from the leaves: listeners are cancelled, handlers say goodbye and have a deadline, the
tasks beside them are cancelled, the bus commits and fans out the rest and closes the journal, the
log is cancelled.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import trio

from chatd import __version__
from chatd.admin import Administration, DaemonControl
from chatd.chat import Chat
from chatd.chat.tokens import Keys
from chatd.gateways import SocketIoGateway, routes
from chatd.journal import Journal
from chatd.journal.retention import retention_of
from chatd.logs import Log
from chatd.model import GOING_AWAY
from chatd.reload import Configuration, Loaded, Reload, fixed
from chatd.settings import Settings
from chatd.systemd import Notifier
from chatd.timers import Timers
from chatd.watchdog import Watchdog
from chatd.wire.listener import Listener
from chatd.wire.routes import Routes
from chatd.wire.server import HttpServer
from chatd.wire.tls import tls_context
from chatd.wire.transport import Transport

__all__ = ["Daemon", "now_ms", "open_daemon", "run"]

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_STDERR: Final = 2

STATUS_SECONDS: Final = 5.0
"""How old the status that systemd shows may be."""

OPENING_SECONDS: Final = 20.0
"""How much time systemd is asked for at a time while the store is being opened."""

FLUSH_SECONDS: Final = 1.0
"""Part of a drain's time, at most half, that is left for the bus to commit what it took."""


def now_ms() -> int:
    """Return the wall clock's Unix milliseconds: for timestamps, never for waits."""
    return time.time_ns() // 1_000_000


class Daemon:
    """A running daemon, made by ``open_daemon``, which owns its tasks."""

    def __init__(self, settings: Settings, chat: Chat, log: Log, handlers: trio.Nursery) -> None:
        self.settings = settings
        self.chat = chat
        self.log = log
        self.socketio = SocketIoGateway(chat, log, self._closing)
        self.server = HttpServer(
            settings, self._routes(), log, tls=tls_context(settings), timers=chat.timers
        )
        self._handlers = handlers
        self._listeners = trio.CancelScope()
        self.ends = math.inf
        """The deadline of the drain, on Trio's clock."""

    def _routes(self) -> Routes:
        return routes(self.chat, self.log, self.socketio, lambda: self.ready, self._closing)

    @property
    def draining(self) -> bool:
        """True once it has begun to stop."""
        return self.ends != math.inf

    @property
    def ready(self) -> bool:
        """True while new clients are accepted."""
        return not self.draining and self.chat.bus.available

    def apply(self, settings: Settings, loaded: Loaded | None = None) -> None:
        """Put settings, and what was loaded for them, in force, in one step without a checkpoint.

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

    def _closing(self) -> bool:
        return self._listeners.cancel_called

    def listen(self, listeners: Sequence[Listener]) -> None:
        """Accept clients on these listeners until the daemon drains, which closes them."""
        self._handlers.start_soon(self._accept, listeners)

    async def _accept(self, listeners: Sequence[Listener]) -> None:
        with self._listeners:
            await self.server.serve(listeners, handlers=self._handlers)

    def attach(self, transport: Transport) -> None:
        """Serve a connection that did not come from a listener."""
        self._handlers.start_soon(self.server.handle, transport)

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
        for websocket in list(self.server.connections):
            websocket.end(GOING_AWAY)
        self._handlers.cancel_scope.deadline = self.ends - min(FLUSH_SECONDS, settings.seconds / 2)


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
                async with trio.open_nursery() as handlers:
                    daemon = Daemon(settings, chat, log, handlers)
                    await helpers.start(daemon.socketio.io.run)
                    yield daemon
                    await daemon.drain()
                # Before the bus is closed: it publishes.
                helpers.cancel_scope.cancel()
            bus_nursery.cancel_scope.deadline = daemon.ends
            await chat.users.save()
            chat.bus.close()
        log_nursery.cancel_scope.cancel()


async def run(
    settings: Settings,
    *,
    listeners: Sequence[Listener],
    admin: Sequence[Listener] = (),
    metrics: Sequence[Listener] = (),
    journal: AbstractAsyncContextManager[Journal],
    log: Log,
    notifier: Notifier,
    keys: Keys | None = None,
    configuration: Configuration | None = None,
    watchdog: float | None = None,
) -> None:
    """Serve until a signal says to stop. Return when everything is flushed and closed.

    SIGHUP reloads ``configuration``, or, as its ``hangup`` says, stops as the other signals do.
    Without a configuration nothing is reloaded. ``watchdog`` is the interval, in seconds, within
    which systemd expects a sign of life.
    """
    began = trio.current_time()
    configuration = configuration or fixed(settings)
    reload = Reload(configuration, settings, log=log, notifier=notifier, now=now_ms)
    log.emit("start", version=__version__, pid=os.getpid())
    with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
        # They were blocked until something received them: see `chatd.__main__`.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        async with trio.open_nursery() as nursery:
            stop = trio.Event()
            hangup = reload.request if configuration.hangup else stop.set
            nursery.start_soon(_receive_signals, signals, stop, hangup, nursery.cancel_scope)
            opening = trio.CancelScope()
            nursery.start_soon(_ask_for_time, notifier, opening)
            async with trio.open_nursery() as admin_nursery:
                async with (
                    journal as store,
                    open_daemon(settings, journal=store, log=log, keys=keys) as daemon,
                ):
                    opening.cancel()
                    reload.apply = daemon.apply
                    control = DaemonControl(daemon, reload, stop)
                    administration = Administration(control, admin=admin, metrics=metrics)
                    await admin_nursery.start(administration.run)
                    daemon.listen(listeners)
                    for listener in (*listeners, *admin, *metrics):
                        log.emit("listening", listener=listener.address)
                    log.emit("ready", seconds=round(trio.current_time() - began, 3))
                    notifier.ready()
                    if watchdog is not None:
                        bus = daemon.chat.bus
                        nursery.start_soon(Watchdog(bus, notifier, log, seconds=watchdog).run)
                    async with trio.open_nursery() as until_stop:
                        until_stop.start_soon(_report_status, daemon, reload, notifier)
                        until_stop.start_soon(reload.run)
                        await stop.wait()
                        until_stop.cancel_scope.cancel()
                    drain = daemon.settings.drain
                    notifier.stopping()
                    notifier.extend_timeout(int((drain.delay_seconds + drain.seconds) * 1_000_000))
                administration.close()
            nursery.cancel_scope.cancel()
    log.emit("stop", seconds=round(trio.current_time() - began, 3))


async def _ask_for_time(notifier: Notifier, opening: trio.CancelScope) -> None:
    """Keep systemd waiting while the store is opened: a large one may have to be migrated."""
    with opening:
        while True:
            await trio.sleep(OPENING_SECONDS / 2)
            notifier.status("opening the store")
            notifier.extend_timeout(int(OPENING_SECONDS * 1_000_000))


async def _report_status(daemon: Daemon, reload: Reload, notifier: Notifier) -> None:
    """Keep the status line of ``systemctl status`` up to date."""
    reported = ""
    while True:
        status = f"{len(daemon.chat.connections)} clients, {len(daemon.chat.rooms)} rooms"
        if not daemon.chat.bus.available:
            status += "; the store is failing, new clients are turned away"
        if reload.refused:
            status += f"; configuration refused: {reload.refused[0]}"
        if status != reported and notifier.status(status):
            reported = status
        with trio.move_on_after(STATUS_SECONDS):
            await reload.changed.wait()


async def _receive_signals(
    signals: AsyncIterator[int],
    stop: trio.Event,
    hangup: Callable[[], None],
    everything: trio.CancelScope,
) -> None:
    terminal = os.isatty(_STDERR)
    async for number in signals:
        if number == signal.SIGHUP and not stop.is_set():
            # A terminal that was closed sends it too: then nobody is left to reload for.
            (stop.set if terminal and not os.isatty(_STDERR) else hangup)()
            continue
        if stop.is_set():
            everything.cancel()
        stop.set()
