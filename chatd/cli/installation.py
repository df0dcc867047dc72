"""What an installation puts on the system beside the program: which files, and whose they are now.

A file that we wrote ends in a line with the hash of what stands above it. So one that nobody
touched is told from one that an administrator made theirs, and only the first is ever replaced or
removed.
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

__all__ = ["CONFIGURATION", "Piece", "State", "pieces", "put", "state"]

State: TypeAlias = Literal["missing", "same", "older", "changed"]
"""Of a file on the system: not there, as we would write it, as we once did, or somebody else's."""

CONFIGURATION: Final = "/etc/chatd/chatd.toml"

_SHIPPED_PROGRAM: Final = "/opt/chatd/bin/chatd"
"""What the units in the package start."""

_PLACES: Final = {
    "chatd.service": "/etc/systemd/system/chatd.service",
    "chatd@.service": "/etc/systemd/system/chatd@.service",
    "chatd.socket": "/etc/systemd/system/chatd.socket",
    "chatd.sysusers.conf": "/etc/sysusers.d/chatd.conf",
    "chatd.tmpfiles.conf": "/etc/tmpfiles.d/chatd.conf",
}

_MARK: Final = "# Written by `chatd install`; unchanged while this is so: sha256 "


class Piece(Struct, frozen=True):
    """One file: where it belongs, and what is to stand in it."""

    path: str
    text: str


def pieces(program: Path) -> list[Piece]:
    """Give the files of an installation whose units start ``program``."""
    folder = Path(__file__).with_name("units")
    if not folder.is_dir():  # not built into a wheel: the project's own
        folder = Path(__file__).parents[2] / "systemd"
    found = [
        # The first comment of those for /usr/lib says where they belong there.
        Piece(path, re.sub(r"\A# -> .*\n", "", (folder / name).read_text(encoding="utf-8")))
        for name, path in _PLACES.items()
    ]
    found.append(Piece(CONFIGURATION, render(Settings())))
    return [
        Piece(piece.path, _marked(piece.text.replace(_SHIPPED_PROGRAM, _quoted(program))))
        for piece in found
    ]


def state(piece: Piece, path: Path) -> State:
    """Tell how the file at ``path`` stands to its piece. Raises OSError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return "missing"
    except UnicodeDecodeError:
        return "changed"
    if text == piece.text:
        return "same"
    above, _, _ = text.rpartition(_MARK)
    return "older" if above and text == _marked(above) else "changed"


def put(piece: Piece, path: Path) -> None:
    """Write the file, in one step. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}-", delete=False
    ) as fresh:
        try:
            fresh.write(piece.text)
            fresh.close()
            Path(fresh.name).chmod(0o644)
            Path(fresh.name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(fresh.name).unlink()
            raise


def _quoted(program: Path) -> str:
    """Write it as systemd.service(5) reads a command line."""
    written = str(program).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{written}"' if re.search(r"[\s\"\\';]", written) else written


def _marked(text: str) -> str:
    return f"{text}{_MARK}{hashlib.sha256(text.encode()).hexdigest()}\n"
