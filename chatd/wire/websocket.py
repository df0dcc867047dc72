"""One WebSocket, from the 101 to the end of TCP.

trio-websocket makes the opening handshake (`chatd.wire.handshake`) and is then let go: its objects
and its task would be two thirds of an idle connection's memory. From then on frames are read here,
messages are handed to the receiver, and pings are answered: in the poller's task, or in the
connection's own where something has to wait. `WebSocket.end`, called from anywhere, interrupts
this; then the connection's own task closes, with one deadline for all that follows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from inspect import iscoroutinefunction
from itertools import chain
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, TypeAlias

import trio
from msgspec import Struct

from chatd.budgets import BYTE_SECONDS, FRAME_SECONDS, MESSAGE_SECONDS, SLICE_ITEMS
from chatd.logs import Log
from chatd.model import CLOSES, GOING_AWAY, INTERNAL, LOST, NORMAL, Close
from chatd.settings import Settings
from chatd.wire import frames
from chatd.wire.channel import Channel
from chatd.wire.frames import Closing, Fault, FrameReader, Item, Ping
from chatd.wire.handshake import accepting
from chatd.wire.request import Request
from chatd.wire.transport import Transport

if TYPE_CHECKING:
    from chatd.wire.limiter import ConnectionSlot

__all__ = ["Handover", "Opener", "Receiver", "Upgrade", "WebSocket"]

# A chat message needs one system call, and so does a burst of messages up to this size.
_RECV_BYTES: Final = 8192
_PING: Final = frames.ping()
_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


class Receiver(Protocol):
    """Takes the messages of one connection, for a gateway."""

    def received(self, message: str | bytes) -> Awaitable[None] | None:
        """Handle one message.

        Returns:
            None if it is handled, and the next one may follow at once. Otherwise an awaitable: the
            connection's task awaits it before more is read, and `end` cancels it. So this may be a
            coroutine function; a plain function that returns None saves a switch of tasks.
        """
        raise NotImplementedError

    def goodbye_frames(self, close: Close, reason: str) -> bytes:
        """Return frames to send before our Close frame. Not called if the peer closed first."""
        raise NotImplementedError

    def ended(self, close: Close, reason: str) -> None:
        """Record that the connection has ended. Called once and last, when the outbox has ended."""


Opener: TypeAlias = Callable[["WebSocket"], Awaitable[Receiver] | Receiver]
"""Returns the receiver. Nothing is read from the peer until it has returned.

