"""The admin socket's HTTP: who may ask, what a request must be, and answers as JSON.

A web page cannot reach it: it is a Unix socket, it answers to no name but its own, and what it is
told comes as JSON with its content type, which no form can send.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from msgspec import Struct

from chatd.admin.answers import Failure
from chatd.admin.control import Control
from chatd.admin.endpoints import ENDPOINTS, Endpoint
from chatd.admin.streams import Stream, streams
from chatd.wire.request import Refused, Request, Response
from chatd.wire.routes import Handler, Routes
from chatd.wire.websocket import Upgrade

__all__ = ["AdminRoutes", "failed"]

HOSTS: Final = frozenset({"chatd", "localhost"})
"""Names the socket answers to. HTTP wants one, and a page's own would be another."""

BODY_BYTES: Final = 1 << 20

_JSON: Final = "application/json"
_ENCODER: Final = msgspec.json.Encoder()


class AdminRoutes(Routes):
    """The table: every endpoint of ``ENDPOINTS``, and the handlers in ``beside``."""

    def __init__(self, control: Control, beside: Mapping[str, Handler]) -> None:
        table: dict[str, dict[str, Handler]] = {
            path: _methods(control, endpoints) for path, endpoints in ENDPOINTS.items()
        }
        for path, methods in streams(control).items():
            table[path] = {method: _streaming(stream) for method, stream in methods.items()}
        super().__init__({**table, **{path: {"GET": act} for path, act in beside.items()}})

    def find(self, method: str, path: str) -> Handler:
        """Find the handler; where there is none, the one that says so."""
        return _guarded(super().find(method, path))


def failed(failure: Failure) -> Response:
    """Write a failure as an answer."""
    error = {"code": failure.code, "message": failure.message}
    faults = {"faults": failure.faults} if failure.faults else {}
    return _json(failure.status, {"error": {**error, **faults}})


def _methods(control: Control, endpoints: Iterable[Endpoint]) -> dict[str, Handler]:
    return {endpoint.method: _handler(control, endpoint) for endpoint in endpoints}


def _handler(control: Control, endpoint: Endpoint) -> Handler:
    async def handler(request: Request) -> Response:
        try:
            arguments = await _arguments(endpoint, request)
        except (ValueError, RecursionError) as error:
            return failed(Failure(400, "bad_request", str(error)))
        if isinstance(arguments, Failure):
            return failed(arguments)
        answer = await endpoint.act(control, arguments)
        return failed(answer) if isinstance(answer, Failure) else _json(200, answer)

    return handler


def _streaming(stream: Stream) -> Handler:
    async def handler(request: Request) -> Response:
        answer = await stream(request)
        return failed(answer) if isinstance(answer, Failure) else answer

    return handler


async def _arguments(endpoint: Endpoint, request: Request) -> Struct | Failure:
    if endpoint.method == "GET":
        return msgspec.convert(request.query, endpoint.arguments, strict=False)
    kind = (request.header("content-type") or "").partition(";")[0].strip().lower()
    if kind != _JSON:
        return Failure(415, "bad_request", f"a request is {_JSON}")
    return msgspec.json.decode(await request.body(BODY_BYTES) or b"{}", type=endpoint.arguments)


def _guarded(found: Handler | Response) -> Handler:
    async def handler(request: Request) -> Response | Upgrade:
        host = (request.header("host") or "").partition(":")[0]
        if host not in HOSTS:
            return failed(Failure(421, "misdirected", "this is chatd's admin socket: Host: chatd"))
        try:
            return _said(found) if isinstance(found, Response) else await found(request)
        except Refused as refused:
            raise Refused(_said(refused.response)) from None

    return handler


def _said(response: Response) -> Response:
    """Give an answer of the wire's own as JSON."""
    code = "not_found" if response.status == 404 else "bad_request"
    answer = failed(Failure(response.status, code, response.body.decode().strip()))
    return msgspec.structs.replace(answer, headers=response.headers)


def _json(status: int, answer: object) -> Response:
    return Response(status, _ENCODER.encode(answer) + b"\n", _JSON)
