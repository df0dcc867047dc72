"""One connection's HTTP/1.1: heads within limits and deadlines, handlers' answers, in order.

h11 parses; what it does not bound, or is lenient in, is checked by ``heads`` before, and here for
the end of a chunked body.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final, Protocol

import h11
import trio

from chatd.logs import Log
from chatd.wire.forwarding import FORWARDING, Forwarded
from chatd.wire.heads import (
    HEAD_BYTES,
    body_length,
    check_head,
    check_host,
    check_upgrade,
    malformed,
    tokens,
)
from chatd.wire.request import Refused, Request, Response, refusal
from chatd.wire.routes import WEBSOCKET, Routes
from chatd.wire.transport import Peer, Transport
from chatd.wire.websocket import Handover, Upgrade

__all__ = ["Gate", "HttpConnection"]

_RECV_BYTES: Final = 8192
# A page's assets go out in pieces of this size, each with a deadline of its own.
_SEND_BYTES: Final = 65536
# A body that nobody asked for is read past up to here; beyond, closing is cheaper.
_DRAIN_BYTES: Final = 65536
# A body that says its length has at least the time that a phone on a bad line needs: 128 kbit/s.
_SLOWEST_BYTES: Final = 16384
# What a peer still sends after a refusal is read for so long, so that the kernel does not answer
# it with a reset that overtakes the refusal (RFC 9112 section 9.6).
_LINGER_SECONDS: Final = 1.0
_LINGER_BYTES: Final = 1 << 20


class Gate(Protocol):
    """Who asks, and whether they are let in."""

    def forwarded(self, headers: Sequence[tuple[str, str]], peer: Peer) -> Forwarded:
        """Tell for whom a peer asks that sent forwarding headers."""
        raise NotImplementedError

    def admit(self, peer: Peer) -> Response | None:
        """Give the answer to a request of this peer's that is not welcome."""

    def refused(self, status: int) -> None:
        """Hear of each refusal that is made here."""


