"""A session: one client, from its handshake to its end, on whichever transport it is.

Theory of operation. A session stands in one of these states; ``waits`` is what was offered and is
not on its way yet.

| state | a GET | what is offered | left for |
| --- | --- | --- | --- |
| POLLING | gets what waits, or waits | waits for a GET, or wakes it | PROBING: ``2probe`` |
| PROBING | gets what waits, or ``6``, at once | waits | WEBSOCKET: ``5``; POLLING: it failed |
| WEBSOCKET | is refused | goes to the outbox | |
| LEAVING | gets what waits; the next, ``1`` | is dropped | OVER: told, closed, or its time was up |
| OVER | is unknown | is dropped | |

``end`` leaves the first three, and its first reason stands: for LEAVING where the client is sent
away and may be told so, by a GET or by the WebSocket's closing; for OVER where it broke the rules
or is gone. Who says ``1`` by POST is LEAVING for a moment: its GET may have been sent before, and
gets ``6``.

What MUST hold:

1. ``offer`` never blocks, never awaits, never raises, and calls nobody of the application's.
2. What goes out goes in the order in which it was offered, once, across an
   upgrade too: polling is the one transport until ``5``, and the WebSocket from there on.
3. The receiver hears of the end once, last, and from a task of the engine's.
4. What waits is bounded in bytes: an offer that would pass the bound ends the session.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

import trio

from chatd import model
from chatd.engineio.block import Block
from chatd.engineio.close_reasons import CLOSES, GRACEFUL, Reason, SessionClosed
from chatd.engineio.handshake import Handshake
from chatd.engineio.heartbeat import Heartbeat
from chatd.engineio.inbox import MessageInbox
from chatd.engineio.packets import CLOSE, MESSAGE, PING, PONG, Packet, Revision
from chatd.model import Close
from chatd.timers import STALL_SECONDS, Timer
from chatd.wire import frames
from chatd.wire.websocket import WebSocket

if TYPE_CHECKING:
    from chatd.engineio.engine import Engine

__all__ = ["Receiver", "Session", "State"]

State: TypeAlias = Literal["polling", "probing", "websocket", "leaving", "over"]

# Between so many packets of one POST the loop may do other things.
_BATCH: Final = 64

# A GET's answer is put off while each so many rounds of the scheduler bring more (a handler that
# echoes has one message in two rounds), and by so many in all.
_QUIET_ROUNDS: Final = 3
_COLLECT_ROUNDS: Final = 64

# RFC 6455 section 5.2: a frame's head without a mask, and the packet's type.
_FRAME_BYTES: Final = 11

# What a POST may overtake a GET by that its client sent first: on connections of their own, and
# with a scheduler that shuffles.
_OVERTAKEN_SECONDS: Final = 0.05

_PING: Final = Block.control("2", 4)
_PONG: Final = Block.control("3", 3)
_CLOSES: Final = {revision: Block.control("1", revision) for revision in (3, 4)}
_NOOPS: Final = {revision: Block.control("6", revision) for revision in (3, 4)}


class Receiver(Protocol):
    """What is above a session: who gets its messages."""

    async def received(self, message: str | bytes) -> None:
        """Take one message, in the reader's task: nothing more is read until this returns.

        Nor is a POST answered, and the client's silence is not counted meanwhile.
        """

    def ended(self, reason: Reason) -> None:
        """Hear that the session is over: once, last."""


class Session:
    """One client.

    ``id`` is secret: who knows it is the client. ``reason`` is None until the session ends.
    ``opened`` is on Trio's clock. ``receiver`` gets the messages.
    A bus's outlet: ``offer`` and ``offer_droppable`` take blocks of the session's ``revision``.
    """

    __slots__ = (
        "_busy",
        "_engine",
        "_finished",
        "_heartbeat",
        "_last",
        "_messages_out",
        "_parked",
        "_polled_in",
        "_polled_out",
        "_probe",
        "_progress",
        "_queue",
        "_queued",
        "_websocket",
        "_wire_offer",
        "getting",
        "handshake",
        "id",
        "opened",
        "posting",
        "reason",
        "received_messages",
        "receiver",
        "revision",
        "state",
        "timer",
    )

    receiver: Receiver

    def __init__(self, id_: str, revision: Revision, handshake: Handshake, engine: Engine) -> None:
        self.id: Final = id_
        self.revision: Final = revision
        self.handshake: Final = handshake
        self.opened: Final = trio.current_time()
        self.reason: Reason | None = None
        self.state: State = "polling"
        # Whether a GET waits, or a POST is being read: a second one is against the rules.
        self.getting = False
        self.posting = False
        self.received_messages = 0
        self._engine = engine
        self._queue: list[Block] = []
        self._queued = 0
        # The GET that waits; and what the last one gets.
        self._parked: trio.CancelScope | None = None
        self._last = _CLOSES[revision]
        # The WebSocket that would like to be the transport; and the one that is.
        self._probe: WebSocket | None = None
        self._websocket: WebSocket | None = None
        self._wire_offer: Callable[[bytes, int], None] | None = None
        self._progress: trio.Event | None = None
        self._finished: trio.Event | None = None
        # Messages that the receiver has not taken yet: the client's silence is then our own.
        self._busy = 0
        self._heartbeat = Heartbeat(revision, engine.options, self.opened)
        self.timer: Timer | None = None
        self._polled_in = 0
        self._polled_out = 0
        self._messages_out = 0

    def __repr__(self) -> str:
        # Without the id: logs are read by others than the client.
        return f"<Session of {self.handshake.address}, {self.transport}, {self.state}>"

    # Sending

    def offer(self, block: Block, messages: int = 1) -> None:
        """Take a block of this revision; ``messages`` is how many it carries, for the counters.

        Never blocks, never raises. At the bound of what may wait the session ends, "too slow".
        """
        offer = self._wire_offer
        if offer is not None:
            offer(block.frames, messages)
        elif self.reason is None:
            if self._queued and self._queued + block.size > self._engine.options.send_queue_bytes:
                self.end("too slow")
                return
            self._messages_out += messages
            self._queued += block.size
            self._queue.append(block)
            if self._parked is not None:
                self._parked.cancel()

    def offer_droppable(self, block: Block, messages: int = 1) -> None:
        """Do as ``offer`` does, but leave it out while more than half the bound waits."""
        if self.waiting * 2 <= self._engine.options.send_queue_bytes:
            self.offer(block, messages)

    def send_nowait(self, message: str | bytes) -> None:
        """Send one message behind what waits. Raises SessionClosed."""
        if self.reason is not None:
            raise SessionClosed(self.reason)
        offer = self._wire_offer
        if offer is None:
            self.offer(Block((message,), self.revision))
        elif isinstance(message, str):
            offer(frames.text(b"4" + message.encode()), 1)
        else:
            offer(frames.binary(b"\x04" + message if self.revision == 3 else message), 1)

    async def send(self, message: str | bytes) -> None:
        """Send one message, when what waits leaves room for it. Raises SessionClosed."""
        size = len(message.encode()) if isinstance(message, str) else len(message)
        await self._room(size + _FRAME_BYTES)
        self.send_nowait(message)

    async def _room(self, size: int) -> None:
        await trio.lowlevel.checkpoint()
        bound = self._engine.options.send_queue_bytes
        while self.reason is None and self.waiting and self.waiting + size > bound:
            if self._websocket is not None:
                await self._websocket.outbox.room(size)
            else:
                await self._wait_progress()

    async def drained(self) -> None:
        """Return when nothing waits, or when the session is over."""
        await trio.lowlevel.checkpoint()
        while self.waiting:
            if self._websocket is not None:
                await self._websocket.outbox.drained()
            else:
                await self._wait_progress()

    # Receiving, for who asked for no receiver of its own

    def __aiter__(self) -> Session:
        return self

    async def __anext__(self) -> str | bytes:
        """Wait for a message; the iteration ends with the session."""
        if not isinstance(self.receiver, MessageInbox):
            raise TypeError("this session's messages go to a receiver")
        return await self.receiver.next()

    # Its end

    def end(
        self,
        reason: Reason = "forced close",
        close: Close | None = None,
        words: str | None = None,
    ) -> None:
        """End the session; the first reason stands. Returns at once, and never raises.

        ``close`` is what a WebSocket is closed with, where it is to be another than the reason's;
        ``words`` are those of its Close frame, else the close's own.
        """
        if self.reason is not None:
            return
        self.reason = reason
        self._wire_offer = None
        websocket = self._websocket
        if websocket is not None:
            websocket.end(close or CLOSES[reason], words if close else reason)
        seconds = self._engine.options.close_timeout
        if reason == "transport close" and websocket is None:
            # Who said goodbye needs no goodbye, nor what waits.
            self._last = _NOOPS[self.revision]
            self._queue = []
            self._queued = 0
            seconds = _OVERTAKEN_SECONDS
        elif reason not in GRACEFUL:
            self.finish()
            return
        self.state = "leaving"
        if self._parked is not None:
            self._parked.cancel()
        if websocket is None:
            self._engine.time(self, trio.current_time() + seconds, self._expire)
        self._notify()

    async def aclose(self) -> None:
        """End the session ("forced close"), and wait until it is over."""
        self.end()
        await self.wait_over()

    async def wait_over(self) -> None:
        """Return when the session is over."""
        await trio.lowlevel.checkpoint()
        if self.state != "over":
            if self._finished is None:
                self._finished = trio.Event()
            await self._finished.wait()

    def finish(self) -> None:
        """Be over now, whatever waits; ``end`` was called before."""
        if self.state == "over":
            return
        self.state = "over"
        self._queue = []
        self._queued = 0
        if self._probe is not None:
            self._probe.end(model.NORMAL)
        if self._parked is not None:
            self._parked.cancel()
        if self._finished is not None:
            self._finished.set()
        self._notify()
        self._engine.forget(self)

    def _expire(self, _now: float) -> None:
        self.finish()

    # What it counts

    @property
    def transport(self) -> Literal["polling", "websocket"]:
        return "polling" if self._websocket is None else "websocket"

    @property
    def waiting(self) -> int:
        """Tell how many bytes were offered and are not on their way."""
        return self._queued if self._websocket is None else self._websocket.outbox.waiting

    @property
    def received_bytes(self) -> int:
        """Count the bytes of payloads and frames that came."""
        websocket = self._websocket
        return self._polled_in + (0 if websocket is None else websocket.received_bytes)

    @property
    def sent_bytes(self) -> int:
        """Count the bytes of payloads and frames that went."""
        websocket = self._websocket
        return self._polled_out + (0 if websocket is None else websocket.outbox.sent_bytes)

    @property
    def sent_messages(self) -> int:
        """Count the messages that were taken to be sent."""
        websocket = self._websocket
        return self._messages_out + (0 if websocket is None else websocket.outbox.sent_messages)

    def _notify(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None

    async def _wait_progress(self) -> None:
        if self._progress is None:
            self._progress = trio.Event()
        await self._progress.wait()

    # Polling's side

    @property
    def base64(self) -> bool:
        """Tell whether the client of revision 3 wants text alone: it says so at its handshake."""
        query = self.handshake.query
        return "b64" in query or "j" in query

    async def yield_to_io(self) -> None:
        """Let a ``5`` arrive that was sent before a GET, on another connection.

        What the kernel has is read within one round of the scheduler, and acted on in the next.
        """
        if self._probe is not None:
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()

    async def poll(self, gone: Callable[[], Awaitable[None]]) -> list[Block] | None:
        """Give what a GET is answered with, when there is something.

        None where the transport is a WebSocket by then. ``gone`` returns when its client has gone
        away, which ends the session.
        """
        self.getting = True
        try:
            if self.state == "polling" and not self._queue:
                # The wait is that for the client's going: what is offered cancels it. So the wait
                # of a poll needs neither a second task nor an event.
                try:
                    with trio.CancelScope() as self._parked:
                        await gone()
                        self.end("transport error")
                finally:
                    self._parked = None
                await self.yield_to_io()
            await self._collect()
        finally:
            self.getting = False
        if self.state == "websocket":
            return None
        blocks = self._take()
        self._polled_out += sum(block.size for block in blocks)
        return blocks

    async def _collect(self) -> None:
        """Let who is saying more say it: every GET that this spares is worth many rounds."""
        seen = quiet = 0
        for _ in range(_COLLECT_ROUNDS):
            if self.state != "polling" or quiet == _QUIET_ROUNDS:
                return
            quiet = quiet + 1 if len(self._queue) == seen else 0
            seen = len(self._queue)
            await trio.lowlevel.checkpoint()

    def _take(self) -> list[Block]:
        if self.state == "over":
            return [self._last]
        if self._queue:
            blocks, self._queue = self._queue, []
            self._queued = 0
            self._notify()
            return blocks
        if self.state == "leaving":
            # Not in one payload with what waited: socket.io-client 4 acts on ``1`` at once, and on
            # packets before it a moment later, when it takes the connection for lost.
            self.finish()
            return [self._last]
        return [_NOOPS[self.revision]]

    async def post(self, packets: Iterator[Packet], size: int) -> None:
        """Take a payload's packets, in order. Raises PacketError at the first that is none."""
        self._polled_in += size
        for count, packet in enumerate(packets, 1):
            if self.reason is not None:
                return
            await self.packet(packet)
            if not count % _BATCH:
                await trio.lowlevel.checkpoint()

    # What comes, on any transport

    async def packet(self, packet: Packet) -> None:
        """Take one packet; returns when its message was taken by the receiver."""
        if packet.type == MESSAGE:
            await self.deliver(packet.data)
        elif packet.type == CLOSE:
            self.end("transport close")
        elif packet.type in (PING, PONG):
            self._take_heartbeat(packet.type)

    async def deliver(self, message: str | bytes) -> None:
        """Hand a message to the receiver."""
        if self._heartbeat.extendable:
            self._heartbeat.heard_message(trio.current_time())
        self.received_messages += 1
        self._busy += 1
        try:
            await self.receiver.received(message)
        except Exception:
            # A message is lost that the client has for delivered. Noted at the boundary above.
            self.end("transport error", model.INTERNAL)
            raise
        finally:
            self._busy -= 1

    def _take_heartbeat(self, kind: int) -> None:
        if not self._heartbeat.heard(kind, trio.current_time()):
            self.end("transport error")
        elif kind == PING and not (self._queue and self._queue[-1] is _PONG):
            self.offer(_PONG, 0)

    # The heartbeat

    def fire(self, now: float) -> float | None:
        """Ping who is due for it, end who is silent; tell when to look again."""
        if self.reason is not None:
            return None
        verdict, due = self._heartbeat.look(now, reading=not self._busy)
        if verdict == "silent":
            self.end("ping timeout")
            return None
        if verdict == "ping" and not (self._queue and self._queue[-1] is _PING):
            self.offer(_PING, 0)
        return due

    def alive(self, now: float) -> bool:
        """Tell whether there is a session for a request that came now.

        A silence that ends with this very request was one all the same; but where the loop stood
        still, the heartbeats find out who spoke meanwhile.
        """
        if 0 <= now - self._heartbeat.deadline < STALL_SECONDS and not self._busy:
            self.end("ping timeout")
        return self.state != "over"

    # The WebSocket's side

    @property
    def upgrading(self) -> bool:
        """Tell whether a WebSocket is, or would be, the transport: there is room for one."""
        return self._probe is not None or self._websocket is not None

    def use_websocket(self, websocket: WebSocket) -> None:
        """Have this WebSocket for the transport from now on; what waits goes first."""
        blocks, self._queue = self._queue, []
        self._queued = 0
        self._probe = None
        self._websocket = websocket
        if blocks:
            websocket.outbox.offer(b"".join([block.frames for block in blocks]), 0)
        if self.reason is None:
            self.state = "websocket"
            self._wire_offer = websocket.outbox.offer
        else:
            websocket.end(CLOSES[self.reason], self.reason)
        self._notify()

    def begin_upgrade(self, websocket: WebSocket) -> None:
        """Hear that this WebSocket would like to be the transport."""
        self._probe = websocket

    def mark_probing(self) -> None:
        """Hear that the candidate was probed: the client waits for its last GET's answer."""
        if self.state == "polling":
            self.state = "probing"
        if self._parked is not None:
            self._parked.cancel()

    def abandon_upgrade(self) -> None:
        """Hear that the candidate is none any more: polling goes on."""
        self._probe = None
        if self.state == "probing":
            self.state = "polling"

    def end_now(self, reason: Reason) -> None:
        """Hear that the WebSocket, which was the transport, is closed."""
        self.end(reason)
        self.finish()
