"""What an HTTP request and its answer are, and which handler answers what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import parse_qsl

from msgspec import Struct

from chatd.wire.transport import Peer

if TYPE_CHECKING:
    from chatd.wire.websocket import Opener

__all__ = [
    "WEBSOCKET",
    "Handler",
    "Methods",
    "Refused",
    "Request",
    "Response",
    "Routes",
    "Upgrade",
    "refusal",
]

WEBSOCKET: Final = "WEBSOCKET"
"""The method under which a path's handler of WebSocket upgrades stands in ``Routes``."""

_QUERY_FIELDS: Final = 64


class Response(Struct, frozen=True):
    """A whole answer. ``content_type`` is left out where there is no body."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Sequence[tuple[str, str]] = ()


class Upgrade(Struct, frozen=True):
    """The answer to a WebSocket request that is welcome.

    ``subprotocol`` is one of those that the client offered. ``open`` is called when the handshake
    is through; what it returns gets the messages.
    """

    subprotocol: str | None
    open: Opener


class Refused(Exception):  # noqa: N818 - it is an answer, not an error
    """Raised out of a handler, also by ``Request.body``: this is the answer."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def refusal(status: int, message: str, headers: Sequence[tuple[str, str]] = ()) -> Response:
    """Make a small typed answer of one line."""
    return Response(status, f"{message}\n".encode(), headers=headers)


async def _no_body(limit: int) -> bytes:
    return b""


class Request:
    """A request whose head was read and found sound.

    ``path`` is as it was sent, undecoded, without the query. ``headers`` have lower-case names.
    ``connection`` is the id of the connection it came on.
    """

    __slots__ = (
        "_query",
        "_read",
        "connection",
        "headers",
        "listener_loopback",
        "method",
        "path",
        "peer",
        "query_string",
    )

    def __init__(
        self,
        method: str,
        target: str,
        headers: Sequence[tuple[str, str]],
        peer: Peer,
        *,
        connection: str = "",
        listener_loopback: bool = False,
        read: Callable[[int], Awaitable[bytes]] = _no_body,
    ) -> None:
        self.method = method
        self.path, _, self.query_string = target.partition("?")
        self.headers = headers
        self.peer = peer
        self.connection = connection
        self.listener_loopback = listener_loopback
        self._read = read
        self._query: dict[str, str] | None = None

    @property
    def query(self) -> dict[str, str]:
        """Give the query's fields, decoded; the last of a name counts. Too many fields: none."""
        if self._query is None:
            try:
                fields = parse_qsl(
                    self.query_string, keep_blank_values=True, max_num_fields=_QUERY_FIELDS
                )
            except ValueError:
                fields = []
            self._query = dict(fields)
        return self._query

    def header(self, name: str) -> str | None:
        """Give a header by its lower-case name; None where it is not there.

        Several are joined as RFC 9110 section 5.3 has it, cookies as RFC 6265 does.
        """
        values = [value for key, value in self.headers if key == name]
        if not values:
            return None
        return ("; " if name == "cookie" else ", ").join(values)

    async def body(self, limit: int) -> bytes:
        """Read the whole body. Raises Refused: 413 over ``limit``, 408 too slow, 400 malformed."""
        return await self._read(limit)

    def release(self) -> None:
        """Let go of the connection's HTTP: a WebSocket keeps its request, and not 10 KiB more."""
        self._read = _no_body


Handler: TypeAlias = Callable[[Request], Awaitable[Response | Upgrade]]
Methods: TypeAlias = Mapping[str, Handler]


class Routes:
    """A fixed table: whole paths, and prefixes that end in a slash."""

    def __init__(
        self, paths: Mapping[str, Methods], prefixes: Mapping[str, Methods] | None = None
    ) -> None:
        self._paths = dict(paths)
        self._prefixes = dict(prefixes or {})

    def find(self, method: str, path: str) -> Handler | Response:
        """Find the handler, or the answer where there is none: 404, 405 with Allow, 426."""
        methods = self._paths.get(path)
        if methods is None:
            methods = next(
                (found for prefix, found in self._prefixes.items() if path.startswith(prefix)), None
            )
        if methods is None:
            return refusal(404, "There is nothing here.")
        handler = methods.get(method)
        if handler is None and method in ("HEAD", WEBSOCKET):
            # RFC 9110 section 9.3.2, and 7.8: an Upgrade that is not wanted may be ignored.
            handler = methods.get("GET")
        if handler is not None:
            return handler
        allowed = sorted({*methods, *(["HEAD"] if "GET" in methods else [])} - {WEBSOCKET})
        if not allowed or (method == "GET" and WEBSOCKET in methods):
            upgrade = (("Upgrade", "websocket"), ("Connection", "Upgrade"))
            return refusal(426, "WebSocket is spoken here.", upgrade)
        return refusal(405, "Not this way.", [("Allow", ", ".join(allowed))])
