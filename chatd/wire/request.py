"""What an HTTP request and its answer are. Sans-IO but for bodies, read when asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Final
from urllib.parse import parse_qsl

import trio
from msgspec import Struct

from chatd.wire.transport import Peer

__all__ = ["Refused", "Request", "Response", "refusal"]

_QUERY_FIELDS: Final = 64


class Response(Struct, frozen=True):
    """A whole answer. ``content_type`` is left out where there is no body.

    ``stream``, where given, is the body in place of ``body``: of any length, piece by piece as the
    client takes it, closed in any case. What it raises ends the connection: the client sees that
    the body is torn.
    """

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Sequence[tuple[str, str]] = ()
    stream: AsyncGenerator[bytes] | None = None


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


async def _no_pieces() -> AsyncGenerator[bytes]:
    return
    yield b""


async def _never() -> None:
    await trio.sleep_forever()


class Request:
    """A request whose head was read and found sound.

    ``path`` is as it was sent, undecoded, without the query. ``headers`` have lower-case names.
    ``connection`` is the id of the connection it came on, ``secure`` whether that is TLS.
    """

    __slots__ = (
        "_gone",
        "_pieces",
        "_query",
        "_read",
        "connection",
        "headers",
        "listener_loopback",
        "method",
        "path",
        "peer",
        "query_string",
        "secure",
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
        secure: bool = False,
        read: Callable[[int], Awaitable[bytes]] = _no_body,
        pieces: Callable[[], AsyncGenerator[bytes]] = _no_pieces,
        gone: Callable[[], Awaitable[None]] = _never,
    ) -> None:
        self.method = method
        self.path, _, self.query_string = target.partition("?")
        self.headers = headers
        self.peer = peer
        self.connection = connection
        self.listener_loopback = listener_loopback
        self.secure = secure
        self._read = read
        self._pieces = pieces
        self._gone = gone
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

    def pieces(self) -> AsyncGenerator[bytes]:
        """Give the body, of any length, as it comes; each piece has the time of a head.

        To be closed by who breaks off. Raises Refused: 408 too slow, 400 malformed.
        """
        return self._pieces()

    async def gone(self) -> None:
        """Return when the client has gone away, where a handler waits for something else.

        Its body must have been read. What the client sends meanwhile is kept for what follows.
        """
        await self._gone()

    def release(self) -> None:
        """Let go of the connection's HTTP: a WebSocket keeps its request, and not 10 KiB more."""
        self._read = _no_body
        self._pieces = _no_pieces
        self._gone = _never
