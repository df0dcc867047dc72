"""An HTTP request and its response. Sans-IO, but for a body, which is read on demand."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

import trio
from msgspec import Struct

from chatd.wire.transport import Peer

if TYPE_CHECKING:
    from chatd.wire.streaming import Source

__all__ = ["Refused", "Request", "Response", "refusal"]

_QUERY_FIELDS: Final = 64


class Response(Struct, frozen=True):
    """A response to a request.

    Attributes:
        status: The status code.
        body: The whole body.
        content_type: The type of the body, which may be empty.
        headers: Further headers.
        stream: The body in place of ``body``, sent piece by piece as the client takes it. It is
            always closed. An exception that it raises ends the connection, so that the client
            sees an incomplete body.
        progress: Called with the number of bytes each time that some of the response have been
            sent, and with 0 if the connection ends before all of them are.
        source: The body in place of ``body``, without an end: the connection is the source's from
            the end of the head on. Its ``ended`` is always called.
    """

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Sequence[tuple[str, str]] = ()
    stream: AsyncGenerator[bytes] | None = None
    progress: Callable[[int], None] | None = None
    source: Source | None = None


class Refused(Exception):  # noqa: N818  it is a response, not an error
    """Raised by a handler, and by ``Request.body``, to answer with ``response``."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def refusal(status: int, message: str, headers: Sequence[tuple[str, str]] = ()) -> Response:
    """Return a response of one line of text."""
    return Response(status, f"{message}\n".encode(), headers=headers)


async def _no_body(limit: int) -> bytes:
    return b""


async def _no_pieces() -> AsyncGenerator[bytes]:
    return
    yield b""


async def _never() -> None:
    await trio.sleep_forever()


async def _nothing(seconds: float) -> None:
    pass


class Request:
    """A request whose head has been read and checked.

    Attributes:
        method: The method, such as ``GET``.
        path: The path as it was sent: not decoded, without the query.
        query_string: The query as it was sent.
        headers: Names in lower case, and values.
        peer: The client, which may be one that a trusted proxy names.
        connection: The id of its connection.
        listener_loopback: Whether the listener is bound to loopback.
        secure: Whether the client uses TLS, to this server or to a trusted proxy.
        chunked: Whether a body of unknown length is sent in chunks, as of HTTP/1.1. Otherwise it
            ends with the connection.
    """

    __slots__ = (
        "_gone",
        "_pieces",
        "_query",
        "_read",
        "_spend",
        "chunked",
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
        chunked: bool = True,
        read: Callable[[int], Awaitable[bytes]] = _no_body,
        pieces: Callable[[], AsyncGenerator[bytes]] = _no_pieces,
        gone: Callable[[], Awaitable[None]] = _never,
        spend: Callable[[float], Awaitable[None]] = _nothing,
    ) -> None:
        self.method = method
        self.path, _, self.query_string = target.partition("?")
        self.headers = headers
        self.peer = peer
        self.connection = connection
        self.listener_loopback = listener_loopback
        self.secure = secure
        self.chunked = chunked
        self._read = read
        self._pieces = pieces
        self._gone = gone
        self._spend = spend
        self._query: dict[str, str] | None = None

    @property
    def query(self) -> dict[str, str]:
        """The decoded fields of the query, the last of each name. Empty if it has more than 64."""
        if self._query is None:
            self._query = _parse_query(self.query_string)
        return self._query

    def header(self, name: str) -> str | None:
        """Return a header by its lower-case name, or None.

        Several of a name are joined as RFC 9110 section 5.3 says, cookies as RFC 6265 says.
        """
        values = [value for key, value in self.headers if key == name]
        if not values:
            return None
        return ("; " if name == "cookie" else ", ").join(values)

    async def body(self, limit: int) -> bytes:
        """Read and return the whole body.

        Raises:
            Refused: It exceeds ``limit`` bytes (413), is late (408) or malformed (400).
        """
        return await self._read(limit)

    def pieces(self) -> AsyncGenerator[bytes]:
        """Return an iterator of the body, of any length, with a time limit for each piece.

        A caller that stops early closes it.

        Raises:
            Refused: A piece is late (408) or malformed (400).
        """
        return self._pieces()

    async def gone(self) -> None:
        """Wait until the client has gone, while a handler waits for something else.

        The body must have been read. Bytes that arrive meanwhile are kept for the next request.
        """
        await self._gone()

    async def spend(self, seconds: float) -> None:
        """Take this much of the event loop's time: see `chatd.budgets`.

        Waits first if the client's address has taken more than its share. The body must have been
        read.

        Raises:
            trio.BrokenResourceError: The client has gone meanwhile.
        """
        await self._spend(seconds)

    def release(self) -> None:
        """Release the HTTP connection: a WebSocket keeps its request, without 10 KiB of that."""
        self._read = _no_body
        self._pieces = _no_pieces
        self._gone = _never
        self._spend = _nothing


def _parse_query(query: str) -> dict[str, str]:
    if "%" not in query and "+" not in query and query.count("&") < _QUERY_FIELDS:
        # As below, in a third of the time.
        split = (field.partition("=") for field in query.split("&") if field)
        return {name: value for name, _, value in split}
    try:
        fields = parse_qsl(query, keep_blank_values=True, max_num_fields=_QUERY_FIELDS)
    except ValueError:
        fields = []
    return dict(fields)
