"""Delivery: the sockets and rooms of one namespace, and how an event reaches some of them.

What MUST hold:

1. An event is encoded once for each revision of the protocol, however many sockets get it.
2. Emits of one namespace do not interleave: each is logged and queued for every socket before the
   next one. So all sockets see them in the same order, which is the log's.
3. An emit waits only for the log and for other emits. Once an event is logged, no cancellation
   keeps it from a socket.
4. Every event for a socket that can recover ends in an offset: its own, or, if it is volatile and
   not logged, the newest. The client takes any last string for an offset.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import trio
from msgspec import Struct

from chatd.bus import SLICES, Group, fan_out
from chatd.engineio import Revision, Session
from chatd.mutex import Mutex
from chatd.socketio.acks import AckCollector, Answer, Answers
from chatd.socketio.errors import Disconnected
from chatd.socketio.packets import EncHook, encode_event, make_block, with_offset
from chatd.socketio.recovery import RECOVERABLE, Logged, RecoveryLog
from chatd.socketio.rooms import Rooms

if TYPE_CHECKING:
    from chatd.socketio.socket import Socket

__all__ = ["Delivery", "Selection"]


class Selection(Struct, frozen=True):
    """The sockets of any of ``rooms`` (all sockets if there are none), without ``exclude``'s."""

    rooms: frozenset[str] = frozenset()
    exclude: frozenset[str] = frozenset()


class Delivery:
    """The sockets and rooms of a namespace, and their broadcasts.

    Attributes:
        name: The namespace's name.
        log: The recovery log, if there is one.
        enc_hook: Converts values of types that cannot be sent.
        rooms: The sockets and their rooms.
        lock: Held during each emit. Whoever holds it finds in the log exactly what was queued.
        slices: See `fan_out`.
    """

    def __init__(
        self, name: str, log: RecoveryLog | None = None, enc_hook: EncHook | None = None
    ) -> None:
        self.name = name
        self.log = log
        self.enc_hook = enc_hook
        self.rooms: Rooms[Socket] = Rooms()
        self.lock = Mutex()
        self.slices = SLICES
        self._next_id = 0

    def select(self, selection: Selection) -> list[Socket]:
        """Return the selected sockets."""
        return self.rooms.select(selection.rooms, selection.exclude)

    async def emit(
        self, selection: Selection, event: str, args: Sequence[Any], *, volatile: bool = False
    ) -> None:
        """Log an event, and queue it for the selected sockets; see `Broadcast.emit`."""
        messages = self._encode(event, args)
        # Other tasks run before this one takes the lock, so that they do not wait for it.
        await trio.lowlevel.checkpoint()
        async with self.lock:
            offset = None
            if self.log is not None and volatile:
                offset = self.log.head(self.name)
            elif self.log is not None:
                event_logged = Logged(messages, selection.rooms, selection.exclude)
                with trio.CancelScope(shield=True):
                    offset = await self.log.append(self.name, event_logged)
            await self._offer(self.select(selection), selection, messages, offset, volatile)

    async def send(
        self, socket: Socket, event: str, args: Sequence[Any], *, volatile: bool = False
    ) -> None:
        """Send an event to one socket; see `Socket.emit`.

        If the socket is disconnected, the event is logged if the socket may recover, else dropped.
        """
        reason = socket.disconnect_reason
        if self.log is not None and (reason is None or reason in RECOVERABLE):
            await self.emit(Selection(frozenset((socket.id,))), event, args, volatile=volatile)
            return
        messages = self._encode(event, args)
        session = socket.session
        if reason is None and not (volatile and session.waiting):
            session.offer(make_block(messages, session.revision))
        await trio.lowlevel.checkpoint()

    async def call(self, socket: Socket, event: str, args: Sequence[Any], seconds: float) -> Any:
        """Send an event to one socket, and return its acknowledgement; see `Socket.call`."""
        answer = Answer()
        packet_id = self._new_id()
        messages = self._encode(event, args, packet_id)
        if socket.disconnect_reason is not None:
            raise Disconnected(socket.disconnect_reason)
        socket.expect_ack(packet_id, answer)
        try:
            with trio.fail_after(seconds):
                socket.session.offer(make_block(messages, socket.session.revision))
                return await answer.wait()
        finally:
            socket.forget_ack(packet_id)

    async def call_all(
        self, selection: Selection, event: str, args: Sequence[Any], seconds: float
    ) -> Answers:
        """Send an event, and return the acknowledgements; see `Broadcast.call`."""
        packet_id = self._new_id()
        messages = self._encode(event, args, packet_id)
        asked: list[Socket] = []
        collector: AckCollector | None = None
        try:
            with trio.move_on_after(seconds):
                async with self.lock:
                    asked = self.select(selection)
                    collector = AckCollector(socket.id for socket in asked)
                    for socket in asked:
                        socket.expect_ack(packet_id, collector)
                    await self._offer(asked, selection, messages, None, volatile=False)
                await collector.wait()
        finally:
            for socket in asked:
                socket.forget_ack(packet_id)
        if collector is None:  # other emits used up the time
            return Answers((), [socket.id for socket in self.select(selection)])
        return collector.answers()

    def _encode(
        self, event: str, args: Sequence[Any], packet_id: int | None = None
    ) -> list[str | bytes]:
        return encode_event(
            event, args, namespace=self.name, packet_id=packet_id, enc_hook=self.enc_hook
        )

    def _new_id(self) -> int:
        packet_id = self._next_id
        self._next_id += 1
        return packet_id

    async def _offer(
        self,
        sockets: list[Socket],
        selection: Selection,
        messages: Sequence[str | bytes],
        offset: str | None,
        volatile: bool,
    ) -> None:
        def open_to(sockets: Iterable[Socket]) -> Iterator[Session]:
            sessions = (socket.session for socket in sockets)
            return (each for each in sessions if not (volatile and each.waiting))

        receivers: dict[Revision, list[Session]] = {}
        for session in open_to(sockets):
            receivers.setdefault(session.revision, []).append(session)
        groups: list[Group[Session]] = []
        for revision, sessions in receivers.items():
            # Clients of revision 3 have no offsets.
            said = offset is not None and revision == 4
            block = make_block(with_offset(messages, offset or "") if said else messages, revision)
            groups.append(
                Group(block, 1, sessions, sessions, lambda: set(open_to(self.select(selection))))
            )
        await fan_out(groups, self.slices)
