"""The daemon: its nursery tree, its signals, reload, and how it ends.

::

    run                          SIGTERM, SIGINT: drain; a second one: end at once; SIGHUP: reload
    ├── administration           the admin socket and the metrics' port, to the very end
    └── log                      writes what a slow reader left waiting
        └── bus                  collect and commit; fan out
            ├── timers           all that waits for a time: pings, expiry
            ├── chat             who is gone for good
            └── handlers         one task for each connection, with a nursery of its own
                └── listeners    accept

Ended from the leaves: listeners are cancelled, handlers say goodbye and have a deadline, who tends
them is cancelled, the bus commits and shows the rest and closes the journal, the log is cancelled.
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
from chatd.admin import Administration, Refused, Reloaded
from chatd.admin.answers import Draining, ReloadState
from chatd.chat import Chat
from chatd.chat.tokens import Keys
from chatd.engineio.engine import EngineStatistics
from chatd.gateways import SocketIoGateway, routes
from chatd.journal import Journal
from chatd.journal.retention import retention_of
from chatd.logs import Log
from chatd.model import GOING_AWAY
from chatd.protocol.events import rfc3339
from chatd.reload import Configuration, Loaded, Reload, fixed, written
from chatd.settings import Settings
from chatd.systemd import Notifier
from chatd.timers import Timers
from chatd.watchdog import Watchdog
from chatd.wire.listener import Listener
from chatd.wire.routes import Routes
from chatd.wire.server import Server, ServerStatistics
from chatd.wire.tls import tls_context
from chatd.wire.transport import Transport

__all__ = ["Daemon", "now_ms", "open_daemon", "run"]

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_STDERR: Final = 2

STATUS_SECONDS: Final = 5.0
"""How old the status may be that systemd shows."""

OPENING_SECONDS: Final = 20.0
"""How much time is asked for, again and again, while the store is opened."""

FLUSH_SECONDS: Final = 1.0
"""What is kept back of a drain's time, half of it at most, for the bus to commit what it took."""


def now_ms() -> int:
    """Give the wall clock's milliseconds: for what is written down, never for a wait."""
    return time.time_ns() // 1_000_000


class Daemon:
    """A daemon that runs; made by ``open_daemon``, which owns its tasks."""

    def __init__(self, settings: Settings, chat: Chat, log: Log, handlers: trio.Nursery) -> None:
        self.settings = settings
        self.chat = chat
        self.log = log
        self.socketio = SocketIoGateway(chat, log, self._closes)
        self.server = Server(
            settings, self._routes(), log, tls=tls_context(settings), timers=chat.timers
        )
        self._handlers = handlers
        self._listeners = trio.CancelScope()
        self.ends = math.inf
        """When the drain's time is over, on Trio's clock."""

    def _routes(self) -> Routes:
        return routes(self.chat, self.log, self.socketio, lambda: self.ready, self._closes)

    @property
    def draining(self) -> bool:
        """Whether it has begun to end."""
        return self.ends != math.inf

    @property
    def ready(self) -> bool:
        """Whether new clients are welcome."""
        return not self.draining and self.chat.bus.available

    def apply(self, settings: Settings, loaded: Loaded | None = None) -> None:
        """Go by these settings, and what was loaded for them, from now on: in one step.

        Nobody is sent away but those who may not be here any more.
        """
        before, self.settings = self.settings, settings
        self.chat.apply(settings)
        self.chat.bus.retain(retention_of(settings))
        self.socketio.apply()
        self.server.settings = settings
        if loaded is not None:
            self.chat.rekey(loaded.keys)
            self.server.tls = loaded.tls
        if settings.chat.default_room != before.chat.default_room:
            self.server.routes = self._routes()  # the page has it in its text
        output = self.log.output
        output.level, output.addresses = settings.log.level, settings.log.addresses

    def _closes(self) -> bool:
        return self._listeners.cancel_called

    def listen(self, listeners: Sequence[Listener]) -> None:
        """Take clients from these listeners, until the daemon drains; it closes them then."""
        self._handlers.start_soon(self._accept, listeners)

    async def _accept(self, listeners: Sequence[Listener]) -> None:
        with self._listeners:
            await self.server.serve(listeners, handlers=self._handlers)

    def attach(self, transport: Transport) -> None:
        """Serve one connection that came by no listener."""
        self._handlers.start_soon(self.server.handle, transport)

    async def drain(self) -> None:
        """Send everybody away: the health check first, then the listeners, then the clients."""
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
    """Run a daemon on an open journal for as long as the block; at its end it drains.

    The journal is closed then. A cancellation ends it at once. Raises TlsError.
    """
    timers = Timers(log)
    chat = Chat(settings, journal=journal, log=log, now=now, timers=timers, keys=keys)
    await chat.load()
    async with trio.open_nursery() as logging:
        logging.start_soon(log.output.run)
        async with trio.open_nursery() as flowing:
            flowing.start_soon(chat.bus.run)
            async with trio.open_nursery() as tending:
                tending.start_soon(timers.run)
                tending.start_soon(chat.run)
                async with trio.open_nursery() as handlers:
                    daemon = Daemon(settings, chat, log, handlers)
                    await tending.start(daemon.socketio.io.run)
                    yield daemon
                    await daemon.drain()
                # Before the bus is closed: it publishes.
                tending.cancel_scope.cancel()
            flowing.cancel_scope.deadline = daemon.ends
            await chat.save()
            chat.bus.close()
        logging.cancel_scope.cancel()


