"""Refusals as ``application/problem+json``, and the headers that all answers have.

The formats: RFC 9457 for problems, the Fetch standard for CORS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

import msgspec
from msgspec.structs import replace

from chatd.gateways.credentials import page_refusal
from chatd.model import ErrorCode, Refusal
from chatd.settings import Settings
from chatd.wire.request import Request, Response

__all__ = ["completed", "preflight", "problem"]

_PROBLEM: Final = "application/problem+json"

_STATUSES: Final[dict[ErrorCode, int]] = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "muted": 403,
    "banned": 403,
    "not_joined": 403,
    "not_found": 404,
    "nick_taken": 409,
    "room_full": 409,
    "too_large": 413,
    "rate_limited": 429,
    "unavailable": 503,
}

_CODES: Final[dict[int, ErrorCode]] = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    413: "too_large",
    429: "rate_limited",
    503: "unavailable",
}
"""The codes of refusals that HTTP makes itself; ``bad_request`` for all others below 500."""

_TITLES: Final = {413: "Content Too Large"}
"""The phrases of RFC 9110 where Python's differ before 3.13."""

_ALWAYS: Final = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Vary", "Origin, Accept, Authorization, Cookie"),
)

_EXPOSED: Final = "Chatd-Position, Chatd-Recovered, Chatd-More, Retry-After"

_PREFLIGHT: Final = (
    ("Access-Control-Allow-Methods", "GET, POST"),
    (
        "Access-Control-Allow-Headers",
        "Authorization, Content-Type, Idempotency-Key, Last-Event-ID",
    ),
    ("Access-Control-Max-Age", "600"),
)


def problem(refusal: Refusal, status: int | None = None) -> Response:
    """Return the response to a refused request.

    Args:
        refusal: Why it is refused.
        status: The status, by default the one of the refusal's code.
    """
    retry: list[tuple[str, str]] = []
    if refusal.retry_ms is not None:
        retry.append(("Retry-After", str(math.ceil(refusal.retry_ms / 1000))))
    return _response(
        _STATUSES[refusal.code] if status is None else status,
        refusal.message,
        refusal.code,
        refusal.retry_ms,
        retry,
    )


def completed(request: Request, response: Response, settings: Settings) -> Response:
    """Return a response with the headers of all responses. A refusal by HTTP becomes a problem."""
    if response.status >= 400 and response.content_type != _PROBLEM:
        response = _as_problem(response)
    added = [*_ALWAYS, *_cors(request, settings)]
    if response.status == 401:
        added.append(("WWW-Authenticate", "Bearer"))
    elif response.status == 413:
        added.append(("Connection", "close"))
    return replace(response, headers=[*response.headers, *added])


def preflight(request: Request) -> Sequence[tuple[str, str]]:
    """Return the headers of the answer to a CORS preflight; none if no page asks."""
    return () if request.header("origin") is None else _PREFLIGHT


def _as_problem(response: Response) -> Response:
    code = _CODES.get(response.status)
    if code is None and response.status < 500:
        code = "bad_request"
    seconds = next((value for name, value in response.headers if name == "Retry-After"), None)
    return _response(
        response.status,
        response.body.decode(errors="replace").rstrip(),
        code,
        None if seconds is None else int(seconds) * 1000,
        response.headers,
    )


def _response(
    status: int,
    detail: str,
    code: ErrorCode | None,
    retry_ms: int | None,
    headers: Sequence[tuple[str, str]],
) -> Response:
    body: dict[str, str | int] = {
        "type": "about:blank",
        "title": _TITLES.get(status) or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if code is not None:
        body["code"] = code
    if retry_ms is not None:
        body["retry_ms"] = retry_ms
    return Response(status, msgspec.json.encode(body) + b"\n", _PROBLEM, headers)


def _cors(request: Request, settings: Settings) -> Sequence[tuple[str, str]]:
    origin = request.header("origin")
    if origin is None or page_refusal(request, settings) is not None:
        return ()
    return (
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Expose-Headers", _EXPOSED),
    )
