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
from chatd.journal import Journal, StoreError, Unavailable
from chatd.journal.memory import MemoryJournal
from chatd.journal.redis.password import read_password
from chatd.journal.retention import retention_of
from chatd.journal.shared import open_shared
from chatd.journal.sqlite import open_sqlite
from chatd.logs import Log, now_ms
from chatd.paths import SecretError, exposed, history_path, runtime_folder, secret_file
from chatd.settings import Auth, Fault, Rule, Settings, SettingsError
from chatd.systemd import Notifier

if TYPE_CHECKING:
    from chatd.journal.redis.engine import RedisEngine

__all__ = ["Store", "check_server", "check_store", "find_store"]

RETRY_SECONDS: Final = 1.0
"""How long to wait before a server that does not answer is tried again."""


class Store(Struct, frozen=True):
    """A store that is not open yet.

    Attributes:
        settings: The configuration.
        path: The file of a sqlite store; None for the others.
        password_file: The file with the password of a redis store; None not to log in.
        ca_file: The certificates that may sign the one of a redis store; None for the system's.
    """

    settings: Settings
    path: Path | None = None
    password_file: Path | None = None
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
        reported: set[str] = set()
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
                    if detail not in reported:
                        reported.add(detail)
                        log.emit("store", state="waiting", detail=detail)
                    notifier.status(detail)
                    await trio.sleep(RETRY_SECONDS)
            if reported:
                log.emit("store", state="recovered", detail=f"{self.where} answers")
            yield journal

    async def ask_server(self) -> None:
        """Check the server of a redis store, as its daemon does when it connects.

        Raises:
            chatd.journal.StoreError: It cannot be used.
            chatd.journal.Unavailable: It cannot be reached.
        """
        engine = self._engine()
        try:
            await engine.check()
        finally:
            engine.close()

    def _engine(self) -> RedisEngine:
        # Only here, because it needs the extra packages of chatd[redis].
        from chatd.journal.redis.engine import RedisEngine  # noqa: PLC0415

        history = self.settings.history
        return RedisEngine(
            history.url,
            user=history.user,
            password_file=self.password_file,
            ca_file=self.ca_file,
            prefix=history.prefix,
            chat=_tokens(self.settings.auth),
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
    files: dict[str, Path | None] = {"password_file": None, "tls_ca_file": None}
    for key in files:
        if (name := getattr(history, key)) != "off":
            try:
                files[key] = secret_file(name, environ)
            except SecretError as error:
                raise SettingsError([Fault(0, 0, str(error), "", f"history.{key}")]) from None
    return Store(settings, password_file=files["password_file"], ca_file=files["tls_ca_file"])


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
        if history.password_file == "off":  # noqa: S105  a file's name
            return
        try:
            file = secret_file(history.password_file, environ)
            read_password(file)
        except SecretError:
            return
        except ValueError as error:
            yield Rule([key], f"{key}: {error}.")
            return
        if warning := exposed(file):
            yield Rule([key], f"{key}: {warning}", warning=True)


def check_server(settings: Settings, environ: Mapping[str, str] = os.environ) -> Iterator[Rule]:
    """Yield why the server of a redis store cannot be used now, as far as it can be asked.

    A daemon waits for a server that cannot be reached, so that is a warning.
    """
    if settings.history.store != "redis" or find_spec("hiredis") is None:
        return
    try:
        trio.run(find_store(settings, environ).ask_server)
    except SettingsError as error:  # a credential, which only the service can read
        [fault] = error.faults
        message = f"{fault.origin}: The Redis server was not asked: {fault.message}"
        yield Rule([fault.origin], message, warning=True)
    except StoreError as error:
        key, colon, _ = str(error).partition(": ")
        if colon and key.startswith("history."):
            yield Rule([key], f"{error}.")
        else:
            yield Rule(["history.url"], f"history.url: {error}.")
    except Unavailable as error:
        message = f"history.url: {error}. The daemon waits for the server."
        yield Rule(["history.url"], message, warning=True)


def _tokens(auth: Auth) -> str:
    """Return the issuer and audience that tokens must name, for people; empty if neither is set."""
    names = (("issuer", auth.issuer), ("audience", auth.audience))
    if auth.mode != "token":
        return ""
    return " and ".join(f"{name} {value}" for name, value in names if value != "off")
