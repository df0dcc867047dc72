"""Polling: the transport of a session without WebSocket, and the answers to its GETs and POSTs.

The engine has checked a request before it comes here.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from chatd import model
from chatd.budgets import FRAME_SECONDS, MESSAGE_SECONDS, Slice
from chatd.changed import Changed
from chatd.engineio import payloads
from chatd.engineio.block import Block
from chatd.engineio.options import Options
from chatd.engineio.packets import MESSAGE, Packet, PacketError, Revision, TooBigError
from chatd.wire.compression import compressed, preferred
from chatd.wire.request import Refused, Request, Response

if TYPE_CHECKING:
    from chatd.engineio.session import Session

__all__ = ["ERRORS", "Collector", "PollingTransport", "answer", "error", "get", "post"]

_TEXT: Final = "text/plain; charset=UTF-8"
# Keeps browsers from offering a download: Node does it too, since 2012.
_HTML: Final = "text/html"
_OCTETS: Final = "application/octet-stream"
_SCRIPT: Final = "text/javascript; charset=UTF-8"
_NO_STORE: Final = (("Cache-Control", "no-store"),)

# A larger response is compressed in a thread: zlib makes some 30 MB a second and blocks the loop.
_INLINE_BYTES: Final = 65536

# A response has more than this only if its first packet has. A reader of 200 KB/s has it in 5 s,
# and then gets the next ping.
_RESPONSE_BYTES: Final = 1 << 20

# python-engineio takes no response of more packets ("Too many packets in payload"). One of them may
# be a ping or pong.
_RESPONSE_PACKETS: Final = 16
_PIECE_PACKETS: Final = _RESPONSE_PACKETS - 1

# A packet costs us time even when it is empty, so it is charged this much on top of its data, as a
# fragment of a WebSocket message is. A POST's charges may add up to four times its allowed bytes.
_PACKET_CHARGE: Final = 128
_CHARGE_RESERVE: Final = 4

# A GET is answered once this many rounds of the scheduler have brought nothing more (a handler that
# echoes has one message every two rounds), or after this many rounds in all: each GET that this
# saves costs as much as many rounds.
_QUIET_ROUNDS: Final = 3
_COLLECT_ROUNDS: Final = 64

_CLOSE: Final = {revision: Block.control("1", revision) for revision in (3, 4)}
_NOOP: Final = {revision: Block.control("6", revision) for revision in (3, 4)}

ERRORS: Final = {
    0: "Transport unknown",
    1: "Session ID unknown",
    2: "Bad handshake method",
    3: "Bad request",
    4: "Forbidden",
    5: "Unsupported protocol version",
}
"""Node's codes and messages (engine.io 6.6, ``Server.errorMessages``)."""


class Collector:
    """Answers waiting GETs, each once nothing more is offered to its session.

    It counts the rounds of the scheduler in one task for all sessions of an engine: in the GET's
    own task each round would resume the whole stack of its connection.
    """

    def __init__(self) -> None:
        self._transports: dict[PollingTransport, None] = {}
        self._added = Changed()

    def add(self, transport: PollingTransport) -> None:
        """Answer the GET that waits for this transport's queue."""
        self._transports[transport] = None
        self._added.notify()

    async def run(self) -> None:
        """Answer GETs until cancelled."""
        while True:
            while not self._transports:
                await self._added.wait()
            await trio.lowlevel.checkpoint()
            for transport in list(self._transports):
                if transport.collected():
                    del self._transports[transport]


