"""One WebSocket: trio-websocket on a stream of ours, from the 101 to the last word.

trio-websocket owns the handshake's answer, pongs and the closing handshake. The stream beneath it
owns the data frames, which go straight to the gateway's receiver, and every fault. One event ends
it all: ``WebSocket.end`` sets it, and the connection's own task, which waits on nothing else, does
what follows under one deadline.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, Protocol, TypeAlias

import trio
from msgspec import Struct
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from chatd.logs import Log
from chatd.model import CLOSES, GOING_AWAY, INTERNAL, LOST, TOO_SLOW, Close
from chatd.settings import Settings
from chatd.wire import frames
from chatd.wire.frames import Control, Fault, FrameReader, Item
from chatd.wire.outbox import Outbox
from chatd.wire.request import Request
from chatd.wire.transport import Transport

__all__ = ["Handover", "Opener", "Receiver", "Upgrade", "WebSocket"]

# One system call for each message is what a chat needs, and this much for a burst of them.
_RECV_BYTES: Final = 8192
_PING: Final = frames.ping()


class Receiver(Protocol):
    """What a gateway gives for a connection: who gets its messages."""

    async def received(self, message: str | bytes) -> None:
        """Take one message, in the reader's task: nothing more is read until this returns."""

    def farewell(self, close: Close, reason: str) -> bytes:
        """Give whole frames to say before the Close frame; ``b""`` for none."""
        raise NotImplementedError

    def ended(self, close: Close, reason: str) -> None:
        """Hear that the connection is gone: once, last, when the outbox is dead."""


Opener: TypeAlias = Callable[["WebSocket"], Awaitable[Receiver]]
"""Called when the 101 is sent. Nothing is read from the peer until it returns."""


class Upgrade(Struct, frozen=True):
    """The answer to a WebSocket request that is welcome.

    ``subprotocol`` is one of those that the client offered. ``open`` is called when the handshake
    is through; what it returns gets the messages. ``max_message_bytes`` and ``send_queue_bytes``
    are the settings' where they are None. ``heartbeat`` False: the protocol above has its own.
    """

    subprotocol: str | None
    open: Opener
    max_message_bytes: int | None = None
    send_queue_bytes: int | None = None
    heartbeat: bool = True


class Handover(Struct, frozen=True):
    """A WebSocket request whose route said yes, and the bytes that came behind its head."""

    request: Request
    upgrade: Upgrade
    early: bytes


