"""What answered in place of the daemon, in words. Sans-IO."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

__all__ = ["FIRST_BYTES", "first_words", "rejection", "speaks_tls"]

FIRST_BYTES: Final = 256
"""How many of the first bytes of an answer are looked at."""

_WORDS: Final = 80
_BODY_BYTES: Final = 500

_TLS_RECORDS: Final = range(0x14, 0x19)
"""The first bytes of TLS records: RFC 8446 section 5.1. The second is always 3."""


def speaks_tls(first: bytes) -> bool:
    """Return whether an answer that begins with ``first`` is TLS."""
    return len(first) > 1 and first[0] in _TLS_RECORDS and first[1] == 3


def first_words(first: bytes) -> str:
    """Return what an answer that begins with ``first`` is, for people; "" for an empty one."""
    if not first:
        return ""
    if speaks_tls(first):
        return "TLS"
    if first.startswith(b"HTTP/"):
        return "plain HTTP"
    line = first.splitlines()[0][:_WORDS].decode("utf-8", "replace").strip()
    return f'"{line}"' if line and line.isprintable() else "binary data"


def rejection(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes | None) -> str:
    """Return an HTTP response other than a WebSocket's, for people.

    Args:
        status: Its status.
        headers: Its header fields.
        body: Its body, as far as it was read.
    """
    fields = {name.lower(): value.decode("utf-8", "replace") for name, value in headers}
    try:
        words = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        words = str(status)
    text = (body or b"")[:_BODY_BYTES].decode("utf-8", "replace")
    if fields.get(b"content-type", "").lower().startswith("text/html"):
        # The page of another server is not one line for people, but its title is.
        title = re.search(r"<title>([^<]+)</title>", text, re.IGNORECASE)
        text = html.unescape(title[1]) if title else ""
    text = " ".join(text.split())
    where = fields.get(b"location", "")
    if 300 <= status < 400 and where:
        words += f", which leads to {where}"
    return f"{words}: {text}" if text and text != words else words
