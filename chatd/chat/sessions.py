"""A guest's id, and the session with which the guest comes back: signed, so nothing is stored.

A session is ``user.issued.signature``: the user's id, seconds since the epoch, and 128 bits of
HMAC-SHA256 over both under the store's key. Only its owner ever sees it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b32decode, b32encode, urlsafe_b64encode
from secrets import token_bytes
from typing import Final

from msgspec import Struct

from chatd.model import Record
from chatd.protocol.pairs import users_of

__all__ = [
    "FORGOTTEN_GUESTS",
    "Session",
    "derived_user",
    "forgotten_record",
    "is_derived",
    "is_guest",
    "is_kept",
    "new_user",
    "sign_session",
    "verify_session",
]

FORGOTTEN_GUESTS: Final = "forgotten"
"""The namespace of guests who were forgotten: those whose sessions have not ended yet, and those
whose ids were derived."""

SESSION_CHARACTERS: Final = 100
"""Anything longer is not ours, and is not hashed."""


class Session(Struct, frozen=True):
    """A valid session: whose it is, and when it was issued, in seconds since the epoch."""

    user: str
    issued: int


_GUEST: Final = re.compile(r"g[a-z2-7]{16}")


def is_guest(user: str) -> bool:
    """Return whether this is a guest's id. No subject's id looks like one."""
    return _GUEST.fullmatch(user) is not None


def is_kept(room: str) -> bool:
    """Return whether the messages of a room of two are stored: not between two guests."""
    return not all(map(is_guest, users_of(room)))


def new_user() -> str:
    """Return a new guest's id: 80 random bits, so that no two guests share keys or read marks."""
    return "g" + b32encode(token_bytes(10)).decode().lower()


def derived_user(key: bytes, place: str, nick: str, times_forgotten: int) -> str:
    """Return the id of the guest that a place and a nick stand for, in the form of `new_user`.

    Args:
        key: The store's key, without which nobody can tell the place from the id.
        place: Where the client is: `Peer.place`.
        nick: The nick's key; empty for none.
        times_forgotten: How many guests of this place and nick were forgotten.
    """
    parts = "\0".join((place, nick, str(times_forgotten)))
    identity = hmac.digest(key, b"chatd guest 1 " + parts.encode(), hashlib.sha256)[:8]
    return "g" + b32encode(identity + _derived_mark(key, identity)).decode().lower()


def is_derived(key: bytes, user: str) -> bool:
    """Return whether a guest's id was derived, and so would be derived again.

    This is also true of one in 65,536 other guests.
    """
    identity = b32decode(user[1:], casefold=True)
    return identity[8:] == _derived_mark(key, identity[:8])


def _derived_mark(key: bytes, identity: bytes) -> bytes:
    return hmac.digest(key, b"chatd derived 1 " + identity, hashlib.sha256)[:2]


def sign_session(key: bytes, user: str, issued: int) -> str:
    """Return the session with which ``user`` can come back."""
    body = f"{user}.{issued}"
    return f"{body}.{_signature(key, body)}"


def verify_session(key: bytes, text: str) -> Session | None:
    """Return what a session says; None if it was not signed with this key."""
    if len(text) > SESSION_CHARACTERS or not text.isascii():
        return None
    body, _, signature = text.rpartition(".")
    user, _, issued = body.rpartition(".")
    if not hmac.compare_digest(signature, _signature(key, body)):
        return None
    return Session(user, int(issued))


def forgotten_record(key: bytes, user: str, until: int) -> Record:
    """Return the record that keeps a forgotten guest's id and sessions from being used.

    It ends with the sessions, except for an id that would be derived again. It names the guest by a
    digest, so that nothing else about the guest has to be kept.
    """
    mac = hmac.digest(key, b"chatd forgotten 1 " + user.encode(), hashlib.sha256)
    ends = None if is_derived(key, user) else until
    return Record(FORGOTTEN_GUESTS, mac[:16].hex(), b"", ends)


def _signature(key: bytes, body: str) -> str:
    mac = hmac.digest(key, b"chatd session 1 " + body.encode(), hashlib.sha256)
    return urlsafe_b64encode(mac[:16]).rstrip(b"=").decode()
