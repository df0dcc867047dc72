"""``chatd token``: issues a token signed with the configured key, or makes a key."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from chatd.chat.key_files import load_keys
from chatd.chat.token_keys import new_key
from chatd.cli.check import DEFAULT_CONFIGURATION
from chatd.cli.durations import duration
from chatd.cli.output import report, write
from chatd.logs import now_ms
from chatd.model import Refused
from chatd.settings import Settings, SettingsError, load

if TYPE_CHECKING:
    from chatd.cli import Verbs

__all__ = ["add_parser", "run"]


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "token",
        help='issue a token for auth.mode = "token", or make a key',
        description="Issue a token, signed with the first private key of auth.key_files, and print "
        "it. Whoever has the token can act as that user until it expires.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--user", metavar="NAME", help="the user's id (sub)")
    what.add_argument(
        "--new-key", action="store_true", help="make a private key (Ed25519) and print it"
    )
    parser.add_argument(
        "--hs256", action="store_true", help="with --new-key: make a shared secret instead"
    )
    parser.add_argument(
        "--room",
        metavar="R",
        action="append",
        help="a room that the user may read and write, with * for any text (default: all)",
    )
    parser.add_argument(
        "--read",
        metavar="R",
        action="append",
        default=[],
        help="a room the user may only read",
    )
    parser.add_argument("--op", action="store_true", help="make the user an operator")
    parser.add_argument("--nick", metavar="N", help="the user's first nick (default: NAME)")
    parser.add_argument(
        "--expires",
        metavar="TIME",
        type=duration,
        default=duration("12h"),
        help="how long it is valid: 90s, 15m, 12h, 30d (default: 12h)",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help=f"default: {DEFAULT_CONFIGURATION}",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print a token or a key and return the exit code."""
    if args.new_key:
        write(f"{new_key(symmetric=args.hs256)}\n", sys.stdout)
        return 0
    try:
        keys = load_keys(_settings(args.config), os.environ)
    except SettingsError as error:
        write(report(error), sys.stderr)
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
        write(f"chatd: {refused}{hint}\n", sys.stderr)
        return 1
    write(f"{token}\n", sys.stdout)
    return 0


def _settings(file: Path | None) -> Settings:
    if file is None and DEFAULT_CONFIGURATION.exists():
        file = DEFAULT_CONFIGURATION
    return load(file)
