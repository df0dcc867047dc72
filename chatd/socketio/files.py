"""Files over HTTP: a folder of static files, and Socket.IO's browser client."""

from __future__ import annotations

import mimetypes
import stat
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

import trio

from chatd.wire.compression import compressed
from chatd.wire.request import Request, Response, refusal
from chatd.wire.routes import Methods

__all__ = ["CLIENT_FILES", "Folder", "client_routes"]

CLIENT_FILES: Final = (
    "socket.io.js",
    "socket.io.min.js",
    "socket.io.esm.min.js",
    "socket.io.msgpack.min.js",
)
"""The files that Node's server serves too, each with its ``.map``."""

_INDEX: Final = "index.html"
# One TCP segment: a smaller file gains nothing.
_COMPRESS_BYTES: Final = 1024
_PACKED: Final = ("application/zip", "application/gzip", "font/woff", "font/woff2")
# Without the tables of the machine, so that the types are the same everywhere.
_TYPES: Final = mimetypes.MimeTypes()
_TYPES.add_type("text/javascript", ".js")
_TYPES.add_type("text/javascript", ".mjs")
_TYPES.add_type("application/json", ".map")
_TYPES.add_type("font/woff2", ".woff2")


class Folder:
    """Serves the files of a folder; for a folder in it, its ``index.html``.

    Files outside of it, behind symbolic links too, and names that begin with a dot do not exist.
    Changes are visible at once: browsers ask each time, and usually get 304.

    Args:
        root: The folder.
        prefix: The path at which it is served; default ``"/"``.
    """

    def __init__(self, root: str | Path, prefix: str = "/") -> None:
        self._root = Path(root)
        self._prefix = prefix

    @property
    def routes(self) -> dict[str, Methods]:
        """The prefix and its methods, for a table of routes."""
        return {self._prefix: {"GET": self.get}}

    async def get(self, request: Request) -> Response:
        """Return a file, 304, a redirect to a folder with its slash, or 404."""
        try:
            return await trio.to_thread.run_sync(self._get, request)
        except OSError:
            return _not_found()

    def _get(self, request: Request) -> Response:
        parts = unquote(request.path.removeprefix(self._prefix)).split("/")
        if any(part.startswith(".") or "\\" in part or "\0" in part for part in parts):
            return _not_found()
        path = self._root.joinpath(*(part for part in parts if part)).resolve()
        if not path.is_relative_to(self._root.resolve()):
            return _not_found()
        if path.is_dir():
            if parts[-1]:
                location = quote("/" + "/".join(filter(None, request.path.split("/"))), "/%") + "/"
                return refusal(301, "This is a folder.", [("Location", location)])
            path /= _INDEX
        elif not parts[-1]:
            return _not_found()
        return answer(path, request)


def answer(path: Path, request: Request) -> Response:
    """Return this file, or 304 if the client has it. Raises OSError if it cannot be read."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError(path)
    # Weak, because both encodings share it: RFC 9110 section 8.8.1.
    tag = f'W/"{status.st_size:x}-{status.st_mtime_ns:x}"'
    headers = [("Cache-Control", "public, max-age=0"), ("ETag", tag)]
    headers.append(("X-Content-Type-Options", "nosniff"))
    kind = _TYPES.guess_type(path.name)[0] or "application/octet-stream"
    packed = kind in _PACKED or kind.partition("/")[0] in ("image", "audio", "video")
    packed = packed and kind != "image/svg+xml"
    if _knows(request, tag):
        if not packed and status.st_size >= _COMPRESS_BYTES:
            headers.append(("Vary", "Accept-Encoding"))
        return Response(304, content_type="", headers=headers)
    if kind.startswith("text/"):
        kind += "; charset=utf-8"
    response = Response(200, path.read_bytes(), kind, headers)
    if packed:
        return response
    return compressed(response, request.header("accept-encoding"), _COMPRESS_BYTES)


def _knows(request: Request, tag: str) -> bool:
    # Compared weakly (RFC 9110 section 8.8.3.2): a proxy may have made ours strong.
    opaque = tag.removeprefix("W/")
    known = (request.header("if-none-match") or "").split(",")
    return any(one.strip().removeprefix("W/") in ("*", opaque) for one in known)


def client_routes(path: str, folder: Path) -> dict[str, Methods]:
    """Return the paths under ``path`` for Socket.IO's browser client, which is in ``folder``.

    A file that does not exist is 404, with a line that says how to get it.
    """

    def route(name: str) -> Methods:
        async def get(request: Request) -> Response:
            try:
                return await trio.to_thread.run_sync(answer, folder / name, request)
            except OSError:
                message = f"{name} is not installed. Run `chatd fetch-client` to get it from npm."
                return refusal(404, message)

        return {"GET": get}

    names = (*CLIENT_FILES, *(f"{name}.map" for name in CLIENT_FILES))
    return {f"{path}{name}": route(name) for name in names}


def _not_found() -> Response:
    return refusal(404, "Not found. Check the path.")
