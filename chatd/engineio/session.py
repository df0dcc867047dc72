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

Flow control. Two queues are bounded, both in bytes of decoded messages and not in their number:

- What the client sent waits for the receiver. Up to the bound everything is read, so that a pong or
  the end of the transport is not held up by messages. Above it reading waits, or the answer to the
  POST; meanwhile the client's silence proves nothing, so its heartbeat waits too.
- What is sent to the client waits for the client. Up to ``send_queue_bytes`` it may wait for as
  long as the heartbeat lets it. Above that the client is too slow if it takes nothing for
  ``send_timeout``; a client that reads never is, however slowly. More than
  ``max_send_queue_bytes`` behind the message under way are not kept for any client.

What the protocol itself sends (OPEN, PING, PONG, NOOP, CLOSE, and for the layer above whatever it
sends by ``force``) is not held to these bounds: it never ends a session, and no more than one ping
or pong waits. A ping overtakes messages that wait, but cannot overtake the one under way: the time
for its pong runs from when the client can have it.

What MUST hold:

1. ``offer`` never blocks, never awaits, never raises, and calls none of the application's code.
2. Every message offered is sent once and in order, also across an upgrade: polling is the only
   transport until ``5``, and the WebSocket from then on. A response that breaks off ends the
   session.
3. The receiver's ``ended`` is called once, after everything else, by a task of the engine.
4. A session ends as ``"too slow"`` only by the rule above.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from functools import partial
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
from chatd.wire.outbox import Outbox
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

# After an upgrade the queue is sent in pieces of about this size: a few segments of loopback's.
_JOIN_BYTES: Final = 65536

_PING: Final = Block.control("2", 4)
_PONG: Final = Block.control("3", 3)


class Receiver(Protocol):
    """What gets the messages of a session."""

    def received(self, message: str | bytes) -> Awaitable[None] | None:
        """Handle one message. This may be a coroutine function.

        Args:
            message: ``str`` for text, ``bytes`` for binary.

        Returns:
            None if the message is handled. Otherwise an awaitable: it is awaited before anything
            more is read from the client, and before a POST is answered. Meanwhile the client is not
            taken for silent.
        """
        raise NotImplementedError

    def ended(self, reason: Reason) -> None:
        """Handle the end of the session. Called once, after the last message.

        Args:
            reason: Why it ended.
        """


class _Nobody:
    """The receiver of a session that is over."""

    def received(self, message: str | bytes) -> None:
        """Ignore the message."""

    def ended(self, reason: Reason) -> None:
        """Do nothing."""


