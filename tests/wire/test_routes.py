from __future__ import annotations

import pytest

from chatd.wire.request import Request, Response
from chatd.wire.routes import ANY, WEBSOCKET, Routes


async def handler(request: Request) -> Response:
    return Response(200)


async def other(request: Request) -> Response:
    return Response(204)


ROUTES = Routes(
    {
        "/": {"GET": handler, WEBSOCKET: other},
        "/ws": {WEBSOCKET: other},
        "/post": {"POST": handler, "DELETE": other},
    },
    {"/files/": {"GET": other}, "/any/": {"POST": handler, ANY: other}},
)


@pytest.mark.parametrize(
    ("method", "path", "found"),
    [
        ("GET", "/", handler),
        ("HEAD", "/", handler),
        (WEBSOCKET, "/", other),
        (WEBSOCKET, "/ws", other),
        ("POST", "/post", handler),
        ("DELETE", "/post", other),
        ("GET", "/files/a/b", other),
        ("GET", "/files/", other),
        (WEBSOCKET, "/files/a", other),
        ("POST", "/any/", handler),
        ("GET", "/any/", other),
        ("HEAD", "/any/", other),
        ("OPTIONS", "/any/", other),
        ("ODD", "/any/a", other),
        (WEBSOCKET, "/any/", other),
    ],
)
def test_what_is_there_is_found(method: str, path: str, found: object) -> None:
    assert ROUTES.find(method, path) is found


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/nothing", 404, None),
        ("GET", "/files", 404, None),
        ("GET", "//", 404, None),
        ("POST", "/", 405, "GET, HEAD"),
        ("GET", "/post", 405, "DELETE, POST"),
        ("HEAD", "/post", 405, "DELETE, POST"),
        (WEBSOCKET, "/post", 405, "DELETE, POST"),
        ("GET", "/ws", 426, None),
        ("POST", "/ws", 405, "GET"),
    ],
)
def test_what_is_not_there_is_said(method: str, path: str, status: int, allow: str | None) -> None:
    answer = ROUTES.find(method, path)
    assert isinstance(answer, Response)
    assert answer.status == status
    assert dict(answer.headers).get("Allow") == allow
    assert len(answer.body) < 100
