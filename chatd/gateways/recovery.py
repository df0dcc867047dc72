"""Socket.IO's connection state recovery from the chat's journal, so that it survives a restart.

An offset names the last event that a client got: ``epoch.position`` for a live event,
``epoch/seq`` for one on the page of its first room. The events of the journal are the log; a lost
client is kept beside it, as a record, for ``engineio.recovery_seconds``.

An offset does not tell how far the client had got in rooms that it joined later, or in which it was
still catching up. If that matters, the client is not recovered, and joins its rooms again.

On a store that several daemons share, a client may come back at another daemon, because its own
was killed. So its record is written while it is connected, each time that its rooms change; it
lasts while the daemon lives, and for ``engineio.recovery_seconds`` more. If the daemon lives and
has not noticed that the client is gone, it is told (`TAKEN`).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from chatd.bus import Submission
from chatd.chat import Chat, Connection
from chatd.chat.membership import Membership
from chatd.journal import Journal, Unavailable
from chatd.journal.shared import SharedJournal
from chatd.model import Drop, Event, Lease, Outcome, Put, Record, Relay, Take, Taken
from chatd.socketio import Logged, Lost

__all__ = [
    "LOST",
    "NOBODY",
    "TAKEN",
    "ChatLog",
    "Whereabouts",
    "forgotten_client",
    "live_offset",
    "lost_user",
    "page_offset",
    "record_name",
    "taken",
]

LOST: Final = "lost"
"""The namespace of lost clients."""

TAKEN: Final = "taken"
"""The kind of what is relayed when a client has recovered at another daemon: see `taken`."""

_REMEDY: Final = "its client joins its rooms again"
"""What becomes of a lost client whose record cannot be read."""

_PAGE_EVENTS: Final = 500

_KEY: Final = "chat"


class _RoomState(Struct, frozen=True):
    """A room that a lost client was in.

    Attributes:
        how: "first" if the client began there, "direct" for a room of direct messages, which it
            entered without an answer, or "joined", with a page in the answer.
        followed: The store's position from which it got live events; None if it was catching up.
    """

    how: Literal["first", "direct", "joined"]
    followed: int | None


class Whereabouts(Struct, frozen=True):
    """The stored state of a lost client.

    Attributes:
        user: The user's id.
        room: The key of its first room.
        rooms: All its rooms, by their keys.
        upto: The position of the last event that a recovery sent; 0 if there was none.
        seqs: The numbers up to which a recovery sent the events of each room; empty before it did.
        epoch: The epoch of ``upto`` and ``seqs``.
        settled: Whether these are its rooms for certain: not while it joins or leaves one.
    """

    user: str
    room: str
    rooms: Mapping[str, _RoomState]
    upto: int = 0
    seqs: Mapping[str, int] = {}
    epoch: str = ""
    settled: bool = True

    def is_lost(self, journal: Journal) -> bool:
        """Return whether the store has lost events since a recovery read them."""
        return self.epoch != journal.epoch and self.upto > journal.former.get(self.epoch, 0)

    @staticmethod
    def note(
        connection: Connection, first: Membership, data: dict[str, Any], *, settled: bool = True
    ) -> None:
        """Put the state of a connection into the stored data of its socket."""
        rooms: dict[str, _RoomState] = {}
        for key, membership in connection.memberships.items():
            how: Literal["first", "direct", "joined"] = "joined"
            if membership.starts == 1 and membership is first:
                how = "first"
            elif membership.starts == 1 and membership.room.direct:
                how = "direct"
            rooms[key] = _RoomState(how, membership.live_since)
        where = Whereabouts(connection.user.id, first.room.key, rooms, settled=settled)
        data[_KEY] = msgspec.to_builtins(where)

    @staticmethod
    def of(data: Mapping[str, Any]) -> Whereabouts:
        """Return the state that `note` put there."""
        return msgspec.convert(data[_KEY], Whereabouts)

    @staticmethod
    def forget(data: dict[str, Any]) -> None:
        """Remove what `note` put there: the client does not recover here."""
        data.pop(_KEY, None)


class _Kept(Struct, frozen=True):
    """What the record of a lost client holds: see `chatd.socketio.Lost`."""

    id: str
    where: Whereabouts
    offset: str


NOBODY: Final = Whereabouts("", "", {})
"""The state of a client whose user was forgotten."""


def live_offset(epoch: str, position: int) -> str:
    """Return the offset of a live event."""
    return f"{epoch}.{position}"


def page_offset(epoch: str, seq: int) -> str:
    """Return the offset of an event on the page of a client's first room."""
    return f"{epoch}/{seq}"


class _Position(NamedTuple):
    """The position that an offset means, and whether it is that of a live event."""

    position: int
    live: bool


