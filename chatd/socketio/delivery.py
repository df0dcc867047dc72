"""Delivery: one namespace's members and rooms, and how an event gets to some of them.

What MUST hold:

1. An event is encoded once for each revision its receivers speak, whoever they are.
2. Emits of one namespace do not mix: one is logged and handed to every outbox before the next is,
   so all members see them in one order, and that is the log's.
3. Nobody is waited for but the log and other emits. Once an event is logged, nothing that is
   cancelled keeps it from anybody.
4. Every event that a socket which can recover gets ends in an offset: its own, or, where it is not
   logged (volatile), the newest there is. Its client takes any last string for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import trio
from msgspec import Struct

from chatd.bus import Group, fan_out
from chatd.engineio import Revision, Session
from chatd.socketio.acks import AckCollector, Answer, Answers
from chatd.socketio.errors import Disconnected
from chatd.socketio.packets import encode_event, make_block, with_offset
from chatd.socketio.recovery import RECOVERABLE, Logged, RecoveryLog
from chatd.socketio.rooms import Rooms

if TYPE_CHECKING:
    from chatd.socketio.socket import Socket

__all__ = ["Delivery", "Selection"]


class Selection(Struct, frozen=True):
    """The members of any of ``rooms`` (all sockets if there are none), without ``exclude``'s."""

    rooms: frozenset[str] = frozenset()
    exclude: frozenset[str] = frozenset()


class Delivery:
    """Members, rooms and emits of the namespace ``name``.

    ``turn`` is held while anything is emitted: who holds it sees the log and the outboxes agree.
    """

    def __init__(self, name: str, log: RecoveryLog | None = None) -> None:
        self.name = name
        self.log = log
        self.rooms: Rooms[Socket] = Rooms()
        self.lock = trio.Lock()
        self._next_id = 0

    def select(self, selection: Selection) -> list[Socket]:
        return self.rooms.select(selection.rooms, selection.exclude)

    async def emit(
        self, selection: Selection, event: str, args: Sequence[Any], *, volatile: bool = False
    ) -> None:
        """Log an event and hand it to every outbox meant. Raises as `packets.encode` does."""
        messages = encode_event(event, args, namespace=self.name)
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
        self, member: Socket, event: str, args: Sequence[Any], *, volatile: bool = False
    ) -> None:
        """Do as ``emit`` does, for one member.

        What is for one that is gone is dropped; or logged, where it may come back.
        """
        if self.log is not None and (
            member.disconnect_reason is None or member.disconnect_reason in RECOVERABLE
        ):
            await self.emit(Selection(frozenset((member.id,))), event, args, volatile=volatile)
            return
        messages = encode_event(event, args, namespace=self.name)
        session = member.session
        if member.disconnect_reason is None and not (volatile and session.waiting):
            session.offer(make_block(messages, session.revision))
        await trio.lowlevel.checkpoint()

    async def call(self, member: Socket, event: str, args: Sequence[Any], seconds: float) -> Any:
        """Give the acknowledgement of one member.

        Raises trio.TooSlowError after ``seconds``, Disconnected where it is gone or goes.
        """
        answer = Answer()
        packet_id = self._new_id()
        messages = encode_event(event, args, namespace=self.name, packet_id=packet_id)
        if member.disconnect_reason is not None:
            raise Disconnected(member.disconnect_reason)
        member.expect_ack(packet_id, answer)
        try:
            with trio.fail_after(seconds):
                member.session.offer(make_block(messages, member.session.revision))
                return await answer.wait()
        finally:
            member.forget_ack(packet_id)

    async def call_all(
        self, selection: Selection, event: str, args: Sequence[Any], seconds: float
    ) -> Answers:
        """Give the acknowledgements that came within ``seconds``, and who is missing."""
        packet_id = self._new_id()
        messages = encode_event(event, args, namespace=self.name, packet_id=packet_id)
        asked: list[Socket] = []
        gathering: AckCollector | None = None
        try:
            with trio.move_on_after(seconds):
                async with self.lock:
                    asked = self.select(selection)
                    gathering = AckCollector(member.id for member in asked)
                    for member in asked:
                        member.expect_ack(packet_id, gathering)
                    await self._offer(asked, selection, messages, None, volatile=False)
                await gathering.wait()
        finally:
            for member in asked:
                member.forget_ack(packet_id)
        if gathering is None:  # other emits received all the time there was
            return Answers((), [member.id for member in self.select(selection)])
        return gathering.answers()

    def _new_id(self) -> int:
        packet_id = self._next_id
        self._next_id += 1
        return packet_id

    async def _offer(
        self,
        members: list[Socket],
        selection: Selection,
        messages: Sequence[str | bytes],
        offset: str | None,
        volatile: bool,
    ) -> None:
        def open_to(members: Iterable[Socket]) -> Iterator[Session]:
            sessions = (member.session for member in members)
            return (each for each in sessions if not (volatile and each.waiting))

        receivers: dict[Revision, list[Session]] = {}
        for session in open_to(members):
            receivers.setdefault(session.revision, []).append(session)
        groups: list[Group[Session]] = []
        for revision, sessions in receivers.items():
            # Revision 3's clients know of no offsets.
            said = offset is not None and revision == 4
            block = make_block(with_offset(messages, offset or "") if said else messages, revision)
            groups.append((block, sessions, lambda: set(open_to(self.select(selection)))))
        await fan_out(groups, 1)
