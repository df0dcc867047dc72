"""``chatd``: the command line."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

from chatd import __version__

# Blocked while the daemon is imported (half a second), so that a signal waits until something can
# receive it: Python's own handling would stop the program with a traceback, or kill it.
_HELD: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_STDERR: Final = 2

_VERBS: Final = {
    "serve": "serve",
    "client": "client",
    "check": "check",
    "config": "config",
    "ctl": "ctl",
    "fetch-client": "fetch_client",
    "install": "install",
    "uninstall": "install",
    "token": "token",
    "export": "transfer",
    "import": "transfer",
}
"""The module of `chatd.cli` that adds each verb."""


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a verb, ``serve`` by default, and return the exit code."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        _occupy_standard_streams()
        return _with_output(list(sys.argv[1:] if argv is None else argv), before)
    except KeyboardInterrupt:
        return 130
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _occupy_standard_streams() -> None:
    """Open those that are closed on nothing, so that no file gets their numbers and their text."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(opened)


def _with_output(arguments: list[str], mask: set[int | signal.Signals]) -> int:
    from chatd.cli.output import OutputError, fail, flush  # noqa: PLC0415  as below

    try:
        try:
            return _run(arguments, mask)
        finally:
            flush()
    except OutputError as error:
        return fail(str(error)) if str(error) else 1


def _run(arguments: list[str], mask: set[int | signal.Signals]) -> int:
    import argparse  # noqa: PLC0415  after the signals are blocked
    from importlib import import_module  # noqa: PLC0415

    if not arguments or (
        arguments[0].startswith("-") and arguments[0] not in {"-h", "--help", "--version"}
    ):
        arguments.insert(0, "serve")
    # Only the verb's own module, if there is one: to import the daemon takes half a second.
    verb = arguments[0]
    modules = {_VERBS[verb]: None} if verb in _VERBS else dict.fromkeys(_VERBS.values())
    parser = argparse.ArgumentParser(prog="chatd", description="A chat daemon: one port, one file.")
    parser.add_argument("--version", action="version", version=f"chatd {__version__}")
    verbs = parser.add_subparsers(metavar="VERB")
    # What modules create stays. To visit it in garbage collections takes 6 % of a start.
    gc.disable()
    for module in modules:
        import_module(f"chatd.cli.{module}").add_parser(verbs)
    gc.freeze()
    gc.enable()
    try:
        args = parser.parse_args(arguments)
    except (AttributeError, OSError):
        # In Python 3.11.2: an error was to be reported, and standard error cannot be written.
        return 2
    if verb != "serve":  # which unblocks them itself when it can stop gently
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return int(args.run(args))


if __name__ == "__main__":
    sys.exit(main())
