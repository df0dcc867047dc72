"""The daemon in memory, its clients, and the faults that a test causes."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, cast

import trio
from trio.testing import MockClock

from chatd.chat.key_files import load_keys
from chatd.chat.token_keys import new_key, read_keys
from chatd.chat.tokens import Keys
from chatd.client.errors import unwrapped
from chatd.daemon import Daemon, open_daemon
from chatd.journal import Journal
from chatd.journal.memory import MemoryJournal
from chatd.journal.retention import retention_of
from chatd.logs import open_log
from chatd.settings import Settings
from chatd.testing.cable import PIPE_BYTES, Cable, pipe
from chatd.testing.clients import Client
from chatd.testing.disk import FaultyJournal
from chatd.testing.reachable import MEMORY, Reachable, Room
from chatd.testing.recording import Recording
from chatd.wire.listener import Listener, open_listeners
from chatd.wire.transport import Peer, StreamTransport

__all__ = ["VIRTUAL_EPOCH_MS", "Client", "Harness", "Room", "open_chat"]

VIRTUAL_EPOCH_MS: Final = 1_735_689_600_000
"""2025-01-01T00:00:00Z: the wall clock when Trio's virtual clock is 0. In milliseconds."""


class Harness(Reachable):
    """A running daemon, its clients, and the faults that a test causes; made by `open_chat`.

    Attributes:
        settings: The daemon's configuration.
        log: The lines that the daemon logged; `logged` returns them by name.
        listeners: The sockets that it listens on, unless it is in memory.
    """

    def __init__(
        self,
        settings: Settings,
        daemon: Daemon,
        log: Recording,
        journal: FaultyJournal,
        listeners: Sequence[Listener],
        nursery: trio.Nursery,
    ) -> None:
        super().__init__(settings, log, nursery)
        self.listeners = listeners
        self._daemon = daemon
        self._journal = journal
        self._cables: list[Cable] = []

    @property
    def daemon(self) -> Daemon:
        """The daemon itself."""
        return self._daemon

    async def dial(self, peer: Peer = MEMORY) -> Cable:
        if self.listeners:
            cable = Cable(await _to(self.listeners[0]))
        else:
            near, far = pipe(PIPE_BYTES)
            self.daemon.attach(StreamTransport(far, peer, listener_loopback=peer.loopback))
            cable = Cable(near)
        self._cables.append(cable)
        return cable

    # ---- faults

    def fill_disk(self) -> None:
        """Make every commit fail: a ``say`` is refused with ``unavailable``."""
        self._journal.full = True

    def free_disk(self) -> None:
        """Make commits succeed again."""
        self._journal.full = False

    def lose_confirmation(self) -> None:
        """Make the next commit succeed without confirmation: its ``say`` is still refused."""
        self._journal.loses_confirmation = True

    # ---- observation

    async def settled(self) -> None:
        """Call `wait_idle`. Deprecated: this name goes in the next version."""
        warnings.warn("Harness.settled is now Harness.wait_idle.", DeprecationWarning, stacklevel=2)
        await self.wait_idle()

    async def aclose(self) -> None:
        """Drop all clients and cables. `open_chat` does it at the end."""
        self._nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):  # closing forcefully does not wait
            for cable in self._cables:
                await cable.discard()


@asynccontextmanager
async def open_chat(
    settings: Settings | None = None,
    *,
    listen: str | Sequence[str] = (),
    journal: Journal | None = None,
) -> AsyncGenerator[Harness]:
    """Run the whole daemon in memory, without a port, a file or a thread.

    Args:
        settings: The configuration. By default all its defaults, limits included. If it names no
            ``auth.key_files``, the harness makes its own key for tokens.
        listen: One or more addresses to listen on, such as ``"127.0.0.1:0"`` or ``"unix:/path"``.
            Clients then use the first. By default the daemon is in memory only.
        journal: The store; it is closed at the end. By default the log is kept in memory, whatever
            ``settings`` say.

    Yields:
        The harness.
    """
    settings = Settings() if settings is None else settings
    now = wall_clock()
    if journal is None:
        journal = MemoryJournal(now=now, retention=retention_of(settings))
    faulty = FaultyJournal(journal)
    recording = Recording()
    log = open_log(
        level=settings.log.level, addresses=settings.log.addresses, sink=recording, now=now
    )
    addresses = (listen,) if isinstance(listen, str) else tuple(listen)
    with unwrapped():
        async with open_daemon(
            settings,
            journal=cast("Journal", faulty),
            log=log,
            now=now,
            keys=token_keys(settings),
        ) as daemon:
            listeners: Sequence[Listener] = ()
            if addresses:
                listeners = open_listeners(addresses, settings.listen.socket_mode_bits)
                daemon.listen(listeners)
            async with trio.open_nursery() as clients:
                harness = Harness(settings, daemon, recording, faulty, listeners, clients)
                try:
                    yield harness
                finally:
                    await harness.aclose()


def token_keys(settings: Settings) -> Keys:
    """Return the keys of tokens: those of the settings, or a new one if they name none."""
    if settings.auth.key_files:
        return load_keys(settings, os.environ)
    return Keys(read_keys(new_key(symmetric=True).encode()))


def wall_clock() -> Callable[[], int]:
    """Return the wall clock of a test, in ms since 1970: virtual if Trio's clock is."""
    if isinstance(trio.lowlevel.current_clock(), MockClock):
        return lambda: VIRTUAL_EPOCH_MS + round(trio.current_time() * 1000)
    return lambda: time.time_ns() // 1_000_000


async def _to(listener: Listener) -> trio.SocketStream:
    if listener.path is not None:
        return await trio.open_unix_socket(listener.path)
    host, port = listener.socket.getsockname()[:2]
    return await trio.open_tcp_stream(host, port)
