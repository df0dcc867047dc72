"""Batches: operations become keys and arguments of commit.lua, and its reply their outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from chatd.journal import NO_MESSAGE, NOT_YOURS, new_epoch
from chatd.journal.engine import NICK_TAKEN, PERSONAL, REPLICATED
from chatd.journal.redis.layout import (
    LETTERS,
    MOST,
    Keys,
    decode_event,
    digest_of,
    ending,
    field,
    middle,
)
from chatd.journal.rewrite import unfit
from chatd.model import (
    Arrive,
    Arrived,
    Claim,
    Depart,
    Drop,
    Enter,
    Erase,
    Event,
    Exit,
    Forget,
    Lease,
    Operation,
    Outcome,
    Post,
    Progress,
    Put,
    Receipt,
    Record,
    Records,
    Refusal,
    Relay,
    Remember,
    Restore,
    Take,
    Taken,
    Wipe,
)

__all__ = ["Batch", "Chunk"]

_REFUSALS: Final = {
    b"-not_found": NO_MESSAGE,
    b"-forbidden": NOT_YOURS,
    b"-nick_taken": NICK_TAKEN,
}


class Chunk(Struct, frozen=True):
    """A part of a room's log, as it was read for an operation that removes or redacts events.

    Attributes:
        room: The room's key.
        first: The room's first number.
        events: The numbers of the events, with the user and the key of each.
        upto: The position of the last of them; None if nothing follows.
    """

    room: str
    first: int
    events: list[tuple[int, str, str | None]]
    upto: int | None


class Batch:
    """The keys and arguments of commit.lua for a batch of operations.

    An operation becomes one or more calls of the script's functions; their outcomes become one.

    Args:
        keys: The names of the store's keys.
        node: The id of the node whose batch it is.
        secret: The store's key, with which digests are made.
        posts: Whether there are only posts, which need fewer keys.
    """

    def __init__(self, keys: Keys, node: str, secret: bytes, *, posts: bool = False) -> None:
        self.keys = keys.posts(node) if posts else keys.fixed(node)
        self.arguments: list[bytes | str | int] = []
        self._keys = keys
        self._secret = secret
        self._places: dict[bytes, int] = {}
        self._calls: list[tuple[Operation, int, int | None]] = []

    def add(
        self, operation: Operation, chunks: Sequence[Chunk] = (), upto: int | None = None
    ) -> None:
        """Add an operation.

        Args:
            operation: What to do.
            chunks: The events that a `Wipe` or an `Erase` is about, as they were read before.
            upto: The position up to which they were read; None if nothing is left.
        """
        if isinstance(operation, Post):
            calls = self._post(operation)
        elif isinstance(operation, Wipe | Erase):
            calls = self._rewrite(operation, chunks)
        elif isinstance(operation, Restore):
            calls = self._restore(operation)
        else:
            calls = self._add(operation)
        self._calls.append((operation, calls, upto))

    def outcomes(self, reply: bytes) -> list[Outcome]:
        """Return the outcomes of the operations.

        Args:
            reply: What commit.lua returned.
        """
        head, _, rest = reply.partition(b"\n")
        at, _, *lengths = map(int, head.split())
        found, begin = [], 0
        for length in lengths:
            found.append(rest[begin : begin + length])
            begin += length
        made: list[Outcome] = []
        place = 0
        for operation, calls, upto in self._calls:
            if isinstance(operation, Post):
                made.append(_posted(operation, at, found[place]))
            else:
                made.append(_outcome(operation, found[place : place + calls], upto))
            place += calls
        return made

    # ---- arguments

    def _place(self, key: bytes) -> int:
        """Return the place of a key among those of the script, counted from 1."""
        place = self._places.get(key)
        if place is None:
            self.keys.append(key)
            place = self._places[key] = len(self.keys)
        return place

    def _log(self, room: str) -> int:
        """Return the place of a room's key. The one of its events follows."""
        key = self._keys.room(room)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = len(self.keys) + 1
            self.keys += (key, self._keys.events(room))
        return place

    def _digest(self, room: str, user: str, key: str | None) -> tuple[int, bytes]:
        """Return the place of the bucket of a sender's key, and the key's field there."""
        if key is None:
            return 0, b""
        digest = digest_of(self._secret, room, user, key)
        return self._place(self._keys.bucket(digest)), digest[2:]

    def _post(self, post: Post) -> int:
        room, user, kind = post.room, post.user, post.kind
        of, reply_to = post.of, post.reply_to
        self.arguments += (
            "p",
            self._log(room),
            room,
            post.name,
            *self._digest(room, user, post.key),
            LETTERS[kind],
            "" if reply_to is None else _number(reply_to),
            "" if of is None else _number(of),
            "" if post.operator and kind == "delete" else field(user),
            middle(user, post.nick, of, reply_to, post.key),
            ending(post.text),
        )
        return 1

    def _add(self, operation: Operation) -> int:
        """Add an operation on data beside the logs; return the number of its calls."""
        add = self.arguments.extend
        match operation:
            case Remember(record):
                seen = "" if record.seen is None else record.seen
                add(("u", record.user, seen, int(record.subject), record.nick))
            case Put(record):
                self._put(record)
            case Drop(kind, name):
                add(("d", _scope(kind), kind, name))
            case Records(put, drop):
                for record in put:
                    self._put(record)
                for kind, name in drop:
                    add(("d", _scope(kind), kind, name))
                return len(put) + len(drop)
            case Take(kind, name):
                add(("t", _scope(kind), kind, name))
            case Lease(record, linger_ms):
                add(("l", record.kind, record.name, linger_ms, record.value))
            case Forget(user):
                add(("g", user))
            case _:
                self._add_presence(operation)
        return 1

    def _add_presence(self, operation: Operation) -> None:
        add = self.arguments.extend
        match operation:
            case Arrive(user, nick, subject):
                add(("a", user, int(subject), nick))
            case Depart(user, hold_until, debt):
                add(("o", user, "" if hold_until is None else hold_until, debt))
            case Claim(user, nick, looks, subject, own):
                add(("c", user, nick, int(subject), len(looks), len(own), *looks, *own))
            case Enter(room, name, user, nick, op):
                place = self._place(self._keys.members(room))
                add(("n", place, room, name, user, nick, "+" if op else "-"))
            case Exit(room, user, reason):
                add(("q", self._place(self._keys.members(room)), room, user, reason))
            case Relay(kind, body):
                add(("y", kind, body))

    def _put(self, record: Record) -> None:
        until = "" if record.until is None else record.until
        self.arguments += ("r", _scope(record.kind), record.kind, record.name, until, record.value)

    def _restore(self, operation: Restore) -> int:
        room, entries = operation.room, operation.entries
        first = entries[0].seq
        if unfit(operation, first - 1, empty=False) is not None:
            return 0  # unfit for any room
        place = self._log(room)
        head = ("i", place, room, entries[0].room, new_epoch(), first, len(entries))
        self.arguments += head
        for entry in entries:
            beside = middle(entry.user, entry.nick, entry.of, entry.reply_to, entry.key)
            numbers = f"{entry.at} {entry.edited or 0} {int(entry.deleted)}"
            self.arguments += (
                LETTERS[entry.kind],
                entry.at,
                f"{numbers} {beside}{ending(entry.text)}",
                entry.text or "" if entry.kind == "topic" else "",
                *self._digest(room, entry.user, entry.key),
            )
        return 1

    def _rewrite(self, operation: Wipe | Erase, chunks: Sequence[Chunk]) -> int:
        if isinstance(operation, Erase):
            for chunk in chunks:
                self.remove_front(chunk)
            room = operation.room
            self.arguments += ("e", self._log(room), room, int(operation.forget))
            return len(chunks) + 1
        for chunk in chunks:
            head = ("w", self._log(chunk.room), chunk.room, field(operation.user))
            self.arguments += (*head, len(chunk.events))
            for seq, author, key in chunk.events:
                self.arguments += (seq, *self._digest(chunk.room, author, key))
        return len(chunks)

    # ---- calls that are not operations of the journal: see others.lua

    def remove_front(self, chunk: Chunk) -> None:
        """Remove a room's first events, if they are still the first ones."""
        room, events = chunk.room, chunk.events
        self.arguments += ("x", self._log(room), room, chunk.first, events[-1][0])
        for _, user, key in events:
            self.arguments += self._digest(room, user, key)

    def set_front(self, room: str, time: int) -> None:
        """Set the time by which retention removes a room's first event, in place of its own."""
        self.arguments += ("f", room, time)

    def drop_records(self, names: Sequence[tuple[bytes, int]]) -> None:
        """Drop records, by kind, NUL and name, if they still end at these times."""
        self.arguments += ("z", len(names))
        for name, until in names:
            kind, _, rest = name.partition(b"\0")
            self.arguments += (kind, rest, until)

    def forget_users(self, users: Sequence[tuple[bytes, int]]) -> None:
        """Forget users, if they were last seen at these times."""
        self.arguments += ("v", len(users))
        for user, seen in users:
            self.arguments += (user, seen)

    def end_holds(self, users: Sequence[tuple[bytes, int]]) -> None:
        """End the hold of users' nicks, if they are held until these times."""
        self.arguments += ("h", len(users))
        for user, until in users:
            self.arguments += (user, until)

    def bury(self, dead: str, belongings: Sequence[bytes], hold_until: int) -> None:
        """Undo the presence of users, memberships and leases of a node whose lease is over.

        Args:
            dead: The node's id.
            belongings: Some fields of ``of:DEAD``; empty if none is left.
            hold_until: Until when the nicks of its users are held.
        """
        self.arguments += ("b", dead, self._place(self._keys.of(dead)))
        for one in sorted(belongings, key=lambda one: b"RUL".index(one[:1])):
            what, *names = one.split(b"\0", 2)
            if what == b"R":
                place = self._place(self._keys.members(names[0].decode()))
                self.arguments += ("q", place, *names, "lost")
            elif what == b"U":
                self.arguments += ("o", names[0], hold_until, b"")
            else:
                self.arguments += ("m", *names)
        if not belongings:
            self.arguments += ("k",)


