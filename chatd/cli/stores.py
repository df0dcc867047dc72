"""The store that the configuration names: what may be wrong with it, and how it is opened."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio
from msgspec import Struct

from chatd.clock import boot_seconds
from chatd.journal import Journal, Unavailable
from chatd.journal.memory import MemoryJournal
from chatd.journal.retention import retention_of
from chatd.journal.shared import open_shared
from chatd.journal.sqlite import open_sqlite
from chatd.logs import Log, now_ms
from chatd.settings import (
    Fault,
    Rule,
    SecretError,
    Settings,
    SettingsError,
    exposed,
    history_path,
    runtime_folder,
    secret_file,
)
from chatd.systemd import Notifier

if TYPE_CHECKING:
    from chatd.journal.redis.engine import RedisEngine

__all__ = ["Store", "check_store", "find_store"]

RETRY_SECONDS: Final = 1.0
"""How long to wait before a server that does not answer is tried again."""

# A password has a few characters. A larger file is the wrong one, or one without end.
_FILE_BYTES: Final = 1 << 16


class Store(Struct, frozen=True):
    """A store that is not open yet.

    Attributes:
        settings: The configuration.
        path: The file of a sqlite store; None for the others.
        password: The password of a redis store; None not to log in.
        ca_file: The certificates that may sign the one of a redis store; None for the system's.
    """

    settings: Settings
    path: Path | None = None
    password: str | None = None
    ca_file: Path | None = None

    @property
    def where(self) -> str | None:
        """The place of the history, for people; None if it is not stored."""
        history = self.settings.history
        return {"sqlite": str(self.path), "redis": history.url}.get(history.store)

    @property
    def remedy(self) -> str:
        """What to do if it cannot be read at the start: the end of the error message."""
        return ": restore a backup" if self.path is not None else ""

    def open(self, log: Log, notifier: Notifier) -> AbstractAsyncContextManager[Journal]:
        """Open the store for the duration of the block. Wait for a server that cannot be reached.

        Raises:
            chatd.journal.StoreError: It cannot be used.
        """
        settings = self.settings
        retention = retention_of(settings)
        if settings.history.store == "redis":
            return self._wait_for_redis(log, notifier)
        if self.path is None:
            return nullcontext(
                MemoryJournal(
                    now=now_ms, elapsed=boot_seconds, retention=retention, report=log.emit
                )
            )
        return open_sqlite(
            self.path,
            durability=settings.history.durability,
            retention=retention,
            now=now_ms,
            runtime_dir=runtime_folder(os.environ),
            report=log.emit,
        )

    @asynccontextmanager
    async def _wait_for_redis(self, log: Log, notifier: Notifier) -> AsyncIterator[Journal]:
        waited = False
        async with AsyncExitStack() as stack:
            while True:
                opening = open_shared(
                    self._engine(),
                    retention=retention_of(self.settings),
                    report=log.emit,
                    timeout_seconds=self.settings.history.timeout_seconds,
                )
                try:
                    journal = await stack.enter_async_context(opening)
                    break
                except Unavailable as error:
                    detail = f"waiting for {self.where}: {error}"
                    if not waited:
                        log.emit("store", state="waiting", detail=detail)
                    waited = True
                    notifier.status(detail)
                    await trio.sleep(RETRY_SECONDS)
            if waited:
                log.emit("store", state="recovered", detail=f"{self.where} answers")
            yield journal

    def _engine(self) -> RedisEngine:
        # Only here, because it needs the extra packages of chatd[redis].
        from chatd.journal.redis.engine import RedisEngine  # noqa: PLC0415

        history = self.settings.history
        return RedisEngine(
            history.url,
            user=history.user,
            password=self.password,
            ca_file=self.ca_file,
            prefix=history.prefix,
            durability=history.durability,
            replicas=history.replicas,
            timeout=history.timeout_seconds,
            lease_seconds=self.settings.cluster.lease_seconds,
        )


def find_store(settings: Settings, environ: Mapping[str, str]) -> Store:
    """Return the store that the configuration names.

    Raises:
        SettingsError: A file that it needs cannot be found or read.
    """
    history = settings.history
    if history.store == "sqlite":
        return Store(settings, history_path(settings, environ))
    if history.store == "memory":
        return Store(settings)
    try:
        ca_file = None
        if history.tls_ca_file != "off":
            ca_file = secret_file(history.tls_ca_file, environ)
    except SecretError as error:
        raise _fault("tls_ca_file", str(error)) from None
    try:
        return Store(settings, password=_password(settings, environ), ca_file=ca_file)
    except (SecretError, ValueError) as error:
        raise _fault("password_file", str(error)) from None


def check_store(settings: Settings, environ: Mapping[str, str] = os.environ) -> Iterator[Rule]:
    """Yield what is wrong with the store's files, or a redis store's package and password.

    Credentials exist only in the service, so elsewhere they are not checked.
    """
    history = settings.history
    if history.store == "sqlite":
        # It has all messages and the key of sessions.
        if warning := exposed(history_path(settings, environ)):
            yield Rule(["history.path"], f"history.path: {warning}", warning=True)
    elif history.store == "redis":
        if find_spec("hiredis") is None:
            message = "history.store: redis needs another package: `pip install 'chatd[redis]'`."
            yield Rule(["history.store"], message)
        if history.url.startswith("sentinel") and history.replicas == 0:
            message = (
                "history.replicas: with 0, a failover may lose messages that were acknowledged. "
                "Set it to 1 if the server has two replicas."
            )
            yield Rule(["history.replicas"], message, warning=True)
        key = "history.password_file"
        try:
            if _password(settings, environ) is None:
                return
            file = secret_file(history.password_file, environ)
        except SecretError:
            return
        except ValueError as error:
            yield Rule([key], f"{key}: {error}")
            return
        if warning := exposed(file):
            yield Rule([key], f"{key}: {warning}", warning=True)


def _password(settings: Settings, environ: Mapping[str, str]) -> str | None:
    """Return the password of a redis store; None not to log in.

    Raises:
        SecretError: It is a credential, and systemd gave none.
        ValueError: The file cannot be read, or has no password. The message is for people.
    """
    name = settings.history.password_file
    if name == "off":
        return None
    try:
        with secret_file(name, environ).open("rb") as stream:
            first = stream.readline(_FILE_BYTES).rstrip(b"\r\n").decode()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(f"{name} cannot be read: {reason}.") from error
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not UTF-8.") from None
    if not first:
        raise ValueError(f"{name} has no password on its first line.")
    return first


def _fault(key: str, message: str) -> SettingsError:
    return SettingsError([Fault(0, 0, message, "", f"history.{key}")])
