"""CORS: which other origins' pages may use an engine, and the headers for browsers.

The headers are those of Node's ``cors`` package. Browsers do not apply them to WebSockets, so a
WebSocket of an origin that is not allowed is refused (RFC 6455 section 10.2).
"""

from __future__ import annotations

from chatd.engineio.options import Options
from chatd.wire.origins import check
from chatd.wire.request import Request, Response

__all__ = ["allowed", "headers", "preflight"]

_METHODS = "GET,HEAD,PUT,PATCH,POST,DELETE"


def allowed(request: Request, options: Options) -> bool:
    """Return whether a request is from no page, a page of the server's own or an allowed one."""
    if check(request, ("same",), (), request.listener_loopback) is None:
        return True
    return options.cors_origins is not None and _listed(request, options)


def _listed(request: Request, options: Options) -> bool:
    origins = options.cors_origins or ()
    if callable(origins):
        return origins(request)
    return "*" in origins or check(request, origins, (), request.listener_loopback) is None


def headers(request: Request, options: Options) -> list[tuple[str, str]]:
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
        if origin is not None and _listed(request, options):
            fields.insert(0, ("Access-Control-Allow-Origin", origin))
    if options.cors_credentials:
        fields.append(("Access-Control-Allow-Credentials", "true"))
    return fields


def preflight(request: Request, options: Options) -> Response:
    """Return the response to OPTIONS, if CORS is on."""
    fields = [*headers(request, options), ("Access-Control-Allow-Methods", _METHODS)]
    asked = request.header("access-control-request-headers")
    fields.append(("Vary", "Access-Control-Request-Headers"))
    if asked:
        fields.append(("Access-Control-Allow-Headers", asked))
    return Response(204, headers=fields)
