"""Guests' session secrets, saved so that a guest stays the same from one run to the next.

There is one file for each server and nick, in ``$XDG_STATE_HOME/chatd`` (XDG Base Directory
Specification 0.8). Only its owner can read it: whoever has the secret is that guest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from chatd.client.sessions import load_session, save_session

__all__ = ["load", "path_for", "save"]


def path_for(url: str, nick: str | None, environment: Mapping[str, str]) -> Path:
    """Return the session file for a server's URL and the nick that was asked for, if any."""
    state = Path(environment.get("XDG_STATE_HOME", ""))
    try:
        folder = state if state.is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError:  # a user without a home
        folder = Path("/nonexistent")
    name = hashlib.blake2b(f"{url}\0{nick or ''}".encode(), digest_size=16).hexdigest()
    return folder / "chatd" / f"session-{name}.json"


def load(file: Path) -> str | None:
    """Return the saved session, or None if there is none or it cannot be read."""
    try:
        return load_session(file)
    except (OSError, ValueError):
        return None


def save(file: Path, session: str) -> None:
    """Save a session atomically. Raises OSError."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    save_session(file, session)
