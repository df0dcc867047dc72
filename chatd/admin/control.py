"""The daemon as its operator sees it."""

from __future__ import annotations

import trio

from chatd.admin.answers import Draining, ReloadState
from chatd.daemon import Daemon
from chatd.engineio.engine import EngineStatistics
from chatd.gateways.recovery import forgotten_client
from chatd.model import Put
from chatd.protocol.events import rfc3339
from chatd.reload import Reload, Reloaded
from chatd.wire.server import HttpServerStatistics

__all__ = ["DaemonControl"]


class DaemonControl:
    """The interface of a running daemon for the endpoints and the metrics.

    ``stop`` is set to make the daemon drain. ``began`` is the start, on Trio's clock.
    """

    def __init__(self, daemon: Daemon, reload: Reload, stop: trio.Event) -> None:
        self.chat = daemon.chat
        self.log = daemon.log
        self.began = trio.current_time()
        self._daemon = daemon
        self._reload = reload
        self._stop = stop

    @property
    def ready(self) -> bool:
        """True while new clients are accepted."""
        return self._daemon.ready and not self._stop.is_set()

    @property
    def store_problem(self) -> str | None:
        """Why a store that daemons share cannot be used; None while it can."""
        return self._daemon.store_problem

    @property
    def draining(self) -> bool:
        return self._daemon.draining or self._stop.is_set()

    @property
    def reloads(self) -> ReloadState | None:
        """The result of the last reload."""
        reload = self._reload
        if reload.at is None:
            return None
        return ReloadState(rfc3339(reload.at), reload.refused, reload.restart)

    def http(self) -> HttpServerStatistics:
        """Return the statistics of the public port."""
        return self._daemon.server.statistics()

    def engine(self) -> EngineStatistics:
        """Return the statistics of Engine.IO's sessions."""
        return self._daemon.socketio.io.engine.statistics()

    async def forget_clients(self, user: str) -> None:
        """Keep a user's Socket.IO clients from recovering."""
        seconds = self._daemon.settings.engineio.recovery_seconds
        if seconds != "off":
            until = self.chat.journal.steady_now() + int(seconds * 1000)
            for pid in self._daemon.socketio.disown(user):
                await self.chat.bus.submit_and_wait(Put(forgotten_client(pid, until)))

    async def reload(self) -> Reloaded:
        """Read the configuration again and apply it.

        Raises:
            SettingsError: The configuration has errors, and nothing changed.
        """
        return await self._reload.reload()

    def drain(self) -> Draining:
        """Start to stop, gently."""
        self._stop.set()
        drain = self._daemon.settings.drain
        return Draining(len(self.chat.connections), drain.delay_seconds + drain.seconds)