class Operated:
    """The running daemon as its operator meets it: ``admin.Control``."""

    def __init__(self, daemon: Daemon, reload: Reload, stop: trio.Event) -> None:
        self.chat = daemon.chat
        self.log = daemon.log
        self.now = now_ms
        self.began = trio.current_time()
        self._daemon = daemon
        self._reload = reload
        self._stop = stop

    @property
    def ready(self) -> bool:
        return self._daemon.ready and not self._stop.is_set()

    @property
    def draining(self) -> bool:
        return self._daemon.draining or self._stop.is_set()

    @property
    def reloads(self) -> ReloadState | None:
        reload = self._reload
        if reload.at is None:
            return None
        return ReloadState(rfc3339(reload.at), reload.refused, reload.restart)

    def http(self) -> ServerStatistics:
        return self._daemon.server.statistics()

    def engine(self) -> EngineStatistics:
        return self._daemon.socketio.io.engine.statistics()

    async def reload(self) -> Reloaded | Refused:
        return await self._reload.reload()

    def drain(self) -> Draining:
        self._stop.set()
        drain = self._daemon.settings.drain
        return Draining(len(self.chat.connections), drain.delay_seconds + drain.seconds)


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
    """Serve until a signal says to stop; returns when everything is flushed and closed.

    SIGHUP reloads, or stops as the other signals do: ``configuration`` tells; the default never
    changes. ``watchdog`` is within how many seconds the manager wants a sign of life, if it does.
    """
    began = trio.current_time()
    configuration = configuration or fixed(settings)
    reload = Reload(configuration, settings, log=log, notifier=notifier, now=now_ms)
    log.emit("start", version=__version__, pid=os.getpid())
    with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
        # Held back while there was nobody to take them: see `chatd.__main__`.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        async with trio.open_nursery() as nursery:
            stop = trio.Event()
            hangup = reload.ask if configuration.hangup else stop.set
            nursery.start_soon(_watch, signals, stop, hangup, nursery.cancel_scope)
            opening = trio.CancelScope()
            nursery.start_soon(_ask_for_time, notifier, opening)
            async with trio.open_nursery() as administering:
                async with (
                    journal as store,
                    open_daemon(settings, journal=store, log=log, keys=keys) as daemon,
                ):
                    opening.cancel()
                    reload.apply = daemon.apply
                    control = Operated(daemon, reload, stop)
                    administration = Administration(control, admin=admin, metrics=metrics)
                    await administering.start(administration.run)
                    daemon.listen(listeners)
                    for listener in (*listeners, *admin, *metrics):
                        log.emit("listening", listener=listener.address)
                    log.emit("ready", seconds=round(trio.current_time() - began, 3))
                    notifier.ready()
                    if watchdog is not None:
                        bus = daemon.chat.bus
                        nursery.start_soon(Watchdog(bus, notifier, log, seconds=watchdog).run)
                    async with trio.open_nursery() as telling:
                        telling.start_soon(_tell_status, daemon, reload, notifier)
                        telling.start_soon(reload.run)
                        await stop.wait()
                        telling.cancel_scope.cancel()
                    drain = daemon.settings.drain
                    notifier.stopping()
                    notifier.extend_timeout(int((drain.delay_seconds + drain.seconds) * 1_000_000))
                administration.close()
            nursery.cancel_scope.cancel()
    log.emit("stop", seconds=round(trio.current_time() - began, 3))


async def _ask_for_time(notifier: Notifier, opening: trio.CancelScope) -> None:
    """Have systemd wait while the store is opened: a large one may have to be migrated."""
    with opening:
        while True:
            await trio.sleep(OPENING_SECONDS / 2)
            notifier.status("opening the store")
            notifier.extend_timeout(int(OPENING_SECONDS * 1_000_000))


async def _tell_status(daemon: Daemon, reload: Reload, notifier: Notifier) -> None:
    """Have ``systemctl status`` show how many are here, and what a reload was refused for."""
    told = ""
    while True:
        status = f"{len(daemon.chat.connections)} clients, {len(daemon.chat.rooms)} rooms"
        if not daemon.chat.bus.available:
            status += "; the store does not commit, new clients are sent elsewhere"
        if reload.refused:
            status = f"{status}; configuration refused: {written(reload.refused[0])}"
        if status != told and notifier.status(status):
            told = status
        with trio.move_on_after(STATUS_SECONDS):
            await reload.news.wait()


async def _watch(
    signals: AsyncIterator[int],
    stop: trio.Event,
    hangup: Callable[[], None],
    everything: trio.CancelScope,
) -> None:
    terminal = os.isatty(_STDERR)
    async for number in signals:
        if number == signal.SIGHUP and not stop.is_set():
            # A terminal that is gone hangs up: nobody is there any more to reload for.
            (stop.set if terminal and not os.isatty(_STDERR) else hangup)()
            continue
        if stop.is_set():
            everything.cancel()
        stop.set()
