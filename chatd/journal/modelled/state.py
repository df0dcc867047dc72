"""What the server holds, and what each request does to it: the reference for every engine."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Coroutine, Sequence
from operator import attrgetter
from typing import Any, Final, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from chatd.journal import StoreError, Unavailable
from chatd.journal.engine import (
    FEED_ENTRIES,
    FORMER_EPOCHS,
    NICK_TAKEN,
    PERSONAL,
    REPLICATED,
    Fed,
    Holder,
    Life,
    Stale,
    Sweep,
)
from chatd.journal.memory import MemoryJournal
from chatd.journal.retention import CHUNK, Retention
from chatd.model import (
    Arrive,
    Arrived,
    Claim,
    Depart,
    Drop,
    Enter,
    Entered,
    Event,
    Exit,
    Exited,
    FeedEntry,
    Forget,
    Lease,
    Named,
    Operation,
    Outcome,
    Progress,
    Put,
    Receipt,
    RecordChanged,
    Records,
    Refusal,
    Relay,
    Relayed,
    Renewed,
    Restore,
    Swept,
    Take,
    Wipe,
)

__all__ = ["State", "result"]

_T = TypeVar("_T")

_POSITION: Final = attrgetter("position")


class _Standing(Struct):
    """A user: at which nodes, under which nick, and what is kept of the last visit."""

    nick: str
    subject: bool = False
    nodes: set[str] = field(default_factory=set)
    looks: tuple[str, ...] = ()
    held_until: int | None = None
    debt: bytes = b""


class _Member(Struct):
    """A user in a room: the nick, the nodes, and for each whether it is as an operator."""

    nick: str
    nodes: dict[str, bool] = field(default_factory=dict)


class _Node(Struct):
    """A node.

    Attributes:
        lease_until: When its lease ends.
        facts: What it says of itself.
        reads: The newest format that it can read; None once it has left.
    """

    lease_until: int
    facts: bytes
    reads: int | None


class _Reply(Struct):
    """A node's last batch: its number and its outcomes; None if it was made void."""

    number: int
    outcomes: list[Outcome] | None


class _Appended(Struct, frozen=True):
    """An entry of the feed, and when it was appended."""

    position: int
    origin: str
    entry: FeedEntry
    at: int


