"""``chatd install`` and ``chatd uninstall``: the service of this very installation of chatd."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chatd.cli.check import say
from chatd.cli.installation import CONFIGURATION, Piece, pieces, put, state

if TYPE_CHECKING:
    from chatd.cli.check import Verbs

__all__ = ["InstallError", "add_parser", "run_install", "run_uninstall"]

# What the unit cannot see: ProtectHome= and PrivateTmp=.
_HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108  no file is made there

_PACKAGED: Final = ("/usr/lib/systemd/system/chatd.service", "/lib/systemd/system/chatd.service")

_COMMAND_SECONDS: Final = 120
"""Longer than a drain, for the service may have to be stopped."""

_AFTER_INSTALL: Final = (
    ("systemd-sysusers", "/etc/sysusers.d/chatd.conf"),
    ("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/chatd.conf"),
    ("systemctl", "daemon-reload"),
)
_BEFORE_UNINSTALL: Final = (
    ("systemctl", "disable", "--quiet", "--now", "chatd.socket", "chatd.service"),
    ("systemctl", "stop", "chatd@*.service"),
)
_AFTER_UNINSTALL: Final = (("systemctl", "daemon-reload"),)


class InstallError(Exception):
    """It cannot be done; the message is one line for the administrator."""


def add_parser(verbs: Verbs) -> None:
    """Add both verbs to the command line."""
    for name, run, words in (
        ("install", run_install, "write the service's files for this installation of chatd"),
        ("uninstall", run_uninstall, "stop the service and remove its files"),
    ):
        parser = verbs.add_parser(
            name,
            help=words,
            description=f"{words[:1].upper()}{words[1:]}: units, user, folders, configuration. "
            "A file that was changed is left as it is.",
        )
        parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
        parser.add_argument(
            "--root", metavar="DIR", type=Path, help="in the system that lies there; nothing is run"
        )
        parser.set_defaults(run=run)


def run_install(args: argparse.Namespace) -> int:
    """Carry out ``install``; give the exit code."""
    return _done(_install(args, _program()))


def run_uninstall(args: argparse.Namespace) -> int:
    """Carry out ``uninstall``; give the exit code."""
    return _done(_uninstall(args))


def _done(steps: Iterator[str]) -> int:
    """Say each step as it is taken. What was left aside, for the administrator, ends with 1."""
    left = False
    try:
        for step in steps:
            aside = step.startswith("left ")
            left |= aside
            say(f"{'chatd: ' if aside else ''}{step}\n", sys.stderr if aside else sys.stdout)
    except InstallError as error:
        say(f"chatd: {error}\n", sys.stderr)
        return 1
    except OSError as error:
        why = "only root may do this" if isinstance(error, PermissionError) else error.strerror
        say(f"chatd: {error.filename}: {why}\n", sys.stderr)
        return 1
    return int(left)


def _program() -> Path:
    return Path(sysconfig.get_path("scripts"), "chatd")


def _install(args: argparse.Namespace, program: Path) -> Iterator[str]:
    root = args.root or Path("/")
    _check(program, root)
    for piece in pieces(program):
        path = _under(root, piece)
        match state(piece, path):
            case "same":
                yield f"{path} is as it should be"
            case "changed" if piece.path == CONFIGURATION:
                yield f"{path} is yours, and stays"
            case "changed":
                yield (
                    f"left {path} as it is, for it was changed: put your changes into a drop-in "
                    f"(`systemctl edit {path.name}`), remove the file, and install again"
                )
            case "missing":
                yield from _put(args, piece, path, "write", "wrote")
            case "older":
                yield from _put(args, piece, path, "replace", "replaced")
    yield from _run(args, _AFTER_INSTALL)
    yield f"next: look at {root / CONFIGURATION[1:]}, then `systemctl enable --now chatd`"


def _put(
    args: argparse.Namespace, piece: Piece, path: Path, to_do: str, done: str
) -> Iterator[str]:
    if args.dry_run:
        yield f"would {to_do} {path}"
    else:
        put(piece, path)
        yield f"{done} {path}"


def _check(program: Path, root: Path) -> None:
    for hidden in _HIDDEN:
        if program.is_relative_to(hidden):
            raise InstallError(
                f"this chatd is in {hidden}, where a service cannot see it: make a virtual "
                "environment in /opt/chatd, install chatd there, and run /opt/chatd/bin/chatd "
                "install"
            )
    if not program.is_file():
        raise InstallError(f"{program} is not there: install chatd into a virtual environment")
    for packaged in _PACKAGED:
        if (root / packaged[1:]).exists():
            raise InstallError(
                f"{root / packaged[1:]} is there: the system's own package of chatd has a service "
                "already"
            )


def _uninstall(args: argparse.Namespace) -> Iterator[str]:
    root = args.root or Path("/")
    found = [(piece, _under(root, piece)) for piece in pieces(_program())]
    if all(state(piece, path) == "missing" for piece, path in found):
        yield "there is nothing to remove"
        return
    yield from _run(args, _BEFORE_UNINSTALL)
    for piece, path in found:
        was = state(piece, path)
        if was == "changed":
            yield f"{path} was changed, and stays"
        elif was != "missing":
            if not args.dry_run:
                path.unlink()
            yield f"would remove {path}" if args.dry_run else f"removed {path}"
    yield from _run(args, _AFTER_UNINSTALL)
    yield "the history in /var/lib/chatd and the user chatd stay"


def _under(root: Path, piece: Piece) -> Path:
    return root / piece.path.removeprefix("/")


def _run(args: argparse.Namespace, commands: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Have the running system take it in; one that lies elsewhere does so when it boots."""
    if args.root is not None:
        return
    for command in commands:
        written = shlex.join(command)
        if args.dry_run:
            yield f"would run {written}"
            continue
        try:
            ran = subprocess.run(  # noqa: S603  no word of it comes from outside
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_COMMAND_SECONDS,
                check=False,
            )
        except FileNotFoundError:
            raise InstallError(f"there is no {command[0]} here: this needs systemd") from None
        except subprocess.TimeoutExpired:
            raise InstallError(f"`{written}` did not end in {_COMMAND_SECONDS} seconds") from None
        if ran.returncode:
            words = ran.stderr.decode(errors="backslashreplace").strip().splitlines()
            raise InstallError(f"`{written}` failed: {words[-1] if words else ran.returncode}")
        yield f"ran {written}"
