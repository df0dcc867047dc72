"""``chatd client``: the chat on a terminal, or through a pipe."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chatd.cli.check import say, visible

if TYPE_CHECKING:
    from chatd.cli.check import Verbs

__all__ = ["add_parser", "daemon_url", "run"]

_DEFAULT_URL: Final = "ws://localhost:3000"

_VARIABLE: Final = "CHATD_TOKEN"

_PAGE: Final = 20

_MOST: Final = 500


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "client",
        help="chat on a terminal, or through a pipe",
        description="Chat on a terminal, or through a pipe: each line of stdin is said, each "
        "message is a line of stdout. /help tells what else there is to type.",
        epilog=f"A token is taken from --token-file, or from {_VARIABLE} in the environment.",
    )
    parser.add_argument(
        "url",
        metavar="URL",
        nargs="?",
        type=daemon_url,
        default=_DEFAULT_URL,
        help=f"the daemon: ws://host:port, wss://host or unix:/path ({_DEFAULT_URL})",
    )
    parser.add_argument(
        "--nick", metavar="N", type=_name, help="what others see; else the one you had"
    )
    parser.add_argument(
        "--room", metavar="R", type=_name, default="lobby", help="where to begin (lobby)"
    )
    parser.add_argument(
        "--history",
        metavar="N",
        type=_count,
        help=f"so many messages of before are shown ({_PAGE}; through a pipe 0)",
    )
    parser.add_argument("--token-file", metavar="FILE", type=Path, help="a file with a token")
    parser.set_defaults(run=run)


def _name(text: str) -> str:
    """Read a name; what is no text of the terminal's encoding can be no name."""
    if not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is no name")
    return text


def _count(text: str) -> int:
    if not (text.isdecimal() and len(text) <= 3 and int(text) <= _MOST):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to {_MOST}")
    return int(text)


def daemon_url(text: str) -> str:
    """Read where the daemon is; a page's address and host:port are understood too.

    Raises argparse.ArgumentTypeError.
    """
    from chatd.client import dial_url  # noqa: PLC0415  what only this verb needs

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
    """Chat until it is over; give the exit code."""
    from chatd.cli.terminal import chatting  # noqa: PLC0415  what only this verb needs

    try:
        token = _token(args.token_file)
    except OSError as error:
        return _failed(f"{args.token_file}: {(error.strerror or str(error)).lower()}")
    except ValueError:
        return _failed(f"{args.token_file}: there is no token in it")
    # A stream is None where the program was started without it.
    piped = not all(stream and stream.isatty() for stream in (sys.stdin, sys.stdout))
    history = args.history if args.history is not None else 0 if piped else _PAGE
    beginning = chatting.Beginning(args.url, args.nick, _login(), args.room, history, token)
    return chatting.chat(beginning, os.environ, piped=piped)


def _failed(why: str) -> int:
    say(f"chatd: {visible(why)}\n", sys.stderr)
    return 1


def _login() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return None  # a user without a name


def _token(file: Path | None) -> str | Callable[[], str] | None:
    """Give the token; one in a file is read again for each connection.

    Raises OSError, and ValueError where there is none in it.
    """
    if file is None:
        return os.environ.get(_VARIABLE) or None
    last = file.read_text().strip()
    if not last:
        raise ValueError

    def read() -> str:
        nonlocal last
        # While it is being replaced, the daemon tells whether the last one is good.
        with suppress(OSError, UnicodeDecodeError):
            last = file.read_text().strip()
        return last

    return read
