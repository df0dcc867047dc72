"""Reload: the configuration is read and checked again, then applied as a whole, or not at all.

The files that it names are loaded before anything changes, so an error leaves everything as it was.
Keys that need a restart keep their current value, and are reported.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

import trio
from msgspec import Struct

from chatd.changed import Changed
from chatd.chat.tokens import Keys
from chatd.logs import Log
from chatd.settings import Fault, Settings, SettingsError, changed, credentials, merged
from chatd.systemd import Notifier
from chatd.wire.tls import ServerContext

__all__ = ["Configuration", "Loaded", "Reload", "Reloaded", "fixed"]

_FAULTS_LOGGED: Final = 20


class Loaded(NamedTuple):
    """The contents of the files that settings name."""

    keys: Keys
    tls: ServerContext | None
    warnings: Sequence[tuple[str, str]] = ()
    """What should be corrected in them: the key that names the file, and a sentence."""


Apply: TypeAlias = Callable[[Settings, Loaded | None], None]
"""Applies settings and their loaded files. It cannot fail."""


class Configuration(NamedTuple):
    """The source of a daemon's settings.

    ``read`` reads and checks them, then ``load`` loads the files that they name (None: nothing is
    loaded). Both raise SettingsError, and neither changes anything. ``hangup``: SIGHUP requests a
    reload; otherwise it stops the daemon.
    """

    read: Callable[[], Awaitable[Settings]]
    load: Callable[[Settings], Awaitable[Loaded]] | None = None
    hangup: bool = True


def fixed(settings: Settings) -> Configuration:
    """Return a configuration that never changes."""

    async def read() -> Settings:
        return settings

    return Configuration(read, hangup=False)


class Reloaded(Struct, frozen=True):
    """The new configuration is in force, except for the keys in ``restart``.

    The files named by the keys in ``credentials`` were not read again: systemd provides them only
    when the unit starts. ``warnings`` are sentences about files that should be corrected.
    """

    changed: Sequence[str]
    restart: Sequence[str]
    credentials: Sequence[str] = ()
    warnings: Sequence[str] = ()


class Reload:
    """Reloads the configuration of a daemon, one reload at a time.

    Attributes:
        settings: The settings in force.
        apply: Puts settings in force; set once the daemon runs.
        refused: The faults of the last reload; empty if it was applied.
        restart: The keys that differ in the file and wait for a restart.
        at: The time of the last reload, in Unix milliseconds; None before the first.
        changed: Notified after each reload.
    """

    def __init__(
        self,
        configuration: Configuration,
        settings: Settings,
        *,
        log: Log,
        notifier: Notifier,
        now: Callable[[], int],
    ) -> None:
        self.settings = settings
        self.apply: Apply = _apply_nowhere
        self.refused: Sequence[Fault] = ()
        self.restart: Sequence[str] = ()
        self.at: int | None = None
        self.changed = Changed()
        self._configuration = configuration
        self._log = log
        self._notifier = notifier
        self._now = now
        self._lock = trio.Lock()
        self._requested = trio.Event()

    def request(self) -> None:
        """Make ``run`` reload soon, once for all requests before it."""
        self._requested.set()

    async def run(self) -> None:
        """Reload at each request until cancelled."""
        while True:
            await self._requested.wait()
            self._requested = trio.Event()
            try:
                await self.reload()
            except SettingsError:
                pass  # it is logged
            except Exception as error:  # a bug costs this reload, not the daemon
                self._log.fault(error, detail="reload")

    async def reload(self) -> Reloaded:
        """Reload once. Return when the new settings are in force.

        Raises:
            SettingsError: The configuration has faults, and nothing changed.
        """
        async with self._lock:
            self._notifier.reloading()
            try:
                return await self._reload()
            except SettingsError as error:
                self.refused = error.faults
                for fault in error.faults[:_FAULTS_LOGGED]:
                    self._log.emit("reload_refused", detail=str(fault))
                raise
            finally:
                self.at = self._now()
                self.changed.notify()
                self._notifier.ready()

    async def _reload(self) -> Reloaded:
        began = trio.current_time()
        load = self._configuration.load
        read = await self._configuration.read()
        settings = merged(self.settings, read)
        loaded = None if load is None else await load(settings)
        live, restart = changed(self.settings, read)
        # No checkpoint from here on, so that no task sees half of it.
        self.settings = settings
        self.apply(settings, loaded)
        self.refused, self.restart = (), restart
        credential_keys = credentials(settings)
        self._log.emit(
            "reload",
            changed=" ".join(live) or None,
            restart=" ".join(restart) or None,
            credentials=" ".join(credential_keys) or None,
            seconds=round(trio.current_time() - began, 3),
        )
        warnings = () if loaded is None else loaded.warnings
        for key, text in warnings:
            self._log.emit("warning", setting=key, detail=text)
        return Reloaded(live, restart, credential_keys, tuple(text for _, text in warnings))


def _apply_nowhere(settings: Settings, loaded: Loaded | None) -> None:
    """Do nothing: no daemon runs yet."""
