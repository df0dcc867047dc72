"""HTTP on the admin socket: who may send requests, how arguments are read, and JSON answers.

A web page cannot reach it: it is a Unix socket, it accepts no Host but its own names, and it takes
only content types that no form can send.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from msgspec import Struct

from chatd import model
from chatd.admin.control import DaemonControl
from chatd.admin.endpoints import ENDPOINTS, Endpoint
from chatd.admin.errors import AdminError, error_of
from chatd.admin.streams import streams
from chatd.journal import Unavailable
from chatd.wire.request import Refused, Request, Response
from chatd.wire.routes import Handler, Routes
from chatd.wire.websocket import Upgrade

__all__ = ["AdminRoutes"]

HOSTS: Final = frozenset({"chatd", "localhost"})
"""The names that the socket accepts: HTTP requires one, and a web page would send its own."""

BODY_BYTES: Final = 1 << 20

_JSON: Final = "application/json"
_ENCODER: Final = msgspec.json.Encoder()


class AdminRoutes(Routes):
    """The endpoints of ``ENDPOINTS``, the streams, and the further handlers in ``beside``."""

    def __init__(self, control: DaemonControl, beside: Mapping[str, Handler]) -> None:
        table: dict[str, Mapping[str, Handler]] = {
            path: _methods(control, endpoints) for path, endpoints in ENDPOINTS.items()
        }
        for path, handler in beside.items():
            table[path] = {"GET": handler}
        super().__init__({**table, **streams(control)})

    def find(self, method: str, path: str) -> Handler:
        """Return the handler of a request; one that answers with the error if there is none."""
        return _guarded(super().find(method, path))


def _methods(control: DaemonControl, endpoints: Iterable[Endpoint]) -> dict[str, Handler]:
    return {endpoint.method: _handler(control, endpoint) for endpoint in endpoints}


def _handler(control: DaemonControl, endpoint: Endpoint) -> Handler:
    async def handler(request: Request) -> Response:
        try:
            arguments = await _arguments(endpoint, request)
        except (ValueError, RecursionError) as error:
            raise AdminError(400, "bad_request", str(error)) from error
        return _json(200, await endpoint.act(control, arguments))

    return handler


async def _arguments(endpoint: Endpoint, request: Request) -> Struct:
    if endpoint.method == "GET":
        return msgspec.convert(request.query, endpoint.arguments, strict=False)
    kind = (request.header("content-type") or "").partition(";")[0].strip().lower()
    if kind != _JSON:
        raise AdminError(415, "bad_request", f"Send a body of type {_JSON}.")
    return msgspec.json.decode(await request.body(BODY_BYTES) or b"{}", type=endpoint.arguments)


def _guarded(found: Handler | Response) -> Handler:
    async def handler(request: Request) -> Response | Upgrade:
        try:
            host = (request.header("host") or "").partition(":")[0]
            if host not in HOSTS:
                message = "This is the admin socket of chatd. Send `Host: chatd`."
                raise AdminError(421, "misdirected", message)
            return _as_json(found) if isinstance(found, Response) else await found(request)
        except AdminError as error:
            return _failed(error)
        except model.Refused as refused:
            return _failed(error_of(refused.refusal))
        except Unavailable as error:
            return _failed(AdminError(503, "unavailable", str(error)))
        except Refused as refused:
            raise Refused(_as_json(refused.response)) from None

    return handler


def _failed(error: AdminError) -> Response:
    answer = {"code": error.code, "message": str(error)}
    faults = {"faults": error.faults} if error.faults else {}
    return _json(error.status, {"error": {**answer, **faults}})


def _as_json(response: Response) -> Response:
    """Return one of the wire's own answers as JSON."""
    code = "not_found" if response.status == 404 else "bad_request"
    answer = _failed(AdminError(response.status, code, response.body.decode().strip()))
    return msgspec.structs.replace(answer, headers=response.headers)


def _json(status: int, answer: object) -> Response:
    return Response(status, _ENCODER.encode(answer) + b"\n", _JSON)
