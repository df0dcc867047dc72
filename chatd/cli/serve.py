"""``chatd serve``: runs the daemon in the foreground."""

from __future__ import annotations

import argparse
import os
import resource
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import trio
from msgspec.structs import replace

from chatd import daemon
from chatd.chat.key_files import load_keys
from chatd.chat.tokens import Keys
from chatd.cli.check import FILES, report, say
from chatd.journal import Journal, StoreError
from chatd.journal.memory import MemoryJournal
from chatd.journal.retention import retention_of
from chatd.journal.sqlite import open_sqlite
from chatd.logs import Log, LogError, open_log
from chatd.reload import Configuration, Loaded
from chatd.settings import (
    Fault,
    Settings,
    SettingsError,
    admin_socket,
    history_path,
    load,
    runtime_folder,
)
from chatd.systemd import Notifier, passed_descriptors, watchdog_seconds
from chatd.wire.inherited import Inherited
from chatd.wire.listener import SYSTEMD, Listener, ListenError, open_listeners
from chatd.wire.tls import TlsError, tls_context

if TYPE_CHECKING:
    from chatd.cli.check import Verbs

__all__ = ["add_parser", "run"]

_Flags: TypeAlias = tuple[Path | None, Sequence[str], Sequence[str]]
"""What ``load`` takes: the file, ``--set``, ``--listen``."""

SPARE_DESCRIPTORS: Final = 64
"""Kept back from clients: for listeners, the store, the log, and accepting only to refuse."""

