"""``chatd token``: issues a token with the configured key, or makes a key."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chatd.chat.key_files import load_keys
from chatd.chat.tokens import new_key
from chatd.cli.check import report, say
from chatd.cli.durations import duration
from chatd.daemon import now_ms
from chatd.model import Refused
from chatd.settings import Settings, SettingsError, load

if TYPE_CHECKING:
    from chatd.cli.check import Verbs

__all__ = ["add_parser", "run"]

_DEFAULT_FILE: Final = Path("/etc/chatd/chatd.toml")


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "token",
        help='issue a token for auth.mode = "token", or make a key',
        description="Issue a token, signed with the first private key of auth.key_files. It is "
        "printed alone. Who has it is that user until it expires.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--user", metavar="NAME", help="who it is for: the user's id (sub)")
    what.add_argument(
        "--new-key", action="store_true", help="make a private key (Ed25519) and print it"
    )
    parser.add_argument(
        "--hs256", action="store_true", help="with --new-key: a secret shared with the issuer"
    )
    parser.add_argument(
        "--room",
        metavar="R",
        action="append",
        help="a room the user may read and write, * for any part of its name; else all",
    )
    parser.add_argument(
        "--read", metavar="R", action="append", default=[], help="a room the user may only read"
    )
    parser.add_argument("--op", action="store_true", help="the user is an operator")
    parser.add_argument("--nick", metavar="N", help="what others see at first; else NAME")
    parser.add_argument(
        "--expires",
        metavar="TIME",
        type=duration,
        default=duration("12h"),
        help="how long it is good: 90s, 15m, 12h, 30d (12h)",
    )
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help=f"the configuration; else {_DEFAULT_FILE}"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print a token or a key; give the exit code."""
    if args.new_key:
        say(f"{new_key(symmetric=args.hs256)}\n", sys.stdout)
        return 0
    try:
        keys = load_keys(_settings(args.config), os.environ)
    except SettingsError as error:
        say(report(error), sys.stderr)
        return 1
    try:
        token = keys.issue(
            args.user,
            now=now_ms(),
            seconds=args.expires,
            rooms=args.room,
            read=args.read,
            op=args.op,
            nick=args.nick,
        )
    except Refused as refused:
        no_key = refused.refusal.code == "not_found"
        hint = "; `chatd token --new-key` makes one" if no_key else ""
        say(f"chatd: {refused}{hint}\n", sys.stderr)
        return 1
    say(f"{token}\n", sys.stdout)
    return 0


def _settings(file: Path | None) -> Settings:
    if file is None and _DEFAULT_FILE.exists():
        file = _DEFAULT_FILE
    return load(file)