class ChatLog:
    """A `chatd.socketio.RecoveryLog` over the journal. Keeps ``limits.connections`` lost clients.

    Args:
        chat: The chat.
        encode: Returns the messages of an event's packet, without an offset.
        seconds: How long a lost client is kept.
    """

    def __init__(
        self, chat: Chat, encode: Callable[[Event], list[str | bytes]], *, seconds: float
    ) -> None:
        self._chat = chat
        self._encode = encode
        self._keep_ms: Final = int(seconds * 1000)
        # By name, the longest lost first. Those of an earlier process end when their time is over.
        self._lost: OrderedDict[str, None] = OrderedDict()

    def head(self, _namespace: str, /) -> str:
        return live_offset(self._chat.journal.epoch, self._chat.bus.fanned_out)

    async def append(self, namespace: str, _event: Logged, /) -> str:
        """Return the offset of an ephemeral event. Only the bus adds events to this log."""
        return self.head(namespace)

    async def read(self, _namespace: str, after: str, lost: Lost, /) -> Sequence[Logged] | None:
        try:
            return await self._read(after, lost)
        except Unavailable:
            return None  # the client enters as a new socket, and reads what it can

    async def _read(self, after: str, lost: Lost) -> Sequence[Logged] | None:
        where = Whereabouts.of(lost.data)
        if where == NOBODY:
            return []
        journal = self._chat.journal
        epoch = journal.epoch  # before anything is read: the store may lose events meanwhile
        if where.seqs:
            if where.epoch != epoch:
                return None
            # Without a checkpoint if possible: in a busy room there is always something newer.
            missed = self._newest(where.seqs)
            if missed is None:
                missed = await self._read_on(where)
            seqs, upto = _continued(missed, where.seqs), where.upto
        else:
            found = await self._position(after, where)
            if found is None or not await self._chat.bus.caught_up(found.position):
                return None
            if journal.epoch != epoch:
                return None
            upto = self._chat.bus.fanned_out
            behind = _behind(found, where)
            if behind is None:
                return None
            missed = await journal.read_rooms(behind, upto, _PAGE_EVENTS)
            if len(missed) == _PAGE_EVENTS:
                upto = missed[-1].position
            seqs = await self._goes_on(missed, behind, upto)
        if seqs is None:
            return None
        if missed:
            upto = max(upto, missed[-1].position)
        lost.data[_KEY] = msgspec.to_builtins(replace(where, upto=upto, seqs=seqs, epoch=epoch))
        return [
            Logged(self._encode(event), offset=live_offset(epoch, event.position))
            for event in missed
        ]

    def _newest(self, seqs: Mapping[str, int]) -> list[Event] | None:
        """Return what follows these numbers of rooms; None if it is not in memory."""
        newest: list[Event] = []
        for key, seq in seqs.items():
            room = self._chat.rooms.get(key)
            tail = None if room is None else room.feed.after(seq)
            if tail is None:
                return None
            newest += tail
        return sorted(newest, key=attrgetter("position"))

    async def _read_on(self, where: Whereabouts) -> list[Event]:
        """Return what follows the last event that this recovery sent."""
        behind = dict.fromkeys(where.seqs, where.upto)
        upto = self._chat.bus.fanned_out
        return await self._chat.journal.read_rooms(behind, upto, _PAGE_EVENTS)

    async def _position(self, offset: str, where: Whereabouts) -> _Position | None:
        """Return the position that an offset means; None if it means nothing in this store."""
        journal = self._chat.journal
        for epoch, ended in ((journal.epoch, None), *journal.former.items()):
            if (position := _number(offset, f"{epoch}.")) is not None:
                return (
                    _Position(position, live=True) if ended is None or position <= ended else None
                )
            if (seq := _number(offset, f"{epoch}/")) is not None:
                if ended is not None and await journal.seq_at(where.room, ended) < seq:
                    return None
                position = await self._before(where.room, seq + 1)
                return None if position is None else _Position(position, live=False)
        return None

    async def _before(self, room: str, seq: int) -> int | None:
        """Return a position after which the room continues with ``seq``."""
        found = await self._chat.journal.read(room, seq - 1, seq, 1)
        if found:
            return found[0].position - 1
        head = await self._chat.journal.head(room)
        return self._chat.bus.fanned_out if (head.seq if head else 0) == seq - 1 else None

    async def _goes_on(
        self, missed: Sequence[Event], behind: Mapping[str, int], upto: int
    ) -> dict[str, int] | None:
        """Return the numbers up to which the rooms were read.

        None if the missed events do not continue the client's last ones without a gap.
        """
        journal = self._chat.journal
        before = {key: await journal.seq_at(key, position) for key, position in behind.items()}
        found = {event.room for event in missed}
        for key in behind.keys() - found:
            if await journal.seq_at(key, upto) != before[key]:
                return None
        return _continued(missed, before)

    async def keep(self, connected: Lost) -> Outcome:
        """Keep the state of a connected client, for as long as this daemon lives and a while after.

        Return when that is committed, or a refusal.
        """
        record = Record(LOST, record_name(connected.pid), _encoded(connected))
        return await self._chat.bus.submit_and_wait(Lease(record, self._keep_ms))

    async def drop(self, pid: str) -> None:
        """Drop what `keep` keeps: the client left, and does not recover."""
        await self._chat.bus.publish(Submission(Drop(LOST, record_name(pid))))

    async def remember(self, _namespace: str, lost: Lost, /) -> None:
        chat, name = self._chat, record_name(lost.pid)
        if _KEY not in lost.data:
            return  # it was not authenticated, or has recovered elsewhere
        until = chat.journal.steady_now() + self._keep_ms
        await chat.bus.publish(Submission(Put(Record(LOST, name, _encoded(lost), until))))
        self._lost[name] = None
        if len(self._lost) > chat.settings.limits.connections:
            oldest, _ = self._lost.popitem(last=False)
            await chat.bus.publish(Submission(Drop(LOST, oldest)))

    async def recall(self, _namespace: str, pid: str, /) -> Lost | None:
        name = record_name(pid)
        self._lost.pop(name, None)
        chat = self._chat
        outcome = await chat.bus.submit_and_wait(Take(LOST, name))
        if not isinstance(outcome, Taken) or outcome.record is None:
            return None
        if not outcome.record.value:
            await chat.bus.publish(Submission(Put(outcome.record)))
            return Lost(pid, "", [], {_KEY: msgspec.to_builtins(NOBODY)}, "")
        if outcome.record.until is None and isinstance(chat.journal, SharedJournal):
            # It may still be connected to another daemon, which has not noticed its loss.
            body = f"{chat.journal.node} {name}".encode()
            await chat.bus.publish(Submission(Relay(TAKEN, body)))
        for kept in chat.damage.readable([outcome.record], _kept, _REMEDY):
            return Lost(pid, kept.id, [], {_KEY: msgspec.to_builtins(kept.where)}, kept.offset)
        return None


