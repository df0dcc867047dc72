"""``chatd token``: issues a token, or makes a key.

A running daemon signs with its own key, over its admin socket. Otherwise the key is read from a
file, or from those of the configuration.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from chatd.chat.key_files import load_keys
from chatd.chat.token_keys import new_key, read_keys
from chatd.chat.tokens import Keys
from chatd.cli.admin_client import NoDaemonError, RequestError, find_socket, request
from chatd.cli.check import DEFAULT_CONFIGURATION
from chatd.cli.durations import duration
from chatd.cli.output import fail, report, write
from chatd.logs import now_ms
from chatd.model import Refused
from chatd.settings import Settings, SettingsError, load

if TYPE_CHECKING:
    from chatd.cli import Verbs

__all__ = ["add_parser", "run"]

_NO_KEY: Final = (
    " Name it with --key, or a configuration with --config; `chatd token --new-key` makes one."
)


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "token",
        help='Issue a token for auth.mode = "token", or make a key.',
        description="Issue a token and print it. Whoever has it can act as that user until it "
        "expires. A running daemon signs it, with the first private key of its auth.key_files; "
        "with --key or --config, or if none is running, this command does so itself.",
    )
    parser.add_argument("--user", metavar="NAME", help="The user's id (sub).")
    parser.add_argument("--new-key", action="store_true", help="Make a private key (Ed25519).")
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="With --new-key: the file for the key, which only you can read (default: print it). "
        "With --user too, a token signed with it is printed.",
    )
    parser.add_argument(
        "--hs256", action="store_true", help="With --new-key: make a shared secret instead."
    )
    parser.add_argument(
        "--room",
        metavar="R",
        action="append",
        help="A room that the user may read and write, with * for any text (default: all).",
    )
    parser.add_argument(
        "--read",
        metavar="R",
        action="append",
        default=[],
        help="A room the user may only read.",
    )
    parser.add_argument("--op", action="store_true", help="Make the user an operator.")
    parser.add_argument("--nick", metavar="N", help="The user's first nick (default: NAME).")
    parser.add_argument(
        "--expires",
        metavar="TIME",
        type=duration,
        default=duration("12h"),
        help="How long it is valid: 90s, 15m, 12h, 30d (default: 12h).",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--key", metavar="FILE", type=Path, help="Sign with the key in this file.")
    where.add_argument(
        "--config", metavar="FILE", type=Path, help="Sign with a key of this configuration."
    )
    where.add_argument(
        "--socket", metavar="PATH", type=Path, help="The admin socket of the daemon that signs."
    )
    parser.set_defaults(run=run, usage=parser.error)


def run(args: argparse.Namespace) -> int:
    """Make a key, print a token, or both, and return the exit code."""
    if not (args.user or args.new_key):
        args.usage("give --user, --new-key or both")
    if args.new_key and args.user and not args.output:
        args.usage("--new-key with --user needs --output, a file for the key")
    if args.new_key and (args.key or args.config or args.socket):
        args.usage("--new-key cannot be used with --key, --config or --socket")
    if args.output and not args.new_key:
        args.usage("--output is for --new-key")
    try:
        if not args.new_key:
            token = _token(args)
        elif args.output is None:
            _print_secret(new_key(symmetric=args.hs256))
            return 0
        else:
            key = new_key(symmetric=args.hs256)
            token = _issued(args, Keys(read_keys(key.encode())), Settings()) if args.user else ""
            _write_key(args.output, key)
    except SettingsError as error:
        write(report(error), sys.stderr)
        return 1
    except Refused as refused:
        return fail(f"{refused}{_NO_KEY if refused.refusal.code == 'not_found' else ''}")
    except RequestError as error:
        return fail(str(error))
    except OSError as error:
        return fail(f"{args.output}: {(error.strerror or str(error)).lower()}.")
    if args.new_key:
        files = msgspec.json.encode([str(args.output.absolute())]).decode()
        flags = ("auth.mode=token", "auth.guests=true", f"auth.key_files={files}")
        serve = " ".join(f"--set {quote(flag)}" for flag in flags)
        write(f"chatd: The key is in {args.output}. Use it: chatd serve {serve}\n", sys.stderr)
    if token:
        _print_secret(token)
    return 0


def _print_secret(text: str) -> None:
    """Print a secret, and warn if that goes into a file that others can read."""
    write(f"{text}\n", sys.stdout)
    with suppress(OSError, ValueError):  # a stream without a descriptor
        mode = os.fstat(sys.stdout.fileno()).st_mode
        if stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
            warning = "chatd: Other users can read the file that this goes into. Run chmod 600.\n"
            write(warning, sys.stderr)


def _write_key(path: Path, key: str) -> None:
    """Write a key into a new file that only its owner can read. Raise OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(f"{key}\n")
    except BaseException:
        path.unlink()
        raise


def _token(args: argparse.Namespace) -> str:
    """Return the token, signed by whom the arguments say, a running daemon or the default file's.

    Raises:
        Refused: There is no key, or the token would not be valid.
        SettingsError: The configuration or the key has faults.
        RequestError: The daemon does not answer, or refuses.
    """
    if args.key is not None:
        settings = Settings()
        auth = replace(settings.auth, key_files=(str(args.key),))
        return _issued(args, load_keys(replace(settings, auth=auth), os.environ), settings)
    if args.socket is not None:
        return _by_daemon(args)
    if args.config is None:
        with suppress(NoDaemonError):
            return _by_daemon(args)
    settings = load(args.config or (DEFAULT_CONFIGURATION if _installed() else None))
    return _issued(args, load_keys(settings, os.environ), settings)


def _installed() -> bool:
    return DEFAULT_CONFIGURATION.exists()


def _by_daemon(args: argparse.Namespace) -> str:
    arguments = {
        "user": args.user,
        "seconds": args.expires,
        "rooms": args.room,
        "read": args.read,
        "op": args.op,
        "nick": args.nick,
    }
    path = find_socket(args.socket, None, os.environ)
    answer = request(path, "POST", "/token", arguments)
    if answer.failed:
        raise RequestError(answer.message)
    return str(answer.value["token"])


def _issued(args: argparse.Namespace, keys: Keys, settings: Settings) -> str:
    return keys.issue(
        args.user,
        now=now_ms(),
        seconds=args.expires,
        rooms=args.room,
        read=args.read,
        op=args.op,
        nick=args.nick,
        expected=settings.auth,
    )
