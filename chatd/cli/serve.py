"""``chatd serve``: runs the daemon in the foreground."""

from __future__ import annotations

import argparse
import os
import resource
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import trio
from msgspec.structs import replace

from chatd import service
from chatd.chat.key_files import load_keys
from chatd.chat.tokens import Keys
from chatd.cli.check import FILE_CHECKS
from chatd.cli.failed_starts import Failures, interruptible
from chatd.cli.output import fail, is_terminal, report, write
from chatd.cli.stores import Store, check_server, find_store
from chatd.journal import StoreError, Unavailable
from chatd.logs import Log, LogError, open_log
from chatd.paths import admin_socket
from chatd.reload import Configuration, Loaded
from chatd.service import Listeners
from chatd.settings import Fault, Settings, SettingsError, load
from chatd.systemd import Notifier, passed_descriptors, watchdog_seconds
from chatd.wire.inherited import Inherited
from chatd.wire.listener import SYSTEMD, Listener, ListenError, open_listeners
from chatd.wire.tls import TlsError, tls_context

if TYPE_CHECKING:
    from chatd.cli import Verbs

__all__ = ["add_parser", "run"]

_Flags: TypeAlias = tuple[Path | None, Sequence[str], Sequence[str]]
"""The arguments of ``load``: the file, ``--set`` and ``--listen``."""

SPARE_DESCRIPTORS: Final = 64
"""Reserved for listeners, the store, the log, and connections that are accepted to be refused."""