class PollingTransport:
    """A session's queue for its GETs, and the GET that waits for it.

    It does not refer to the session: otherwise only the garbage collector would free the two.

    Args:
        query: The query of the session's handshake.
        revision: The session's revision.
        changed: The session's; notified when the queue changes.
        collector: The engine's.

    Attributes:
        base64: Whether a client of revision 3 takes text only, as its handshake says.
        getting: Whether a GET is being answered; a second one breaks the protocol.
        posting: Whether a POST is being read; a second one breaks the protocol.
        taken: Grows whenever the client takes something.
        waiting: How many bytes are queued.
    """

    __slots__ = (
        "_changed",
        "_collecting",
        "_collector",
        "_heartbeat",
        "_last",
        "_parked",
        "_queue",
        "_quiet",
        "_revision",
        "_rounds",
        "_seen",
        "base64",
        "getting",
        "posting",
        "received_bytes",
        "sent_bytes",
        "sent_messages",
        "taken",
        "waiting",
    )

    def __init__(
        self,
        query: Mapping[str, str],
        revision: Revision,
        changed: Changed,
        collector: Collector,
    ) -> None:
        self.base64: Final = bool(query.get("b64")) or "j" in query
        self.getting = False
        self.posting = False
        self.waiting = 0
        self.received_bytes = 0
        self.sent_bytes = 0
        self.sent_messages = 0
        self.taken = 0
        self._revision = revision
        self._changed = changed
        self._collector = collector
        self._queue: list[Block] = []
        # A ping or pong, which overtakes the queue.
        self._heartbeat: Block | None = None
        self._parked: trio.CancelScope | None = None
        # Whether the collector counts rounds for the waiting GET, and how many there were.
        self._collecting = False
        self._rounds = self._quiet = self._seen = 0
        # The answer to the last GET.
        self._last = _CLOSE[revision]

    def offer(self, block: Block, messages: int) -> None:
        """Queue a block. The waiting GET is answered once nothing more is offered."""
        self.sent_messages += messages
        self.waiting += block.size
        self._queue += block.pieces(_PIECE_PACKETS)
        if self._parked is not None and not self._collecting:
            self._collect()

    def hasten(self, block: Block) -> None:
        """Send a ping or pong in front of all messages, unless one waits there already."""
        if self._heartbeat is None:
            self._heartbeat = block
            if self._parked is not None and not self._collecting:
                self._collect()

    @property
    def parked(self) -> bool:
        """Whether a GET is waiting."""
        return self._parked is not None

    @property
    def under_way(self) -> int:
        """How many bytes the first block in the queue has."""
        return self._queue[0].size if self._queue else 0

    def take_queue(self, max_bytes: float = math.inf, max_packets: float = math.inf) -> list[Block]:
        """Remove and return blocks of so much in all, and at least one if there is one."""
        blocks: list[Block] = []
        if self._heartbeat is not None:
            blocks.append(self._heartbeat)
            self._heartbeat = None
        packets = len(blocks)
        count = size = 0
        for block in self._queue:
            packets += len(block)
            if count and (size + block.size > max_bytes or packets > max_packets):
                break
            size += block.size
            count += 1
        blocks += self._queue[:count]
        del self._queue[:count]
        self.waiting -= size
        self._changed.notify()
        return blocks

    def drop_queue(self, *, noop: bool = False) -> None:
        """Empty the queue. With ``noop``, the last GET is answered with NOOP in place of CLOSE."""
        self.take_queue()
        if noop:
            self._last = _NOOP[self._revision]

    def wake(self) -> None:
        """Answer the waiting GET with what there is now."""
        if self._parked is not None:
            self._parked.cancel()

    async def poll(
        self, session: Session, gone: Callable[[], Awaitable[None]]
    ) -> list[Block] | None:
        """Wait for blocks, and return them as the answer to a GET.

        Args:
            session: The session.
            gone: Returns when the client has closed the connection of this GET, which ends the
                session.

        Returns:
            At least one block; None if the transport is a WebSocket by then.
        """
        self.getting = True
        try:
            if session.state == "polling":
                # Waiting for the client to close the connection is cancelled when there is an
                # answer. So a waiting GET needs neither a second task nor an event.
                try:
                    with trio.CancelScope() as self._parked:
                        if self._queue or self._heartbeat is not None:
                            self._collect()
                        await gone()
                        session.end("transport error")
                finally:
                    self._parked = None
                await session.yield_to_io()
        finally:
            self.getting = False
        if session.state == "websocket":
            return None
        blocks = self._take(session)
        for block in blocks:
            self.sent_bytes += block.size
        self.taken += 1
        return blocks

    def _collect(self) -> None:
        self._collecting = True
        self._rounds = self._quiet = 0
        self._seen = len(self._queue)
        self._collector.add(self)

    def collected(self) -> bool:
        """Answer the waiting GET if nothing more is being offered. Called once each round.

        Returns:
            Whether it is answered, or none waits.
        """
        self._rounds += 1
        self._quiet = self._quiet + 1 if len(self._queue) == self._seen else 0
        self._seen = len(self._queue)
        if self._parked is not None:
            if self._quiet < _QUIET_ROUNDS and self._rounds < _COLLECT_ROUNDS:
                return False
            self._parked.cancel()
        self._collecting = False
        return True

    def _take(self, session: Session) -> list[Block]:
        if session.state == "over":
            return [self._last]
        if self._queue or self._heartbeat is not None:
            return self.take_queue(_RESPONSE_BYTES, _RESPONSE_PACKETS)
        if session.state == "leaving":
            # Not in one payload with the queue: socket.io-client 4 acts on CLOSE at once and on
            # packets before it a moment later, when it takes the connection for lost.
            session.finish()
            return [self._last]
        return [_NOOP[self._revision]]

    async def take_packets(
        self,
        session: Session,
        packets: Iterator[Packet],
        size: int,
        request: Request,
        max_payload: int,
    ) -> None:
        """Handle the packets of a POST in order. Raises PacketError at the first invalid one."""
        self.received_bytes += size
        piece = Slice()
        left = _CHARGE_RESERVE * max_payload
        seconds = 0.0
        for packet in packets:
            if session.reason is not None:
                return
            left -= _PACKET_CHARGE + len(packet.data)
            if left < 0:
                raise PacketError("too many packets")
            seconds += MESSAGE_SECONDS if packet.type == MESSAGE else FRAME_SECONDS
            if (pending := session.packet(packet)) is not None:
                await pending
            if piece.over(len(packet.data)):
                await trio.lowlevel.checkpoint()
                await request.spend(seconds)
                seconds = 0.0


