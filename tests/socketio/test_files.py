from __future__ import annotations

import gzip
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chatd import socketio
from chatd.logs import open_log
from chatd.socketio.files import CLIENT_FILES, Folder, client_routes
from chatd.wire.request import Request, Response
from chatd.wire.routes import Routes
from tests.socketio.client import MEMORY
from tests.wire.served import Client, serve


@pytest.fixture
def site(tmp_path: Path) -> Path:
    site = tmp_path / "public"
    (site / "sub dir").mkdir(parents=True)
    (site / "index.html").write_text("<p>héllo")
    (site / "big.js").write_text("x" * 5000)
    (site / "photo.png").write_bytes(b"x" * 5000)
    (site / "sub dir" / "index.html").write_text("sub")
    (site / ".secret").write_text("secret")
    (tmp_path / "outside.txt").write_text("outside")
    (site / "link.txt").symlink_to(tmp_path / "outside.txt")
    return site


@asynccontextmanager
async def serve_routes(routes: Routes) -> AsyncGenerator[Callable[[], Client]]:
    async with serve(tcp=False) as served:
        served.server.routes = routes
        yield served.dial


async def get(routes: Routes, path: str, *headers: tuple[str, str]) -> Response:
    handler = routes.find("GET", path)
    if isinstance(handler, Response):
        return handler
    answer = await handler(Request("GET", path, headers, MEMORY))
    assert isinstance(answer, Response)
    return answer


async def test_every_answer_of_a_server_has_the_cors_headers(site: Path) -> None:
    io = socketio.Server(
        static=site,
        client_files=site,
        cors_origins=["https://app.example"],
        log=open_log(level="error"),
    )
    async with serve_routes(io.routes) as dial:
        for request_line, status in (
            ("GET /", 200),
            ("GET /big.js", 200),
            ("GET /sub%20dir", 301),
            ("GET /nothing", 404),
            ("POST /big.js", 405),
            ("OPTIONS /big.js", 204),
            ("GET /socket.io/socket.io.js", 404),
            ("GET /socket.io/?EIO=4&transport=abc", 400),
        ):
            for origin in ("https://app.example", "https://other.example"):
                line = f"{request_line} HTTP/1.1\nOrigin: {origin}\nConnection: close"
                found, headers, _ = await dial().ask(line)
                assert found == status
                allowed = headers.get("access-control-allow-origin")
                assert allowed == (origin if origin == "https://app.example" else None)
        tag = (await dial().ask("GET /big.js HTTP/1.1"))[1]["etag"]
        line = f"GET /big.js HTTP/1.1\nIf-None-Match: {tag}\nOrigin: https://app.example"
        found, headers, _ = await dial().ask(line)
        assert (found, headers["access-control-allow-origin"]) == (304, "https://app.example")


async def test_without_cors_files_have_no_headers_of_it(site: Path) -> None:
    io = socketio.Server(static=site, log=open_log(level="error"))
    async with serve_routes(io.routes) as dial:
        _, headers, _ = await dial().ask("GET /big.js HTTP/1.1\nOrigin: https://app.example")
        assert not any(name.startswith("access-control") for name in headers)
        assert (await dial().ask("OPTIONS /big.js HTTP/1.1\nOrigin: https://a"))[0] == 405


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/", "<p>héllo", "text/html; charset=utf-8"),
        ("/index.html", "<p>héllo", "text/html; charset=utf-8"),
        ("/big.js", "x" * 5000, "text/javascript; charset=utf-8"),
        ("/photo.png", "x" * 5000, "image/png"),
        ("/sub%20dir/", "sub", "text/html; charset=utf-8"),
        ("//sub%20dir//index.html", "sub", "text/html; charset=utf-8"),
    ],
)
async def test_files_are_served(site: Path, path: str, body: str, kind: str) -> None:
    answer = await get(Routes({}, Folder(site).routes), path)
    assert (answer.status, answer.content_type) == (200, kind)
    assert answer.body.decode() == body
    assert ("Cache-Control", "public, max-age=0") in answer.headers


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/index.html/",
        "/.secret",
        "/../outside.txt",
        "/%2e%2e/outside.txt",
        "/sub%20dir/..%2f..%2foutside.txt",
        "/..%5coutside.txt",
        "/link.txt",
        "/%00",
        "/" + "x" * 5000,
        "/%ff%fe",
    ],
)
async def test_nothing_else_exists(site: Path, path: str) -> None:
    assert (await get(Routes({}, Folder(site).routes), path)).status == 404


async def test_a_folder_is_redirected_to_its_slash(site: Path) -> None:
    answer = await get(Routes({}, Folder(site).routes), "//sub%20dir")
    assert answer.status == 301
    assert ("Location", "/sub%20dir/") in answer.headers


async def test_what_the_client_has_is_not_sent_again(site: Path) -> None:
    routes = Routes({}, Folder(site).routes)
    tag = dict((await get(routes, "/big.js")).headers)["ETag"]
    answer = await get(routes, "/big.js", ("if-none-match", f'"other", {tag}'))
    assert (answer.status, answer.body) == (304, b"")
    # RFC 9110 section 15.4.5: what the whole answer would have said of itself.
    fields = dict(answer.headers)
    assert fields["ETag"] == tag
    assert fields["Cache-Control"] == "public, max-age=0"
    assert fields["Vary"] == "Accept-Encoding"
    answer = await get(routes, "/big.js", ("if-none-match", tag.removeprefix("W/")))
    assert answer.status == 304
    (site / "big.js").write_text("y" * 5001)
    answer = await get(routes, "/big.js", ("if-none-match", tag))
    assert answer.status == 200


async def test_text_is_compressed_and_pictures_are_not(site: Path) -> None:
    routes = Routes({}, Folder(site).routes)
    answer = await get(routes, "/big.js", ("accept-encoding", "gzip"))
    assert gzip.decompress(answer.body) == b"x" * 5000
    answer = await get(routes, "/photo.png", ("accept-encoding", "gzip"))
    assert answer.body == b"x" * 5000


async def test_the_browser_client_stands_beside_the_protocol(tmp_path: Path) -> None:
    (tmp_path / "socket.io.js").write_text("client")
    routes = Routes(client_routes("/socket.io/", tmp_path))
    answer = await get(routes, "/socket.io/socket.io.js")
    assert answer.body == b"client"
    assert answer.content_type == "text/javascript; charset=utf-8"
    for name in (*CLIENT_FILES[1:], "socket.io.js.map"):
        answer = await get(routes, f"/socket.io/{name}")
        assert answer.status == 404
        assert b"fetch-client" in answer.body
        assert answer.body.count(b"\n") == 1
