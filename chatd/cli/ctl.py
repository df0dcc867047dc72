"""``chatd ctl``: asks a running daemon, and tells it what to do, over its admin socket."""

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
from chatd.cli.asking import Answer, AskError, ask, find, receive
from chatd.cli.check import report, say, visible
from chatd.logs import LEVELS
from chatd.settings import SettingsError

if TYPE_CHECKING:
    from chatd.cli.check import Verbs

__all__ = ["COMMANDS", "Argument", "Command", "add_parser", "run"]


class Argument(Struct, frozen=True):
    """An argument, or an option where its name begins with ``--``; its own name in the request."""

    name: str
    help: str
    required: bool = True
    choices: Sequence[str] | None = None
    kind: type = str


class Command(Struct, frozen=True):
    """A command: what is asked for, and how the answer is shown to people.

    Without arguments given, ``method`` is GET where ``asks``.
    """

    name: str
    help: str
    method: str
    shown: tables.Shown
    arguments: Sequence[Argument] = ()
    asks: bool = False


BACKUP: Final = "Write a copy of the running daemon's store, as of one moment, into a new file."

_ROOM: Final = Argument("--room", "in this room alone")

_SECONDS: Final = Argument("--seconds", "for so long; else until it is taken back", kind=float)
_REASON: Final = Argument("--reason", "what they are told")
_PERSON: Final = (
    Argument("nick", "who is called so", required=False),
    Argument("--user", "by user id"),
    Argument("--network", "an address or a network, such as 192.0.2.0/24"),
    Argument("--room", "in this room; else everywhere"),
    _SECONDS,
    _REASON,
)
_PLACE: Final = (Argument("room", "which room"), _SECONDS, _REASON)
_SLOW: Final = (
    Argument("room", "which room"),
    Argument("seconds", "between two messages of somebody's", kind=float),
)

COMMANDS: Final = (
    Command("status", "how the daemon is", "GET", tables.show_status),
    Command("rooms", "the rooms there are", "GET", tables.show_rooms),
    Command(
        "who",
        "who is here, or in a room",
        "GET",
        tables.show_members,
        (Argument("room", "this room alone", required=False),),
    ),
    Command("connections", "every chat connection", "GET", tables.show_connections),
    Command(
        "announce",
        "tell everybody something",
        "POST",
        tables.show_announced,
        (Argument("text", "what to say"), _ROOM),
    ),
    Command("kick", "put somebody out", "POST", tables.show_done, _PERSON),
    Command("ban", "keep somebody or a network out", "POST", tables.show_done, _PERSON),
    Command("unban", "take a ban back", "POST", tables.show_done, _PERSON),
    Command("bans", "what is held against people and over rooms", "GET", tables.show_bans),
    Command("mute", "let somebody say nothing", "POST", tables.show_done, _PERSON),
    Command("unmute", "let somebody speak again", "POST", tables.show_done, _PERSON),
    Command("slow", "slow a room down; 0 seconds: no more", "POST", tables.show_done, _SLOW),
    Command("close", "shut a room; 0 seconds: open it", "POST", tables.show_done, _PLACE),
    Command(
        "loglevel",
        "what is logged, until the next reload",
        "POST",
        tables.show_level,
        (Argument("level", "from now on", required=False, choices=tuple(LEVELS)),),
        asks=True,
    ),
    Command(
        "forget",
        "remove what a user said, and what is kept of them",
        "POST",
        tables.show_done,
        (Argument("user", "the user's id"),),
    ),
    Command("reload", "put the changed configuration in force", "POST", tables.show_reloaded),
    Command("drain", "send all clients away and end", "POST", tables.show_draining),
)
"""Every command: one line each, with the endpoint of the same name in ``admin.endpoints``."""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "ctl",
        help="ask a running daemon, or tell it what to do",
        description="Ask a running daemon, or tell it what to do, over its admin socket.",
    )
    _add_options(parser, None)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        own = commands.add_parser(command.name, help=command.help, description=command.help)
        # Behind the command too; what is not given there must not undo what stands before it.
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
    copying = commands.add_parser("backup", help="write a copy of the store", description=BACKUP)
    _add_options(copying, argparse.SUPPRESS)
    copying.add_argument("file", metavar="FILE", type=Path, help="a new file")
    copying.set_defaults(run=run_backup)


def _add_options(parser: argparse.ArgumentParser, default: Any) -> None:
    parser.add_argument(
        "--socket", metavar="PATH", type=Path, default=default, help="the daemon's admin socket"
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        default=default,
        help="the daemon's configuration, which says where its socket is",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        default=False if default is None else default,
        help="answer in JSON, for machines",
    )


def run(args: argparse.Namespace) -> int:
    """Ask, and show the answer; give the exit code."""
    command: Command = args.command
    names = [argument.name.removeprefix("--") for argument in command.arguments]
    arguments = {name: getattr(args, name) for name in names}
    try:
        answer = _asked(command, arguments, args)
    except AskError as error:
        say(f"chatd: {visible(str(error))}\n", sys.stderr)
        return 1
    if args.json:
        say(f"{msgspec.json.encode(answer.value).decode()}\n", sys.stdout)
    if not answer.failed:
        if not args.json:
            command.shown(answer.value)
        return 0
    if faults := answer.faults:
        say(report(SettingsError(faults)), sys.stderr)
    say(f"chatd: {visible(answer.message)}\n", sys.stderr)
    return 1


def run_backup(args: argparse.Namespace) -> int:
    """Write a copy of the store into a new file, whole or not at all; give the exit code."""
    file: Path = args.file
    partial = file.with_name(f".{file.name}.part")
    try:
        if file.exists():
            raise AskError(f"{file} is there already")
        # It has everybody's words, and the key of everybody's session.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            receive(find(args.socket, args.config, os.environ), "/backup", {}, out.write)
            out.flush()
            os.fsync(out.fileno())
            size = out.tell()
        partial.rename(file)
    except AskError as error:
        partial.unlink(missing_ok=True)
        say(f"chatd: {visible(str(error))}\n", sys.stderr)
        return 1
    except OSError as error:
        partial.unlink(missing_ok=True)
        say(f"chatd: {file}: {(error.strerror or str(error)).lower()}\n", sys.stderr)
        return 1
    answer = {"file": str(file), "bytes": size}
    say(f"{msgspec.json.encode(answer).decode() if args.json else f'{size} bytes'}\n", sys.stdout)
    return 0


def _asked(command: Command, arguments: Mapping[str, Any], args: argparse.Namespace) -> Answer:
    path = find(args.socket, args.config, os.environ)
    asks = command.asks and all(value is None for value in arguments.values())
    return ask(path, "GET" if asks else command.method, f"/{command.name}", arguments)
