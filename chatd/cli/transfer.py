"""``chatd export`` and ``chatd import``: history as JSON Lines.

If a daemon runs they use its admin socket; otherwise they open the store themselves.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, TypeAlias, TypeVar

import trio
from msgspec import convert

from chatd.admin.answers import Imported
from chatd.admin.importing import Importing
from chatd.admin.transfer import (
    bar,
    export_all,
    export_room,
    export_user,
    forget,
    has_written,
    is_known,
)
from chatd.chat.names import Name, log_name
from chatd.chat.removal import Ask, erase_room
from chatd.chat.users import DAY_SECONDS
from chatd.cli.admin_client import (
    NoDaemonError,
    RequestError,
    download,
    find_socket,
    upload,
)
from chatd.cli.check import DEFAULT_CONFIGURATION
from chatd.cli.output import fail, report, write, write_bytes
from chatd.cli.tables import counted
from chatd.client.errors import unwrapped
from chatd.journal import Journal, StoreError, Unavailable
from chatd.journal.sqlite import open_sqlite
from chatd.logs import now_ms
from chatd.model import Operation, Outcome, Refused
from chatd.paths import history_path, runtime_folder
from chatd.settings import Settings, SettingsError, load

if TYPE_CHECKING:
    from chatd.cli import Verbs

__all__ = ["CHANGES", "TransferError", "add_parser", "backup", "change", "run_export", "run_import"]

_PIECE_BYTES: Final = 64 * 1024

_T = TypeVar("_T")

Work: TypeAlias = Callable[[Journal, Settings], Awaitable[_T]]


class TransferError(RequestError):
    """It cannot be done. The message is for the user."""


def add_parser(verbs: Verbs) -> None:
    """Add both verbs to the command line."""
    exporting = verbs.add_parser(
        "export",
        help="Write the history of a room or a user as JSON Lines.",
        description="Write the history of a room, all messages of a user, or the whole chat, as "
        "JSON Lines.",
    )
    what = exporting.add_mutually_exclusive_group(required=True)
    what.add_argument("room", metavar="ROOM", nargs="?", help="The room.")
    what.add_argument("--user", metavar="USER", help="The messages of this user (an id) anywhere.")
    what.add_argument(
        "--all",
        action="store_true",
        dest="everything",
        help="All rooms, direct messages, users with tokens, bans and the like, and read marks.",
    )
    _add_options(exporting)
    exporting.set_defaults(run=run_export)
    importing = verbs.add_parser(
        "import",
        help="Import history from JSON Lines.",
        description="Import the exported history of rooms. These rooms must have no members.",
    )
    importing.add_argument(
        "file", metavar="FILE", nargs="?", type=Path, help="The file (default: standard input)."
    )
    _add_options(importing)
    importing.set_defaults(run=run_import)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--socket", metavar="PATH", type=Path, help="The daemon's admin socket.")
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="To find the admin socket or the store.",
    )


def run_export(args: argparse.Namespace) -> int:
    """Export to standard output and return the exit code."""
    target = {"user": args.user} if args.user else {"room": args.room}
    if args.everything:
        target = {"all": ""}
    try:
        try:
            path = find_socket(args.socket, args.config, os.environ)
            with closing(download(path, "/export", target)) as pieces:
                for piece in pieces:
                    write_bytes(piece)
        except NoDaemonError as error:
            _offline(args, error, partial(_export, args))
    except RequestError as error:
        return fail(str(error))
    return 0


def run_import(args: argparse.Namespace) -> int:
    """Import the file or standard input and return the exit code."""
    try:
        with _opened(args.file) as given, _rewindable(given) as source:
            try:
                path = find_socket(args.socket, args.config, os.environ)
                # First all of it is checked: a file that is refused changes nothing.
                upload(path, "/import?check=", _pieces(source))
                source.seek(0)
                imported = convert(upload(path, "/import", _pieces(source)), Imported)
            except NoDaemonError as error:
                imported = _offline(args, error, partial(_import, source))
    except RequestError as error:
        return fail(str(error))
    write(f"{_told(imported)}\n", sys.stdout)
    return 0


def _told(imported: Imported) -> str:
    """Return what an import did, as sentences for people."""
    were = "was" if imported.events == 1 else "were"
    said = [f"{counted(imported.events, 'line')} {were} imported."]
    if imported.skipped:
        were = "was" if imported.skipped == 1 else "were"
        said.append(f"{counted(imported.skipped, 'line')} {were} there already.")
    if imported.too_old:
        said.append(f"Retention will remove {imported.too_old} for history.keep_days.")
    if imported.too_many:
        said.append(f"Retention will remove {imported.too_many} for history.keep_events.")
    if imported.too_big:
        said.append(
            "The store is larger than history.max_bytes now: the oldest messages of all rooms "
            "will be removed."
        )
    return " ".join(said)


@contextmanager
def _rewindable(source: BinaryIO) -> Iterator[BinaryIO]:
    """Yield a file that can be read twice: a pipe is copied first. Raises TransferError."""
    if source.seekable():
        yield source
        return
    with tempfile.TemporaryFile() as copy:
        try:
            for piece in _pieces(source):
                copy.write(piece)
        except OSError as error:
            where, why = tempfile.gettempdir(), (error.strerror or str(error)).lower()
            raise TransferError(
                f"Standard input cannot be copied to {where}: {why}. Name a file instead."
            ) from error
        copy.seek(0)
        yield copy


def _opened(file: Path | None) -> BinaryIO:
    if file is None:
        if sys.stdin is None:
            raise TransferError("Standard input is closed.")
        return sys.stdin.buffer
    try:
        return file.open("rb")
    except OSError as error:
        raise _unreadable(str(file), error) from error


def _pieces(source: BinaryIO) -> Iterator[bytes]:
    """Yield what is in a file. Raises TransferError."""
    try:
        while piece := source.read(_PIECE_BYTES):
            yield piece
    except OSError as error:
        raise _unreadable(source.name, error) from error


def _unreadable(name: str, error: OSError) -> TransferError:
    why = (error.strerror or str(error)).lower()
    return TransferError(f"{name} cannot be read: {why}.")


# ---- without a daemon


def _offline(args: argparse.Namespace, no_daemon: NoDaemonError, work: Work[_T]) -> _T:
    """Return what ``work`` returns for the store itself, which no daemon has open.

    Raises:
        TransferError: There is no store, or it cannot be used.
    """
    try:
        settings = load(
            args.config or (DEFAULT_CONFIGURATION if DEFAULT_CONFIGURATION.exists() else None)
        )
        path = history_path(settings, os.environ)
    except SettingsError as error:
        raise TransferError(report(error).strip()) from error
    if settings.history.store == "redis":
        raise TransferError(
            f"{no_daemon} The history is in {settings.history.url}, and only a daemon uses it."
        )
    if settings.history.store != "sqlite" or not path.exists():
        raise TransferError(f"{no_daemon} There is no store at {path} either.")
    try:
        with unwrapped():
            return trio.run(_on_store, path, settings, work)
    except (StoreError, Unavailable) as error:
        raise TransferError(f"{no_daemon} {error}") from error


async def _on_store(path: Path, settings: Settings, work: Work[_T]) -> _T:
    runtime = runtime_folder(os.environ)
    async with open_sqlite(
        path,
        durability=settings.history.durability,
        now=now_ms,
        runtime_dir=runtime,
    ) as journal:
        return await work(journal, settings)


def backup(args: argparse.Namespace, no_daemon: NoDaemonError, out: BinaryIO) -> None:
    """Write a copy of the store to ``out``. Raises TransferError or OSError."""

    async def write_all(journal: Journal, _settings: Settings) -> None:
        async with aclosing(journal.backup()) as pieces:
            async for piece in pieces:
                out.write(piece)

    _offline(args, no_daemon, write_all)


def change(name: str, args: argparse.Namespace, no_daemon: NoDaemonError) -> None:
    """Carry out one of the commands `CHANGES` of ``chatd ctl``. Raises TransferError."""

    async def work(journal: Journal, settings: Settings) -> None:
        async def ask(operation: Operation) -> Outcome:
            return (await journal.commit([operation]))[0]

        try:
            await CHANGES[name](args, journal, settings, ask)
        except Refused as refused:
            raise TransferError(str(refused)) from None

    _offline(args, no_daemon, work)


async def _forget(args: argparse.Namespace, journal: Journal, settings: Settings, ask: Ask) -> None:
    user: str = args.user
    if not await is_known(journal, user):
        raise TransferError(f"There is no user {user}.")
    lasting = settings.auth.session_days * DAY_SECONDS * 1000
    await bar(journal, user, ask, until=journal.steady_now() + lasting)
    await forget(journal, user, ask)


async def _remove(
    args: argparse.Namespace, journal: Journal, _settings: Settings, ask: Ask
) -> None:
    name = log_name(args.room)
    head = await journal.head(name.key)
    if head is None or head.empty:
        raise TransferError(f"There is no room named {name.display}.")
    await erase_room(name.key, ask)


async def _reindex(
    _args: argparse.Namespace, journal: Journal, _settings: Settings, _ask: Ask
) -> None:
    journal.reindex()
    while (delay := await journal.index()) is not None:
        if delay:
            raise TransferError("The index cannot be written. The log of chatd says more.")


CHANGES: Final = {"forget": _forget, "remove": _remove, "reindex": _reindex}
"""Commands of ``chatd ctl`` that change the store, also while no daemon runs."""


async def _export(args: argparse.Namespace, journal: Journal, _settings: Settings) -> None:
    user: str | None = args.user
    if args.everything:
        lines = export_all(journal)
    elif user is not None:
        if await journal.user(user) is None and not await has_written(journal, user):
            raise TransferError(f"There is no user {user}.")
        lines = export_user(journal, user)
    else:
        try:
            name = log_name(args.room or "")
        except Refused as refused:
            raise TransferError(str(refused)) from None
        head = await journal.head(name.key)
        if head is None or head.empty:
            raise TransferError(f"There is no room named {name.display}.")
        lines = export_room(journal, name.key)
    async with aclosing(lines):
        async for piece in lines:
            write_bytes(piece)


async def _import(source: BinaryIO, journal: Journal, settings: Settings) -> Imported:
    async def ask(operation: Operation) -> Outcome:
        return (await journal.commit([operation]))[0]

    @asynccontextmanager
    async def enter(_room: Name) -> AsyncGenerator[None]:
        yield  # nobody can be in it

    async def pieces() -> AsyncGenerator[bytes]:
        for piece in _pieces(source):
            yield piece

    for check in (True, False):
        importing = Importing(journal, ask, enter, settings=settings, now=now_ms(), check=check)
        source.seek(0)
        try:
            async with aclosing(pieces()) as given:
                imported = await importing.take(given)
        except Refused as refused:
            raise TransferError(importing.explain(refused)) from None
    return imported