_NOBODY: Final = _Nobody()


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
        "_ping_waits",
        "_probe",
        "_taken_at_look",
        "_taken_at_watch",
        "_watch",
        "_websocket",
        "_wire",
        "changed",
        "handshake",
        "id",
        "opened",
        "peer",
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
        # Where its last request came from: a client that polls may change its address.
        self.peer = handshake.request.peer
        self.opened: Final = trio.current_time()
        self.reason: Reason | None = None
        self.state: State = "polling"
        # Notified when the state or the queue changes.
        self.changed: Final = Changed()
        self.polling: Final = PollingTransport(
            handshake.query, revision, self.changed, engine.collector
        )
        self.received_messages = 0
        self._engine = engine
        # The WebSocket that is to become the transport, and the one that is the transport.
        self._probe: WebSocket | None = None
        self._websocket: WebSocket | None = None
        # The WebSocket's outbox, unless its client asked for base64 (``b64``).
        self._wire: Outbox | None = None
        # How many messages the receiver is handling: until then we do not read, and cannot call the
        # client silent.
        self._busy = 0
        self._heartbeat = Heartbeat(revision, engine.options, self.opened)
        # Whether the last ping waited behind something else when that was looked at last, and what
        # the client had taken then.
        self._ping_waits = False
        self._taken_at_look = 0
        # The heartbeat's, then that of the last GET.
        self.timer: Timer | None = None
        # Runs while more than ``send_queue_bytes`` is waiting.
        self._watch: Timer | None = None
        self._taken_at_watch = 0

    def __repr__(self) -> str:
        # Without the id, which is a secret and must not get into logs.
        return f"<Session of {self.handshake.address}, {self.transport}, {self.state}>"

    # Sending

    @staticmethod
    def offer_each(sessions: Iterable[Session], block: Block, messages: int = 1) -> None:
        """Offer a block to each of these sessions. On WebSocket their outboxes are offered it."""
        wires: list[Outbox] = []
        for session in sessions:
            wire = session._wire
            if wire is None:
                session.offer(block, messages)
            else:
                wires.append(wire)
        if wires:
            Outbox.offer_each(wires, block.frames, messages)

    def offer(self, block: Block, messages: int = 1) -> None:
        """Queue a block. Never blocks, never raises; does nothing once the session has ended.

        Above ``max_send_queue_bytes`` the session ends as ``"too slow"``.

        Args:
            block: A block of this session's revision.
            messages: How many messages it has, for the counters; default 1.
        """
        wire = self._wire
        if wire is not None:
            wire.offer(block.frames, messages)
        elif self.reason is None and self._websocket is not None:
            self._websocket.outbox.offer(block.text_frames, messages)
        elif self.reason is None:
            waiting = self.polling.waiting
            if (
                not waiting
                or waiting + block.size <= self._engine.options.send_queue_bytes
                or self._exceed(block.size)
            ):
                self.polling.offer(block, messages)

    def force(self, block: Block) -> None:
        """Queue a block of the protocol itself, which no bound refuses.

        The caller sees to it that few such blocks wait, for example by ``has_room``.
        """
        websocket = self._websocket
        if self.reason is not None:
            return
        if websocket is None:
            self.polling.offer(block, 0)
        else:
            base64 = self._wire is None
            websocket.outbox.force(block.text_frames if base64 else block.frames)

    @property
    def full(self) -> bool:
        """Whether more than ``send_queue_bytes`` waits."""
        return self.waiting > self._engine.options.send_queue_bytes

    async def has_room(self) -> None:
        """Wait until no more than ``send_queue_bytes`` waits, or the session has ended."""
        if self.full:
            await self._room(0)

    def offer_droppable(self, block: Block, messages: int = 1) -> None:
        """Queue a block, but drop it while more than half of ``send_queue_bytes`` is waiting."""
        if self.waiting * 2 <= self._engine.options.send_queue_bytes:
            self.offer(block, messages)

    def send_nowait(self, message: str | bytes) -> None:
        """Queue one message. Never waits.

        More than ``send_queue_bytes`` may be waiting then. If the client takes none of it, or it is
        more than ``max_send_queue_bytes``, the session ends as ``"too slow"``.

        Args:
            message: ``str`` is sent as text, ``bytes`` as binary.

        Raises:
            SessionClosed: The session has ended.
            UnicodeEncodeError: The text has half of a surrogate pair.
        """
        if self.reason is not None:
            raise SessionClosed(self.reason)
        wire = self._wire
        if wire is None:
            self.offer(Block((message,), self.revision))
        elif isinstance(message, str):
            wire.offer(frames.text(b"4" + message.encode()), 1)
        else:
            wire.offer(frames.binary(b"\x04" + message if self.revision == 3 else message), 1)

    async def send(self, message: str | bytes) -> None:
        """Wait until the message fits into ``send_queue_bytes``, or nothing waits, and queue it.

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
                await self._websocket.outbox.room(size, bound)
            else:
                await self.changed.wait()

    def _exceed(self, size: int) -> bool:
        """Return whether to queue a block above ``send_queue_bytes``. If not, the session ends."""
        options = self._engine.options
        websocket = self._websocket
        queue = self.polling if websocket is None else websocket.outbox
        if queue.waiting - queue.under_way + size > options.max_send_queue_bytes:
            self.end("too slow")
            return False
        if self._watch is None:
            self._taken_at_watch = self._taken
            due = trio.current_time() + options.send_timeout
            self._watch = self._engine.watch(self, due, self._look_at_queue)
        return True

    def _look_at_queue(self, now: float) -> float | None:
        """End the session if the client has taken nothing since the last look."""
        options = self._engine.options
        if self.reason is None and self.waiting > options.send_queue_bytes:
            if self._taken != self._taken_at_watch:
                self._taken_at_watch = self._taken
                return now + options.send_timeout
            self.end("too slow")
        self._watch = None
        return None

    @property
    def _taken(self) -> int:
        """A number that grows whenever the client takes something."""
        websocket = self._websocket
        return self.polling.taken + (0 if websocket is None else websocket.outbox.sent_bytes)

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
        self._wire = None
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
            self._taken_at_look = self._taken
            expire = partial(self._expire, seconds)
            self._engine.time(self, trio.current_time() + seconds, expire)
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
        if self._watch is not None:
            self._watch.cancel()
        self._engine.forget(self)

    def release(self) -> None:
        """Drop the reference to the receiver, once its `ended` has been called.

        Receivers refer to their sessions, so a closed session would otherwise be part of a cycle.
        """
        if not isinstance(self.receiver, MessageInbox):  # which may still have messages
            self.receiver = _NOBODY

    def _expire(self, seconds: float, now: float) -> float | None:
        taken = self._taken
        if taken != self._taken_at_look:  # a large response is under way
            self._taken_at_look = taken
            return now + seconds
        self.finish()
        return None

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

    def packet(self, packet: Packet) -> Awaitable[None] | None:
        """Handle one packet. Return what to await before the next one; None if it is handled."""
        if packet.type == MESSAGE:
            return self.deliver(packet.data)
        if packet.type == CLOSE:
            self.end("transport close")
        elif packet.type in (PING, PONG):
            self._take_heartbeat(packet.type)
        return None

    def deliver(self, message: str | bytes) -> Awaitable[None] | None:
        """Pass a message to the receiver. Return what to await, as `packet` does."""
        if self._heartbeat.extendable:
            self._heartbeat.heard_message(trio.current_time())
        self.received_messages += 1
        try:
            pending = self.receiver.received(message)
        except Exception:
            self._fail()
            raise
        return None if pending is None else self._wait_for(pending)

    async def _wait_for(self, pending: Awaitable[None]) -> None:
        self._busy += 1
        try:
            await pending
        except Exception:
            self._fail()
            raise
        finally:
            self._busy -= 1

    def _fail(self) -> None:
        # The client believes that its message was delivered, so the session must end.
        self.end("transport error", model.INTERNAL)

    def pause_reading(self, paused: bool) -> None:
        """Note that nothing is read until there is room for it, or that reading goes on."""
        if paused:
            self._engine.warn_unread()
        else:
            # Its heartbeat is behind what was not read.
            self._heartbeat.extend(trio.current_time())

    # The heartbeat

    def _take_heartbeat(self, kind: int) -> None:
        if not self._heartbeat.heard(kind, trio.current_time()):
            self.end("transport error")
        elif kind == PING:
            self._hasten(_PONG)

    def _hasten(self, block: Block) -> None:
        websocket = self._websocket
        if self.reason is not None:
            return
        if websocket is None:
            self.polling.hasten(block)
        elif not websocket.outbox.hastening:
            websocket.outbox.hasten(block.frames)

    def fire(self, now: float) -> float | None:
        """Send a ping if it is due, end the session if it is silent; return when to look again."""
        if self.reason is not None:
            return None
        reading = not self._busy and not self._is_sending(now)
        verdict, due = self._heartbeat.look(now, reading=reading)
        if verdict == "silent":
            if not self._is_taking(now):
                self.end("ping timeout")
                return None
            due = self._heartbeat.deadline
        elif verdict == "ping":
            websocket = self._websocket
            self._ping_waits = self.waiting > 0 or (websocket is None and not self.polling.parked)
            self._taken_at_look = self._taken
            self._hasten(_PING)
        return due

    def _is_sending(self, now: float) -> bool:
        """Return whether the client is still sending something that its pong has to wait for."""
        websocket = self._websocket
        if websocket is None:
            # A body that stops arriving is refused with 408, which ends the session.
            return self.polling.posting
        silent = now - websocket.last_heard
        return websocket.arriving and silent < self._engine.options.ping_timeout

    def _is_taking(self, now: float) -> bool:
        """Return whether the pong is late because the client is still taking what was before it."""
        taken = self._taken
        if not self._ping_waits or taken == self._taken_at_look:
            return False
        websocket = self._websocket
        waits = not self.polling.parked if websocket is None else websocket.outbox.hastening
        self._ping_waits, self._taken_at_look = waits, taken
        self._heartbeat.extend(now)
        return True

    def alive(self, now: float) -> bool:
        """Return whether the session exists for a request that arrives now.

        A client whose time is up is silent even if this very request is its next sign of life. But
        if the loop was blocked, the timer decides, after it has read what arrived meanwhile.
        """
        late = 0 <= now - self._heartbeat.deadline < STALL_SECONDS
        if late and not (self._busy or self._is_sending(now) or self._is_taking(now)):
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
        # Few sends for many small messages, and no copy of all of them where there is much.
        joined = b""
        for block in blocks:
            written = block.text_frames if base64 else block.frames
            if joined and len(joined) + len(written) > _JOIN_BYTES:
                websocket.outbox.force(joined)
                joined = b""
            joined += written
        if joined:
            websocket.outbox.force(joined)
        if self.reason is None:
            self.state = "websocket"
            websocket.outbox.exceed = self._exceed
            if not base64:
                self._wire = websocket.outbox
        else:
            websocket.end(CLOSES[self.reason], self.reason)

    async def yield_to_io(self) -> None:
        """Let a ``5`` arrive that the client sent before a GET, on another connection.

        Data in the kernel's buffer is read in one round of the scheduler and handled in the next.
        """
        if self._probe is not None:
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
