"""``chatd ctl``: controls a running daemon over its admin socket.

Exit codes: 0 for an answer, 1 for a refusal or when there is no daemon, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from chatd.cli import tables
from chatd.cli.admin_client import Answer, RequestError, download, find_socket, request
from chatd.cli.output import fail, report, write
from chatd.logs import LEVELS
from chatd.settings import SettingsError

if TYPE_CHECKING:
    from chatd.cli import Verbs

__all__ = ["COMMANDS", "Argument", "Command", "add_parser", "run"]


class Argument(Struct, frozen=True):
    """An argument, or an option if its name begins with ``--``; the request has the same name."""

    name: str
    help: str
    required: bool = True
    choices: Sequence[str] | None = None
    kind: type = str


class Command(Struct, frozen=True):
    """A command: the request, and the function that prints the answer for people.

    With ``reads`` it is a GET if no argument is given.
    """

    name: str
    help: str
    method: str
    show: tables.Show
    arguments: Sequence[Argument] = ()
    reads: bool = False


BACKUP: Final = "Write a copy of the running daemon's store, as of one moment, to a new file."

_ROOM: Final = Argument("--room", "only in this room")

_SECONDS: Final = Argument("--seconds", "for how long (default: until undone)", kind=float)
_REASON: Final = Argument("--reason", "the reason, which the users see")
_USER: Final = (
    Argument("nick", "the user's nick", required=False),
    Argument("--user", "the user's id, instead of the nick"),
    Argument("--network", "an address or a network such as 192.0.2.0/24, instead of a user"),
    Argument("--room", "only in this room (default: everywhere)"),
    _SECONDS,
    _REASON,
)
_CLOSE: Final = (Argument("room", "the room"), _SECONDS, _REASON)
_SLOW: Final = (
    Argument("room", "the room"),
    Argument("seconds", "how long a user must wait between two messages", kind=float),
)

COMMANDS: Final = (
    Command("status", "show the state of the daemon", "GET", tables.show_status),
    Command("rooms", "list the rooms", "GET", tables.show_rooms),
    Command(
        "who",
        "list the connected users, or the members of a room",
        "GET",
        tables.show_members,
        (Argument("room", "only this room", required=False),),
    ),
    Command("connections", "list the chat connections", "GET", tables.show_connections),
    Command(
        "announce",
        "send a notice to all clients",
        "POST",
        tables.show_announced,
        (Argument("text", "the notice"), _ROOM),
    ),
    Command("kick", "remove a user, who may return", "POST", tables.show_done, _USER),
    Command("ban", "keep a user or a network out", "POST", tables.show_done, _USER),
    Command("unban", "lift a ban", "POST", tables.show_done, _USER),
    Command("bans", "list bans, mutes, slow mode and closed rooms", "GET", tables.show_bans),
    Command("mute", "keep a user from sending messages", "POST", tables.show_done, _USER),
    Command("unmute", "lift a mute", "POST", tables.show_done, _USER),
    Command("slow", "slow a room down; 0 seconds ends it", "POST", tables.show_done, _SLOW),
    Command("close", "close a room; 0 seconds opens it", "POST", tables.show_done, _CLOSE),
    Command(
        "loglevel",
        "show or set the log level, until the next reload",
        "POST",
        tables.show_level,
        (Argument("level", "the new level", required=False, choices=tuple(LEVELS)),),
        reads=True,
    ),
    Command(
        "forget",
        "delete a user's messages and records",
        "POST",
        tables.show_done,
        (Argument("user", "the user's id"),),
    ),
    Command("reload", "apply the changed configuration", "POST", tables.show_reloaded),
    Command("drain", "disconnect all clients and stop", "POST", tables.show_draining),
)
"""Every command, with the endpoint of the same name in ``admin.endpoints``."""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "ctl",
        help="control a running daemon",
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
                argument.name,
                help=argument.help,
                choices=argument.choices,
                type=argument.kind,
                **({} if option else optional),
            )
        own.set_defaults(run=run, command=command)
    backup = commands.add_parser("backup", help="write a copy of the store", description=BACKUP)
    _add_options(backup, argparse.SUPPRESS)
    backup.add_argument("file", metavar="FILE", type=Path, help="the file, which must not exist")
    backup.set_defaults(run=run_backup)


def _add_options(parser: argparse.ArgumentParser, default: Any) -> None:
    parser.add_argument(
        "--socket", metavar="PATH", type=Path, default=default, help="the daemon's admin socket"
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        default=default,
        help="the daemon's configuration, to find its socket",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        default=False if default is None else default,
        help="print the answer as JSON",
    )


def run(args: argparse.Namespace) -> int:
    """Send the request, print the answer, and return the exit code."""
    command: Command = args.command
    names = [argument.name.removeprefix("--") for argument in command.arguments]
    arguments = {name: getattr(args, name) for name in names}
    try:
        answer = _requested(command, arguments, args)
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
    partial = file.with_name(f".{file.name}.part")
    try:
        if file.exists():
            raise RequestError(f"{file} exists already. Choose another name.")
        # Private: it contains all messages, and the key of all sessions.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            socket = find_socket(args.socket, args.config, os.environ)
            download(socket, "/backup", {}, out.write)
            out.flush()
            os.fsync(out.fileno())
            size = out.tell()
        partial.rename(file)
    except RequestError as error:
        partial.unlink(missing_ok=True)
        return fail(str(error))
    except OSError as error:
        partial.unlink(missing_ok=True)
        return fail(f"{file} cannot be written: {(error.strerror or str(error)).lower()}.")
    answer = {"file": str(file), "bytes": size}
    write(f"{msgspec.json.encode(answer).decode() if args.json else f'{size} bytes'}\n", sys.stdout)
    return 0


def _requested(command: Command, arguments: Mapping[str, Any], args: argparse.Namespace) -> Answer:
    path = find_socket(args.socket, args.config, os.environ)
    reads = command.reads and all(value is None for value in arguments.values())
    return request(path, "GET" if reads else command.method, f"/{command.name}", arguments)
