"""A batch of operations made into rows, inside a transaction that the writer begins and ends.

Plain messages are collected and inserted together. An operation that depends on other events has
the rows before it inserted first, so that it finds them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final

from chatd.journal import NO_MESSAGE, NOT_YOURS, new_epoch, rewrite, schema
from chatd.journal.index import Row
from chatd.journal.maintenance import KNOWN_ROOMS, Watermarks
from chatd.journal.places import LAST, place
from chatd.journal.retention import EVENT_BYTES
from chatd.journal.schema import LogEnd
from chatd.model import (
    Drop,
    Erase,
    Event,
    Forget,
    Operation,
    Outcome,
    Post,
    Put,
    Receipt,
    Record,
    Records,
    Refusal,
    Remember,
    Restore,
    Take,
    Taken,
    Wipe,
)

__all__ = ["Batch"]

_ROOM: Final = f"SELECT id, {LAST}, oldest IS NULL FROM rooms WHERE fold = ?"  # noqa: S608  a constant
_INSERT: Final = (
    "INSERT INTO events (position, room_id, seq, at, kind, user, nick, text, of, reply_to, key)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
# For plain messages: Python's module takes 0.4 µs to bind None.
_INSERT_PLAIN: Final = (
    "INSERT INTO events (position, room_id, seq, at, kind, user, nick, text)"
    " VALUES (?, ?, ?, ?, 'message', ?, ?, ?)"
)
_INSERT_KEYED: Final = (
    "INSERT INTO events (position, room_id, seq, at, kind, user, nick, text, key)"
    " VALUES (?, ?, ?, ?, 'message', ?, ?, ?, ?)"
)
_REMEMBER: Final = (
    "INSERT INTO users (user, nick, seen, subject) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (user) DO UPDATE"
    " SET nick = excluded.nick, seen = excluded.seen, subject = excluded.subject"
)
_BY_KEY: Final = schema.EVENT + " WHERE r.fold = ? AND e.user = ? AND e.key = ?"
_MESSAGE: Final = (
    "SELECT position, text, room_id, user, nick, deleted FROM events"  # noqa: S608  constants
    f" WHERE position = {place('(SELECT id FROM rooms WHERE fold = :room)', ':seq')}"
    " AND kind = 'message'"
)


class Batch:
    """One run of a batch. The writer then commits, and takes over what is found here.

    Args:
        cursor: Inside a transaction.
        marks: How far the store has come, and its index of words.
        at: The time of the events, in ms.
        now: Returns the time by which records end, in ms.
        keyed: Whether to look up the keys of plain messages; see `run`.
    """

    __slots__ = (
        "_at",
        "_cursor",
        "_execute",
        "_inserted",
        "_keyed",
        "_now",
        "_plain",
        "_rooms",
        "_touched",
        "_with_key",
        "_words",
        "duplicates",
        "epoch",
        "pages",
        "position",
        "removed_text",
    )

    def __init__(
        self,
        cursor: sqlite3.Cursor,
        marks: Watermarks,
        *,
        at: int,
        now: Callable[[], int],
        keyed: bool,
    ) -> None:
        self._cursor = cursor
        self._execute = cursor.execute
        self._at = at
        self._now = now
        self._words = marks.words
        self._keyed = keyed
        self._rooms = marks.rooms
        self._touched = marks.touched
        # Messages that are not inserted yet: without a key, and with one.
        self._plain: list[tuple[object, ...]] = []
        self._with_key: list[tuple[object, ...]] = []
        self._inserted = 0  # of those without a key
        self.position = marks.position
        """The position of the last event, once it was run."""
        self.pages = 0
        """About how many pages it wrote."""
        self.duplicates = 0
        self.epoch: str | None = None
        """The store's new epoch, if log entries were restored."""
        self.removed_text = False

    def run(self, batch: Sequence[Operation]) -> list[Outcome]:
        """Carry out all operations; what breaks a rule is refused alone.

        Raises:
            sqlite3.IntegrityError: The key of a plain message has been used before. That is rare,
                so keys are looked up only if the batch is run again with ``keyed``.
        """
        position = self.position
        at, rooms, touched, keyed = self._at, self._rooms, self._touched, self._keyed
        plain, with_key = self._plain, self._with_key
        outcomes: list[Outcome] = []
        characters = 0
        for operation in batch:
            if not isinstance(operation, Post):
                if isinstance(operation, Restore):
                    position, refusal = self._restore(operation, position)
                    outcomes.append(refusal)
                else:
                    outcomes.append(self._other(operation))
                continue
            fold, user, nick, text = operation.room, operation.user, operation.nick, operation.text
            key = operation.key
            is_plain = operation.kind == "message" and operation.reply_to is None
            # Before the rules: a retried operation must not be refused.
            if (
                key is not None
                and (keyed or not is_plain)
                and (first := self._first(fold, user, key)) is not None
            ):
                self.duplicates += 1
                outcomes.append(Receipt(first, True))
                continue
            if not is_plain and (refusal := self._change(operation)) is not None:
                outcomes.append(refusal)
                continue
            room = rooms.get(fold)
            if room is None:
                room = self._room(fold, operation.name)
            if room.empty:
                room.empty = False
                front = (min(at, self._now()), room.room_id)
                self._execute("UPDATE rooms SET oldest = ? WHERE id = ?", front)
            position += 1
            room_id, seq = room.room_id, room.seq + 1
            room.seq = seq
            touched[room_id] = None
            if not is_plain:
                event = self._append(operation, position, room_id, seq)
            else:
                event = Event(position, fold, seq, at, "message", user, nick, text)
                if key is None:
                    plain.append((position, room_id, seq, at, user, nick, text))
                else:
                    with_key.append((position, room_id, seq, at, user, nick, text, key))
            if text is not None:
                characters += len(text)
            outcomes.append(Receipt(event))
        self._insert()
        self.position = position
        # A leaf of each tree and the rows; what is not plain has a leaf of its own.
        rows = characters + EVENT_BYTES * self._inserted
        self.pages = 3 + len(batch) - self._inserted + rows // schema.PAGE_BYTES
        return outcomes

    def _insert(self) -> None:
        self._inserted += len(self._plain)
        for statement, rows in ((_INSERT_PLAIN, self._plain), (_INSERT_KEYED, self._with_key)):
            if len(rows) == 1:
                self._execute(statement, rows[0])
            elif rows:
                self._cursor.executemany(statement, rows)
            rows.clear()

    def _append(self, post: Post, position: int, room_id: int, seq: int) -> Event:
        """Insert an event that is more than a message; return it."""
        at, kind, user, nick, text = self._at, post.kind, post.user, post.nick, post.text
        if kind == "topic":
            self._execute("UPDATE rooms SET topic = ? WHERE id = ?", (text or "", room_id))
        # An edit's text is stored with its message, so that the next change removes it.
        stored = None if kind == "edit" else text
        of, reply_to = post.of, post.reply_to
        values = (position, room_id, seq, at, kind, user, nick, stored, of, reply_to, post.key)
        self._execute(_INSERT, values)
        return Event(position, post.room, seq, at, kind, user, nick, text, of, reply_to)

    def _room(self, fold: str, name: str) -> LogEnd:
        if len(self._rooms) >= KNOWN_ROOMS:
            self._insert()
            self._rooms.clear()
        row = self._execute(_ROOM, (fold,)).fetchone()
        if row is not None:
            room_id, seq, empty = row
            room = LogEnd(room_id, seq, bool(empty))
        else:
            self._execute("INSERT INTO rooms (fold, name) VALUES (?, ?)", (fold, name))
            assert self._cursor.lastrowid is not None  # noqa: S101  a row was inserted
            room = LogEnd(self._cursor.lastrowid, 0, empty=True)
        self._rooms[fold] = room
        return room

    def _first(self, fold: str, user: str, key: str) -> Event | None:
        self._insert()
        row = self._execute(_BY_KEY, (fold, user, key)).fetchone()
        return None if row is None else schema.decode(row)

    # ---- operations that change other events

    def _change(self, post: Post) -> Refusal | None:
        """Check what a post refers to and apply an edit or a delete; return a refusal, or None."""
        self._insert()
        if post.reply_to is not None and self._message(post.room, post.reply_to) is None:
            return NO_MESSAGE
        if post.kind not in ("edit", "delete"):
            return None
        target = None if post.of is None else self._message(post.room, post.of)
        if target is None:
            return NO_MESSAGE
        *values, deleted = target
        row = Row(*values)
        if deleted:
            return NO_MESSAGE
        if row.user != post.user and not (post.kind == "delete" and post.operator):
            return NOT_YOURS
        if post.kind == "edit":
            change = "UPDATE events SET text = ?, edited = ? WHERE position = ?"
            self._execute(change, (post.text, self._at, row.position))
            self._words.replace(self._cursor, row, post.text or "")
        else:
            change = "UPDATE events SET text = NULL, edited = NULL, deleted = 1"
            self._execute(f"{change} WHERE position = ?", (row.position,))
            self._words.remove(self._cursor, [row])
        self.removed_text = True
        return None

    def _message(self, fold: str, seq: int) -> tuple[Any, ...] | None:
        # Clients name numbers of any size; SQLite's have 64 bits.
        values = {"room": fold, "seq": schema.number(seq)}
        found: tuple[Any, ...] | None = self._execute(_MESSAGE, values).fetchone()
        return found

    # ---- operations on whole logs and on what is kept beside them

    def _restore(self, operation: Restore, position: int) -> tuple[int, Refusal | None]:
        self._insert()
        fold = operation.room
        room = self._rooms.get(fold) or self._room(fold, operation.entries[0].room)
        restored = rewrite.restore(self._cursor, operation, room, position)
        if isinstance(restored, Refusal):
            return position, restored
        self._touched[room.room_id] = None
        self.epoch = new_epoch()
        self._execute("UPDATE meta SET value = ? WHERE name = 'epoch'", (self.epoch,))
        return restored, None

    def _other(self, operation: Operation) -> Outcome:
        match operation:
            case Wipe():
                self._insert()
                self.removed_text = True
                return rewrite.wipe(self._cursor, operation, self._words)
            case Erase():
                self._insert()
                self.removed_text = True
                self._rooms.pop(operation.room, None)
                return rewrite.erase(self._cursor, operation, self._words)
            case Forget():
                self.removed_text = True
                rewrite.forget(self._cursor, operation)
            case Remember(user):
                self._execute(_REMEMBER, (user.user, user.nick, user.seen, user.subject))
            case Put(record):
                self._put(record)
            case Records(put, drop):
                for record in put:
                    self._put(record)
                for kind, name in drop:
                    self._take(kind, name)
            case Drop(kind, name):
                self._take(kind, name)
            case Take(kind, name):
                return Taken(self._take(kind, name))
            case _:
                raise TypeError(f"{operation} is for a store that several daemons share")
        return None

    def _put(self, record: Record) -> None:
        self._execute(
            "INSERT OR REPLACE INTO records (shelf, name, value, until) VALUES (?, ?, ?, ?)",
            (record.kind, record.name, record.value, record.until),
        )

    def _take(self, kind: str, name: str) -> Record | None:
        query = "DELETE FROM records WHERE shelf = ? AND name = ? RETURNING value, until"
        row = next(iter(self._execute(query, (kind, name)).fetchall()), None)
        if row is None or (row[1] is not None and row[1] <= self._now()):
            return None
        return Record(kind, name, *row)
