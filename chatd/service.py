"""The daemon as a process: its signals, what systemd is told, the admin socket, and reload.

::

    run                          SIGTERM, SIGINT: drain; a second one: stop at once; SIGHUP: reload
    ├── administration           the admin socket and the metrics listener, until the very end
    ├── watchdog                 a sign of life for each probe that passes through the bus
    ├── status, reload           until the daemon drains
    ├── checkpoints              copies the write-ahead log into the file (`chatd.journal.sqlite`)
    └── the daemon               see `chatd.daemon`
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Final, NamedTuple

import trio

from chatd import __version__, memory
from chatd.admin import Administration, DaemonControl
from chatd.chat.tokens import Keys
from chatd.daemon import Daemon, open_daemon
from chatd.journal import Journal
from chatd.logs import Log, now_ms
from chatd.reload import Configuration, Reload, fixed
from chatd.settings import Settings
from chatd.systemd import Notifier
from chatd.watchdog import Watchdog
from chatd.wire.listener import Listener

__all__ = ["Listeners", "run"]

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_STDERR: Final = 2

STATUS_SECONDS: Final = 5.0
"""How old the status that systemd shows may be."""

HAND_BACK_SECONDS: Final = 5.0
"""How long after a connection has closed free memory is returned to the system."""

OPENING_SECONDS: Final = 20.0
"""How much time systemd is asked for at a time while the store is being opened."""


class Listeners(NamedTuple):
    """The sockets of a daemon: those for clients, the admin socket, and those for metrics."""

    clients: Sequence[Listener] = ()
    admin: Sequence[Listener] = ()
    metrics: Sequence[Listener] = ()


async def run(
    settings: Settings,
    *,
    listen: Callable[[], Listeners],
    journal: AbstractAsyncContextManager[Journal],
    log: Log,
    notifier: Notifier,
    keys: Keys | None = None,
    configuration: Configuration | None = None,
    watchdog: float | None = None,
) -> None:
    """Serve until a signal says to stop. Return when everything is flushed and closed.

    ``listen`` opens the listeners, which the caller closes. It is called when the journal is open,
    so that no client waits for a store that is not there yet. A signal before that ends the daemon
    at once.

    SIGHUP reloads ``configuration``, or stops as the other signals do if its ``hangup`` is False or
    there is no configuration. ``watchdog`` is the interval, in seconds, within
    which systemd expects a sign of life.
    """
    began = trio.current_time()
    memory.prepare()
    configuration = configuration or fixed(settings)
    reload = Reload(configuration, settings, log=log, notifier=notifier, now=now_ms)
    log.emit("start", version=__version__, pid=os.getpid())
    with trio.open_signal_receiver(*SIGNALS) as signals, _unblocked(SIGNALS):
        async with trio.open_nursery() as nursery:
            stop = trio.Event()
            hangup = reload.request if configuration.hangup else None
            opening = trio.CancelScope()
            nursery.start_soon(
                _receive_signals, signals, stop, hangup, opening, nursery.cancel_scope
            )
            nursery.start_soon(_ask_for_time, notifier, opening)
            async with trio.open_nursery() as admin_nursery:
                async with (
                    journal as store,
                    open_daemon(settings, journal=store, log=log, keys=keys) as daemon,
                ):
                    opening.cancel()
                    opened = listen()
                    reload.apply = daemon.apply
                    control = DaemonControl(daemon, reload, stop)
                    administration = Administration(
                        control, admin=opened.admin, metrics=opened.metrics
                    )
                    await admin_nursery.start(administration.run)
                    daemon.listen(opened.clients)
                    for listener in (*opened.clients, *opened.admin, *opened.metrics):
                        log.emit("listening", listener=listener.address)
                    log.emit("ready", seconds=round(trio.current_time() - began, 3))
                    notifier.ready()
                    if watchdog is not None:
                        bus = daemon.chat.bus
                        nursery.start_soon(Watchdog(bus, notifier, log, seconds=watchdog).run)
                    memory.settle()
                    async with trio.open_nursery() as until_stop:
                        until_stop.start_soon(_hand_back_memory, daemon)
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


@contextmanager
def _unblocked(numbers: Collection[signal.Signals]) -> Iterator[None]:
    """Let signals in, which are blocked while nothing receives them: see `chatd.__main__`."""
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def _ask_for_time(notifier: Notifier, opening: trio.CancelScope) -> None:
    """Keep systemd waiting while the store is opened: a large one may have to be migrated."""
    with opening:
        await trio.sleep(OPENING_SECONDS / 2)
        notifier.status("opening the store")
        while True:
            notifier.extend_timeout(int(OPENING_SECONDS * 1_000_000))
            await trio.sleep(OPENING_SECONDS / 2)


async def _report_status(daemon: Daemon, reload: Reload, notifier: Notifier) -> None:
    """Keep the status line of ``systemctl status`` up to date."""
    reported = ""
    while True:
        status = f"{len(daemon.chat.connections)} clients, {len(daemon.chat.rooms)} rooms"
        if problem := daemon.store_problem:
            status += f"; new clients are turned away, because the store cannot be used: {problem}"
        elif not daemon.chat.bus.available:
            status += "; the store is failing, new clients are turned away"
        if reload.refused:
            status += f"; configuration refused: {reload.refused[0]}"
        if status != reported and notifier.status(status):
            reported = status
        with trio.move_on_after(STATUS_SECONDS):
            await reload.changed.wait()


async def _hand_back_memory(daemon: Daemon) -> None:
    """Return memory to the system a while after connections have closed."""
    while True:
        await daemon.server.released.wait()
        await trio.sleep(HAND_BACK_SECONDS)
        await trio.to_thread.run_sync(memory.hand_back)


async def _receive_signals(
    signals: AsyncIterator[int],
    stop: trio.Event,
    hangup: Callable[[], None] | None,
    opening: trio.CancelScope,
    everything: trio.CancelScope,
) -> None:
    terminal = os.isatty(_STDERR)
    async for number in signals:
        # A terminal that was closed sends it too: then nobody is left to reload for.
        orphaned = terminal and not os.isatty(_STDERR)
        if number == signal.SIGHUP and hangup is not None and not orphaned and not stop.is_set():
            hangup()
            continue
        if stop.is_set() or not opening.cancel_called:
            everything.cancel()
        stop.set()
