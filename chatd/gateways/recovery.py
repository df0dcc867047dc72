"""Connection state recovery from the chat's own journal, so that it outlives a restart.

An offset names the last thing a client was given: ``epoch.position`` for what was live,
``epoch/seq`` for a page of the room it came in by. The events of the journal are the log; who was
lost is kept beside it, as a record, for ``engineio.recovery_seconds``.

What an offset does not tell is how far the client had got in rooms that it joined later, or was
still catching up in, before the offset. Where that matters there is no recovery: the client is told
so, and reads the room's state anew.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from chatd.bus import Submission
from chatd.chat import Chat, Connection
from chatd.chat.membership import Membership
from chatd.model import Drop, Event, Put, Record, Take, Taken
from chatd.socketio import Logged, Lost

__all__ = ["ChatLog", "Whereabouts", "live_offset", "page_offset"]

_KIND: Final = "lost"

_PAGE_EVENTS: Final = 500

_KEY: Final = "chat"


class _Place(Struct, frozen=True):
    """A room the client was in, and how it came to be.

    ``how``: it was the first, by which the client came in; or a direct one, in which it is without
    an answer; or it was joined, and the answer said what had been before. ``followed`` is the
    store's position when it began to be live; None where it was still catching up.
    """

    how: Literal["first", "direct", "joined"]
    followed: int | None


class Whereabouts(Struct, frozen=True):
    """Where a lost client was: who it is, the room it came in by, all its rooms by their folds.

    ``upto`` is the position of the last event that a recovery gave it.
    """

    user: str
    room: str
    rooms: Mapping[str, _Place]
    upto: int = 0

    @staticmethod
    def note(connection: Connection, first: Membership, data: dict[str, Any]) -> None:
        """Note where a connection is, in what is kept of its socket."""
        rooms: dict[str, _Place] = {}
        for fold, membership in connection.memberships.items():
            how: Literal["first", "direct", "joined"] = "joined"
            if membership.starts == 1 and membership is first:
                how = "first"
            elif membership.starts == 1 and membership.room.direct:
                how = "direct"
            rooms[fold] = _Place(how, membership.live_since)
        where = Whereabouts(connection.user.id, first.room.key, rooms)
        data[_KEY] = msgspec.to_builtins(where)

    @staticmethod
    def of(data: Mapping[str, Any]) -> Whereabouts:
        """Give what was noted."""
        return msgspec.convert(data[_KEY], Whereabouts)


def live_offset(epoch: str, position: int) -> str:
    """Give the offset of an event of the log."""
    return f"{epoch}.{position}"


def page_offset(epoch: str, seq: int) -> str:
    """Give the offset of an event on the page with which a client came into its first room."""
    return f"{epoch}/{seq}"


class ChatLog:
    """`chatd.socketio.RecoveryLog` over the journal; at most ``limits.connections`` are kept lost.

    ``encode`` gives an event as the messages of its packet, without an offset.
    """

    def __init__(self, chat: Chat, encode: Callable[[Event], list[str | bytes]]) -> None:
        self._chat = chat
        self._encode = encode
        # By name, the longest lost first; of this process's life, the others end by their time.
        self._lost: OrderedDict[str, None] = OrderedDict()

    def head(self, _namespace: str, /) -> str:
        return live_offset(self._chat.journal.epoch, self._chat.bus.fanned_out)

    async def append(self, namespace: str, _event: Logged, /) -> str:
        """Give the offset of what is told and not kept: the bus alone adds to this log."""
        return self.head(namespace)

    async def read(self, _namespace: str, after: str, lost: Lost, /) -> Sequence[Logged] | None:
        chat = self._chat
        epoch, upto = chat.journal.epoch, chat.bus.fanned_out
        where = Whereabouts.of(lost.data)
        behind = await self._behind(after, where, upto)
        if behind is None:
            return None
        missed = await chat.journal.read_rooms(behind, upto, _PAGE_EVENTS)
        if len(missed) == _PAGE_EVENTS:
            upto = missed[-1].position
        if not await self._goes_on(missed, behind, upto):
            return None
        lost.data[_KEY] = msgspec.to_builtins(replace(where, upto=upto))
        return [
            Logged(self._encode(event), offset=live_offset(epoch, event.position))
            for event in missed
        ]

    async def _behind(self, after: str, where: Whereabouts, upto: int) -> dict[str, int] | None:
        """Tell behind which position each room was missed; None where that cannot be told."""
        epoch = self._chat.journal.epoch
        position = _number(after, f"{epoch}.")
        live = position is not None
        if (seq := _number(after, f"{epoch}/")) is not None:
            position = await self._before(where.room, seq + 1, upto)
        if position is None or position > upto:
            return None
        behind: dict[str, int] = {}
        for fold, place in where.rooms.items():
            if place.how == "first" and (len(where.rooms) == 1 or not live):
                behind[fold] = position
            elif place.followed is None:
                return None
            elif place.how == "direct":
                behind[fold] = max(position, place.followed) if live else place.followed
            elif where.upto or (live and position > place.followed):
                behind[fold] = position
            else:
                # Whether the answer with what had been before came is not known.
                return None
        return behind

    async def _before(self, room: str, seq: int, upto: int) -> int | None:
        """Give a position behind which the room goes on with ``seq``."""
        found = await self._chat.journal.read(room, seq - 1, seq, 1)
        if found:
            return found[0].position - 1
        head = await self._chat.journal.head(room)
        return upto if (head.seq if head else 0) == seq - 1 else None

    async def _goes_on(self, missed: Sequence[Event], behind: Mapping[str, int], upto: int) -> bool:
        """Tell whether nothing is gone between what the client had and what it missed."""
        next_seq: dict[str, int] = {}
        for event in missed:
            next_seq.setdefault(event.room, event.seq)
        journal = self._chat.journal
        for fold, position in behind.items():
            expected = await journal.seq_at(fold, position)
            found = next_seq.get(fold)
            if found is None:
                if await journal.seq_at(fold, upto) != expected:
                    return False
            elif found != expected + 1:
                return False
        return True

    async def remember(self, _namespace: str, lost: Lost, /) -> None:
        chat, name = self._chat, _name(lost.pid)
        seconds = chat.settings.engineio.recovery_seconds
        if seconds == "off":
            return
        if _KEY not in lost.data:
            return  # it was nobody yet
        # The private id stays private: its hash is its name. So does what it was let in by.
        where = lost.data[_KEY]
        value = msgspec.json.encode({"id": lost.id, "where": where, "offset": lost.offset})
        until = chat.now() + int(seconds * 1000)
        await chat.bus.publish(Submission(Put(Record(_KIND, name, value, until))))
        self._lost[name] = None
        if len(self._lost) > chat.settings.limits.connections:
            oldest, _ = self._lost.popitem(last=False)
            await chat.bus.publish(Submission(Drop(_KIND, oldest)))

    async def recall(self, _namespace: str, pid: str, /) -> Lost | None:
        name = _name(pid)
        self._lost.pop(name, None)
        outcome = await self._chat.bus.commit(Take(_KIND, name))
        if not isinstance(outcome, Taken) or outcome.record is None:
            return None
        kept = msgspec.json.decode(outcome.record.value)
        return Lost(pid, kept["id"], [], {_KEY: kept["where"]}, kept["offset"])


def _name(pid: str) -> str:
    return hashlib.sha256(pid.encode()).hexdigest()


def _number(offset: str, prefix: str) -> int | None:
    digits = offset.removeprefix(prefix)
    if digits == offset or not digits.isascii() or not digits.isdigit() or len(digits) > 16:
        return None
    return int(digits)
