"""``chatd ctl``: controls a running daemon over its admin socket.

Exit codes: 0 for an answer, 1 for a refusal or when there is no daemon, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import msgspec
from msgspec import Struct

from chatd.cli import tables
from chatd.cli.admin_client import (
    Answer,
    NoDaemonError,
    RequestError,
    download,
    find_socket,
    request,
)
from chatd.cli.durations import seconds
from chatd.cli.output import fail, report, write
from chatd.logs import LEVELS
from chatd.settings import SettingsError

if TYPE_CHECKING:
    from chatd.cli import Verbs

__all__ = ["COMMANDS", "Argument", "Command", "add_parser", "run"]


class Argument(Struct, frozen=True):
    """An argument, or an option if its name begins with ``--``; the request has the same name.

    ``also`` is a second name of an option; ``shown`` stands for the value in the help.
    """

    name: str
    help: str
    required: bool = True
    choices: Sequence[str] | None = None
    kind: Callable[[str], Any] = str
    also: str | None = None
    shown: str | None = None


class Command(Struct, frozen=True):
    """A command: the request, and the function that prints the answer for people.

    With ``reads`` it is a GET if no argument is given. With ``offline`` it is carried out on the
    store itself where no daemon runs.
    """

    name: str
    help: str
    method: str
    show: tables.Show
    arguments: Sequence[Argument] = ()
    reads: bool = False
    offline: bool = False


BACKUP: Final = "Write a copy of the running daemon's store, as of one moment, to a new file."

_ROOM: Final = Argument("--room", "Only in this room.", shown="ROOM")

_SECONDS: Final = Argument(
    "--seconds",
    "For how long: 90s, 15m, 2h, 30d, or a number of seconds (default: until undone).",
    kind=seconds,
    also="--for",
    shown="TIME",
)
_REASON: Final = Argument("--reason", "The reason, which the users see.", shown="TEXT")
_USER: Final = (
    Argument("nick", "The user's nick.", required=False, shown="NICK"),
    Argument("--user", "The user's id, instead of the nick.", shown="ID"),
    Argument(
        "--network",
        "An address or a network such as 192.0.2.0/24, instead of a user.",
        shown="NETWORK",
    ),
    Argument("--room", "Only in this room (default: everywhere).", shown="ROOM"),
    _SECONDS,
    _REASON,
)
_CLOSE: Final = (Argument("room", "The room.", shown="ROOM"), _SECONDS, _REASON)
_SLOW: Final = (
    Argument("room", "The room.", shown="ROOM"),
    Argument(
        "seconds",
        "How long a user must wait between two messages: 30s, 5m, or a number of seconds.",
        kind=seconds,
        shown="TIME",
    ),
)

COMMANDS: Final = (
    Command("status", "Show the state of the daemon.", "GET", tables.show_status),
    Command("rooms", "List the rooms.", "GET", tables.show_rooms),
    Command(
        "who",
        "List the connected users, or the members of a room.",
        "GET",
        tables.show_members,
        (Argument("room", "Only this room.", required=False, shown="ROOM"),),
    ),
    Command("nodes", "List the daemons that share the store.", "GET", tables.show_nodes),
    Command("connections", "List the chat connections.", "GET", tables.show_connections),
    Command(
        "announce",
        "Send a notice to all clients.",
        "POST",
        tables.show_announced,
        (Argument("text", "The notice.", shown="TEXT"), _ROOM),
    ),
    Command("kick", "Remove a user, who may return.", "POST", tables.show_done, _USER),
    Command("ban", "Keep a user or a network out.", "POST", tables.show_done, _USER),
    Command("unban", "Lift a ban.", "POST", tables.show_done, _USER),
    Command("bans", "List bans, mutes, slow mode and closed rooms.", "GET", tables.show_bans),
    Command("mute", "Keep a user from sending messages.", "POST", tables.show_done, _USER),
    Command("unmute", "Lift a mute.", "POST", tables.show_done, _USER),
    Command("slow", "Slow a room down. 0 ends it.", "POST", tables.show_done, _SLOW),
    Command("close", "Close a room. --for 0 opens it.", "POST", tables.show_done, _CLOSE),
    Command(
        "remove",
        "Remove a room: its members leave it, and its events are deleted.",
        "POST",
        tables.show_done,
        (Argument("room", "The room.", shown="ROOM"), _REASON),
        offline=True,
    ),
    Command(
        "reindex",
        "Make the search index again, in the background.",
        "POST",
        tables.show_done,
        offline=True,
    ),
    Command(
        "loglevel",
        "Show or set the log level, until the next reload.",
        "POST",
        tables.show_level,
        (
            Argument(
                "level",
                f"The new level: {', '.join(LEVELS)}.",
                required=False,
                choices=tuple(LEVELS),
                shown="LEVEL",
            ),
        ),
        reads=True,
    ),
    Command(
        "clock",
        "Show whether the wall clock jumped, or trust it as it is now.",
        "POST",
        tables.show_clock,
        (Argument("action", "Trust the clock.", required=False, choices=("confirm",)),),
        reads=True,
    ),
    Command(
        "forget",
        "Delete a user's messages and records.",
        "POST",
        tables.show_done,
        (Argument("user", "The user's id.", shown="ID"),),
        offline=True,
    ),
    Command("reload", "Apply the changed configuration.", "POST", tables.show_reloaded),
    Command("drain", "Disconnect all clients and stop.", "POST", tables.show_draining),
)
"""Every command, with the endpoint of the same name in ``admin.endpoints``."""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "ctl",
        help="Control a running daemon.",
        description="Control a running daemon over its admin socket.",
    )
    _add_options(parser, None)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        own = commands.add_parser(command.name, help=command.help, description=command.help)
        # They may follow the command too, and their defaults must not undo those before it.
        _add_options(own, argparse.SUPPRESS)
        for argument in command.arguments:
            option = argument.name.startswith("--")
            optional: dict[str, Any] = {"nargs": None if argument.required else "?"}
            own.add_argument(
                *filter(None, [argument.name, argument.also]),
                help=argument.help,
                choices=argument.choices,
                type=argument.kind,
                metavar=argument.shown,
                **({} if option else optional),
            )
        own.set_defaults(run=run, command=command)
    backup = commands.add_parser("backup", help="Write a copy of the store.", description=BACKUP)
    _add_options(backup, argparse.SUPPRESS)
    backup.add_argument("file", metavar="FILE", type=Path, help="The file, which must not exist.")
    backup.set_defaults(run=run_backup)


def _add_options(parser: argparse.ArgumentParser, default: Any) -> None:
    parser.add_argument(
        "--socket", metavar="PATH", type=Path, default=default, help="The daemon's admin socket."
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        default=default,
        help="The daemon's configuration, to find its socket.",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        default=False if default is None else default,
        help="Print the answer as JSON.",
    )


def run(args: argparse.Namespace) -> int:
    """Send the request, print the answer, and return the exit code."""
    command: Command = args.command
    names = [argument.name.removeprefix("--") for argument in command.arguments]
    arguments = {name: getattr(args, name) for name in names}
    try:
        try:
            answer = _requested(command, arguments, args)
        except NoDaemonError as error:
            if not command.offline or _names_a_daemon(args):
                raise
            answer = _changed(command, args, error)
    except RequestError as error:
        return fail(str(error))
    if args.json:
        write(f"{msgspec.json.encode(answer.value).decode()}\n", sys.stdout)
    if not answer.failed:
        if not args.json:
            command.show(answer.value)
        return 0
    if faults := answer.faults:
        write(report(SettingsError(faults)), sys.stderr)
    return fail(answer.message)


def run_backup(args: argparse.Namespace) -> int:
    """Write a copy of the store to a new file, whole or not at all. Return the exit code."""
    file: Path = args.file
    try:
        if file.exists():
            raise RequestError(f"{file} exists already. Choose another name.")
        size = _backup(args, file)
    except RequestError as error:
        return fail(str(error))
    except OSError as error:
        return fail(f"{file} cannot be written: {(error.strerror or str(error)).lower()}.")
    answer = {"file": str(file), "bytes": size}
    write(f"{msgspec.json.encode(answer).decode() if args.json else f'{size} bytes'}\n", sys.stdout)
    return 0


def _backup(args: argparse.Namespace, file: Path) -> int:
    """Write a backup to ``file`` and return its size. Raises RequestError or OSError."""
    partial = file.with_name(f".{file.name}.part")
    descriptor = _own(partial)
    try:
        with os.fdopen(descriptor, "wb") as out:
            try:
                socket = find_socket(args.socket, args.config, os.environ)
                with closing(download(socket, "/backup", {})) as pieces:
                    for piece in pieces:
                        out.write(piece)
            except NoDaemonError as error:
                if _names_a_daemon(args):
                    raise
                _copy(args, error, out)
            out.flush()
            os.fsync(out.fileno())
            size = out.tell()
            partial.rename(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return size


def _own(partial: Path) -> int:
    """Open a file, empty and for this run alone; a run that was killed may have left one.

    Raises RequestError or OSError.
    """
    while True:
        # Private, because it contains all messages and the key of all sessions.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = os.fstat(descriptor)
            if found.st_uid != os.geteuid():
                raise RequestError(f"{partial} belongs to another user. Remove it.")
            with suppress(FileNotFoundError):
                if os.path.samestat(found, partial.stat(follow_symlinks=False)):
                    os.fchmod(descriptor, 0o600)
                    os.truncate(descriptor, 0)
                    return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise RequestError(f"Another backup is being written to {partial}.") from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the run that held it has renamed or removed it


def _names_a_daemon(args: argparse.Namespace) -> bool:
    """Return whether a daemon is named whose store is not known: it may be another than ours."""
    return args.socket is not None and args.config is None


def _copy(args: argparse.Namespace, no_daemon: NoDaemonError, out: BinaryIO) -> None:
    """Copy the store that no daemon has open. Raises RequestError or OSError."""
    from chatd.cli.transfer import backup  # noqa: PLC0415  it imports the store

    backup(args, no_daemon, out)


def _changed(command: Command, args: argparse.Namespace, no_daemon: NoDaemonError) -> Answer:
    """Change the store that no daemon has open. Raises RequestError."""
    from chatd.cli.transfer import change  # noqa: PLC0415  as above

    change(command.name, args, no_daemon)
    return Answer({}, failed=False)


def _requested(command: Command, arguments: Mapping[str, Any], args: argparse.Namespace) -> Answer:
    path = find_socket(args.socket, args.config, os.environ)
    reads = command.reads and all(value is None for value in arguments.values())
    return request(path, "GET" if reads else command.method, f"/{command.name}", arguments)