def _number(number: int) -> int:
    """Return the number if an event may have it; else 0, which no event has."""
    return number if 0 < number < MOST else 0


def _scope(kind: str) -> str:
    """Return which nodes learn of changes of a kind of records: see ``changed`` in others.lua."""
    return "r" if kind in REPLICATED else "p" if kind in PERSONAL else ""


def _posted(post: Post, at: int, outcome: bytes) -> Receipt | Refusal:
    if outcome[0] == 0x2B:  # +
        position, seq = outcome[1:].split()
        return Receipt(
            Event(
                int(position),
                post.room,
                int(seq),
                at,
                post.kind,
                post.user,
                post.nick,
                post.text,
                post.of,
                post.reply_to,
            )
        )
    if outcome[0] == 0x3D:  # =
        number, _, record = outcome[1:].partition(b" ")
        return Receipt(decode_event(post.room, int(number), record), duplicate=True)
    return _REFUSALS[outcome]


def _outcome(operation: Operation, outcomes: list[bytes], upto: int | None) -> Outcome:
    """Return the outcome of an operation other than a post."""
    first = outcomes[0] if outcomes else b""
    match operation:
        case Take(kind, name):
            if not first:
                return Taken(None)
            until, _, value = first[1:].partition(b" ")
            return Taken(Record(kind, name, value, int(until) if until else None))
        case Arrive():
            nick, _, debt = first[3:].partition(b"\0")
            claimed = nick.decode() if first[2:3] == b"1" else None
            return Arrived(first[1:2] == b"1", debt, claimed)
        case Erase() | Wipe():
            # Another node has removed them: the next chunk is read again.
            return Progress(0 if first == b"-again" else upto)
        case Restore():
            return _restored(operation, first, missing=not outcomes)
    return _REFUSALS[first] if first else None


def _restored(operation: Restore, outcome: bytes, *, missing: bool) -> Refusal | None:
    name = operation.entries[0].room
    if missing:
        return unfit(operation, operation.entries[0].seq - 1, empty=False)
    if outcome == b"-used":
        return Refusal("bad_request", f"{name} already has a message with one of these keys.")
    if outcome:
        _, last, empty = outcome.split()
        return unfit(operation, int(last), empty=empty == b"1")
    return None