class State(MemoryJournal):
    """What the server holds, and what each request does to it. ``now`` is the server's time.

    The logs, the records and the users are the memory journal's; its position counts items too.
    """

    def __init__(self) -> None:
        self.time = 0
        super().__init__(now=lambda: self.time, elapsed=lambda: self.time / 1000)
        self.feed: list[_Appended] = []
        self.life = ""
        self.format = 0
        self.nodes: dict[str, _Node] = {}
        self.ended: dict[str, int] = {}
        self._replies: dict[str, _Reply] = {}
        self._standings: dict[str, _Standing] = {}
        self._looks: dict[str, str] = {}
        self._own: dict[str, str] = {}
        self._members: dict[str, dict[str, _Member]] = {}
        self._names: dict[str, str] = {}
        """The rooms' names, as they were written when somebody entered first."""
        self._leases: dict[tuple[str, str], tuple[str, int]] = {}
        self._node = ""
        self._origin = ""
        self._entries = 0
        self._fresh = b""

    # ---- nodes

    def enter(
        self,
        now: int,
        life: str,
        fresh: bytes,
        node: str,
        last: tuple[int, str] | None,
        confirmed: int,
        lease_ms: int,
        facts: bytes,
        reads: int,
    ) -> Life:
        """See `Engine.enter`.

        Args:
            now: The time.
            life: The life of the server's process.
            fresh: 32 random bytes, of which new ids are made.
            node: The node's id; empty for a new node.
            last: See `Engine.enter`; None too if the node has been in this life before.
            confirmed: The same; 0 then.
            lease_ms: How long a new lease lasts.
            facts: What the node says of itself.
            reads: The newest format that it can read.
        """
        if self.format > reads:
            raise StoreError(
                f"the store has format {self.format}, which this version of chatd cannot read: "
                "update this one"
            )
        self._begin(now, fresh)
        lost = self._lacks(last) or self._number(node) < confirmed
        before, self.life = self.life, life
        if not before:
            self.epoch, self.key = _epoch(fresh), fresh
        elif before != life:
            self._begin(now, fresh)  # with this life's origin
            self._renew()
        held = self.nodes.get(node)
        if held is None or held.lease_until <= now or lost:
            self.leave(now, node, 0)
            node = fresh.hex()[16:32]
            self.nodes[node] = _Node(now + lease_ms, facts, reads)
        raised = self._raise_format()
        position, origin = (self.feed[-1].position, self.feed[-1].origin) if self.feed else (0, "")
        return Life(
            node, self.epoch, self.key, position, origin, now, lost, raised, dict(self.ended)
        )

    def _raise_format(self) -> int:
        """Raise the format if all nodes can read a newer one. Return that; 0 if there is none."""
        before = self.format
        live = [one for one in self.nodes.values() if one.lease_until > self.time]
        self.format = min(one.reads for one in live if one.reads is not None)
        return self.format if 0 < before < self.format else 0

    def _lacks(self, last: tuple[int, str] | None) -> bool:
        if last is None or last[0] == 0:
            return False
        place = bisect_right(self.feed, last[0], key=_POSITION)
        return not place or (self.feed[place - 1].position, self.feed[place - 1].origin) != last

    def _number(self, node: str) -> int:
        reply = self._replies.get(node)
        return 0 if reply is None else reply.number

    def _renew(self) -> None:
        """Begin a new epoch. What follows this position is not the same in the former ones."""
        self.ended[self.epoch] = self.position
        for epoch, ended in self.ended.items():
            self.ended[epoch] = min(ended, self.position)
        while len(self.ended) > FORMER_EPOCHS:
            del self.ended[next(iter(self.ended))]  # they are in the order in which they ended
        self.epoch = _epoch(self._fresh)
        self._append(Renewed(0, self.epoch))

    def beat(self, now: int, node: str, lease_ms: int, facts: bytes) -> tuple[int, int]:
        self._check_lease(now, node)
        held = self.nodes[node]
        held.lease_until, held.facts = now + lease_ms, facts
        return now, self.feed[-1].position if self.feed else 0

    def leave(self, now: int, node: str, linger_ms: int) -> None:
        """See `Engine.leave`."""
        if (held := self.nodes.get(node)) is not None:
            held.lease_until, held.reads = min(held.lease_until, now + linger_ms), None

    def _check_lease(self, now: int, node: str) -> None:
        held = self.nodes.get(node)
        if held is None or held.lease_until <= now:
            raise Stale("the node's lease is over")

    def bury(self, now: int, hold_ms: int) -> bool:
        self._begin(now)
        left = CHUNK
        for node in [one for one, held in self.nodes.items() if held.lease_until <= now]:
            for room, members in list(self._members.items()):
                for user in [one for one, member in members.items() if node in member.nodes]:
                    if not left:
                        return True
                    left -= 1
                    self._exit(Exit(room, user, "lost"), node)
            for user in [one for one, held in self._standings.items() if node in held.nodes]:
                if not left:
                    return True
                left -= 1
                self._depart(Depart(user, now + hold_ms), node)
            for key in [one for one, (owner, _) in self._leases.items() if owner == node]:
                if not left:
                    return True
                left -= 1
                _, linger_ms = self._leases.pop(key)
                if (record := self._records.get(key)) is not None:
                    self._records[key] = replace(record, until=now + linger_ms)
            del self.nodes[node]
        return False

    # ---- batches

    def commit_of(
        self, now: int, fresh: bytes, node: str, number: int, batch: Sequence[Operation]
    ) -> list[Outcome]:
        """See `Engine.commit`."""
        self._check_lease(now, node)
        last = self._number(node)
        if number <= last:
            outcomes = self._replies[node].outcomes
            if number < last or outcomes is None:
                raise Unavailable(f"batch {number} comes too late")
            return outcomes
        if number != last + 1:
            raise Stale(f"batch {number} follows {last}")
        self._begin(now, fresh, node, number)
        at = self._at = max(self._at, now)
        outcomes = [self._do(operation, at) for operation in batch]
        self._replies[node] = _Reply(number, outcomes)
        return outcomes

    def void(self, node: str, number: int) -> list[Outcome] | None:
        """See `Engine.void`."""
        if self._number(node) < number:
            self._replies[node] = _Reply(number, None)
        reply = self._replies[node]
        return reply.outcomes if reply.number == number else None

    def _begin(self, now: int, fresh: bytes = b"", node: str = "", number: int = 0) -> None:
        self.time, self._fresh, self._node, self._entries = now, fresh, node, 0
        self._origin = f"{node}.{number}" if node else f"-{self.life}"

    def _append(self, entry: FeedEntry) -> None:
        """Append an item to the feed, at the next position, or an event at its own."""
        if not isinstance(entry, Event):
            self.position += 1
            entry = replace(entry, position=self.position)
        origin = f"{self._origin}.{self._entries}"
        self._entries += 1
        self.feed.append(_Appended(entry.position, origin, entry, self.time))

    def trim(self) -> None:
        """Remove all of the feed but its last entry."""
        del self.feed[:-1]

    def entries_after(self, after: int, node: str, wanted: Callable[[str], bool]) -> list[Fed]:
        """Return what `Engine.feed` does, without waiting."""
        found: list[Fed] = []
        first = bisect_right(self.feed, after, key=_POSITION)
        for one in self.feed[first : first + FEED_ENTRIES]:
            entry: FeedEntry | None = one.entry
            foreign = not one.origin.startswith(f"{node}.")
            if isinstance(entry, Event) and foreign and not wanted(entry.room):
                entry = None
            found.append(Fed(one.position, one.origin, entry))
        return found

    def _do(self, operation: Operation, at: int) -> Outcome:
        match operation:
            case Put(record):
                self._leases.pop((record.kind, record.name), None)
                super()._do(operation, at)
                self._tell_record(record.kind, record.name)
            case Lease(record, linger_ms):
                self._do(Put(replace(record, until=None)), at)
                self._leases[record.kind, record.name] = (self._node, linger_ms)
            case Records(put, drop):
                for record in put:
                    self._do(Put(record), at)
                for kind, name in drop:
                    self._do(Drop(kind, name), at)
            case Drop(kind, name) | Take(kind, name):
                self._leases.pop((kind, name), None)
                outcome = super()._do(operation, at)
                self._tell_record(kind, name)
                return outcome
            case Arrive() | Depart() | Claim() | Enter() | Exit():
                return self._place(operation)
            case Relay(kind, body):
                self._append(Relayed(0, kind, body))
            case Forget(user):
                super()._do(operation, at)
                self._forget(user)
            case _:
                outcome = super()._do(operation, at)
                if isinstance(outcome, Receipt) and not outcome.duplicate:
                    self._append(outcome.event)
                return outcome
        return None

    def _tell_record(self, kind: str, name: str) -> None:
        if kind in PERSONAL:
            standing = self._standings.get(name.partition("\0")[0])
            if standing is None or len(standing.nodes) < 2:
                return
        elif kind not in REPLICATED:
            return
        self._append(RecordChanged(0, kind, name, self._records.get((kind, name))))

    # ---- what rewrites the logs

    def _restore(self, operation: Restore) -> Refusal | None:
        epoch, position = self.epoch, self.position
        self.position += 1  # the epoch's; the restored events come behind it
        refusal = super()._restore(operation)
        behind, self.position = self.position, position
        if refusal is None:
            self.epoch = epoch
            self._renew()
            self.position = behind
        return refusal

    def _wipe(self, operation: Wipe) -> Progress:
        rooms = {
            kept.event.room for kept in self._kept.values() if kept.event.user == operation.user
        }
        progress = super()._wipe(operation)
        for key, room in self._rooms.items():  # in the order in which they were made
            if key in rooms:
                self._append(Swept(0, key, room.first))
        return progress

    def _remove_front(self, key: str, upto: int) -> int:
        removed = super()._remove_front(key, upto)
        self._append(Swept(0, key, upto + 1))
        return removed

    def swept(self, now: int, retention: Retention) -> Sweep:
        """See `Engine.sweep`."""
        self._begin(now)
        if retention != self._retention:
            self.retain(retention)
        removed = self._retention_log.swept
        more = result(self.sweep())
        self._forget_guests(now)
        kept = now - retention.purge_seconds * 500
        while len(self.feed) > 1 and self.feed[0].at < kept:
            del self.feed[0]
        due, statistics = self.due_in(), self.statistics()
        return Sweep(
            statistics.swept - removed,
            more,
            None if due is None else now + round(due * 1000),
            statistics.bytes,
        )

    # ---- who is where

    def _place(self, operation: Arrive | Depart | Claim | Enter | Exit) -> Outcome:
        match operation:
            case Arrive():
                return self._arrive(operation)
            case Depart():
                self._depart(operation, self._node)
            case Claim():
                return self._claim(operation)
            case Enter():
                self._enter(operation)
            case Exit():
                self._exit(operation, self._node)
        return None

    def _standing(self, user: str, nick: str) -> _Standing:
        standing = self._standings.get(user)
        if standing is None:
            standing = self._standings[user] = _Standing(nick)
        return standing

    def _held(self, user: str, standing: _Standing) -> tuple[str, ...]:
        """Return the looks that a user still has; another may have got some of them meanwhile."""
        return tuple(look for look in standing.looks if self._looks.get(look) == user)

    def _arrive(self, operation: Arrive) -> Arrived:
        standing = self._standing(operation.user, operation.nick)
        claimed = bool(standing.looks) and len(self._held(operation.user, standing)) == len(
            standing.looks
        )
        if not claimed:
            self._free_looks(operation.user, standing)
            standing.nick = operation.nick
        elsewhere = bool(standing.nodes - {self._node})
        standing.nodes.add(self._node)
        standing.subject = standing.subject or operation.subject
        standing.held_until = None
        debt, standing.debt = standing.debt, b""
        return Arrived(elsewhere, debt, standing.nick if claimed else None)

    def _depart(self, operation: Depart, node: str) -> None:
        standing = self._standings.get(operation.user)
        if standing is None or node not in standing.nodes:
            return
        standing.nodes.discard(node)
        if not standing.nodes:
            standing.held_until, standing.debt = operation.hold_until, operation.debt

    def _claim(self, operation: Claim) -> Refusal | None:
        user = operation.user
        if not all(self._may_have(look, operation) for look in operation.looks):
            return NICK_TAKEN
        standing = self._standing(user, operation.nick)
        for look in operation.own:
            self._own.setdefault(look, user)
        self._free_looks(user, standing)
        for look in operation.looks:
            self._looks[look] = user
        before, standing.nick = standing.nick, operation.nick
        standing.looks = operation.looks
        standing.subject = standing.subject or operation.subject
        if before != operation.nick:
            self._append(Named(0, user, operation.nick, before))
        return None

    def _may_have(self, look: str, claim: Claim) -> bool:
        if self._own.get(look, claim.user) != claim.user:
            return False
        holder = self._looks.get(look, claim.user)
        if holder == claim.user:
            return True
        return not self._is_held(self._standings[holder], subjects=not claim.subject)

    def _is_held(self, standing: _Standing, *, subjects: bool) -> bool:
        """Return whether a user's nick is in use or held; with ``subjects``, or is a subject's."""
        until = standing.held_until
        held = until is not None and until > self.time
        return bool(standing.nodes) or held or (subjects and standing.subject)

    def _free_looks(self, user: str, standing: _Standing) -> None:
        for look in self._held(user, standing):
            del self._looks[look]
        standing.looks = ()

    def _nick(self, user: str, nick: str) -> str:
        """Return a user's present nick; ``nick`` if none is known."""
        standing = self._standings.get(user)
        return nick if standing is None else standing.nick

    def _enter(self, operation: Enter) -> None:
        room, user = operation.room, operation.user
        if room not in self._members:
            self._members[room], self._names[room] = {}, operation.name
        members = self._members[room]
        first = user not in members
        member = members.setdefault(user, _Member(operation.nick))
        member.nick = operation.nick
        member.nodes[self._node] = operation.op
        nick, op = self._nick(user, operation.nick), any(member.nodes.values())
        self._append(Entered(0, room, operation.name, user, nick, op, first, len(members)))

    def _exit(self, operation: Exit, node: str) -> None:
        room, user = operation.room, operation.user
        members = self._members.get(room, {})
        member = members.get(user)
        if member is None or member.nodes.pop(node, None) is None:
            return
        if last := not member.nodes:
            del members[user]
            if not members:
                del self._members[room], self._names[room]
        nick, total = self._nick(user, member.nick), len(members)
        self._append(Exited(0, room, user, nick, operation.reason, last, total))

    def _forget(self, user: str) -> None:
        self._looks = {look: one for look, one in self._looks.items() if one != user}
        self._own = {look: one for look, one in self._own.items() if one != user}
        if (standing := self._standings.get(user)) is not None:
            standing.looks = ()
            if not standing.nodes:
                del self._standings[user]

    def _forget_guests(self, now: int) -> None:
        """Forget guests who are not here and whose nicks are not held any longer."""
        for user, standing in list(self._standings.items()):
            if not self._is_held(standing, subjects=True):
                self._free_looks(user, standing)
                del self._standings[user]

    async def members(self, room: str) -> list[Entered]:
        members = self._members.get(room, {})
        position = self.feed[-1].position if self.feed else 0
        name = self._name(room)
        return [
            Entered(
                *(position, room, name, user, self._nick(user, member.nick)),
                *(any(member.nodes.values()), True, len(members)),
            )
            for user, member in sorted(members.items())
        ]

    def _name(self, room: str) -> str:
        return self._rooms[room].name if room in self._rooms else self._names.get(room, room)

    async def occupied(self) -> dict[str, tuple[str, int]]:
        return {
            room: (self._name(room), len(members))
            for room, members in self._members.items()
            if not room.startswith("@")
        }

    async def holder(self, look: str) -> Holder | None:
        user = self._looks.get(look)
        if user is None or not self._is_held(self._standings[user], subjects=True):
            user = self._own.get(look)
        if user is None or (standing := self._standings.get(user)) is None:
            return None
        return Holder(user, standing.nick, bool(standing.nodes), standing.subject)


def result(reading: Coroutine[Any, Any, _T]) -> _T:
    """Return the result of a coroutine that waits for nothing."""
    try:
        reading.send(None)
    except StopIteration as stop:
        result: _T = stop.value
        return result
    raise AssertionError("it waits")


def _epoch(fresh: bytes) -> str:
    return f"e{fresh.hex()[:15]}"
