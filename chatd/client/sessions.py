"""A guest's session in a file, so that a program is the same guest from one run to the next.

Whoever has the session is that guest, so only the file's owner can read it.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec

__all__ = ["load_session", "save_session"]

_MAX_BYTES = 4096


def load_session(file: Path) -> str | None:
    """Return the session in a file; None if the file is not there or is empty.

    Raises:
        OSError: It cannot be read.
        ValueError: It holds something else.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_BYTES)
    except FileNotFoundError:
        return None
    if not data.strip():
        return None
    try:
        return msgspec.json.decode(data, type=dict[str, str])["session"]
    except (KeyError, ValueError):
        raise ValueError(f"{file} is not a session file.") from None


def save_session(file: Path, session: str) -> None:
    """Put a session in the place of the one in a file, in one step. Raise OSError."""
    # mkstemp makes it readable by its owner alone.
    descriptor, partial = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(msgspec.json.encode({"session": session}) + b"\n")
        Path(partial).replace(file)
    except BaseException:
        with suppress(OSError):
            Path(partial).unlink()
        raise
