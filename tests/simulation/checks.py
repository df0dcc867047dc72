"""The promises that a simulation checks, and what it has to remember for that.

`RoomView` is one connection's view of one room: the order of its log, and its members. `Ledger` is
what all connections received together: it must be one log, and the log that the store holds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from msgspec import Struct

from chatd.model import LogEntry

__all__ = ["LOGGED", "Attempt", "Fields", "Ledger", "RoomView", "Violation", "expect"]

Fields = dict[str, Any]

LOGGED: Final = frozenset({"message", "edit", "delete", "topic"})
"""The events of a room's log."""


class Violation(AssertionError):  # noqa: N818  not a fault of the program that raises it
    """A promise was broken."""


def expect(holds: bool, promise: str) -> None:
    """Raise `Violation` unless a promise holds."""
    if not holds:
        raise Violation(promise)


def numbers(events: Sequence[Fields]) -> list[int]:
    return [event["seq"] for event in events if "seq" in event]


class RoomView:
    """What one connection knows of one room.

    Attributes:
        next: The number of the next event of the log; None if any may come first.
        upto: Up to here a Socket.IO client gets only some of the events.
        last: The last one of these.
        roll: The nicks of the members by their ids; None if it is not known.
        epoch: The epoch of the numbers.
        leaving: Whether the client has asked to leave.
    """

    def __init__(self, room: str, first: int | None = None) -> None:
        self.room = room
        self.next = first
        self.upto = 0
        self.last = 0
        self.roll: dict[str, str] | None = None
        self.epoch: str | None = None
        self.leaving = False

    def __repr__(self) -> str:
        return f"{self.room}:{self.next}"

    @property
    def position(self) -> Fields | None:
        """The position from which the client resumes."""
        if self.next is None or self.epoch is None:
            return None
        return {"epoch": self.epoch, "seq": self.next - 1}

    def entered(self, answer: Fields, since: Fields | None, *, page_follows: bool = False) -> None:
        """Take the answer to a join. With ``page_follows`` its page comes as events."""
        self.leaving = False
        self.epoch = answer["epoch"]
        self.take_members(answer)
        self.paged(answer, since, page_follows=page_follows)

    def paged(self, answer: Fields, since: Fields | None, *, page_follows: bool = False) -> None:
        """Take a page of the log: the newest events, or those that follow a position."""
        came = numbers(answer["events"])
        expect(
            came == list(range(came[0], came[0] + len(came))) if came else True,
            f"a page without a gap: {self.room} has {came}",
        )
        if since is not None and answer["recovered"]:
            first = since["seq"] + 1
            expect(not came or came[0] == first, f"recovered: true continues at {first}: {came}")
            self.next = first + len(came)
        elif page_follows:
            self.next, self.upto, self.last = answer["seq"] + 1, answer["seq"], 0
        elif came:
            expect(came[-1] <= answer["seq"], f"a page within the log: {came}, {answer['seq']}")
            self.next = came[-1] + 1
        else:
            self.next = 1 if answer["seq"] == 0 else None

    def take_members(self, answer: Fields) -> None:
        members = answer["members"]
        self.roll = None
        if answer["member_count"] == len(members):
            self.roll = {member["user"]: member["nick"] for member in members}

    def logged(self, seq: int, name: str) -> None:
        """Take an event of the log."""
        if seq <= self.upto:  # of the page; some events are left out
            expect(seq > self.last, f"the order of {self.room}: {name} {seq} after {self.last}")
            self.last = seq
            return
        expect(
            self.next is None or seq == self.next,
            f"the order of {self.room}: {name} {seq} came where {self.next} was due",
        )
        self.next = seq + 1

    def presence(self, name: str, fields: Fields, *, exact: bool) -> None:
        """Take an event about the members. With ``exact`` no `joined` comes twice."""
        if self.roll is None:
            return
        user = fields.get("user", "")
        if name == "joined":
            expect(
                not exact or user not in self.roll, f"{user} is in {self.room} already: {fields}"
            )
            self.roll[user] = fields["nick"]
        elif name == "left":
            expect(user in self.roll, f"each joined has at most one left: {self.room}, {fields}")
            del self.roll[user]
        elif name == "nick" and user in self.roll:
            self.roll[user] = fields["to"]


class Attempt(Struct):
    """Something that a client tried to have committed, known by its text, which nobody repeats.

    Attributes:
        user: The sender's id; None for a client of plain text, which does not learn its id.
        refused: Whether it was refused for good: then it is not in the log.
        doubtful: Whether it may be in the log although it was refused later.
    """

    user: str | None
    room: str
    text: str
    key: str | None = None
    refused: bool = False
    doubtful: bool = False