FAULTY_CONFIGURATION: Final = 78
"""EX_CONFIG of sysexits.h. With this status the unit is not restarted."""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "serve",
        help="Run the daemon in the foreground (the default).",
        description="Run the daemon in the foreground. SIGTERM stops it gently, a second at once.",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="The configuration (default: none).",
    )
    parser.add_argument(
        "--listen",
        metavar="ADDR",
        action="append",
        default=[],
        help="Listen here, not on listen.addresses.",
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="Set a key of the configuration.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal says to stop, and return the exit code."""
    warnings: list[tuple[str, str]] = []
    try:
        flags = (args.config, args.set, args.listen)
        settings = load(
            *flags, FILE_CHECKS, lambda key, fault: warnings.append((key, fault.message))
        )
        # The checks pass over credentials, which only the service itself can read.
        tls_context(settings)
        store = find_store(settings, os.environ)
        keys = load_keys(settings, os.environ)
    except SettingsError as error:
        write(report(error), sys.stderr)
        return FAULTY_CONFIGURATION
    except TlsError as error:
        fail(str(error))
        return FAULTY_CONFIGURATION
    try:
        log = open_log(
            level=settings.log.level, format=settings.log.format, addresses=settings.log.addresses
        )
    except LogError as error:
        return _failed([str(error)])
    for key, text in warnings:
        log.emit("warning", setting=key, detail=text)
    errors: list[str] = []
    faulty = False
    try:
        trio.run(_serve, settings, flags, store, keys, log)
    except* (ListenError, TlsError) as group:
        errors = [str(error) for error in _leaves(group)]
    except* StoreError as group:
        errors = [str(error) for error in _leaves(group)]
        faulty = settings.history.store == "redis"  # its server has to be configured differently
    except* Unavailable as group:  # what is read at the start
        errors = [f"{store.where}: {error}{store.remedy}" for error in _leaves(group)]
    finally:
        log.output.close()
    if faulty:
        fail(*errors)
        return FAULTY_CONFIGURATION
    return _failed(errors) if errors else 0


def _failed(errors: Sequence[str]) -> int:
    """Report errors that may pass, such as a port that is taken, and return the exit code.

    As a service, return later each time, so that systemd starts it again more and more slowly.
    """
    with interruptible() as wait:
        fail(*errors)
        failures = Failures(os.environ)
        seconds = failures.count()
        if seconds:
            fail(f"Trying again in {seconds:g} s.")
            Notifier().status(f"{errors[0]} Trying again in {seconds:g} s.")
            if wait(seconds):
                # An administrator is at it: the next start that fails is to say so at once.
                failures.forget()
                return 0
    return 1


async def _serve(settings: Settings, flags: _Flags, store: Store, keys: Keys, log: Log) -> None:
    settings = _within_descriptors(settings, log)
    notifier = Notifier()
    with ExitStack() as stack:

        def listen() -> Listeners:
            listeners = _listeners(settings, notifier, log)
            _close_with(stack, listeners)
            admin = _admin_listeners(settings, log)
            _close_with(stack, admin)
            metrics = _metrics_listeners(settings)
            _close_with(stack, metrics)
            if is_terminal(sys.stderr):
                _welcome(settings, listeners, store.where)
            return Listeners(listeners, admin, metrics)

        await service.run(
            settings,
            listen=listen,
            journal=store.open(log, notifier),
            log=log,
            notifier=notifier,
            watchdog=watchdog_seconds(),
            keys=keys,
            configuration=_configuration(flags, log),
        )


def _welcome(settings: Settings, listeners: Sequence[Listener], store: str | None) -> None:
    """Say on the terminal where the daemon listens, and where its history is."""
    scheme = "http" if settings.tls.certificate_file == "off" else "https"
    where = " and ".join(_where(listener, scheme) for listener in listeners)
    kept = "not stored" if store is None else f"stored in {store}"
    write(f"chatd listens on {where}. The history is {kept}. Press Ctrl+C to stop.\n", sys.stderr)


def _close_with(stack: ExitStack, listeners: Sequence[Listener]) -> None:
    for listener in listeners:
        stack.callback(listener.close)


def _configuration(flags: _Flags, log: Log) -> Configuration:
    warnings: list[tuple[str, str]] = []

    def warn(key: str, fault: Fault) -> None:
        warnings.append((key, fault.message))

    # In threads: a file of a MiB takes a second to check, and any may be on a slow disk.
    async def read() -> Settings:
        warnings.clear()
        settings = await trio.to_thread.run_sync(load, *flags, FILE_CHECKS, warn)
        return _within_descriptors(settings, log)

    async def load_files(settings: Settings) -> Loaded:
        loaded = await trio.to_thread.run_sync(_loaded, settings)
        # Links that are open may outlive a password, so what is wrong with it is only warned of.
        asked = await trio.to_thread.run_sync(lambda: list(check_server(settings)))
        warnings.extend((rule.keys[0], rule.message) for rule in asked)
        return loaded._replace(warnings=tuple(warnings))

    # Without a file nothing can have changed, so SIGHUP stops the daemon as SIGINT does.
    return Configuration(read, load_files, hangup=flags[0] is not None)


def _loaded(settings: Settings) -> Loaded:
    try:
        return Loaded(load_keys(settings, os.environ), tls_context(settings))
    except TlsError as error:
        # A credential, or a file that changed since it was checked.
        raise SettingsError([Fault(0, 0, str(error), "", f"tls.{error.key}")]) from error


def _admin_listeners(settings: Settings, log: Log) -> Sequence[Listener]:
    path = admin_socket(settings, os.environ)
    mode = settings.admin.socket_mode_bits
    if settings.admin.socket != "auto":
        return (
            () if path is None else open_listeners([f"unix:{path}"], mode, setting="admin.socket")
        )
    try:
        if path is None:
            raise ListenError("neither RUNTIME_DIRECTORY nor XDG_RUNTIME_DIR is set")
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise ListenError(f"{path.parent} cannot be created: {why}") from error
        return open_listeners([f"unix:{path}"], mode)
    except ListenError as error:
        # Not fatal: it was not set explicitly, and another daemon of this user may have it.
        log.emit(
            "warning",
            setting="admin.socket",
            detail=f"There is no admin socket, so that chatd ctl cannot be used: {error}. "
            "Set admin.socket to a path.",
        )
        return ()


def _metrics_listeners(settings: Settings) -> Sequence[Listener]:
    address = settings.metrics.listen
    return () if address == "off" else open_listeners([address], setting="metrics.listen")


def _listeners(settings: Settings, notifier: Notifier, log: Log) -> list[Listener]:
    """Return the configured listeners; under systemd they outlive this process.

    Raises:
        ListenError: One cannot be opened.
    """
    try:
        inherited = Inherited(passed_descriptors(), notifier)
    except OSError as error:
        raise ListenError(f'"{SYSTEMD}": systemd did not pass a socket: {error}') from error
    try:
        listeners = open_listeners(
            settings.listen.addresses,
            settings.listen.socket_mode_bits,
            inherited,
            setting="listen.addresses",
        )
        for listener in listeners:
            listener.keep(notifier)
        if inherited.of_units:
            log.emit(
                "warning",
                setting="listen.addresses",
                detail=f"A .socket unit passes {len(inherited.of_units)} sockets that are not "
                f'used. Add "{SYSTEMD}", or disable the unit.',
            )
        return listeners
    finally:
        inherited.close()


def _within_descriptors(settings: Settings, log: Log) -> Settings:
    """Raise the soft limit of file descriptors to the hard one, and limit connections to it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY or settings.limits.connections <= hard - SPARE_DESCRIPTORS:
        return settings
    fit = max(1, hard - SPARE_DESCRIPTORS)
    log.emit(
        "warning",
        setting="limits.connections",
        detail=f"{settings.limits.connections} connections need more than {hard} file descriptors. "
        f"At most {fit} are accepted. Raise LimitNOFILE or lower limits.connections.",
    )
    return replace(settings, limits=replace(settings.limits, connections=fit))


def _where(listener: Listener, scheme: str) -> str:
    return listener.address if listener.path else f"{scheme}://{listener.address}"


def _leaves(errors: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for error in errors.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]