A coroutine function is called when the 101 has been sent. A plain function is called before, and
what it sends goes out together with the 101.
"""


class Upgrade(Struct, frozen=True):
    """A handler's answer that accepts a WebSocket request.

    Attributes:
        subprotocol: One of those that the client offered, or None.
        open: Called for the receiver that takes the messages.
        max_message_bytes: In place of the settings' limit.
        send_queue_bytes: In place of the settings' limit.
        keep_alive: Whether silent peers are pinged. False if the protocol has a heartbeat.
        send_timeout: Before a normal close (1000, 1001) everything that is queued is sent, as long
            as the peer takes some of it in each such time; ``limits.close_seconds`` begins then.
            None: it begins at once.
    """

    subprotocol: str | None
    open: Opener
    max_message_bytes: int | None = None
    send_queue_bytes: int | None = None
    keep_alive: bool = True
    send_timeout: float | None = None


class Handover(Struct, frozen=True):
    """An accepted WebSocket request, and the bytes that were read behind its head."""

    request: Request
    upgrade: Upgrade
    early: bytes


class WebSocket(Channel):
    """One connection, as its gateway and the server see it.

    Attributes:
        request: The request that was upgraded.
        upgrade: The handler's answer to it.
        last_heard: When the peer's last byte arrived, on Trio's clock.
        received_messages: How many messages have been handed to the receiver.
        busy: True while the receiver takes a message and nothing is read.
        peer_closed: Whether the peer's Close frame came before ours.
    """

    kind: ClassVar[str] = "websocket"

    __slots__ = (
        "_failed",
        "_items",
        "_reader",
        "_receiver",
        "busy",
        "last_heard",
        "peer_closed",
        "received_messages",
        "request",
        "upgrade",
    )

    def __init__(
        self,
        transport: Transport,
        handover: Handover,
        *,
        slot: ConnectionSlot,
        settings: Settings,
        log: Log,
    ) -> None:
        upgrade = handover.upgrade
        request = handover.request
        super().__init__(
            transport,
            request.connection,
            request.peer.address,
            request.path,
            slot=slot,
            settings=settings,
            log=log,
        )
        self.request = request
        self.last_heard = trio.current_time()
        self.received_messages = 0
        self.busy = True
        self.peer_closed = False
        self.upgrade = upgrade
        self._reader = FrameReader(upgrade.max_message_bytes or settings.max_message_bytes)
        self._items: Iterator[Item] = iter(self._reader.feed(handover.early, SLICE_ITEMS))
        self._failed = False
        self._receiver: Receiver | None = None

    @property
    def arriving(self) -> bool:
        """Whether a part of a message has arrived, and the rest has not."""
        return self._reader.partial

    def ping(self) -> bool:
        """Send a ping. Return whether it waits behind something else."""
        waits = self.outbox.waiting > 0
        self.outbox.hasten(_PING)
        return waits

    def _send_queue_bytes(self) -> int:
        return self.upgrade.send_queue_bytes or super()._send_queue_bytes()

    async def _serve(self) -> None:
        await self._open()
        if self._receiver is not None:
            with trio.CancelScope() as self._reading:
                await self._receive()
        if self.upgrade.send_timeout is not None:
            await self._send_queue(self.upgrade.send_timeout)

    async def _open(self) -> None:
        """Make the opening handshake, and ask the gateway for the receiver.

        There is none if the peer is gone or does not take the answer in time, or if the gateway
        fails.
        """
        answer = await accepting(self.request, self.upgrade.subprotocol)
        self.last_heard = trio.current_time()
        may_wait = iscoroutinefunction(self.upgrade.open)
        receiver: Receiver | Awaitable[Receiver] | None = None
        try:
            self.outbox.hold()
            self.outbox.force(answer)
            try:
                if not may_wait:
                    receiver = self.upgrade.open(self)
            finally:
                self.outbox.release()
            await self._send_answer()
            if may_wait and not self._is_lost:
                receiver = self.upgrade.open(self)
            self._receiver = await receiver if isinstance(receiver, Awaitable) else receiver
        except Exception as error:  # the connection's boundary
            self.fault(error)
        self.busy = False

    async def _send_answer(self) -> None:
        """Wait until the answer is sent, which on a plain socket it is at once."""
        if self.outbox.waiting:
            with trio.move_on_after(self._settings.limits.handshake_seconds) as patience:
                await self.outbox.drained()
            if patience.cancelled_caught:
                self.end(LOST)

    @property
    def _is_lost(self) -> bool:
        return self.closing is not None and self.closing[0] is LOST

    async def _receive(self) -> None:
        """Hand messages to the receiver until either side closes."""
        while self.closing is None:
            wait = self._hand_on()
            if wait is None:
                if self.closing is not None:
                    return
                try:
                    wait = await self._transport.recv_each(_RECV_BYTES, self._take)
                except _GONE:
                    wait = None
                if wait is None:
                    self.end(LOST)
                    return
            self.busy = True
            try:
                await wait
            except Exception as error:  # the connection's boundary
                self.fault(error)
            self.busy = False

    def _take(self, data: bytes, now: float) -> Awaitable[None] | None:
        """Handle what was read. Return what must be awaited before more is read.

        The poller calls this in its own task.
        """
        self.received_bytes += len(data)
        self.last_heard = now
        return self._split(data) or self._hand_on()

    def _split(self, data: bytes) -> Awaitable[None] | None:
        """Read the next frames. Return what to await before they are handled.

        That is a pause if the client's address has taken more than its share of the loop's time.
        """
        items = self._reader.feed(data, SLICE_ITEMS)
        self._items = iter(items)
        if self._slot is None:
            return None
        frames, self._reader.frames = self._reader.frames, 0
        seconds = len(data) * BYTE_SECONDS + frames * FRAME_SECONDS + len(items) * MESSAGE_SECONDS
        debt = self._slot.charge(seconds)
        return _pause(debt) if debt else None

    def _hand_on(self) -> Awaitable[None] | None:
        """Handle frames until something has to wait. Return what to await, None if nothing."""
        receiver = self._receiver
        assert receiver is not None  # noqa: S101  as long as this is called
        for item in self._items:
            if type(item) is str or type(item) is bytes:
                self.received_messages += 1
                try:
                    wait = receiver.received(item)
                except Exception as error:  # the connection's boundary
                    self.fault(error)
                    return None
            else:
                wait = self._control(item)
            if wait is not None or self.closing is not None:
                return wait
        if self._reader.pending:
            return self._split(b"") or _pause(0)
        return None

    def _control(self, item: Item) -> Awaitable[None] | None:
        """Handle an item that is not a message. Return what to await, None if nothing."""
        if isinstance(item, Ping):
            self.outbox.hasten(item.pong)
            if self.outbox.hastening:
                # A client that pings and does not read the pongs is not read either.
                return self.outbox.hastened()
        elif isinstance(item, Closing):
            self._answer(item)
        elif isinstance(item, Fault):
            self._failed = True
            self.end(item.close, item.reason)
        return None

    def _answer(self, closing: Closing) -> None:
        """Answer the peer's Close frame, which came first. Nothing may follow the answer."""
        self.peer_closed = True
        self.outbox.send_final(closing.answer)
        close = CLOSES.get(closing.code) or Close(
            closing.code, "other", "a code chosen by the client", reconnect=True
        )
        self.end(close, closing.reason or "the client closed")

    async def _send_queue(self, seconds: float) -> None:
        """Send what is queued before a normal close of ours, while the peer takes it."""
        if self.peer_closed or self.closing is None or self.closing[0] not in (NORMAL, GOING_AWAY):
            return
        taken = -1
        while self.outbox.waiting and taken != self.outbox.sent_bytes:
            taken = self.outbox.sent_bytes
            with trio.move_on_after(seconds):
                await self.outbox.drained()

    async def _close(self) -> None:
        """Make the closing handshake: RFC 6455 section 7. The server closes TCP first."""
        if self.closing is None or self.closing[0] is LOST:
            return
        if not self.peer_closed:
            goodbye = self._goodbye_frames()
            close, reason = self.closing
            self.outbox.send_final(goodbye + frames.close(close.code, reason))
            if not self._failed:
                await self._await_close()
        await self.outbox.drained()
        if self._failed:
            # After an error the peer's Close frame cannot be found: section 7.1.7.
            with suppress(*_GONE):
                await self._transport.linger()

    async def _await_close(self) -> None:
        """Ignore all data until the peer's Close frame, an error, or the end of the stream."""
        self._items = chain(self._items, self._reader.feed(b""))
        with suppress(*_GONE):
            while not any(isinstance(item, Closing | Fault) for item in self._items):
                data = await self._transport.recv(_RECV_BYTES)
                if not data:
                    return
                if self._slot is not None:
                    await self._slot.spend(len(data) * BYTE_SECONDS)
                self._items = iter(self._reader.feed(data))

    def _goodbye_frames(self) -> bytes:
        if self._receiver is None or self.closing is None:
            return b""
        try:
            return self._receiver.goodbye_frames(*self.closing)
        except Exception as error:  # the connection's boundary
            self.fault(error)
            self.closing = (INTERNAL, INTERNAL.reason)
            return b""

    def _ended(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return
        # Without a close the task was cancelled from outside: the daemon is ending.
        close, reason = self.closing or (GOING_AWAY, GOING_AWAY.reason)
        try:
            receiver.ended(close, reason)
        except Exception as error:  # the connection's boundary
            self.fault(error)


async def _pause(seconds: float) -> None:
    await trio.sleep(seconds)
