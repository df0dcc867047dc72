"""The layout of the store in Redis: its keys, and the bytes of their values.

All keys begin with the prefix, whose braces put them into one hash slot. F is a room's key, U a
user's id, N a node's id. Names with a comma between them are parts of a value, separated by NULs.

======================  ======  =================================================================
``m``                   hash    ``format``, ``epoch``, ``life``, ``key``, ``pos`` (the last
                                position), ``at`` (the last time), ``bytes`` (of all events),
                                ``rooms`` (made so far), ``removed`` (see beat.lua),
                                ``ended:EPOCH`` and ``reads:N`` (see enter.lua), ``chat`` (see
                                prefix.py)
``b:N``                 string  the number of the node's last batch, and the reply to it
``f``                   stream  the feed: what nodes read, under the ids ``POSITION-0``
``n``, ``facts``        zset,   nodes by the ends of their leases; their facts
                        hash
``of:N``                hash    what to undo when the node is buried: its fields are ``U``, user;
                                ``R``, room, user; ``L``, kind, name
``r:F``                 hash    ``name``, ``seq`` (the last number), ``first``, ``gone`` (the last
                                position that was removed), ``topic``. It stays when the events are
                                gone, so that no number is given twice
``e:F``                 hash    number → the record of an event
``rooms``, ``directs``  zsets   the rooms with events, by the time of the first one
``order``               zset    all rooms in the order in which they were made
``k:XXXX``              hash    65,536 buckets: digest of room, user and key → number
``u``                   hash    U → the user's record
``seen``, ``subjects``  zsets   users by when they were last here; users with tokens
``s``                   hash    kind, name → when the record ends, the node that leases it, value
``names``, ``until``    zsets   records by name, and by when they end
``kinds``               zset    the kinds of records
``at``                  hash    U → the nodes where the user has connections
``nicks``, ``looks``    hashes  U → nick, its looks; look → U
``own``                 hash    for the looks of a subject's id: look → U; and NUL, U → its looks
``held``, ``debts``     zset,   absent users by when their nick's hold ends; their flood buckets
                        hash
``p:F``                 hash    who is in the room: U → nodes, each with ``+`` or ``-`` for
                                operators, nick
``totals``              hash    F → how many users are in the room, its name
``proof``               string  nothing: it is written for replicas to confirm (see proof.py)
``rights``              none    written and removed to find out what is allowed (see rights.lua)
``published``           channel messages that may be lost: the node, a kind, a body
======================  ======  =================================================================

The record of an event is one string: ``kind position SP at SP edited SP deleted SP user NUL nick
NUL of NUL reply_to NUL key [NUL text]``. The kind is one letter. ``edited`` is 0 for a message that
was never edited. An edit has no text, because its message has it. One hash for each room takes a
fifth less memory than a key for each event. A stream would take still less, but the texts of its
deleted entries would stay in the append-only file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final, Self

from msgspec import Struct

from chatd.journal.engine import Fed
from chatd.journal.retention import Front
from chatd.model import (
    Entered,
    Event,
    EventKind,
    Exited,
    ExitReason,
    FeedEntry,
    LogEntry,
    Named,
    Record,
    RecordChanged,
    Relayed,
    Renewed,
    Swept,
    UserRecord,
)

__all__ = [
    "FORMAT",
    "LETTERS",
    "MOST",
    "Keys",
    "Standing",
    "decode_entry",
    "decode_event",
    "decode_log_entry",
    "decode_record",
    "decode_user",
    "digest_of",
    "ending",
    "field",
    "front_of",
    "middle",
]

FORMAT: Final = 1
"""The newest format of this layout that this version of chatd can read: see enter.lua. It is raised
when values change so that older versions cannot read them. The new values may be written once the
store has that format."""

MOST: Final = 2**53
"""Clients may send any number; those of Lua are exact up to this one."""

_KINDS: Final[dict[str, EventKind]] = {"m": "message", "e": "edit", "d": "delete", "t": "topic"}
_REASONS: Final[dict[str, ExitReason]] = {
    "leave": "leave",
    "lost": "lost",
    "kicked": "kicked",
    "banned": "banned",
}
LETTERS: Final = {kind: letter for letter, kind in _KINDS.items()}


class Keys:
    """The names of the store's keys.

    Args:
        prefix: What they begin with.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix: Final = prefix
        self.meta = self._key("m")
        self.feed = self._key("f")
        self.nodes = self._key("n")
        self.facts = self._key("facts")
        self.rooms = self._key("rooms")
        self.directs = self._key("directs")
        self.order = self._key("order")
        self.users = self._key("u")
        self.seen = self._key("seen")
        self.subjects = self._key("subjects")
        self.records = self._key("s")
        self.names = self._key("names")
        self.until = self._key("until")
        self.kinds = self._key("kinds")
        self.at = self._key("at")
        self.nicks = self._key("nicks")
        self.looks = self._key("looks")
        self.own = self._key("own")
        self.held = self._key("held")
        self.debts = self._key("debts")
        self.totals = self._key("totals")
        self.proof = self._key("proof")
        self.rights = self._key("rights")
        self.channel = self._key("published")

    def _key(self, name: str) -> bytes:
        return f"{self.prefix}:{name}".encode()

    @property
    def types(self) -> dict[bytes, str]:
        """The Redis types of the keys that every store may have; ``meta`` is last."""
        zsets = (self.nodes, self.rooms, self.directs, self.order, self.seen, self.subjects)
        more = (self.names, self.until, self.kinds, self.held)
        hashes = (self.facts, self.users, self.records, self.at, self.nicks, self.looks, self.own)
        return {
            self.feed: "stream",
            **dict.fromkeys((*zsets, *more), "zset"),
            **dict.fromkeys((*hashes, self.debts, self.totals, self.meta), "hash"),
        }

    def type_of(self, key: bytes) -> str:
        """Return the Redis type that a key has, or would have."""
        part = key.removeprefix(f"{self.prefix}:".encode()).partition(b":")[0]
        return self.types.get(key, "string" if part in {b"b", b"proof"} else "hash")

    def is_made_again(self, key: bytes) -> bool:
        """Return whether nodes make a key again if it is deleted, without a loss."""
        replies = key.startswith(self.reply(""))
        return replies or key in {self.feed, self.nodes, self.facts, self.proof}

    def room(self, room: str) -> bytes:
        return self._key(f"r:{room}")

    def events(self, room: str) -> bytes:
        return self._key(f"e:{room}")

    def members(self, room: str) -> bytes:
        return self._key(f"p:{room}")

    def bucket(self, digest: bytes) -> bytes:
        return self._key(f"k:{digest[:2].hex()}")

    def reply(self, node: str) -> bytes:
        return self._key(f"b:{node}")

    def of(self, node: str) -> bytes:
        return self._key(f"of:{node}")

    def posts(self, node: str) -> list[bytes]:
        """Return the first keys of a batch of posts."""
        reply = self.reply(node)
        return [self.meta, reply, self.feed, self.nodes, self.rooms, self.directs, self.order]

    def fixed(self, node: str) -> list[bytes]:
        """Return the first keys of any other batch, which begin with those of a batch of posts."""
        return [
            *self.posts(node),
            *(self.users, self.seen, self.subjects),
            *(self.records, self.names, self.until, self.kinds),
            *(self.at, self.nicks, self.looks, self.own, self.held, self.debts),
            *(self.totals, self.facts, self.of(node)),
        ]


