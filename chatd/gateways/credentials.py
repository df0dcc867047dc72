"""A request's credentials: the origin of a web page, and a token.

Tokens are never read from a URL, because URLs are kept in histories and logs.
"""

from __future__ import annotations

from typing import Final

from chatd.chat import Chat
from chatd.chat.tokens import Grant
from chatd.logs import Log
from chatd.settings import Settings
from chatd.wire.origins import OriginRefusal, check, check_local_host
from chatd.wire.request import Request, Response, refusal

__all__ = [
    "admitted",
    "authorization",
    "bearer",
    "origin_refusal",
    "page_refusal",
    "refuse",
    "refuse_origin",
]

_BEARER: Final = "bearer"

_OURS: Final = frozenset({"same-origin", "none"})
"""``Sec-Fetch-Site`` of a request that no page of another site made (W3C Fetch Metadata)."""


def origin_refusal(request: Request, settings: Settings) -> OriginRefusal | None:
    """Return why the page that sent a request may not connect; None if it may, or is not a page."""
    origins = settings.http.origins
    if settings.auth.mode != "open":
        # A file that a user was sent could connect with that user's cookie.
        origins = tuple(origin for origin in origins if origin != "file")
    refused = check(request, origins, settings.http.hosts, request.listener_loopback)
    if refused is None and request.header("origin") is not None:
        # A page whose name was made to lead here would be of the same site.
        return check_local_host(request, settings.http.hosts)
    return refused


def page_refusal(request: Request, settings: Settings) -> OriginRefusal | None:
    """Return why the page that sent a request may not, however it sent it; None if it may.

    Browsers send some requests of a page without its origin, or with ``null``: those that its
    scripts cannot read, and forms. They take effect all the same.
    """
    refused = origin_refusal(request, settings)
    if refused is None and _is_sent_blindly(request):
        origin, host = request.header("origin") or "", request.header("host") or ""
        message = "Pages of other sites may not send this. Add their origins to http.origins."
        return OriginRefusal(origin, host, "http.origins", message)
    return refused


def refuse_origin(request: Request, settings: Settings, log: Log) -> Response | None:
    """Return the response to a page that may not connect, and log it; None if it may."""
    refused = origin_refusal(request, settings)
    return None if refused is None else refuse(request, refused, log)


def refuse(request: Request, refused: OriginRefusal, log: Log) -> Response:
    """Return the response to a page that may not connect, and log it."""
    log.emit(
        "refused",
        address=request.peer.address,
        path=request.path,
        status=403,
        origin=refused.origin,
        host=refused.host,
        setting=refused.setting,
        reason=refused.message,
    )
    return refusal(403, refused.message)


def authorization(request: Request) -> str | None:
    """Return what the ``Authorization`` header has after ``Bearer``; None without one."""
    scheme, _, secret = (request.header("authorization") or "").strip().partition(" ")
    return secret.strip() if scheme.lower() == _BEARER else None


def bearer(request: Request, settings: Settings) -> str | None:
    """Return the token of the ``Authorization`` header, or else of the configured cookie.

    The caller has checked `origin_refusal` first, so a cookie comes from a page that may connect.
    """
    if settings.auth.mode == "open":
        return None
    if (token := authorization(request)) is not None:
        return token
    if settings.auth.cookie == "off" or _is_foreign(request):
        return None
    for pair in (request.header("cookie") or "").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == settings.auth.cookie:
            return value.strip('"')
    return None


async def admitted(chat: Chat, request: Request, token: str | None) -> Grant | None:
    """Return what a token grants, or None without a token.

    Raise Refused if the token is invalid or cannot be verified now, or its bearer is banned.
    """
    limit_key = request.peer.limit_key
    if token is not None:
        return await chat.admit(token, limit_key)
    chat.check_may_enter("", limit_key, None)
    return None


def _is_sent_blindly(request: Request) -> bool:
    """Return whether a page of another site sent a request whose answer it cannot read.

    See W3C Fetch Metadata. A page with the policy ``no-referrer`` has the origin ``null`` there, as
    a file has, but not where its script could read the answer.
    """
    origin = request.header("origin")
    if origin is None:
        return request.header("sec-fetch-site") == "cross-site"
    return origin == "null" and request.header("sec-fetch-mode") in ("no-cors", "navigate")


def _is_foreign(request: Request) -> bool:
    """Return whether a page of another site may have sent the request as a script's URL.

    Browsers send no Origin with such a request.
    """
    if request.header("origin") is not None:
        return False
    site = request.header("sec-fetch-site")
    # JSONP does just that, and the old browsers that use it do not send Sec-Fetch-Site.
    return (site is not None and site not in _OURS) or "j" in request.query
