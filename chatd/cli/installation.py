"""The files that an installation puts on the system beside the program.

Each of them ends with a line that holds the hash of the lines above it, which distinguishes an
unchanged file from one that an administrator changed. Only the first is replaced or removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from pathlib import Path
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from chatd.cli.config import render
from chatd.settings import Settings

__all__ = ["CONFIGURATION", "InstalledFile", "State", "files", "replace", "state"]

State: TypeAlias = Literal["missing", "same", "older", "changed"]
"""A file on the system: missing, as it would be written, as it once was, or changed by others."""

CONFIGURATION: Final = "/etc/chatd/chatd.toml"

_SHIPPED_PROGRAM: Final = "/opt/chatd/bin/chatd"
"""The program that the units in the package start."""

_DESTINATIONS: Final = {
    "chatd.service": "/etc/systemd/system/chatd.service",
    "chatd@.service": "/etc/systemd/system/chatd@.service",
    "chatd.socket": "/etc/systemd/system/chatd.socket",
    "chatd.sysusers.conf": "/etc/sysusers.d/chatd.conf",
    "chatd.tmpfiles.conf": "/etc/tmpfiles.d/chatd.conf",
}

_MARK: Final = "# Written by `chatd install`; unchanged while this is so: sha256 "


class InstalledFile(Struct, frozen=True):
    """A file: its path, and its contents."""

    path: str
    text: str


def files(program: Path) -> list[InstalledFile]:
    """Return the files of an installation whose units start ``program``."""
    folder = Path(__file__).with_name("units")
    if not folder.is_dir():  # not in a wheel: use the project's own
        folder = Path(__file__).parents[2] / "systemd"
    found = [
        # Their first line says where the package puts them.
        InstalledFile(path, re.sub(r"\A# -> .*\n", "", (folder / name).read_text(encoding="utf-8")))
        for name, path in _DESTINATIONS.items()
    ]
    found.append(InstalledFile(CONFIGURATION, render(Settings())))
    return [
        InstalledFile(file.path, _marked(file.text.replace(_SHIPPED_PROGRAM, _quoted(program))))
        for file in found
    ]


def state(file: InstalledFile, path: Path) -> State:
    """Return the state of ``file`` at ``path``. Raises OSError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return "missing"
    except UnicodeDecodeError:
        return "changed"
    if text == file.text:
        return "same"
    above, _, _ = text.rpartition(_MARK)
    return "older" if above and text == _marked(above) else "changed"


def replace(file: InstalledFile, path: Path) -> None:
    """Write ``file`` to ``path``, in one step. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}-", delete=False
    ) as fresh:
        try:
            fresh.write(file.text)
            fresh.close()
            Path(fresh.name).chmod(0o644)
            Path(fresh.name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(fresh.name).unlink()
            raise


def _quoted(program: Path) -> str:
    """Return the path as systemd.service(5) reads it in a command line."""
    written = str(program).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{written}"' if re.search(r"[\s\"\\';]", written) else written


def _marked(text: str) -> str:
    return f"{text}{_MARK}{hashlib.sha256(text.encode()).hexdigest()}\n"
