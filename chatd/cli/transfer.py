"""``chatd export`` and ``chatd import``: history as JSON Lines, out and in.

Where a daemon runs they go through its admin socket; else they open the store themselves.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, TypeAlias

import trio

from chatd.admin.transfer import Importing, export_room, export_user, log_name
from chatd.cli.asking import AskError, NoDaemonError, find, receive, send
from chatd.cli.check import report, say, visible
from chatd.client.errors import unwrapped
from chatd.daemon import now_ms
from chatd.journal import Journal, StoreError, Unavailable
from chatd.journal.sqlite import open_sqlite
from chatd.model import Operation, Outcome, Refused
from chatd.settings import Settings, SettingsError, history_path, load, runtime_folder

if TYPE_CHECKING:
    from chatd.cli.check import Verbs

__all__ = ["add_parser", "run_export", "run_import"]

_CONFIG: Final = Path("/etc/chatd/chatd.toml")
_PIECE_BYTES: Final = 64 * 1024


Work: TypeAlias = Callable[[Journal], Awaitable[int]]


class _RefusedError(Exception):
    """It cannot be done; the text is one line for the user."""


def add_parser(verbs: Verbs) -> None:
    """Add both verbs to the command line."""
    exporting = verbs.add_parser(
        "export",
        help="write a room's history, or a user's words, as JSON Lines",
        description="Write a room's history, or all that a user said, as JSON Lines.",
    )
    what = exporting.add_mutually_exclusive_group(required=True)
    what.add_argument("room", metavar="ROOM", nargs="?", help="the room")
    what.add_argument("--user", metavar="USER", help="all that this user (by id) said, anywhere")
    _add_options(exporting)
    exporting.set_defaults(run=run_export)
    importing = verbs.add_parser(
        "import",
        help="take up history from JSON Lines",
        description="Take up rooms' history that was exported. Rooms that go on from it are empty.",
    )
    importing.add_argument(
        "file", metavar="FILE", nargs="?", type=Path, help="what to read; else standard input"
    )
    _add_options(importing)
    importing.set_defaults(run=run_import)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--socket", metavar="PATH", type=Path, help="the daemon's admin socket")
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="the configuration: of the daemon, or the store"
    )


def run_export(args: argparse.Namespace) -> int:
    """Write to standard output; give the exit code."""
    target = {"user": args.user} if args.user else {"room": args.room}
    out = sys.stdout.buffer
    try:
        try:
            receive(find(args.socket, args.config, os.environ), "/export", target, out.write)
        except NoDaemonError as nobody:
            _offline(args, nobody, lambda journal: _export(journal, args.room, args.user, out))
        out.flush()
    except (AskError, _RefusedError) as error:
        return _fault(str(error))
    return 0


def run_import(args: argparse.Namespace) -> int:
    """Read the file or standard input; give the exit code."""
    try:
        with args.file.open("rb") if args.file else sys.stdin.buffer as source:
            try:
                path = find(args.socket, args.config, os.environ)
                taken = send(path, "/import", _pieces(source))
            except NoDaemonError as nobody:
                taken = _offline(args, nobody, lambda journal: _import(journal, source))
    except OSError as error:
        return _fault(f"{args.file}: {(error.strerror or str(error)).lower()}")
    except (AskError, _RefusedError) as error:
        return _fault(str(error))
    say(f"{taken} lines are taken up\n", sys.stdout)
    return 0


def _pieces(source: BinaryIO) -> Iterator[bytes]:
    while piece := source.read(_PIECE_BYTES):
        yield piece


# ---- without a daemon


def _offline(args: argparse.Namespace, nobody: NoDaemonError, work: Work) -> int:
    """Do it on the store itself, which nobody else has open. Raises _RefusedError."""
    try:
        settings = load(args.config or (_CONFIG if _CONFIG.exists() else None))
        path = history_path(settings, os.environ)
    except SettingsError as error:
        raise _RefusedError(report(error).strip()) from error
    if settings.history.store != "sqlite" or not path.exists():
        raise _RefusedError(f"{nobody}; and there is no store at {path}")
    try:
        with unwrapped():
            return trio.run(_on_store, path, settings, work)
    except (StoreError, Unavailable) as error:
        raise _RefusedError(str(error)) from error


async def _on_store(path: Path, settings: Settings, work: Work) -> int:
    runtime = runtime_folder(os.environ)
    async with open_sqlite(
        path, durability=settings.history.durability, now=now_ms, runtime_dir=runtime
    ) as journal:
        return await work(journal)


async def _export(journal: Journal, room: str | None, user: str | None, out: BinaryIO) -> int:
    if user is not None:
        lines = export_user(journal, user)
    else:
        try:
            name = log_name(room or "")
        except Refused as refused:
            raise _RefusedError(str(refused)) from None
        if await journal.head(name.fold) is None:
            raise _RefusedError(f"There is no room named {name.shown}.")
        lines = export_room(journal, name.fold)
    async with aclosing(lines):
        async for piece in lines:
            out.write(piece)
    return 0


async def _import(journal: Journal, source: BinaryIO) -> int:
    async def ask(operation: Operation) -> Outcome:
        return (await journal.commit([operation]))[0]

    async def pieces() -> AsyncGenerator[bytes]:
        for piece in _pieces(source):
            yield piece

    importing = Importing(ask)
    try:
        async with aclosing(pieces()) as given:
            await importing.take(given)
    except Refused as refused:
        message = f"{refused} {importing.taken} lines before it were imported."
        raise _RefusedError(message) from None
    return importing.taken


def _fault(message: str) -> int:
    say(f"chatd: {visible(message)}\n", sys.stderr)
    return 1