def _behind(found: _Position, where: Whereabouts) -> dict[str, int] | None:
    """Return the position after which each room was missed; None if that is not known."""
    if not where.settled:
        return None
    position, live = found
    behind: dict[str, int] = {}
    for key, state in where.rooms.items():
        if state.how == "first" and (len(where.rooms) == 1 or not live):
            behind[key] = position
        elif state.followed is None:
            return None
        elif state.how == "direct":
            behind[key] = max(position, state.followed) if live else state.followed
        elif where.upto or (live and position > state.followed):
            behind[key] = position
        else:
            # It is not known whether the answer with the page arrived.
            return None
    return behind


def _continued(missed: Sequence[Event], before: Mapping[str, int]) -> dict[str, int] | None:
    """Return the last numbers of rooms, given those before the missed events; None with a gap."""
    seqs = dict(before)
    for event in missed:
        if event.seq != seqs[event.room] + 1:
            return None
        seqs[event.room] = event.seq
    return seqs


def lost_user(record: Record) -> str:
    """Return the id of the user of a lost client; empty if the user was forgotten.

    Also empty if the record cannot be read: no client recovers by it.
    """
    try:
        return _kept(record).where.user if record.value else ""
    except (ValueError, RecursionError):
        return ""


def forgotten_client(pid: str, until: int) -> Record:
    """Return the record of a client of a user who was forgotten: it has nothing but its end."""
    return Record(LOST, record_name(pid), b"", until)


def record_name(pid: str) -> str:
    """Return the name of the record of a client with this private id."""
    return hashlib.sha256(pid.encode()).hexdigest()


def taken(body: bytes) -> tuple[str, str]:
    """Return what a `TAKEN` says: which daemon has taken a client, and the name of its record."""
    node, _, name = body.decode(errors="replace").partition(" ")
    return node, name


def _encoded(client: Lost) -> bytes:
    """Return what is stored of a client.

    The private id and the credentials stay private: the record's name is a hash of the id.
    """
    kept = {"id": client.id, "where": client.data[_KEY], "offset": client.offset}
    return msgspec.json.encode(kept)


def _kept(record: Record) -> _Kept:
    """Return what `_encoded` put into a record. Raise ValueError or RecursionError."""
    return msgspec.json.decode(record.value, type=_Kept)


def _number(offset: str, prefix: str) -> int | None:
    digits = offset.removeprefix(prefix)
    if digits == offset or not digits.isascii() or not digits.isdigit() or len(digits) > 16:
        return None
    return int(digits)
