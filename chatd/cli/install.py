"""``chatd install`` and ``chatd uninstall``: the systemd service of this installation of chatd."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from chatd.cli.installation import CONFIGURATION, InstalledFile, files, replace, state
from chatd.cli.output import fail, write

if TYPE_CHECKING:
    from chatd.cli import Verbs

__all__ = ["InstallError", "add_parser", "run_install", "run_uninstall"]

# Folders that the unit hides from the service: ProtectHome= and PrivateTmp=.
_HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108  nothing is written there

_PACKAGED: Final = ("/usr/lib/systemd/system/chatd.service", "/lib/systemd/system/chatd.service")

_COMMAND_SECONDS: Final = 120
"""Longer than a drain, because the service may have to be stopped."""

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


class _Step(NamedTuple):
    """The changes, or the files ``left`` to the administrator."""

    text: str
    left: bool = False


class InstallError(Exception):
    """It cannot be done. The message is one line for the administrator."""


def add_parser(verbs: Verbs) -> None:
    """Add both verbs to the command line."""
    for name, run, words in (
        ("install", run_install, "Install the systemd service of this installation of chatd"),
        ("uninstall", run_uninstall, "Stop the service and remove its files"),
    ):
        parser = verbs.add_parser(
            name,
            help=f"{words}.",
            description=f"{words}: units, user, folders and configuration. "
            "Files that were changed are left as they are.",
        )
        parser.add_argument("--dry-run", action="store_true", help="Only print what would be done.")
        parser.add_argument(
            "--root", metavar="DIR", type=Path, help="In the system under DIR; no commands are run."
        )
        parser.set_defaults(run=run)


def run_install(args: argparse.Namespace) -> int:
    """Carry out ``install`` and return the exit code."""
    return _done(_install(args, _program()))


def run_uninstall(args: argparse.Namespace) -> int:
    """Carry out ``uninstall`` and return the exit code."""
    return _done(_uninstall(args))


def _done(steps: Iterator[_Step]) -> int:
    """Print each step as it is taken. Return 1 if something is left to the administrator."""
    code = 0
    try:
        for step in steps:
            if step.left:
                code = fail(step.text)
            else:
                write(f"{step.text}\n", sys.stdout)
    except InstallError as error:
        return fail(str(error))
    except PermissionError as error:
        return fail(f"{error.filename} cannot be written. Run this as root.")
    except OSError as error:
        return fail(f"{error.filename}: {error.strerror}.")
    return code


def _program() -> Path:
    return Path(sysconfig.get_path("scripts"), "chatd")


def _install(args: argparse.Namespace, program: Path) -> Iterator[_Step]:
    root = args.root or Path("/")
    _check(program, root)
    for file in files(program):
        path = _under(root, file)
        match state(file, path):
            case "same":
                yield _Step(f"{path} is up to date.")
            case "changed" if file.path == CONFIGURATION:
                yield _Step(f"{path} is your configuration and was kept.")
            case "changed":
                yield _Step(
                    f"{path} was changed and was left as it is. Put your changes into a drop-in "
                    f"(`systemctl edit {path.name}`), remove the file, and install again.",
                    left=True,
                )
            case "missing":
                yield from _put(args, file, path, "write", "Wrote")
            case "older":
                yield from _put(args, file, path, "replace", "Replaced")
    yield from _run(args, _AFTER_INSTALL)
    yield _Step(f"Next: edit {root / CONFIGURATION[1:]}, then run `systemctl enable --now chatd`.")


def _put(
    args: argparse.Namespace, file: InstalledFile, path: Path, to_do: str, done: str
) -> Iterator[_Step]:
    if args.dry_run:
        yield _Step(f"Would {to_do} {path}.")
    else:
        replace(file, path)
        yield _Step(f"{done} {path}.")


def _check(program: Path, root: Path) -> None:
    for hidden in _HIDDEN:
        if program.is_relative_to(hidden):
            raise InstallError(
                f"This chatd is in {hidden}, which is hidden from the service. Create a virtual "
                "environment in /opt/chatd, install chatd there, and run `/opt/chatd/bin/chatd "
                "install`."
            )
    if not program.is_file():
        raise InstallError(f"{program} does not exist. Install chatd into a virtual environment.")
    for packaged in _PACKAGED:
        if (root / packaged[1:]).exists():
            raise InstallError(
                f"{root / packaged[1:]} exists: the system's package of chatd already installed a "
                "service."
            )


def _uninstall(args: argparse.Namespace) -> Iterator[_Step]:
    root = args.root or Path("/")
    found = [(file, _under(root, file)) for file in files(_program())]
    if all(state(file, path) == "missing" for file, path in found):
        yield _Step("There is nothing to remove.")
        return
    yield from _run(args, _BEFORE_UNINSTALL)
    for file, path in found:
        was = state(file, path)
        if was == "changed":
            yield _Step(f"{path} was changed and was kept.")
        elif was != "missing":
            if not args.dry_run:
                path.unlink()
            yield _Step(f"Would remove {path}." if args.dry_run else f"Removed {path}.")
    yield from _run(args, _AFTER_UNINSTALL)
    yield _Step("The history in /var/lib/chatd and the user chatd were kept.")


def _under(root: Path, file: InstalledFile) -> Path:
    return root / file.path.removeprefix("/")


def _run(args: argparse.Namespace, commands: Sequence[tuple[str, ...]]) -> Iterator[_Step]:
    """Notify the running system of the files. With ``--root`` it finds them at boot."""
    if args.root is not None:
        return
    for command in commands:
        written = shlex.join(command)
        if args.dry_run:
            yield _Step(f"Would run `{written}`.")
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
            raise InstallError(f"{command[0]} was not found. This needs systemd.") from None
        except subprocess.TimeoutExpired:
            raise InstallError(
                f"`{written}` did not end within {_COMMAND_SECONDS} seconds."
            ) from None
        if ran.returncode:
            lines = ran.stderr.decode(errors="backslashreplace").strip().splitlines()
            raise InstallError(f"`{written}` failed: {lines[-1] if lines else ran.returncode}")
        yield _Step(f"Ran `{written}`.")
