"""One connection's HTTP/1.1: reads requests within limits and deadlines, and sends the answers.

h11 parses. ``heads`` first checks what h11 does not limit or is lenient about; the end of a chunked
body is checked here. ``heads`` parses a plain upgrade by itself, and h11 sees it only if it is
refused.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import h11
import trio

from chatd.budgets import BYTE_SECONDS, CHUNK_SECONDS, REQUEST_SECONDS, Slice
from chatd.model import INTERNAL, LOST
from chatd.wire.forwarding import FORWARDING
from chatd.wire.heads import (
    HEAD_BYTES,
    body_length,
    check_head,
    check_host,
    check_upgrade,
    malformed,
    parse_upgrade,
    tokens,
)
from chatd.wire.origins import OriginRefusal, check_local_host
from chatd.wire.preamble import AcceptedStream
from chatd.wire.request import Refused, Request, Response, refusal
from chatd.wire.routes import WEBSOCKET, Handler
from chatd.wire.streaming import Streamed
from chatd.wire.websocket import Handover, Upgrade

if TYPE_CHECKING:
    from chatd.wire.limiter import ConnectionSlot
    from chatd.wire.server import HttpServer
    from chatd.wire.streaming import Source

__all__ = ["HttpConnection"]

_RECV_BYTES: Final = 8192
# Answers are sent in pieces of this size, each with its own deadline. With the default of ten
# seconds a reader may be as slow as a sender.
_SEND_BYTES: Final = 8192
# A body that no handler read is skipped up to this size. Above it, closing is cheaper.
_SKIP_BYTES: Final = 65536
# A chunk of a body costs us time even when it is small, so it is charged this much on top of its
# bytes, as a fragment of a WebSocket message is. A body's charges may add up to four times its
# allowed bytes.
_CHUNK_CHARGE: Final = 128
_CHARGE_RESERVE: Final = 4
# A body is given time for as long as this many bytes of it arrive a second: a phone on a bad line.
_SLOWEST_BYTES: Final = 1024
# The peer's time to read a refusal and to close: RFC 9112 section 9.6.
_LINGER_SECONDS: Final = 1.0
_PLAIN: Final = refusal(400, "This port speaks TLS. Use https:// or wss://.")


class HttpConnection:
    """Serves one connection until it ends, or becomes a WebSocket or a stream.

    ``limits.handshake_seconds`` limits each wait for the peer: the first request, a whole head,
    each pause in a body, each piece of an answer. A body that arrives at less than 1 KiB/s has that
    time in all. Between two requests the connection is kept for ``limits.idle_seconds``.

    Args:
        server: Gives routes, log and settings, and counts refusals.
        stream: The connection.
        slot: Its count in the limits of connections.
        connection: Its id in the log.
    """

    def __init__(
        self, server: HttpServer, stream: AcceptedStream, slot: ConnectionSlot, *, connection: str
    ) -> None:
        self._server = server
        self._routes = server.routes
        self._log = server.log
        self._seconds = server.settings.limits.handshake_seconds
        self._idle_seconds = server.settings.limits.idle_seconds
        self._slot = slot
        self._plain = stream.plain
        self._transport = stream.transport
        self._id = connection
        # The sender of the present request: the peer, or the client that a proxy names.
        self._sender = stream.transport.peer
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._scope = trio.CancelScope()
        # Bytes that were read and not yet passed to h11.
        self._buffer = bytearray(stream.early)
        # The head of an upgrade that h11 has not seen.
        self._upgrade_head = b""
        self._version = b""
        self._reading_head = False
        self._answered = False
        self._last = False
        # The last bytes of a body that were passed to h11.
        self._tail = b""
        # HEAD: the answer has a length and no body.
        self._bodiless = False
        # The present request's body: its declared length (-1: chunked), its bytes once read, and
        # whether reading it stopped half way.
        self._length = 0
        self._body: bytes | None = None
        self._torn = False

    async def run(self) -> Handover | Streamed | None:
        """Serve until the connection ends, or return what it becomes: a WebSocket or a stream.

        The caller closes the transport.

        Raises:
            trio.BrokenResourceError: The peer is gone.
        """
        with self._scope:
            return await self._serve()
        if self._reading_head and self._buffer:
            with trio.move_on_after(_LINGER_SECONDS):
                await self._refuse(refusal(408, "The request took too long. Send it at once."))
        return None

    def retire(self) -> None:
        """Close after the current request, or now if there is none."""
        self._last = True
        if self._reading_head and not self._buffer:
            self._scope.cancel()

    async def _serve(self) -> Handover | Streamed | None:
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
                self._catch_up()
                if answer.source is not None:
                    return await self._begin(answer, answer.source, request)
                if not await self._finish(answer):
                    return None
                self._answered = True
        except Refused as error:
            self._reading_head = False
            self._catch_up()
            await self._refuse(error.response)
            await self._linger()
            return None

    # The head

    async def _head(self) -> bytes | None:
        """Read a whole head. Return None if the peer closed."""
        if self._h11.our_state is not h11.IDLE:
            self._next_cycle()
        self._bodiless = False
        self._sender = self._transport.peer
        self._reading_head = True
        buffer = self._buffer
        idle = limited = False
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
                if limited:
                    self._scope.deadline = float("inf")
                return head
            # A new client often sends its request before we look.
            data = None if self._answered or scanned else self._transport.recv_now(_RECV_BYTES)
            if data is None:
                if not limited or (idle and buffer):
                    # The wait for the first byte, and that for the whole head, have a limit each.
                    limited, idle = True, not buffer
                    self._rearm(self._idle_seconds if idle and self._answered else self._seconds)
                data = await self._transport.recv(_RECV_BYTES)
            if not data:
                return None
            buffer += data

    def _parse(self, head: bytes) -> tuple[str, str, list[tuple[str, str]]]:
        """Return the method, the target and the headers."""
        self._torn = False
        self._tail = b""
        if (upgrade := parse_upgrade(head)) is not None:
            self._upgrade_head = head
            self._version = b"1.1"
            self._length = 0
            self._body = b""
            return "GET", *upgrade
        try:
            self._h11.receive_data(head)
            event = self._h11.next_event()
        except h11.RemoteProtocolError as error:
            raise malformed(str(error), error.error_status_hint) from error
        if not isinstance(event, h11.Request):
            raise malformed("not a request")
        self._bodiless = event.method == b"HEAD"
        # Names are interned because an upgraded request is kept as long as its WebSocket.
        headers = [
            (sys.intern(name.decode("ascii")), value.decode("latin-1"))
            for name, value in event.headers
        ]
        self._version = event.http_version
        self._length = body_length(head, headers, self._version)
        self._body = None
        if not self._length:
            self._h11.next_event()  # the end of a message without a body
            self._body = b""
        return event.method.decode("ascii"), event.target.decode("ascii"), headers

    def _catch_up(self) -> None:
        """Let h11 see an upgrade after all: it is answered by an ordinary response."""
        if self._upgrade_head:
            self._h11.receive_data(self._upgrade_head)
            self._upgrade_head = b""
            self._h11.next_event()  # the request
            self._h11.next_event()  # its end

    def _request(self, head: bytes) -> Request:
        method, target, headers = self._parse(head)
        if target.startswith(("http://", "https://")):
            # RFC 9112 section 3.2.2: servers must accept the absolute form, and its host counts.
            authority, slash, rest = target.partition("://")[2].partition("/")
            target = slash + rest or "/"
            headers = _with_host(headers, authority)
        if not target.startswith("/") and target != "*":
            raise malformed("the target is not a path")
        secure = self._transport.secure
        if not FORWARDING.isdisjoint([name for name, _ in headers]):
            forwarded = self._server.forwarded(headers, self._transport.peer)
            self._sender = forwarded.peer
            secure = secure if forwarded.secure is None else forwarded.secure
            if forwarded.host is not None:
                headers = _with_host(headers, forwarded.host)
        check_host(next((value for name, value in headers if name == "host"), ""))
        return Request(
            method,
            target,
            headers,
            self._sender,
            connection=self._id,
            listener_loopback=self._transport.listener_loopback,
            secure=secure,
            chunked=self._version >= b"1.1",
            read=self._read_body,
            pieces=self._pieces,
            gone=self._gone,
            spend=self._spend,
        )

    def _next_cycle(self) -> None:
        if self._h11.trailing_data == (b"", False):
            self._h11.start_next_cycle()
        else:
            # The bytes behind a body are in our buffer again, and h11 must not see them twice.
            self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)

    # The answer

    async def _answer(self, request: Request) -> Response | Upgrade:
        refused = _PLAIN if self._plain else self._slot.count_for(request.peer)
        if refused is not None:
            raise Refused(await self._completed(refused, request))
        if debt := self._slot.charge(REQUEST_SECONDS):
            await trio.sleep(debt)
        misdirected = check_local_host(request, self._server.settings.http.hosts)
        if misdirected is not None:
            response = refusal(421, misdirected.message)
            self._report(response, request, misdirected)
            return await self._completed(response, request)
        try:
            upgrades = "websocket" in tokens(request.header("upgrade"))
            found = self._find(request, upgrades=upgrades)
            answer = found if isinstance(found, Response) else await found(request)
            if isinstance(answer, Upgrade) and not upgrades:
                raise TypeError(f"{request.path} upgrades a request that is not a WebSocket's")
        except Refused as error:
            self._report(error.response, request)
            answer = error.response
        except Exception as error:  # the connection's boundary
            answer = self._fault(error, request)
        return answer if isinstance(answer, Upgrade) else await self._completed(answer, request)

    def _find(self, request: Request, *, upgrades: bool) -> Handler | Response:
        """Return the handler of a request, or without one the answer."""
        found = self._routes.find(WEBSOCKET if upgrades else request.method, request.path)
        if isinstance(found, Response):
            self._report(found, request)
        elif upgrades:
            check_upgrade(request, self._version, has_body=self._length != 0)
        return found

    async def _completed(self, response: Response, request: Request) -> Response:
        """Return a response with what its path adds to all of its responses."""
        complete = self._routes.completing(request.path)
        if complete is None:
            return response
        try:
            return await complete(request, response)
        except Exception as error:  # the connection's boundary
            if response.source is not None:
                response.source.ended(INTERNAL, INTERNAL.reason)
            return self._fault(error, request)

    def _fault(self, error: Exception, request: Request) -> Response:
        self._log.fault(
            error,
            connection=self._id,
            address=self._sender.address,
            detail=f"{request.method} {request.path}",
        )
        return refusal(500, "Internal server error. Tell the operator: it is in the log.")

    async def _finish(self, answer: Response) -> bool:
        """Send the answer, and skip a small unread body. Return whether the connection stays."""
        unread = self._body is None
        close = unread and (
            not 0 <= self._length <= _SKIP_BYTES
            or self._torn
            or self._h11.they_are_waiting_for_100_continue
        )
        await self._send(answer, close=close or self._last)
        if self._h11.our_state is h11.MUST_CLOSE:
            if unread:
                await self._linger()
            return False
        if unread:
            await self._read_body(_SKIP_BYTES)
        return True

    async def _begin(self, response: Response, source: Source, request: Request) -> Streamed:
        """Send the head of a response without an end."""
        try:
            await self._send_data(self._head_of(response, close=True))
        except BaseException:
            source.ended(LOST, LOST.reason)
            raise
        return Streamed(source, self._id, self._sender.address, request.path)

    async def _refuse(self, response: Response) -> None:
        self._report(response, None)
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send(response, close=True)

    def _report(
        self,
        response: Response,
        request: Request | None,
        misdirected: OriginRefusal | None = None,
    ) -> None:
        self._server.count_refusal(response.status)
        self._log.emit(
            "refused",
            connection=self._id,
            address=self._sender.address,
            status=response.status,
            reason=response.body.decode(errors="replace").rstrip(),
            method=request.method if request is not None else None,
            path=request.path if request is not None else None,
            host=misdirected.host if misdirected is not None else None,
            setting=misdirected.setting if misdirected is not None else None,
        )

    def _head_of(self, response: Response, *, close: bool) -> bytes:
        headers = list(response.headers)
        if response.status not in (204, 304):
            headers.append(("Content-Type", response.content_type))
            if response.stream is None and response.source is None:
                headers.append(("Content-Length", str(len(response.body))))
        if close and ("Connection", "close") not in headers:
            headers.append(("Connection", "close"))
        # Without a length h11 sends the body in chunks, or ends it by closing (HTTP/1.0). Values
        # that repeat a request's header have any of its bytes, which were decoded as Latin-1.
        head = h11.Response(
            status_code=response.status,
            headers=[(name.encode(), value.encode("latin-1")) for name, value in headers],
        )
        return self._h11.send(head) or b""

    async def _send(self, response: Response, *, close: bool) -> None:
        data = self._head_of(response, close=close)
        if response.stream is not None:
            async with aclosing(response.stream) as stream:
                await self._send_pieces(data, stream)
            data = b""
        elif not self._bodiless:
            data += self._h11.send(h11.Data(data=response.body)) or b""
        data += self._h11.send(h11.EndOfMessage()) or b""
        progress = response.progress
        if progress is None:
            await self._send_data(data)
            return
        try:
            await self._send_data(data, progress)
        except BaseException:
            progress(0)
            raise

    async def _send_pieces(self, data: bytes, stream: AsyncGenerator[bytes]) -> None:
        await self._send_data(data)
        if not self._bodiless:
            async for piece in stream:
                if piece:
                    await self._send_data(self._h11.send(h11.Data(data=piece)) or b"")

    async def _send_data(self, data: bytes, progress: Callable[[int], None] | None = None) -> None:
        for at in range(0, len(data), _SEND_BYTES):
            self._rearm(self._seconds)
            piece = data[at : at + _SEND_BYTES]
            await self._transport.send_all(piece)
            if progress is not None:
                progress(len(piece))
        self._scope.deadline = float("inf")

    # The body

    async def _read_body(self, limit: int) -> bytes:
        if self._body is None:
            if self._length > limit:
                raise _too_large(limit)
            self._torn = True
            body = bytearray()
            charged = 0
            async with aclosing(self._data()) as pieces:
                async for piece in pieces:
                    body += piece
                    charged += len(piece) + _CHUNK_CHARGE
                    if len(body) > limit or charged > _CHARGE_RESERVE * limit + _RECV_BYTES:
                        raise _too_large(limit)
            self._body = bytes(body)
        return self._body

    def _pieces(self) -> AsyncGenerator[bytes]:
        # A reader that stops early leaves the body incomplete, and the connection unusable.
        self._torn = self._body is None
        return self._data()

    async def _data(self) -> AsyncGenerator[bytes]:
        """Read the rest of the body. Only the time in which this waits for the peer counts."""
        if self._body is not None:
            return
        received, waited = 0, 0.0
        if self._h11.they_are_waiting_for_100_continue:
            go_on = self._h11.send(h11.InformationalResponse(status_code=100, headers=[]))
            await self._transport.send_all(go_on or b"")
        self._feed(bytes(self._buffer))
        self._buffer.clear()
        chunks = Slice()
        count = 0
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                raise malformed(str(error), error.error_status_hint) from error
            if isinstance(event, h11.Data):
                received += len(event.data)
                count += 1
                if chunks.over():
                    await trio.lowlevel.checkpoint()
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self._end_body(event)
                self._body = b""
                self._torn = False
                return
            else:
                left = self._seconds + received // _SLOWEST_BYTES - waited
                began = trio.current_time()
                data = None
                with trio.move_on_after(max(0.0, min(left, self._seconds))):
                    data = await self._transport.recv(_RECV_BYTES)
                if data is None:
                    raise Refused(refusal(408, "The body took too long. Send it faster."))
                waited += trio.current_time() - began
                if not data:
                    raise malformed("the body ends too soon")
                await self._slot.spend(len(data) * BYTE_SECONDS + count * CHUNK_SECONDS)
                count = 0
                self._feed(data)

    def _feed(self, data: bytes) -> None:
        if data:
            self._h11.receive_data(data)
            self._tail = self._tail[-4:] + data

    def _end_body(self, event: h11.EndOfMessage) -> None:
        rest = bytes(self._h11.trailing_data[0])
        self._buffer += rest
        if self._length < 0:
            # h11 accepts a bare LF at the end of a trailer. Trailers have no use here.
            consumed = self._tail[: len(self._tail) - len(rest)]
            if list(event.headers) or not consumed.endswith(b"\r\n\r\n"):
                raise malformed("the chunked body ends wrongly")

    async def _spend(self, seconds: float) -> None:
        """Wait until the address has paid. If the client goes meanwhile, its request is dropped.

        The body must have been read.
        """
        if debt := self._slot.charge(seconds):
            with trio.move_on_after(debt):
                await self._gone()
                raise trio.BrokenResourceError("the client has gone")

    async def _gone(self) -> None:
        while len(self._buffer) < _SKIP_BYTES:
            try:
                data = await self._transport.recv(_RECV_BYTES)
            except trio.BrokenResourceError:
                return
            if not data:
                return
            self._buffer += data
        # The buffer is full. A lost peer is noticed when the answer is sent.
        await trio.sleep_forever()

    # Waiting for the peer

    def _rearm(self, seconds: float) -> None:
        self._scope.deadline = trio.current_time() + seconds

    async def _linger(self) -> None:
        self._scope.deadline = trio.current_time() + _LINGER_SECONDS
        await self._transport.linger()


def _too_large(limit: int) -> Refused:
    return Refused(refusal(413, f"The body is too large. Send at most {limit} bytes."))


def _with_host(headers: Sequence[tuple[str, str]], host: str) -> list[tuple[str, str]]:
    return [*((name, value) for name, value in headers if name != "host"), ("host", host)]