def digest_of(secret: bytes, room: str, user: str, key: str) -> bytes:
    """Return the digest under which the first event of a sender's key is found.

    With 112 bits, the keys of a million senders do not collide. Without the store's key, nobody can
    search for a collision.
    """
    return blake2b(f"{room}\0{user}\0{key}".encode(), digest_size=14, key=secret).digest()


# ---- the records of events


def field(text: str) -> str:
    """Return a user, a nick or a key so that it holds no NUL."""
    if "\0" in text or "\1" in text:
        return text.replace("\1", "\1A").replace("\0", "\1B")
    return text


def _value(field: str) -> str:
    """Return the text that `field` was given."""
    return field.replace("\1B", "\0").replace("\1A", "\1") if "\1" in field else field


def middle(user: str, nick: str, of: int | None, reply_to: int | None, key: str | None) -> str:
    """Return the middle of a record, between its numbers and its text."""
    return (
        f"{field(user)}\0{field(nick)}\0{'' if of is None else of}\0"
        f"{'' if reply_to is None else reply_to}\0{'' if key is None else field(key)}"
    )


def ending(text: str | None) -> str:
    """Return the end of a record."""
    return "" if text is None else f"\0{text}"


def decode_event(room: str, seq: int, record: bytes) -> Event:
    """Return an event. The text of an edit's message must have been added to its record."""
    head, nick, of, reply_to, _, *text = record.decode().split("\0", 5)
    position, at, edited, deleted, user = head.split(" ", 4)
    return Event(
        int(position[1:]),
        room,
        seq,
        int(at),
        _KINDS[position[0]],
        _value(user),
        _value(nick),
        text[0] if text else None,
        int(of) if of else None,
        int(reply_to) if reply_to else None,
        None if edited == "0" else int(edited),
        deleted == "1",
    )


