"""What a request brings with it: a page's origin that may come or not, and a token.

A token is never taken from a URL: those are kept in histories and logs.
"""

from __future__ import annotations

from typing import Final

from chatd.chat import Chat
from chatd.chat.tokens import Grant
from chatd.settings import Settings
from chatd.wire.origins import OriginRefusal, check
from chatd.wire.request import Request

__all__ = ["admitted", "bearer", "origin_refusal"]

_BEARER: Final = "bearer"

_OURS: Final = frozenset({"same-origin", "none"})
"""What a browser says of a request that no page of another site made (W3C Fetch Metadata)."""


def origin_refusal(request: Request, settings: Settings) -> OriginRefusal | None:
    """Tell why the page that asks may not connect; None: it may, or it is no page."""
    origins = settings.http.origins
    if settings.auth.mode != "open":
        # Any file that somebody was sent could ask with the reader's cookie.
        origins = tuple(origin for origin in origins if origin != "file")
    return check(request, origins, settings.http.hosts, request.listener_loopback)


def bearer(request: Request, settings: Settings) -> str | None:
    """Give the token of the ``Authorization`` header, or else of the configured cookie.

    The caller has asked `origin_refusal` first: a cookie counts only for a page that may come.
    """
    if settings.auth.mode == "open":
        return None
    scheme, _, token = (request.header("authorization") or "").strip().partition(" ")
    if scheme.lower() == _BEARER:
        return token.strip()
    if settings.auth.cookie == "off" or _is_foreign(request):
        return None
    for pair in (request.header("cookie") or "").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == settings.auth.cookie:
            return value.strip('"')
    return None


def admitted(chat: Chat, request: Request, token: str | None) -> Grant | None:
    """Return what a token grants, or None without a token.

    Raise Refused if the token is invalid, or its bearer is banned.
    """
    grant = None if token is None else chat.verify(token)
    chat.check_may_enter("" if grant is None else grant.user, request.peer.limit_key, grant)
    return grant


def _is_foreign(request: Request) -> bool:
    """Tell whether another site's page may have made it without an Origin, by a script's URL."""
    if request.header("origin") is not None:
        return False
    site = request.header("sec-fetch-site")
    # JSONP is made for that; and old browsers, who use it, do not say whose page it is.
    return (site is not None and site not in _OURS) or "j" in request.query