class HttpConnection:
    """Serves one connection until it ends or becomes a WebSocket.

    ``seconds`` bounds each wait on the peer: the whole of a head, the whole of a body, the time
    between requests, each piece of an answer. ``early`` are bytes that were read already.
    """

    def __init__(
        self,
        transport: Transport,
        routes: Routes,
        log: Log,
        *,
        connection: str,
        seconds: float,
        gate: Gate,
        early: bytes = b"",
    ) -> None:
        self._transport = transport
        self._routes = routes
        self._log = log
        self._id = connection
        self._seconds = seconds
        self._gate = gate
        # Who asks: the peer, or for whom it asks at present.
        self._asker = transport.peer
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._scope = trio.CancelScope()
        # What came and was not given to h11 yet.
        self._buffer = bytearray(early)
        self._reading_head = False
        self._last = False
        # The end of what h11 was given of a body.
        self._tail = b""
        # HEAD: the answer tells its length, and has no body.
        self._bodiless = False
        # The present request's body: how long it says it is (-1: chunked), itself once read, and
        # whether reading it failed half way.
        self._length = 0
        self._body: bytes | None = None
        self._torn = False

    async def run(self) -> Handover | None:
        """Serve until the connection is through: None. The caller closes the transport.

        Raises trio.BrokenResourceError where the peer is gone.
        """
        with self._scope:
            return await self._serve()
        if self._reading_head and self._buffer:
            with trio.move_on_after(_LINGER_SECONDS):
                await self._refuse(refusal(408, "The request came too slowly."))
        return None

    def retire(self) -> None:
        """Answer what is begun, and no further request; where nothing is begun, end now."""
        self._last = True
        if self._reading_head and not self._buffer:
            self._scope.cancel()

    async def _serve(self) -> Handover | None:
        try:
            while True:
                head = await self._head()
                if head is None:
                    return None
                request = self._request(head)
                answer = await self._answer(request)
                if isinstance(answer, Upgrade):
                    request.release()
                    return Handover(request, answer, bytes(self._buffer))
                if not await self._finish(answer):
                    return None
        except Refused as refused:
            self._reading_head = False
            await self._refuse(refused.response)
            await self._linger()
            return None

    # The head

    async def _head(self) -> bytes | None:
        """Read a whole head; None where the peer ended between requests."""
        if self._h11.our_state is not h11.IDLE:
            self._next_cycle()
        self._bodiless = False
        self._asker = self._transport.peer
        self._reading_head = True
        self._rearm()
        buffer = self._buffer
        scanned = 0
        while True:
            if not scanned:
                # RFC 9112 section 2.2: old clients send an empty line after a body.
                while buffer.startswith(b"\r\n"):
                    del buffer[:2]
            end = buffer.find(b"\r\n\r\n", max(0, scanned - 3))
            if buffer != b"\r":
                check_head(buffer, end, scanned)
                scanned = len(buffer)
            if end >= 0:
                head = bytes(buffer[: end + 4])
                del buffer[: end + 4]
                self._reading_head = False
                self._scope.deadline = float("inf")
                return head
            first = not buffer
            data = await self._transport.recv(_RECV_BYTES)
            if not data:
                return None
            if first:
                # The wait between requests is over: the head has a time of its own, once.
                self._rearm()
            buffer += data

    def _request(self, head: bytes) -> Request:
        try:
            self._h11.receive_data(head)
            event = self._h11.next_event()
        except h11.RemoteProtocolError as error:
            raise malformed(str(error), error.error_status_hint) from error
        if not isinstance(event, h11.Request):
            raise malformed("no request")
        self._bodiless = event.method == b"HEAD"
        # Names are interned because an upgraded request is kept as long as its WebSocket.
        headers = [
            (sys.intern(name.decode("ascii")), value.decode("latin-1"))
            for name, value in event.headers
        ]
        target = event.target.decode("ascii")
        self._length = body_length(head, headers, event.http_version)
        self._body = None
        self._torn = False
        self._tail = b""
        if not self._length:
            self._h11.next_event()  # the end of a message without a body
            self._body = b""
        if target.startswith(("http://", "https://")):
            # RFC 9112 section 3.2.2: the absolute form must be understood, its host counts.
            authority, slash, rest = target.partition("://")[2].partition("/")
            target = slash + rest or "/"
            headers = _with_host(headers, authority)
        if not target.startswith("/") and target != "*":
            raise malformed("a target that is no path")
        secure = self._transport.secure
        if any(name in FORWARDING for name, _ in headers):
            told = self._gate.forwarded(headers, self._transport.peer)
            self._asker = told.peer
            secure = secure if told.secure is None else told.secure
            if told.host is not None:
                headers = _with_host(headers, told.host)
        check_host(next((value for name, value in headers if name == "host"), ""))
        return Request(
            event.method.decode("ascii"),
            target,
            headers,
            self._asker,
            connection=self._id,
            listener_loopback=self._transport.listener_loopback,
            secure=secure,
            read=self._read_body,
            pieces=self._pieces,
            gone=self._gone,
        )

    def _next_cycle(self) -> None:
        if self._h11.trailing_data == (b"", False):
            self._h11.start_next_cycle()
        else:
            # What lay behind a body is in our buffer again; h11 must not see it twice.
            self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)

    # The answer

    async def _answer(self, request: Request) -> Response | Upgrade:
        refusing = self._gate.admit(request.peer)
        if refusing is not None:
            raise Refused(refusing)
        method = request.method
        if "websocket" in tokens(request.header("upgrade")):
            method = WEBSOCKET
        handler = self._routes.find(method, request.path)
        if isinstance(handler, Response):
            return handler
        if method == WEBSOCKET:
            check_upgrade(request, self._h11.their_http_version)
        try:
            answer = await handler(request)
            if isinstance(answer, Upgrade) and method != WEBSOCKET:
                raise TypeError(f"{request.path} upgrades a request that is no WebSocket's")
        except Refused as refused:
            self._note(refused.response, request)
            return refused.response
        except Exception as error:  # the connection's boundary
            self._log.emit(
                "fault",
                connection=self._id,
                address=self._asker.address,
                detail=f"{request.method} {request.path}",
                error=repr(error),
                traceback=traceback.format_exc(),
            )
            return refusal(500, "Something went wrong here; it was noted.")
        return answer

    async def _finish(self, answer: Response) -> bool:
        """Send the answer and pass over a small body that nobody read; tell whether to go on."""
        unread = self._body is None
        close = unread and (
            not 0 <= self._length <= _DRAIN_BYTES
            or self._torn
            or self._h11.they_are_waiting_for_100_continue
        )
        await self._send(answer, close=close or self._last)
        if self._h11.our_state is h11.MUST_CLOSE:
            if unread:
                await self._linger()
            return False
        if unread:
            await self._read_body(_DRAIN_BYTES)
        return True

    async def _refuse(self, response: Response) -> None:
        self._note(response, None)
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send(response, close=True)

    def _note(self, response: Response, request: Request | None) -> None:
        self._gate.refused(response.status)
        self._log.emit(
            "refused",
            connection=self._id,
            address=self._asker.address,
            status=response.status,
            reason=response.body.decode(errors="replace").rstrip(),
            method=request.method if request is not None else None,
            path=request.path if request is not None else None,
        )

    async def _send(self, response: Response, *, close: bool) -> None:
        headers = list(response.headers)
        if response.stream is None and response.status not in (204, 304):
            headers.append(("Content-Length", str(len(response.body))))
        if response.body or response.stream is not None:
            headers.append(("Content-Type", response.content_type))
        if close:
            headers.append(("Connection", "close"))
        # Without a length h11 frames the body in chunks, or ends it by closing (HTTP/1.0).
        data = self._h11.send(h11.Response(status_code=response.status, headers=headers)) or b""
        if response.stream is not None:
            async with aclosing(response.stream) as stream:
                await self._send_pieces(data, stream)
            data = b""
        elif not self._bodiless:
            data += self._h11.send(h11.Data(data=response.body)) or b""
        data += self._h11.send(h11.EndOfMessage()) or b""
        await self._send_data(data)

    async def _send_pieces(self, data: bytes, stream: AsyncGenerator[bytes]) -> None:
        await self._send_data(data)
        if not self._bodiless:
            async for piece in stream:
                if piece:
                    await self._send_data(self._h11.send(h11.Data(data=piece)) or b"")

    async def _send_data(self, data: bytes) -> None:
        for at in range(0, len(data), _SEND_BYTES):
            self._rearm()
            await self._transport.send_all(data[at : at + _SEND_BYTES])
        self._scope.deadline = float("inf")

    # The body

    async def _read_body(self, limit: int) -> bytes:
        if self._body is None:
            if self._length > limit:
                raise Refused(refusal(413, f"At most {limit} bytes are taken here."))
            self._torn = True
            seconds = max(self._seconds, self._length / _SLOWEST_BYTES)
            with trio.move_on_after(seconds) as scope:
                self._body = await self._whole_body(limit)
            if scope.cancelled_caught or self._body is None:
                raise Refused(refusal(408, "The body came too slowly."))
        return self._body

    async def _whole_body(self, limit: int) -> bytes:
        body = bytearray()
        async with aclosing(self._data()) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) > limit:
                    raise Refused(refusal(413, f"At most {limit} bytes are taken here."))
        return bytes(body)

    def _pieces(self) -> AsyncGenerator[bytes]:
        # Torn until its end is seen: who breaks off leaves a connection that cannot go on.
        self._torn = self._body is None
        return self._data(self._seconds)

    async def _data(self, seconds: float = float("inf")) -> AsyncGenerator[bytes]:
        """Read on to the body's end; each wait on the peer has so many seconds."""
        if self._body is not None:
            return
        if self._h11.they_are_waiting_for_100_continue:
            go_on = self._h11.send(h11.InformationalResponse(status_code=100, headers=[]))
            await self._transport.send_all(go_on or b"")
        self._feed(bytes(self._buffer))
        self._buffer.clear()
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                raise malformed(str(error), error.error_status_hint) from error
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self._end_body(event)
                self._body = b""
                self._torn = False
                return
            else:
                data = None
                with trio.move_on_after(seconds):
                    data = await self._transport.recv(_RECV_BYTES)
                if data is None:
                    raise Refused(refusal(408, "The body came too slowly."))
                if not data:
                    raise malformed("a body that ends too soon")
                self._feed(data)

    def _feed(self, data: bytes) -> None:
        if data:
            self._h11.receive_data(data)
            self._tail = self._tail[-4:] + data

    def _end_body(self, event: h11.EndOfMessage) -> None:
        rest = bytes(self._h11.trailing_data[0])
        self._buffer += rest
        if self._length < 0:
            # h11 takes a bare LF for the end of a trailer; and trailers have no use here.
            consumed = self._tail[: len(self._tail) - len(rest)]
            if list(event.headers) or not consumed.endswith(b"\r\n\r\n"):
                raise malformed("a chunked body with an unsound end")

    async def _gone(self) -> None:
        while len(self._buffer) < _DRAIN_BYTES:
            try:
                data = await self._transport.recv(_RECV_BYTES)
            except trio.BrokenResourceError:
                return
            if not data:
                return
            self._buffer += data
        # So much sent ahead is not read on: whether it is still there shows when it is answered.
        await trio.sleep_forever()

    # The wait on the peer

    def _rearm(self) -> None:
        self._scope.deadline = trio.current_time() + self._seconds

    async def _linger(self) -> None:
        """End our side, and read past what the peer still sends, for a moment."""
        self._scope.deadline = trio.current_time() + _LINGER_SECONDS
        await self._transport.send_eof()
        read = 0
        while read < _LINGER_BYTES:
            data = await self._transport.recv(_RECV_BYTES)
            if not data:
                return
            read += len(data)


def _with_host(headers: Sequence[tuple[str, str]], host: str) -> list[tuple[str, str]]:
    return [*((name, value) for name, value in headers if name != "host"), ("host", host)]
