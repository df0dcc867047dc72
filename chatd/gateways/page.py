"""The chat page: a fixed table of small files, read once, and their security headers.

Only files in the table are served: no request's path ever becomes a file's path. The files that
``/`` loads are below a folder that is named by a hash of them all, so that browsers keep them until
they change, and then load all of them anew.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Final

from chatd.settings import Chat, Settings
from chatd.wire.request import Request, Response
from chatd.wire.routes import Methods

__all__ = ["routes"]

_FOLDER: Final = "page"
_INDEX: Final = "index.html"
_COMMENTS: Final = re.compile(rb"^[ ]*(?:/\*.*?\*/|//[^\n]*)\n", re.MULTILINE | re.DOTALL)
_PLACEHOLDERS: Final = re.compile(r"\{(\w+)\}")

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
    "commands.js",
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
    "palette.js",
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

_ASK_EACH_TIME: Final = "no-cache"
"""For a page whose contents may change: browsers ask for it, and usually get 304."""

_KEEP: Final = "public, max-age=31536000, immutable"
"""For a path that is new when the contents change (RFC 8246), for a year."""

_HEADERS: Final = (
    ("Content-Security-Policy", _POLICY),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("Vary", "Accept-Encoding"),
    ("X-Content-Type-Options", "nosniff"),
)


def routes(settings: Callable[[], Settings]) -> dict[str, Methods]:
    """Return the page's routes: ``/`` and the files that it loads.

    Args:
        settings: Returns the current configuration, which ``/`` shows.
    """
    table: dict[str, Methods] = {"/": {"GET": _Index(settings)}}
    for name, content in _contents().items():
        if name != _INDEX:
            path = f"/{_FOLDER}/{_version()}/{name}"
            table[path] = {"GET": _File(content, _TYPES[name.rpartition(".")[2]], _KEEP)}
    return table


@cache
def _contents() -> Mapping[str, bytes]:
    # Read once: a reload must not fail for lack of descriptors, nor mix the files of two versions.
    folder = resources.files("chatd.gateways") / _FOLDER
    return {name: _without_comments((folder / name).read_bytes()) for name in FILES}


def _without_comments(content: bytes) -> bytes:
    """Leave out whole lines of comments, a fifth of the page, and keep the others' numbers."""
    return _COMMENTS.sub(lambda found: b"\n" * found[0].count(b"\n"), content)


@cache
def _version() -> str:
    """Return a hash of all files, for the name of their folder."""
    whole = hashlib.sha256()
    for name, content in _contents().items():
        whole.update(b"%b\0%d\0%b" % (name.encode(), len(content), content))
    return whole.hexdigest()[:16]


class _Index:
    """``/``, with values from the present configuration in place of ``{name}``."""

    __slots__ = ("_file", "_settings", "_values")

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._values = self._current()
        self._file = self._filled()

    async def __call__(self, request: Request) -> Response:
        if (values := self._current()) != self._values:
            self._values = values
            self._file = self._filled()
        return await self._file(request)

    def _current(self) -> dict[str, str]:
        settings = self._settings()
        greeting = settings.chat.greeting
        return {
            "version": _version(),
            "default_room": settings.chat.default_room,
            "auth_mode": settings.auth.mode,
            # The default one is written for plain text, whose users see no page.
            "greeting": "" if greeting == Chat().greeting else greeting,
        }

    def _filled(self) -> _File:
        values = {name: html.escape(value) for name, value in self._values.items()}
        # In one pass, because a value may look like a placeholder.
        text = _PLACEHOLDERS.sub(lambda found: values[found[1]], _contents()[_INDEX].decode())
        return _File(text.encode(), _TYPES["html"], _ASK_EACH_TIME)


class _File:
    """A served file: its bytes, plain and compressed, and its entity tag."""

    __slots__ = ("_body", "_content_type", "_headers", "_packed")

    def __init__(self, body: bytes, content_type: str, cache_control: str) -> None:
        self._body = body
        # Without a time stamp, so that the same file gives the same bytes.
        self._packed = gzip.compress(body, mtime=0)
        self._content_type = content_type
        # Weak: one tag for both encodings (RFC 9110 section 8.8.1).
        tag = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'
        self._headers = (*_HEADERS, ("Cache-Control", cache_control), ("ETag", tag))

    async def __call__(self, request: Request) -> Response:
        _, tag = self._headers[-1]
        if _matches(request.header("if-none-match"), tag):
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