FAULTY_CONFIGURATION: Final = 78
"""EX_CONFIG of sysexits.h: systemd is told not to try again."""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "serve",
        help="run the daemon in the foreground (what chatd does without a verb)",
        description="Run the daemon in the foreground. SIGTERM ends it gently, a second at once.",
    )
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="the configuration; else defaults"
    )
    parser.add_argument(
        "--listen", metavar="ADDR", action="append", default=[], help="in place of listen.addresses"
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="over what the file says"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop; give the exit code."""
    try:
        flags = (args.config, args.set, args.listen)
        settings = load(*flags, FILES)
        # What is a credential was not looked at before: the daemon's own start has it.
        tls_context(settings)
        path = history_path(settings, os.environ) if settings.history.store == "sqlite" else None
        keys = load_keys(settings, os.environ)
    except SettingsError as error:
        say(report(error), sys.stderr)
        return FAULTY_CONFIGURATION
    except TlsError as error:
        _fault(str(error))
        return FAULTY_CONFIGURATION
    try:
        log = open_log(
            level=settings.log.level, format=settings.log.format, addresses=settings.log.addresses
        )
    except LogError as error:
        return _fault(str(error))
    faults: list[str] = []
    try:
        trio.run(_serve, settings, flags, path, keys, log)
    except* (ListenError, StoreError, TlsError) as errors:
        faults = [str(error) for error in _leaves(errors)]
    finally:
        log.output.close()
    return _fault(*faults) if faults else 0


async def _serve(
    settings: Settings, flags: _Flags, path: Path | None, keys: Keys, log: Log
) -> None:
    settings = _within_descriptors(settings, log)
    notifier = Notifier()
    with ExitStack() as stack:
        listeners = _listeners(settings, notifier, log)
        _close_with(stack, listeners)
        admin = _admin_listeners(settings, log)
        _close_with(stack, admin)
        metrics = _metrics_listeners(settings)
        _close_with(stack, metrics)
        if sys.stderr.isatty():
            scheme = "http" if settings.tls.certificate_file == "off" else "https"
            where = " and ".join(_where(listener, scheme) for listener in listeners)
            kept = "not kept" if path is None else f"in {path}"
            say(f"chatd serves on {where}; the history is {kept}; Ctrl+C ends it\n", sys.stderr)
        await daemon.run(
            settings,
            listeners=listeners,
            admin=admin,
            metrics=metrics,
            journal=_journal(settings, path, log),
            log=log,
            notifier=notifier,
            watchdog=watchdog_seconds(),
            keys=keys,
            configuration=_configuration(flags, log),
        )


def _close_with(stack: ExitStack, listeners: Sequence[Listener]) -> None:
    for listener in listeners:
        stack.callback(listener.close)


def _configuration(flags: _Flags, log: Log) -> Configuration:
    # In threads: a file of a MiB takes a second to judge, and any may lie on a slow disk.
    async def read() -> Settings:
        settings = await trio.to_thread.run_sync(load, *flags, FILES)
        return _within_descriptors(settings, log)

    async def load_files(settings: Settings) -> Loaded:
        return await trio.to_thread.run_sync(_loaded, settings)

    # Without a file there is nothing that may have changed: SIGHUP then ends it like SIGINT.
    return Configuration(read, load_files, hangup=flags[0] is not None)


def _loaded(settings: Settings) -> Loaded:
    try:
        return Loaded(load_keys(settings, os.environ), tls_context(settings))
    except TlsError as error:
        # Of a credential, or of a file that changed since it was checked.
        raise SettingsError([Fault(0, 0, str(error), "", f"tls.{error.key}")]) from error


def _admin_listeners(settings: Settings, log: Log) -> Sequence[Listener]:
    path = admin_socket(settings, os.environ)
    if path is None:
        return ()
    mode = settings.admin.socket_mode_bits
    if settings.admin.socket != "auto":
        return open_listeners([f"unix:{path}"], mode)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        return open_listeners([f"unix:{path}"], mode)
    except (ListenError, OSError) as error:
        # Nobody asked for it: another daemon of this user's may have it.
        log.emit("warning", setting="admin.socket", detail=f"chatd ctl cannot come in: {error}")
        return ()


def _metrics_listeners(settings: Settings) -> Sequence[Listener]:
    address = settings.metrics.listen
    return () if address == "off" else open_listeners([address])


def _listeners(settings: Settings, notifier: Notifier, log: Log) -> list[Listener]:
    """Open what is configured; under systemd they outlive this process. Raises ListenError."""
    try:
        inherited = Inherited(passed_descriptors(), notifier)
    except OSError as error:
        raise ListenError(f'"{SYSTEMD}": systemd handed over no socket: {error}') from error
    try:
        listeners = open_listeners(
            settings.listen.addresses, settings.listen.socket_mode_bits, inherited
        )
        for listener in listeners:
            listener.keep(notifier)
        if inherited.of_units:
            log.emit(
                "warning",
                setting="listen.addresses",
                detail=f"a .socket unit hands over {len(inherited.of_units)} sockets that nobody "
                f'serves: add "{SYSTEMD}", or disable the unit',
            )
        return listeners
    finally:
        inherited.close()


def _within_descriptors(settings: Settings, log: Log) -> Settings:
    """Raise the soft limit of descriptors to the hard one, and admit no more than fit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY or settings.limits.connections <= hard - SPARE_DESCRIPTORS:
        return settings
    fit = max(1, hard - SPARE_DESCRIPTORS)
    log.emit(
        "warning",
        setting="limits.connections",
        detail=f"{settings.limits.connections} connections do not fit into {hard} descriptors: "
        f"{fit} are admitted; raise LimitNOFILE or lower limits.connections",
    )
    return replace(settings, limits=replace(settings.limits, connections=fit))


def _where(listener: Listener, scheme: str) -> str:
    return listener.address if listener.path else f"{scheme}://{listener.address}"


def _journal(
    settings: Settings, path: Path | None, log: Log
) -> AbstractAsyncContextManager[Journal]:
    retention = retention_of(settings)
    if path is None:
        return nullcontext(MemoryJournal(now=daemon.now_ms, retention=retention, report=log.emit))
    return open_sqlite(
        path,
        durability=settings.history.durability,
        retention=retention,
        now=daemon.now_ms,
        runtime_dir=runtime_folder(os.environ),
        report=log.emit,
    )


def _leaves(errors: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for error in errors.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


def _fault(*messages: str) -> int:
    for message in messages:
        say(f"chatd: {message}\n", sys.stderr)
    return 1