def error(code: int, message: str | None = None) -> Response:
    """Return Node's error response for a code; code 4 may have a message of its own."""
    text = ERRORS[code] if message is None else message
    body = msgspec.json.encode({"code": code, "message": text})
    return Response(403 if code == 4 else 400, body, "application/json")


async def get(request: Request, session: Session, options: Options) -> Response:
    """Answer a GET as soon as there is something to send."""
    if session.polling.getting:
        session.end("transport error")
        return error(3)
    blocks = await session.polling.poll(session, request.gone)
    if blocks is None:
        return error(3)
    base64 = session.polling.base64
    response = await answer(request, blocks, session.revision, options, base64=base64)
    return msgspec.structs.replace(response, progress=partial(_progress, session))


def _progress(session: Session, count: int) -> None:
    """Note that bytes of a response were sent; 0: it broke off, and its messages are lost."""
    if count:
        session.polling.taken += count
    else:
        session.end("transport error")


async def answer(
    request: Request,
    blocks: Sequence[Block],
    revision: Revision,
    options: Options,
    *,
    base64: bool,
) -> Response:
    """Return a response with the payload of these blocks, in the form that the request asks for."""
    index = request.query.get("j") if options.jsonp else None
    payload, octets = payloads.encode(blocks, revision, base64=base64 or index is not None)
    if index is not None:
        response = Response(200, payloads.encode_jsonp(payload, index), _SCRIPT, _NO_STORE)
    else:
        response = Response(200, payload, _OCTETS if octets else _TEXT, _NO_STORE)
    threshold = options.compression_threshold
    if threshold is None or len(response.body) < threshold:
        return response
    accepted = request.header("accept-encoding")
    if len(response.body) <= _INLINE_BYTES or preferred(accepted) is None:
        return compressed(response, accepted, threshold)
    return await trio.to_thread.run_sync(compressed, response, accepted, threshold)


async def post(request: Request, session: Session, options: Options) -> Response:
    """Handle the packets of a POST. The response waits until the receiver has handled them."""
    polling = session.polling
    octets = (request.header("content-type") or "").startswith(_OCTETS)
    if polling.posting or (octets and session.revision == 4):
        session.end("transport error")
        return error(3)
    polling.posting = True
    try:
        body = await request.body(options.max_payload)
        if octets:
            packets = payloads.decode_octets(body, options.max_message)
        else:
            if options.jsonp and "j" in request.query:
                body = await _decode_form(body)
            packets = payloads.decode(body, session.revision, options.max_message)
        size, body = len(body), b""  # 1 MB for each of many clients
        await polling.take_packets(session, packets, size, request, options.max_payload)
    except TooBigError:
        session.end("transport error", model.TOO_BIG)
        return error(3)
    except PacketError:
        session.end("parse error")
        return error(3)
    except Refused as refused:
        # A body that is too large is refused, and the session continues. Everything else means that
        # the client broke off or sent malformed HTTP.
        if refused.response.status != 413:
            session.end("transport error")
        return refused.response
    except trio.BrokenResourceError:
        session.end("transport error")
        raise
    finally:
        polling.posting = False
    if session.reason == "transport close":
        # Once this is answered the session is unknown, but a GET sent before may still arrive.
        await session.wait_over()
    return Response(200, b"ok", _HTML, _NO_STORE)


async def _decode_form(body: bytes) -> bytes:
    pieces: list[bytes] = []
    for piece in payloads.decode_jsonp(body):
        pieces.append(piece)
        await trio.lowlevel.checkpoint()
    return b"".join(pieces)
