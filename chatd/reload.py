"""Reload: the configuration is read again and checked whole, then applied whole, or not at all.

What it names is loaded before anything changes; whatever has a fault leaves all as it was. Keys
that need a restart keep the value that is in force, and are named.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

import trio

from chatd.admin import Refused, Reloaded
from chatd.chat.tokens import Keys
from chatd.logs import Log
from chatd.settings import Fault, Settings, SettingsError, changed, credentials, merged
from chatd.systemd import Notifier
from chatd.wire.tls import ServerContext

__all__ = ["Configuration", "Loaded", "Reload", "fixed", "written"]

_FAULTS_LOGGED: Final = 20


class Loaded(NamedTuple):
    """What was loaded of the files that settings name: all there is of that kind."""

    keys: Keys
    tls: ServerContext | None


Apply: TypeAlias = Callable[[Settings, Loaded | None], None]
"""Puts settings, and what was loaded for them, in force. Cannot fail."""


class Configuration(NamedTuple):
    """Where a daemon's settings come from.

    ``read`` reads and checks them anew, ``load`` then loads the files that they name (None: they
    are left as they are); both raise SettingsError, and change nothing. ``hangup``: whether SIGHUP
    asks for a reload; it ends the daemon where it does not.
    """

    read: Callable[[], Awaitable[Settings]]
    load: Callable[[Settings], Awaitable[Loaded]] | None = None
    hangup: bool = True


def fixed(settings: Settings) -> Configuration:
    """Give a configuration that never changes."""

    async def read() -> Settings:
        return settings

    return Configuration(read, hangup=False)


class Reload:
    """Reloads one daemon's configuration, one reload at a time, and has ``apply`` put it in force.

    ``settings`` are in force. ``refused`` are the faults of the last attempt, none where it was
    applied; ``restart`` the keys that differ in the file and wait for a restart; ``at`` when that
    was. ``news`` is set, and replaced by another event, when these have changed.
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
        self.apply: Apply = _nowhere
        self.refused: Sequence[Fault] = ()
        self.restart: Sequence[str] = ()
        self.at: int | None = None
        self.news = trio.Event()
        self._configuration = configuration
        self._log = log
        self._notifier = notifier
        self._now = now
        self._lock = trio.Lock()
        self._asked = trio.Event()

    def ask(self) -> None:
        """Have ``run`` reload soon; asked several times before it comes to it, it does so once."""
        self._asked.set()

    async def run(self) -> None:
        """Reload whenever somebody asked; until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            try:
                await self.reload()
            except Exception as error:  # a fault of ours costs this reload, not the daemon
                self._log.emit(
                    "fault",
                    detail="reload",
                    error=repr(error),
                    traceback=traceback.format_exc(),
                )

    async def reload(self) -> Reloaded | Refused:
        """Reload once; return when the new settings are in force, or refused."""
        async with self._lock:
            self._notifier.reloading()
            began = trio.current_time()
            try:
                result = await self._reload()
            finally:
                self.at = self._now()
                self.news.set()
                self.news = trio.Event()
                self._notifier.ready()
            if isinstance(result, Reloaded):
                self._log.emit(
                    "reload",
                    changed=" ".join(result.changed) or None,
                    restart=" ".join(result.restart) or None,
                    credentials=" ".join(result.credentials) or None,
                    seconds=round(trio.current_time() - began, 3),
                )
            else:
                for fault in result.faults[:_FAULTS_LOGGED]:
                    self._log.emit("reload_refused", detail=written(fault))
            return result

    async def _reload(self) -> Reloaded | Refused:
        load = self._configuration.load
        try:
            read = await self._configuration.read()
            settings = merged(self.settings, read)
            loaded = None if load is None else await load(settings)
        except SettingsError as error:
            self.refused = error.faults
            return Refused(error.faults)
        live, restart = changed(self.settings, read)
        # No checkpoint from here on: nobody sees a half of it.
        self.settings = settings
        self.apply(settings, loaded)
        self.refused, self.restart = (), restart
        return Reloaded(live, restart, credentials(settings))


def _nowhere(settings: Settings, loaded: Loaded | None) -> None:
    """Put it in force where nothing runs yet."""


def written(fault: Fault) -> str:
    """Write a fault in one line, as ``chatd check`` begins it."""
    place = f":{fault.line}:{fault.column}" if fault.line else ""
    return f"{fault.origin}{place}: {fault.message}"
