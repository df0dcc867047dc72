"""``chatd client``: a chat client for a terminal or a pipe."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chatd.cli.output import fail, is_terminal

if TYPE_CHECKING:
    from chatd.cli import Verbs

__all__ = ["add_parser", "daemon_url", "run"]

_DEFAULT_URL: Final = "ws://localhost:3000"

_VARIABLE: Final = "CHATD_TOKEN"

_DEFAULT_HISTORY: Final = 20

_MAX_HISTORY: Final = 500


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "client",
        help="Chat on a terminal, or through a pipe.",
        description="Chat on a terminal, where /help lists the commands, or through a pipe: each "
        "line of stdin is sent as it is, and each message is a line of stdout.",
        epilog=f"A token is read from --token-file, or from {_VARIABLE} in the environment.",
    )
    parser.add_argument(
        "url",
        metavar="URL",
        nargs="?",
        type=daemon_url,
        default=_DEFAULT_URL,
        help=f"The server: ws://host:port, wss://host or unix:/path (default: {_DEFAULT_URL}).",
    )
    parser.add_argument(
        "--nick", metavar="N", type=_name, help="Your name; by default the one you had."
    )
    parser.add_argument(
        "--room", metavar="R", type=_name, default="lobby", help="The first room (default: lobby)."
    )
    parser.add_argument(
        "--history",
        metavar="N",
        type=_count,
        help=f"How many earlier messages to show (default: {_DEFAULT_HISTORY}; through a pipe: 0).",
    )
    parser.add_argument(
        "--commands",
        action="store_true",
        help="Through a pipe too, carry out lines that begin with /, as on a terminal.",
    )
    parser.add_argument(
        "--token-file", metavar="FILE", type=Path, help="A file that holds your token."
    )
    parser.set_defaults(run=run)


def _name(text: str) -> str:
    """Check a name: one with bytes outside the terminal's encoding is refused."""
    if not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not a valid name")
    return text


def _count(text: str) -> int:
    if not (text.isdecimal() and len(text) <= 3 and int(text) <= _MAX_HISTORY):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {_MAX_HISTORY}")
    return int(text)


def daemon_url(text: str) -> str:
    """Parse the server's address; the chat page's URL and host:port are accepted too.

    Raises argparse.ArgumentTypeError.
    """
    from chatd.client import dial_url  # noqa: PLC0415  only this verb needs it

    scheme, mark, rest = text.partition("://")
    if mark:
        url = {"http": "ws", "https": "wss"}.get(scheme, scheme) + mark + rest
    else:
        url = text if text.startswith("unix:") else f"ws://{text}"
    try:
        dial_url(_name(url))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return url


def run(args: argparse.Namespace) -> int:
    """Run the client and return the exit code."""
    from chatd.cli.terminal import chatting  # noqa: PLC0415  only this verb needs it

    try:
        token = _token(args.token_file)
    except OSError as error:
        return fail(f"{args.token_file}: {(error.strerror or str(error)).lower()}")
    except ValueError:
        return fail(f"{args.token_file}: the file contains no token")
    typed, seen = is_terminal(sys.stdin), is_terminal(sys.stdout)
    piped = not (typed and seen)
    history = args.history if args.history is not None else 0 if piped else _DEFAULT_HISTORY
    commands = args.commands or typed
    options = chatting.Options(args.url, args.nick, _login(), args.room, history, token, commands)
    return chatting.chat(options, os.environ, piped=piped)


def _login() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return None  # a user without a name


def _token(file: Path | None) -> str | Callable[[], str] | None:
    """Return the token; one in a file is read again for each connection.

    Raises OSError, or ValueError if the file is empty.
    """
    if file is None:
        return os.environ.get(_VARIABLE) or None
    last = file.read_text().strip()
    if not last:
        raise ValueError

    def read() -> str:
        nonlocal last
        # If the file is just being replaced, try the last token: the server checks it anyway.
        with suppress(OSError, UnicodeDecodeError):
            last = file.read_text().strip()
        return last

    return read
