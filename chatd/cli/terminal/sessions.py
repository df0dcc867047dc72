"""Guests' sessions, kept so that who comes again is the same: one file for each daemon and nick.

They stand in ``$XDG_STATE_HOME/chatd`` (XDG Base Directory Specification 0.8), readable by their
owner alone: who has one is that guest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

__all__ = ["keep", "kept", "place"]

_MOST_BYTES = 4096


def place(url: str, nick: str | None, environment: Mapping[str, str]) -> Path:
    """Give the file of a daemon's guest. ``nick`` is the one asked for, if any was."""
    state = Path(environment.get("XDG_STATE_HOME", ""))
    try:
        folder = state if state.is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError:  # a user without a home
        folder = Path("/nonexistent")
    name = hashlib.blake2b(f"{url}\0{nick or ''}".encode(), digest_size=16).hexdigest()
    return folder / "chatd" / f"session-{name}.json"


def kept(file: Path) -> str | None:
    """Give the session that was kept; None where there is none that can be read."""
    try:
        with file.open("rb") as stream:
            return msgspec.json.decode(stream.read(_MOST_BYTES), type=dict[str, str])["session"]
    except (OSError, KeyError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def keep(file: Path, *, url: str, session: str) -> None:
    """Keep a session, whole or not at all. Raises OSError."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(msgspec.json.encode({"daemon": url, "session": session}) + b"\n")
    partial.replace(file)