class WebSocket:
    """One connection, as its gateway and the server see it.

    ``received_bytes`` counts what came from the wire, ``last_heard`` and ``opened`` are on Trio's
    clock. ``closing`` is None until ``end`` was called, then the Close and the reason.
    """

    __slots__ = (
        "_ending",
        "_log",
        "_open",
        "_queue_bytes",
        "_receiver",
        "_settings",
        "_stream",
        "_subprotocol",
        "_transport",
        "closing",
        "id",
        "last_heard",
        "nursery",
        "opened",
        "outbox",
        "received_bytes",
        "received_messages",
        "request",
    )

    nursery: trio.Nursery
    outbox: Outbox

    def __init__(
        self,
        connection: str,
        transport: Transport,
        handover: Handover,
        *,
        settings: Settings,
        log: Log,
    ) -> None:
        self.id = connection
        self.request = handover.request
        self.opened = self.last_heard = trio.current_time()
        self.received_messages = 0
        self.received_bytes = 0
        self.closing: tuple[Close, str] | None = None
        self._subprotocol = handover.upgrade.subprotocol
        self._open = handover.upgrade.open
        self._transport = transport
        self._settings = settings
        self._log = log
        self._ending = trio.Event()
        self._receiver: Receiver | None = None
        self._queue_bytes = handover.upgrade.send_queue_bytes or settings.limits.send_queue_bytes
        self._stream = _FrameStream(
            self,
            transport,
            handover,
            handover.upgrade.max_message_bytes or settings.max_message_bytes,
        )

    def end(self, close: Close, reason: str | None = None) -> None:
        """End the connection with this close; the first one wins. Returns at once."""
        if self.closing is None:
            self.closing = (close, close.reason if reason is None else reason)
            self._ending.set()

    def start_soon(self, job: Callable[[], Awaitable[None]]) -> None:
        """Run a task of the gateway's for as long as the connection lasts.

        Its exceptions are the gateway's: noted, and the connection ends with 1011.
        """
        self.nursery.start_soon(self._guarded, job)

    async def run(self) -> None:
        """Live the connection's whole life; its transport is closed when this returns."""
        try:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                self.outbox = Outbox(
                    self._transport,
                    nursery,
                    self._queue_bytes,
                    overflowed=self._overflowed,
                    lost=self._lost,
                )
                try:
                    await self._live(nursery)
                finally:
                    # Before the nursery closes: see the outbox's first MUST.
                    self.outbox.end()
                    nursery.cancel_scope.cancel()
        except* Exception as group:  # the connection's boundary
            self.fault(group)
        finally:
            try:
                await self._transport.aclose()
            finally:
                self._ended()

    @property
    def peer_closed(self) -> bool:
        """Tell whether it was the peer who closed first."""
        return self._stream.peer_closed

    @property
    def busy(self) -> bool:
        """Whether nothing is being read, because the receiver has not taken the last message."""
        return self._stream.busy

    def ping(self) -> None:
        """Send a ping."""
        self.outbox.offer(_PING, 0)

    # The stream's side

    def fault(self, error: BaseException) -> None:
        """Note an exception of the gateway's and end the connection."""
        self._log.emit(
            "fault",
            connection=self.id,
            address=self.request.peer.address,
            transport="websocket",
            detail=self.request.path,
            error=repr(error),
            traceback="".join(traceback.format_exception(error)),
        )
        self.end(INTERNAL)

    def farewell(self) -> None:
        """Say the receiver's last words, once; from here on the outbox refuses offers."""
        words = b""
        if self._receiver is not None and self.closing is not None:
            try:
                words = self._receiver.farewell(*self.closing)
            except Exception as error:  # the connection's boundary
                self.fault(error)
        self.outbox.last_words(words)

    def _overflowed(self) -> None:
        self.end(TOO_SLOW)

    def _lost(self) -> None:
        self.end(LOST)

    # The connection's own task

    async def _live(self, nursery: trio.Nursery) -> None:
        connection: WebSocketConnection | None = None
        with trio.move_on_after(self._settings.limits.handshake_seconds):
            try:
                proposal = await wrap_server_stream(nursery, self._stream)
                connection = await proposal.accept(subprotocol=self._subprotocol)
            except ConnectionClosed:
                return
        if connection is None:
            return
        self.opened = self.last_heard = trio.current_time()
        try:
            self._receiver = await self._open(self)
        except Exception as error:  # the connection's boundary
            self.fault(error)
        self._stream.begin(self._receiver)
        await self._ending.wait()
        with trio.move_on_after(self._settings.limits.close_seconds):
            await self._close(connection)

    async def _close(self, connection: WebSocketConnection) -> None:
        if self.closing is None or self.closing[0] is LOST:
            return
        close, reason = self.closing
        if self._stream.peer_closed:
            # trio-websocket is answering it in the reader's task.
            await self._stream.finished.wait()
        else:
            if not self._stream.answering:
                self.farewell()
            await connection.aclose(close.code, reason)
            await self._stream.finished.wait()

    async def _guarded(self, job: Callable[[], Awaitable[None]]) -> None:
        try:
            await job()
        except Exception as error:  # the connection's boundary
            self.fault(error)

    def _ended(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return
        # Cancelled from outside, nobody said why: then it is the daemon that ends.
        close, reason = self.closing or (GOING_AWAY, GOING_AWAY.reason)
        try:
            receiver.ended(close, reason)
        except Exception as error:  # the connection's boundary
            self.fault(error)


class _FrameStream(trio.abc.Stream):
    """What trio-websocket reads and writes: the replayed request, then control frames alone.

    Reading runs in trio-websocket's reader task, and so does the receiver. Nothing here awaits
    anything of trio-websocket's: that task would wait for itself.
    """

    def __init__(
        self, websocket: WebSocket, transport: Transport, handover: Handover, max_bytes: int
    ) -> None:
        self._websocket = websocket
        self._transport = transport
        self._head = _replayed(handover)
        self._reader = FrameReader(max_bytes)
        self._items: Iterator[Item] = iter(())
        self._early = handover.early
        self._begun = trio.Event()
        self._deliver: Callable[[str | bytes], Awaitable[None]] | None = None
        self._failed = False
        # Whether it is not the peer whom we wait for.
        self.busy = True
        # Whether the peer closed first; and whether its Close frame was handed on.
        self.peer_closed = False
        self.answering = False
        # Set when trio-websocket is through with the stream.
        self.finished = trio.Event()

    def begin(self, receiver: Receiver | None) -> None:
        """Open the gate: from now on frames are read and messages go to ``receiver``."""
        if receiver is not None:
            self._deliver = receiver.received
        self.busy = False
        self._begun.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            await trio.lowlevel.checkpoint()
            return head
        if not self._begun.is_set():
            await self._begun.wait()
            self._items = iter(self._reader.feed(self._early))
            self._early = b""
        websocket = self._websocket
        while True:
            for item in self._items:
                if type(item) is str or type(item) is bytes:
                    if websocket.closing is None and self._deliver is not None:
                        websocket.received_messages += 1
                        self.busy = True
                        try:
                            await self._deliver(item)
                        except Exception as error:  # the connection's boundary
                            websocket.fault(error)
                        self.busy = False
                elif isinstance(item, Control):
                    if self._hands_on(item):
                        return item.frame
                elif isinstance(item, Fault):
                    self._failed = True
                    websocket.end(item.close, item.reason)
            try:
                data = await self._transport.recv(_RECV_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                websocket.end(LOST)
                self.finished.set()
                return b""
            websocket.received_bytes += len(data)
            websocket.last_heard = trio.current_time()
            self._items = iter(self._reader.feed(data))

    def _hands_on(self, control: Control) -> bool:
        """Tell whether trio-websocket is to see this control frame."""
        websocket = self._websocket
        if control.opcode == frames.CLOSE:
            if websocket.closing is None:
                self.peer_closed = True
                # Nothing may follow the Close frame that trio-websocket is about to answer with.
                websocket.outbox.last_words(b"")
                close = CLOSES.get(control.code) or Close(
                    control.code, "other", "a code of the client's own", reconnect=True
                )
                websocket.end(close, control.reason or "the client closed")
            elif not self.answering:
                # Ours is not out yet, and nothing may follow the answer to theirs.
                websocket.farewell()
            self.answering = True
            return True
        # Pongs told that the peer lives, by coming. And once it is closing, trio-websocket may not
        # be given a ping: it would try to answer, and wsproto raises.
        return control.opcode == frames.PING and websocket.closing is None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._websocket.outbox.send_all(bytes(data))
        if self._failed:
            # The Close frame is out and the peer's cannot be read any more: RFC 6455 section 7.1.7.
            # Ending our side makes the peer end its own, and lets this frame arrive first.
            await self._transport.send_eof()

    async def wait_send_all_might_not_block(self) -> None:
        await self._websocket.outbox.drained()

    async def aclose(self) -> None:
        # The connection's own task closes the transport, when all is said.
        self.finished.set()
        await trio.lowlevel.checkpoint()


def _replayed(handover: Handover) -> bytes:
    """Write the request once more, with what wsproto asks for alone: the rest was checked."""
    lines = [
        "GET / HTTP/1.1",
        "Host: chatd",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {handover.request.header('sec-websocket-key')}",
    ]
    if handover.upgrade.subprotocol is not None:
        lines.append(f"Sec-WebSocket-Protocol: {handover.upgrade.subprotocol}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")
