"""A session: one client, from its handshake to its end, on either transport.

Theory of operation. A session is in one of these states:

| state | a GET | what is offered | left for |
| --- | --- | --- | --- |
| POLLING | takes the queue, or waits | is queued, and wakes a waiting GET | PROBING: ``2probe`` |
| PROBING | takes the queue, or ``6``, at once | is queued | WEBSOCKET: ``5``; POLLING: it failed |
| WEBSOCKET | is refused | goes to the WebSocket's outbox | |
| LEAVING | takes the queue; the next GET, ``1`` | is dropped | OVER: told, closed, or timed out |
| OVER | is refused: unknown | is dropped | |

``end`` leaves the first three, and its first reason stands: for LEAVING if the server closes the
session and the client can still be told, by a GET or by the closing of its WebSocket; for OVER if
the client broke the protocol or is gone. A client that POSTs ``1`` is LEAVING for a moment: a GET
that it sent before may still arrive, and gets ``6``.

What MUST hold:

1. ``offer`` never blocks, never awaits, never raises, and calls none of the application's code.
2. Everything offered is sent once and in order, also across an upgrade: polling is the only
   transport until ``5``, and the WebSocket from then on.
3. The receiver's ``ended`` is called once, after everything else, by a task of the engine.
4. The queue is bounded in bytes: an offer that would exceed the bound ends the session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

import trio

from chatd import model
from chatd.changed import Changed
from chatd.engineio.block import Block
from chatd.engineio.close_reasons import CLOSES, GRACEFUL, Reason, SessionClosed
from chatd.engineio.handshake import Handshake
from chatd.engineio.heartbeat import Heartbeat
from chatd.engineio.inbox import MessageInbox
from chatd.engineio.packets import CLOSE, MESSAGE, PING, PONG, Packet, Revision
from chatd.engineio.polling import PollingTransport
from chatd.model import Close
from chatd.timers import STALL_SECONDS, Timer
from chatd.wire import frames
from chatd.wire.websocket import WebSocket

if TYPE_CHECKING:
    from chatd.engineio.engine import Engine

__all__ = ["Receiver", "Session", "State"]

State: TypeAlias = Literal["polling", "probing", "websocket", "leaving", "over"]

# RFC 6455 section 5.2: the head of an unmasked frame, and the packet's type.
_FRAME_BYTES: Final = 11

# A client's POST may overtake the GET that it sent before by this time: they come on different
# connections, and the scheduler shuffles.
_OVERTAKEN_SECONDS: Final = 0.05

_PING: Final = Block.control("2", 4)
_PONG: Final = Block.control("3", 3)


class Receiver(Protocol):
    """What gets the messages of a session."""

    async def received(self, message: str | bytes) -> None:
        """Handle one message. Nothing more is read from the client until this returns.

        A POST is not answered before that either. Meanwhile the client is not taken for silent.

        Args:
            message: ``str`` for text, ``bytes`` for binary.
        """

    def ended(self, reason: Reason) -> None:
        """Handle the end of the session. Called once, after the last message.

        Args:
            reason: Why it ended.
        """


class Session:
    """One client.

    To a fan-out it is an outbox: ``offer`` and ``offer_droppable`` take blocks of its ``revision``.

    Attributes:
        id: Its secret id: whoever knows it can act as the client.
        revision: Its revision of the protocol, 4 or 3.
        handshake: The request that opened it.
        opened: When it was opened, on Trio's clock.
        reason: Why it ended; None until then.
        receiver: What gets its messages.
        received_messages: How many messages it has received.
    """

    __slots__ = (
        "_busy",
        "_engine",
        "_heartbeat",
        "_probe",
        "_websocket",
        "_wire_offer",
        "changed",
        "handshake",
        "id",
        "opened",
        "polling",
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
        # Notified when the state or the queue changes.
        self.changed: Final = Changed()
        self.polling: Final = PollingTransport(self, engine.collector)
        self.received_messages = 0
        self._engine = engine
        # The WebSocket that is to become the transport, and the one that is the transport.
        self._probe: WebSocket | None = None
        self._websocket: WebSocket | None = None
        # The WebSocket's ``offer``, unless its client asked for base64 (``b64``).
        self._wire_offer: Callable[[bytes, int], None] | None = None
        # How many messages the receiver is handling: until then we do not read, and cannot call the
        # client silent.
        self._busy = 0
        self._heartbeat = Heartbeat(revision, engine.options, self.opened)
        # The heartbeat's, then that of the last GET.
        self.timer: Timer | None = None

    def __repr__(self) -> str:
        # Without the id, which is a secret and must not get into logs.
        return f"<Session of {self.handshake.address}, {self.transport}, {self.state}>"

    # Sending

    def offer(self, block: Block, messages: int = 1) -> None:
        """Queue a block. Never blocks, never raises; does nothing once the session has ended.

        If the queue would exceed ``send_queue_bytes``, the session ends as ``"too slow"``.

        Args:
            block: A block of this session's revision.
            messages: How many messages it has, for the counters; default 1.
        """
        offer = self._wire_offer
        if offer is not None:
            offer(block.frames, messages)
        elif self.reason is None and self._websocket is not None:
            self._websocket.outbox.offer(block.text_frames, messages)
        elif self.reason is None:
            waiting = self.polling.waiting
            if waiting and waiting + block.size > self._engine.options.send_queue_bytes:
                self.end("too slow")
            else:
                self.polling.offer(block, messages)

    def offer_droppable(self, block: Block, messages: int = 1) -> None:
        """Queue a block, but drop it while more than half of ``send_queue_bytes`` is waiting."""
        if self.waiting * 2 <= self._engine.options.send_queue_bytes:
            self.offer(block, messages)

    def send_nowait(self, message: str | bytes) -> None:
        """Queue one message.

        If the queue would exceed ``send_queue_bytes``, the session ends as ``"too slow"``.

        Args:
            message: ``str`` is sent as text, ``bytes`` as binary.

        Raises:
            SessionClosed: The session has ended.
            UnicodeEncodeError: The text has half of a surrogate pair.
        """
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
        """Wait until the queue has room for a message, then queue it.

        Args:
            message: ``str`` is sent as text, ``bytes`` as binary.

        Raises:
            SessionClosed: The session has ended.
            UnicodeEncodeError: The text has half of a surrogate pair.
        """
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
                await self.changed.wait()

    async def drained(self) -> None:
        """Wait until the queue is empty, or the session is over."""
        await trio.lowlevel.checkpoint()
        while self.waiting:
            if self._websocket is not None:
                await self._websocket.outbox.drained()
            else:
                await self.changed.wait()

    # Receiving, if the application gave no receiver

    def __aiter__(self) -> Session:
        return self

    async def __anext__(self) -> str | bytes:
        """Wait for a message; the iteration ends with the session.

        Raises:
            TypeError: The session's messages go to a receiver.
        """
        if not isinstance(self.receiver, MessageInbox):
            raise TypeError("this session's messages go to a receiver")
        return await self.receiver.next()

    # Ending

    def end(
        self,
        reason: Reason = "forced close",
        close: Close | None = None,
        words: str | None = None,
    ) -> None:
        """End the session. Returns at once, and never raises; the first reason stands.

        After ``"forced close"`` and ``"server shutting down"`` the queue is still sent.

        Args:
            reason: Why; default ``"forced close"``.
            close: The close of its WebSocket; by default the reason's in `CLOSES`.
            words: The reason in the Close frame, with ``close``; default the close's own.
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
            # The client closed: drop the queue and send no CLOSE.
            self.polling.drop_queue(noop=True)
            seconds = _OVERTAKEN_SECONDS
        elif reason not in GRACEFUL:
            self.finish()
            return
        self.state = "leaving"
        if websocket is None:
            self._engine.time(self, trio.current_time() + seconds, self._expire)
        self.polling.wake()
        self.changed.notify()

    async def aclose(self) -> None:
        """End the session as ``"forced close"``, and wait until it is over."""
        self.end()
        await self.wait_over()

    async def wait_over(self) -> None:
        """Wait for the end: the client was notified, is gone, or did not poll in time."""
        await trio.lowlevel.checkpoint()
        while self.state != "over":
            await self.changed.wait()

    def end_now(self, reason: Reason) -> None:
        """End the session without telling the client."""
        self.end(reason)
        self.finish()

    def finish(self) -> None:
        """Finish, whatever is queued. ``end`` was called before."""
        if self.state == "over":
            return
        self.state = "over"
        if self._probe is not None:
            self._probe.end(model.NORMAL)
        self.polling.drop_queue()
        self.polling.wake()
        self._engine.forget(self)

    def _expire(self, _now: float) -> None:
        self.finish()

    # Counters

    @property
    def transport(self) -> Literal["polling", "websocket"]:
        """The transport in use now."""
        return "polling" if self._websocket is None else "websocket"

    @property
    def waiting(self) -> int:
        """How many bytes are queued."""
        return self.polling.waiting if self._websocket is None else self._websocket.outbox.waiting

    @property
    def received_bytes(self) -> int:
        """How many bytes of payloads and frames were received."""
        websocket = self._websocket
        return self.polling.received_bytes + (0 if websocket is None else websocket.received_bytes)

    @property
    def sent_bytes(self) -> int:
        """How many bytes of payloads and frames were sent."""
        websocket = self._websocket
        return self.polling.sent_bytes + (0 if websocket is None else websocket.outbox.sent_bytes)

    @property
    def sent_messages(self) -> int:
        """How many messages were queued."""
        messages = self.polling.sent_messages
        return messages + (0 if self._websocket is None else self._websocket.outbox.sent_messages)

    # Packets, from either transport

    async def packet(self, packet: Packet) -> None:
        """Handle one packet. Returns when the receiver has handled its message."""
        if packet.type == MESSAGE:
            await self.deliver(packet.data)
        elif packet.type == CLOSE:
            self.end("transport close")
        elif packet.type in (PING, PONG):
            self._take_heartbeat(packet.type)

    async def deliver(self, message: str | bytes) -> None:
        """Pass a message to the receiver."""
        if self._heartbeat.extendable:
            self._heartbeat.heard_message(trio.current_time())
        self.received_messages += 1
        self._busy += 1
        try:
            await self.receiver.received(message)
        except Exception:
            # The client believes this was delivered, so the session must end.
            self.end("transport error", model.INTERNAL)
            raise
        finally:
            self._busy -= 1

    # The heartbeat

    def _take_heartbeat(self, kind: int) -> None:
        if not self._heartbeat.heard(kind, trio.current_time()):
            self.end("transport error")
        elif kind == PING and not self.polling.ends_with(_PONG):
            self.offer(_PONG, 0)

    def fire(self, now: float) -> float | None:
        """Send a ping if it is due, end the session if it is silent; return when to look again."""
        if self.reason is not None:
            return None
        verdict, due = self._heartbeat.look(now, reading=not self._busy)
        if verdict == "silent":
            self.end("ping timeout")
            return None
        if verdict == "ping" and not self.polling.ends_with(_PING):
            self.offer(_PING, 0)
        return due

    def alive(self, now: float) -> bool:
        """Return whether the session exists for a request that arrives now.

        A client whose time is up is silent even if this very request is its next sign of life. But
        if the loop was blocked, the timer decides, after it has read what arrived meanwhile.
        """
        if 0 <= now - self._heartbeat.deadline < STALL_SECONDS and not self._busy:
            self.end("ping timeout")
        return self.state != "over"

    # Upgrading

    @property
    def upgrading(self) -> bool:
        """Whether a WebSocket is the transport or is to become it."""
        return self._probe is not None or self._websocket is not None

    def begin_upgrade(self, websocket: WebSocket) -> None:
        """Record that this WebSocket may become the transport."""
        self._probe = websocket

    def mark_probing(self) -> None:
        """Answer the waiting GET: the client has probed the WebSocket and waits for it."""
        if self.state == "polling":
            self.state = "probing"
        self.polling.wake()

    def abandon_upgrade(self) -> None:
        """Continue with polling."""
        self._probe = None
        if self.state == "probing":
            self.state = "polling"

    def use_websocket(self, websocket: WebSocket) -> None:
        """Make this WebSocket the transport. The queue is sent first."""
        blocks = self.polling.take_queue()
        base64 = bool(websocket.request.query.get("b64"))
        self._probe = None
        self._websocket = websocket
        if blocks:
            queued = [block.text_frames if base64 else block.frames for block in blocks]
            websocket.outbox.offer(b"".join(queued), 0)
        if self.reason is None:
            self.state = "websocket"
            if not base64:
                self._wire_offer = websocket.outbox.offer
        else:
            websocket.end(CLOSES[self.reason], self.reason)

    async def yield_to_io(self) -> None:
        """Let a ``5`` arrive that the client sent before a GET, on another connection.

        Data in the kernel's buffer is read in one round of the scheduler and handled in the next.
        """
        if self._probe is not None:
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
