"""The daemon: its nursery tree, its signals, and how it ends.

::

    run                          SIGTERM, SIGINT: drain; a second one: end at once
    └── log                      writes what a slow reader left waiting
        └── bus                  collect and commit; fan out
            ├── chat             who is gone for good
            ├── heartbeats       pings, and who is silent
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
from chatd.chat import Chat
from chatd.gateways import SocketIoGateway, routes
from chatd.journal import Journal
from chatd.logs import Log
from chatd.model import GOING_AWAY
from chatd.settings import Settings
from chatd.systemd import Notifier
from chatd.watchdog import Watchdog
from chatd.wire.listener import Listener
from chatd.wire.server import Server
from chatd.wire.transport import Transport

__all__ = ["Daemon", "now_ms", "open_daemon", "run"]

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

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
        self.socketio = SocketIoGateway(chat, log, self._closes)
        table = routes(chat, log, self.socketio, self._welcomes, self._closes)
        self.server = Server(settings, table, log)
        self._log = log
        self._handlers = handlers
        self._listeners = trio.CancelScope()
        self.ends = math.inf
        """When the drain's time is over, on Trio's clock."""

    def _welcomes(self) -> bool:
        return self.ends == math.inf and self.chat.bus.available

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
        self._log.emit(
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
    settings: Settings, *, journal: Journal, log: Log, now: Callable[[], int] = now_ms
) -> AsyncIterator[Daemon]:
    """Run a daemon on an open journal for as long as the block; at its end it drains.

    The journal is closed then. A cancellation ends it at once.
    """
    chat = Chat(settings, journal=journal, log=log, now=now)
    await chat.users.load()
    async with trio.open_nursery() as logging:
        logging.start_soon(log.run)
        async with trio.open_nursery() as flowing:
            flowing.start_soon(chat.bus.run)
            async with trio.open_nursery() as tending:
                tending.start_soon(chat.run)
                async with trio.open_nursery() as handlers:
                    daemon = Daemon(settings, chat, log, handlers)
                    tending.start_soon(daemon.server.sweep)
                    await tending.start(daemon.socketio.io.run)
                    yield daemon
                    await daemon.drain()
                # Before the bus is closed: it publishes.
                tending.cancel_scope.cancel()
            flowing.cancel_scope.deadline = daemon.ends
            await chat.save()
            chat.bus.close()
        logging.cancel_scope.cancel()


async def run(
    settings: Settings,
    *,
    listeners: Sequence[Listener],
    journal: AbstractAsyncContextManager[Journal],
    log: Log,
    notifier: Notifier,
    watchdog: float | None = None,
) -> None:
    """Serve until a signal says to stop; returns when everything is flushed and closed.

    ``watchdog`` is within how many seconds the manager wants a sign of life, if it wants one.
    """
    began = trio.current_time()
    log.emit("start", version=__version__, pid=os.getpid())
    with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
        # Held back while there was nobody to take them: see `chatd.__main__`.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        async with trio.open_nursery() as nursery:
            stop = trio.Event()
            nursery.start_soon(_watch, signals, stop, nursery.cancel_scope)
            opening = trio.CancelScope()
            nursery.start_soon(_ask_for_time, notifier, opening)
            async with journal as store, open_daemon(settings, journal=store, log=log) as daemon:
                opening.cancel()
                daemon.listen(listeners)
                for listener in listeners:
                    log.emit("listening", listener=listener.address)
                log.emit("ready", seconds=round(trio.current_time() - began, 3))
                notifier.ready()
                if watchdog is not None:
                    bus = daemon.chat.bus
                    nursery.start_soon(Watchdog(bus, notifier, log, seconds=watchdog).run)
                async with trio.open_nursery() as telling:
                    telling.start_soon(_tell_status, daemon, notifier)
                    await stop.wait()
                    telling.cancel_scope.cancel()
                drain = settings.drain
                notifier.stopping()
                notifier.extend_timeout(int((drain.delay_seconds + drain.seconds) * 1_000_000))
            nursery.cancel_scope.cancel()
    log.emit("stop", seconds=round(trio.current_time() - began, 3))


async def _ask_for_time(notifier: Notifier, opening: trio.CancelScope) -> None:
    """Have systemd wait while the store is opened: a large one may have to be migrated."""
    with opening:
        while True:
            await trio.sleep(OPENING_SECONDS / 2)
            notifier.status("opening the store")
            notifier.extend_timeout(int(OPENING_SECONDS * 1_000_000))


async def _tell_status(daemon: Daemon, notifier: Notifier) -> None:
    """Have ``systemctl status`` show how many are here."""
    told = ""
    while True:
        status = f"{len(daemon.chat.connections)} clients, {len(daemon.chat.rooms)} rooms"
        if not daemon.chat.bus.available:
            status += "; the store does not commit, new clients are sent elsewhere"
        if status != told and notifier.status(status):
            told = status
        await trio.sleep(STATUS_SECONDS)


async def _watch(
    signals: AsyncIterator[int], stop: trio.Event, everything: trio.CancelScope
) -> None:
    async for _ in signals:
        if stop.is_set():
            everything.cancel()
        stop.set()
