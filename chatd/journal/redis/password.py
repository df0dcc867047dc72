"""The file with the password for Redis."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["read_password"]

_LINE_BYTES: Final = 1 << 16
"""A password has a few characters. A longer line is in the wrong file, or in one without end."""


def read_password(path: Path) -> str:
    """Return the first line of a file.

    Raises:
        ValueError: The file cannot be read, or has no password. The message is for people.
    """
    try:
        with path.open("rb") as stream:
            first = stream.readline(_LINE_BYTES).rstrip(b"\r\n").decode()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(f"{path} cannot be read: {reason}") from error
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8") from None
    if not first:
        raise ValueError(f"{path} has no password on its first line")
    return first
