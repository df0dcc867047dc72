"""``chatd serve``: runs the daemon in the foreground."""

from __future__ import annotations

import argparse
import os
import resource
import sys
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio
from msgspec.structs import replace

from chatd import daemon
from chatd.cli.check import report, say
from chatd.journal import Journal, StoreError
from chatd.journal.memory import MemoryJournal
from chatd.journal.retention import Retention
from chatd.journal.sqlite import open_sqlite
from chatd.logs import Log, LogError, open_log
from chatd.settings import Settings, SettingsError, history_path, load
from chatd.systemd import Notifier, passed_descriptors, watchdog_seconds
from chatd.wire.inherited import Inherited
from chatd.wire.listener import SYSTEMD, Listener, ListenError, open_listeners

if TYPE_CHECKING:
    from chatd.cli.check import Verbs

__all__ = ["add_parser", "run"]

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
        settings = load(args.config, args.set, args.listen)
        path = history_path(settings, os.environ) if settings.history.store == "sqlite" else None
    except SettingsError as error:
        say(report(error), sys.stderr)
        return FAULTY_CONFIGURATION
    try:
        log = open_log(
            level=settings.log.level, format=settings.log.format, addresses=settings.log.addresses
        )
    except LogError as error:
        return _fault(str(error))
    faults: list[str] = []
    try:
        trio.run(_serve, settings, path, log)
    except* (ListenError, StoreError) as errors:
        faults = [str(error) for error in _leaves(errors)]
    finally:
        log.close()
    return _fault(*faults) if faults else 0


async def _serve(settings: Settings, path: Path | None, log: Log) -> None:
    settings = _within_descriptors(settings, log)
    notifier = Notifier()
    with ExitStack() as stack:
        listeners = _listeners(settings, notifier, log)
        for listener in listeners:
            stack.callback(listener.close)
        if sys.stderr.isatty():
            where = " and ".join(_where(listener) for listener in listeners)
            kept = "not kept" if path is None else f"in {path}"
            say(f"chatd serves on {where}; the history is {kept}; Ctrl+C ends it\n", sys.stderr)
        await daemon.run(
            settings,
            listeners=listeners,
            journal=_journal(settings, path, log),
            log=log,
            notifier=notifier,
            watchdog=watchdog_seconds(),
        )


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


def _where(listener: Listener) -> str:
    return f"http://{listener.address}" if listener.path is None else listener.address


def _journal(
    settings: Settings, path: Path | None, log: Log
) -> AbstractAsyncContextManager[Journal]:
    history = settings.history
    retention = Retention(
        keep_days=history.keep_days,
        keep_events=history.keep_events,
        max_bytes=history.max_bytes,
        user_days=settings.auth.session_days,
    )
    if path is None:
        return nullcontext(MemoryJournal(now=daemon.now_ms, retention=retention, told=log.emit))
    return open_sqlite(
        path,
        durability=history.durability,
        retention=retention,
        now=daemon.now_ms,
        runtime_dir=_runtime_folder(os.environ),
        told=log.emit,
    )


def _runtime_folder(environ: Mapping[str, str]) -> Path | None:
    """Tell a folder that does not outlive this boot of the machine; None where there is none."""
    if runtime := environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]:
        return Path(runtime)
    if (runtime := environ.get("XDG_RUNTIME_DIR", "")).startswith("/"):
        return Path(runtime) / "chatd"
    shared = Path("/dev/shm")  # noqa: S108  a tmpfs on every Linux; the folder is ours alone
    return shared / f"chatd-{os.getuid()}" if shared.is_dir() else None


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