def decode_log_entry(name: str, seq: int, record: bytes) -> LogEntry:
    """Return an event as stored, of the room with this name."""
    head, nick, of, reply_to, key, *text = record.decode().split("\0", 5)
    position, at, edited, deleted, user = head.split(" ", 4)
    return LogEntry(
        name,
        seq,
        int(at),
        _KINDS[position[0]],
        _value(user),
        _value(nick),
        text[0] if text else None,
        int(of) if of else None,
        int(reply_to) if reply_to else None,
        None if edited == "0" else int(edited),
        deleted == "1",
        _value(key) or None,
    )


def front_of(seq: int, record: bytes) -> Front:
    """Return what retention has to know of an event."""
    return seq, int(record.split(b" ", 2)[1]), len(record)


def decode_record(full: bytes, stored: bytes) -> Record:
    """Return a record, which is stored under its kind, a NUL and its name."""
    kind, _, name = full.decode().partition("\0")
    head, _, value = stored.partition(b"\0")
    until = head.split(b" ", 1)[0]
    return Record(kind, name, value, int(until) if until else None)


def decode_user(user: str, stored: bytes) -> UserRecord:
    """Return a user's record."""
    seen, _, rest = stored.decode().partition(" ")
    return UserRecord(user, rest[1:], int(seen) if seen else None, rest[0] == "1")


class Standing(Struct, frozen=True):
    """What is known of a user who is present, or whose nick is held."""

    subject: bool
    nick: str

    @classmethod
    def decode(cls, stored: bytes) -> Self:
        text = stored.decode().partition("\0")[0]
        return cls(text[0] == "1", text[1:])


# ---- the feed


def decode_entry(position: int, fields: Sequence[bytes], wanted: Callable[[str], bool]) -> Fed:
    """Return an entry of the feed.

    Args:
        position: Its position.
        fields: Names and values in turn, as Redis returns them.
        wanted: Returns whether events of a room, by its key, are of use.
    """
    origin, kind = fields[1].decode(), fields[3]
    if kind == b"E":
        room = fields[5].decode()
        if not wanted(room):
            return Fed(position, origin, None)
        return Fed(position, origin, decode_event(room, int(fields[7]), fields[9]))
    if kind == b"Y":
        return Fed(position, origin, Relayed(position, fields[5].decode(), fields[7]))
    if kind == b"R":
        name, shelf = fields[7].decode(), fields[5].decode()
        record = None
        if len(fields) > 8:
            record = Record(shelf, name, fields[11], int(fields[9]) if fields[9] else None)
        return Fed(position, origin, RecordChanged(position, shelf, name, record))
    item = _item(position, kind, [value.decode() for value in fields[5::2]])
    return Fed(position, origin, item, unknown=item is None)


def _item(position: int, kind: bytes, values: list[str]) -> FeedEntry | None:
    """Return the item of an entry's fields; None if this version of chatd does not know it."""
    match kind, values:
        case b"I", [room, name, user, nick, op, first, total]:
            return Entered(position, room, name, user, nick, op == "1", first == "1", int(total))
        case b"O", [room, user, nick, reason, last, total] if reason in _REASONS:
            return Exited(position, room, user, nick, _REASONS[reason], last == "1", int(total))
        case b"N", [user, nick, before]:
            return Named(position, user, nick, before)
        case b"V", [epoch]:
            return Renewed(position, epoch)
        case b"W", [room, first]:
            return Swept(position, room, int(first))
    return None