class Ledger:
    """What the daemon showed and acknowledged to anybody, and what the store has lost since then.

    Args:
        committed: Returns the number up to which a room's log is committed; None where it cannot
            be read at once.
    """

    def __init__(self, committed: Callable[[str], int] | None) -> None:
        self._committed = committed
        self.attempts: dict[str, Attempt] = {}
        self._shown: dict[tuple[str, str, int], tuple[Any, ...]] = {}
        self._said: list[tuple[Attempt, Fields]] = []
        self._changed: list[tuple[str, int, str, int | None]] = []
        self._marks: dict[tuple[str, str], int] = {}
        self._lost: dict[tuple[str, int], list[LogEntry]] = {}
        self._lost_removed: set[tuple[str, int]] = set()

    @property
    def rooms(self) -> set[str]:
        """The rooms of which an event was shown or acknowledged to anybody."""
        said = {answer["room"] for _, answer in self._said}
        return said | {room for _, room, _ in self._shown}

    def shown(self, epoch: str | None, name: str, fields: Fields) -> None:
        """Record that somebody was shown an event of a log."""
        room, seq = fields["room"], fields["seq"]
        lost = (room, seq) in self._lost or (room, seq) in self._lost_removed
        if self._committed is not None and not lost:
            expect(seq <= self._committed(room), f"nothing uncommitted is shown: {room} {seq}")
        fact = (name, fields["at"], fields["from"], fields["user"], fields.get("of"))
        known = self._shown.setdefault((epoch or "", room, seq), fact)
        expect(known == fact, f"one log for all: {room} {seq} is {known} and {fact}")
        text = fields.get("text")
        if name != "topic" and text is not None:
            attempt = self.attempts.get(text)
            expect(attempt is not None, f"only what somebody said: {fields}")

    def said(self, attempt: Attempt, answer: Fields) -> None:
        """Record that a message was acknowledged."""
        if not answer.get("kept", True):
            return
        expect(
            answer["room"] == attempt.room or attempt.room.startswith("@"),
            f"said in its room: {attempt}, {answer}",
        )
        self._said.append((attempt, answer))

    def changed(self, room: str, seq: int, name: str, of: int | None) -> None:
        """Record that an edit, a deletion or a topic was acknowledged."""
        self._changed.append((room, seq, name, of))

    def marked(self, user: str, room: str, seq: int) -> None:
        """Record that a read mark was acknowledged."""
        last = self._marks.get((user, room), 0)
        expect(seq >= last, f"a read mark never goes back: {user} in {room}, {last} to {seq}")
        self._marks[user, room] = seq

    def lose(self, entries: Sequence[LogEntry]) -> None:
        """Take out what the store has lost: it was there when it was shown or acknowledged."""
        for entry in entries:
            self._lost.setdefault((entry.room, entry.seq), []).append(entry)
        self._marks.clear()

    def lose_removed(self, room: str, seqs: Iterable[int]) -> None:
        """Take out events that had been removed before it was lost that they were ever there."""
        self._lost_removed.update((room, seq) for seq in seqs)

    def changed_by_loss(self, entry: LogEntry) -> bool:
        """Return whether a message, or a change of it, was lost: it may have had another text."""
        lost = [one for entries in self._lost.values() for one in entries]
        return any(
            one.text == entry.text or (one.room == entry.room and one.of == entry.seq)
            for one in lost
        )

    def compare(self, logs: Mapping[str, Sequence[LogEntry]], *, whole: bool) -> None:
        """Compare with what the store holds in the end.

        Args:
            logs: What it holds.
            whole: Whether nothing was removed from the front of the logs.
        """
        stored = {(entry.room, entry.seq): entry for log in logs.values() for entry in log}
        first = dict.fromkeys(logs, 1)
        if not whole:
            first = {room: log[0].seq if log else sys.maxsize for room, log in logs.items()}
        for room, log in logs.items():
            expect(
                [entry.seq for entry in log] == list(range(first[room], first[room] + len(log))),
                f"numbers without a gap in {room}",
            )
            keys = [(entry.user, entry.key) for entry in log if entry.key is not None]
            expect(len(keys) == len(set(keys)), f"a key once in {room}: {keys}")
            for entry in log:
                if entry.kind == "message" and entry.text is not None:
                    attempt = self.attempts.get(entry.text)
                    expect(
                        attempt is not None and (not attempt.refused or attempt.doubtful),
                        f"refused means not in the log: {entry}",
                    )

        def was_there(room: str, seq: int, fits: Callable[[LogEntry], bool], promise: str) -> None:
            there = [*self._lost.get((room, seq), ()), *filter(None, [stored.get((room, seq))])]
            gone = seq < first[room] or (room, seq) in self._lost_removed
            expect(gone or any(map(fits, there)), f"{promise}: {room} {seq}, {there}")

        for (shown_in, room, seq), (name, _, _, user, of) in self._shown.items():
            shown = partial(_is_event, kind=name, of=of, user=user)
            was_there(room, seq, shown, f"shown means in the log: {name} by {user} in {shown_in}")
        for attempt, answer in self._said:
            said = partial(_is_said, attempt=attempt, duplicate=answer["duplicate"])
            was_there(
                answer["room"], answer["seq"], said, f"acknowledged means in the log: {attempt}"
            )
        for room, seq, name, of in self._changed:
            changed = partial(_is_event, kind=name, of=of)
            was_there(room, seq, changed, f"acknowledged means in the log: {name} of {of}")


def _is_event(entry: LogEntry, kind: str, of: int | None, user: str | None = None) -> bool:
    """Return whether an entry of a log can be the event that was shown or acknowledged."""
    return (entry.kind, entry.of) == (kind, of) and user in {None, entry.user}


def _is_said(entry: LogEntry, attempt: Attempt, *, duplicate: bool) -> bool:
    """Return whether an entry of a log can be the message that was acknowledged."""
    changed = duplicate or entry.deleted or entry.edited is not None
    right = entry.kind == "message" and entry.key == attempt.key
    return right and (changed or entry.text == attempt.text)
