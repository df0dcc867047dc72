"""The secret by which a guest is the same guest again: signed, so that nothing need be kept of it.

``user.issued.signature``: the user's id, seconds since the epoch, and 128 bits of
HMAC-SHA256 over both under the store's key. It is shown to its owner alone.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b32encode, urlsafe_b64encode
from secrets import token_bytes
from typing import Final

from msgspec import Struct

__all__ = ["Secret", "is_guest", "is_kept", "new_user", "open_secret", "seal"]

SECRET_CHARACTERS: Final = 100
"""Anything longer is not ours, and is not hashed."""


class Secret(Struct, frozen=True):
    """What a good secret says: whose it is, and when it was given (seconds since the epoch)."""

    user: str
    issued: int


_GUEST: Final = re.compile(r"g[a-z2-7]{16}")


def is_guest(user: str) -> bool:
    """Tell whether this is a guest's id: nobody else's looks like one."""
    return _GUEST.fullmatch(user) is not None


def is_kept(room: str) -> bool:
    """Tell whether what is said in this room of two is kept: not between two guests."""
    first, _, second = room[1:].partition(",")
    return not (is_guest(first) and is_guest(second))


def new_user() -> str:
    """Give a guest's id: 80 random bits, so that no two guests ever share keys or read marks."""
    return "g" + b32encode(token_bytes(10)).decode().lower()


def seal(key: bytes, user: str, issued: int) -> str:
    """Make the secret that lets ``user`` come back."""
    body = f"{user}.{issued}"
    return f"{body}.{_signature(key, body)}"


def open_secret(key: bytes, text: str) -> Secret | None:
    """Read a secret; None if it is not one that we sealed."""
    if len(text) > SECRET_CHARACTERS or not text.isascii():
        return None
    body, _, signature = text.rpartition(".")
    user, _, issued = body.rpartition(".")
    if not hmac.compare_digest(signature, _signature(key, body)):
        return None
    return Secret(user, int(issued))


def _signature(key: bytes, body: str) -> str:
    mac = hmac.digest(key, b"chatd session 1 " + body.encode(), hashlib.sha256)
    return urlsafe_b64encode(mac[:16]).rstrip(b"=").decode()
