"""CORS: which other origins' pages may use an engine, and the headers for browsers.

The headers are those of Node's ``cors`` package. Browsers do not apply them to WebSockets, so a
WebSocket of an origin that is not allowed is refused (RFC 6455 section 10.2).
"""

from __future__ import annotations

from collections.abc import Sequence

from chatd.engineio.hooks import call
from chatd.engineio.options import Options
from chatd.wire.origins import check
from chatd.wire.request import Request, Response

__all__ = ["allowed", "headers", "preflight"]

_METHODS = "GET,HEAD,PUT,PATCH,POST,DELETE"


async def allowed(request: Request, options: Options, hosts: Sequence[str]) -> bool:
    """Return whether a request is from no page, a page of the server's own or an allowed one."""
    if check(request, ("same",), hosts, request.listener_loopback) is None:
        return True
    return options.cors_origins is not None and await _listed(request, options)


async def _listed(request: Request, options: Options) -> bool:
    origins = options.cors_origins or ()
    if callable(origins):
        return bool(await call(origins, request))
    return "*" in origins or check(request, origins, (), request.listener_loopback) is None


async def headers(request: Request, options: Options) -> list[tuple[str, str]]:
    """Return the headers for any response to this request; none if CORS is off."""
    origins = options.cors_origins
    if origins is None:
        return []
    origin = request.header("origin")
    if not callable(origins) and "*" in origins and not options.cors_credentials:
        fields = [("Access-Control-Allow-Origin", "*")]
    else:
        # Browsers reject "*" together with credentials.
        fields = [("Vary", "Origin")]
        if origin is not None and await _listed(request, options):
            fields.insert(0, ("Access-Control-Allow-Origin", origin))
    if options.cors_credentials:
        fields.append(("Access-Control-Allow-Credentials", "true"))
    return fields


def preflight(request: Request) -> Response:
    """Return the response to OPTIONS, to which `headers` are added as to any other."""
    fields = [("Access-Control-Allow-Methods", _METHODS)]
    fields.append(("Vary", "Access-Control-Request-Headers"))
    asked = request.header("access-control-request-headers")
    if asked:
        fields.append(("Access-Control-Allow-Headers", asked))
    return Response(204, headers=fields)
