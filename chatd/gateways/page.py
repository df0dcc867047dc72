"""The chat page: a fixed table of small files, read once, and their security headers.

Only files in the table are served: no request's path ever becomes a file's path.
"""

from __future__ import annotations

import gzip
import hashlib
import html
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Final

from chatd.settings import Settings
from chatd.wire.request import Request, Response
from chatd.wire.routes import Methods

__all__ = ["routes"]

_FOLDER: Final = "page"
_INDEX: Final = "index.html"
_DEFAULT_ROOM: Final = "{default_room}"
_AUTH_MODE: Final = "{auth_mode}"

_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

FILES: Final = (
    _INDEX,
    "actions.js",
    "chat.js",
    "composer.js",
    "connection.js",
    "dialog.js",
    "directs.js",
    "history.js",
    "icon.svg",
    "identity.js",
    "log.js",
    "main.js",
    "menu.js",
    "message.js",
    "moderation.js",
    "outbox.js",
    "people.js",
    "polling.js",
    "readmarks.js",
    "room.js",
    "search.js",
    "sidebar.js",
    "storage.js",
    "style.css",
    "text.js",
    "title.js",
    "view.js",
    "welcome.js",
)
"""Every file of the page, by its name in the folder beside this module."""

# 'self' in connect-src covers ws: and wss: of the same host and port (CSP 3, section 6.7.2.8).
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    # No message can become markup or code, even if the page's own code has a bug.
    "require-trusted-types-for 'script'; trusted-types 'none'"
)

_HEADERS: Final = (
    # Contents change under the same name: browsers ask each time, and usually get 304.
    ("Cache-Control", "no-cache"),
    ("Content-Security-Policy", _POLICY),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("Vary", "Accept-Encoding"),
    ("X-Content-Type-Options", "nosniff"),
)


def routes(settings: Settings) -> dict[str, Methods]:
    """Return the page's routes: ``/`` and the files under ``/page/``."""
    table: dict[str, Methods] = {}
    for name, content in _contents().items():
        body = content
        if name == _INDEX:
            room = html.escape(settings.chat.default_room, quote=True)
            body = body.replace(_DEFAULT_ROOM.encode(), room.encode())
            body = body.replace(_AUTH_MODE.encode(), settings.auth.mode.encode())
        path = "/" if name == _INDEX else f"/{_FOLDER}/{name}"
        table[path] = {"GET": _File(body, _TYPES[name.rpartition(".")[2]])}
    return table


@cache
def _contents() -> Mapping[str, bytes]:
    # Read once: a reload must not fail for lack of descriptors, nor mix the files of two versions.
    folder = resources.files("chatd.gateways") / _FOLDER
    return {name: (folder / name).read_bytes() for name in FILES}


class _File:
    """A served file: its bytes, plain and compressed, and its entity tag."""

    __slots__ = ("_body", "_content_type", "_headers", "_packed", "_tag")

    def __init__(self, body: bytes, content_type: str) -> None:
        self._body = body
        # Without a time stamp, so that the same file gives the same bytes.
        self._packed = gzip.compress(body, mtime=0)
        self._content_type = content_type
        # Weak: one tag for both encodings (RFC 9110 section 8.8.1).
        self._tag = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'
        self._headers = (*_HEADERS, ("ETag", self._tag))

    async def __call__(self, request: Request) -> Response:
        if _matches(request.header("if-none-match"), self._tag):
            return Response(304, content_type="", headers=self._headers)
        if _accepts_gzip(request.header("accept-encoding")):
            headers = (*self._headers, ("Content-Encoding", "gzip"))
            return Response(200, self._packed, self._content_type, headers)
        return Response(200, self._body, self._content_type, self._headers)


def _matches(condition: str | None, tag: str) -> bool:
    """Compare tags weakly, as If-None-Match requires (RFC 9110 section 13.1.2)."""
    if condition is None:
        return False
    opaque = tag.removeprefix("W/")
    tags = (each.strip().removeprefix("W/") for each in condition.split(","))
    return any(each in ("*", opaque) for each in tags)


def _accepts_gzip(accepted: str | None) -> bool:
    """Return whether the client names gzip. ``*`` does not count."""
    for offer in (accepted or "").split(","):
        coding, _, weight = offer.partition(";")
        if coding.strip().lower() in ("gzip", "x-gzip"):
            return weight.replace(" ", "").lower().rstrip("0").rstrip(".") not in ("q=", "q=0")
    return False
