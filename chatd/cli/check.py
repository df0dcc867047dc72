"""``chatd check``: reports all errors of a configuration, with their locations."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from chatd.chat.issuer import FetchError, fetch_keys
from chatd.chat.key_files import check_files as check_keys
from chatd.cli.output import report, reported, write
from chatd.cli.stores import check_server, check_store
from chatd.settings import Rule, Settings, SettingsError, load
from chatd.wire.tls import check_files as check_certificate

if TYPE_CHECKING:
    from chatd.cli import Verbs

__all__ = ["DEFAULT_CONFIGURATION", "FILE_CHECKS", "add_parser", "run"]


FILE_CHECKS: Final = (check_certificate, check_keys, check_store)
"""The checks of the files that a configuration names."""


def check_address(settings: Settings) -> Iterator[Rule]:
    """Yield why the keys of tokens cannot be fetched now. A daemon starts without them."""
    if (url := settings.jwks_url) is not None:
        try:
            trio.run(fetch_keys, url)
        except FetchError as error:
            message = f"auth.jwks_url: The keys of tokens cannot be fetched now: {error}."
            yield Rule(["auth.jwks_url"], message, warning=True)


DEFAULT_CONFIGURATION: Final = Path("/etc/chatd/chatd.toml")


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "check",
        help="Check a configuration.",
        description="Check a configuration, the files that it names, and the servers: those with "
        "the history and with the keys of tokens. Every error and every warning is reported with "
        "its place. It fails if there is an error.",
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        type=Path,
        default=DEFAULT_CONFIGURATION,
        help=f"The configuration (default: {DEFAULT_CONFIGURATION}).",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check ``args.file`` and return the exit code."""
    try:
        load(
            args.file,
            checks=(*FILE_CHECKS, check_address, check_server),
            warn=lambda _, fault: write(reported(fault, "warning"), sys.stderr),
        )
    except SettingsError as error:
        write(report(error), sys.stderr)
        return 1
    write(f"{args.file}: ok\n", sys.stdout)
    return 0
