"""``chatd``: the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from chatd import __version__
from chatd.cli import check, config, ctl, fetch_client, serve, token


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one verb; ``serve`` where none is given. Gives the exit code."""
    parser = argparse.ArgumentParser(prog="chatd", description="A chat daemon: one port, one file.")
    parser.add_argument("--version", action="version", version=f"chatd {__version__}")
    verbs = parser.add_subparsers(metavar="VERB")
    for verb in (serve, check, config, ctl, fetch_client, token):
        verb.add_parser(verbs)
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or (
        arguments[0].startswith("-") and arguments[0] not in {"-h", "--help", "--version"}
    ):
        arguments.insert(0, "serve")
    args = parser.parse_args(arguments)
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
