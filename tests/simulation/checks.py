"""The promises that a simulation checks, and what it has to remember for that.

`RoomView` is one connection's view of one room: the order of its log and who is in it. `Ledger` is
what all connections together were told, which must be one log and must be what the store holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
        nicks = [member["nick"].casefold() for member in members]
        expect(len(nicks) == len(set(nicks)), f"a nick is one user's: {self.room} has {members}")
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
        user: Who; None for a client of plain text, which is not told its id.
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
    """What the daemon showed and acknowledged to anybody.

    Args:
        committed: Returns the number up to which a room's log is committed; None where it cannot
            be read at once.
    """

    def __init__(self, committed: Callable[[str], int] | None) -> None:
        self._committed = committed
        self.attempts: dict[str, Attempt] = {}
        self._shown: dict[tuple[str, str, int], tuple[Any, ...]] = {}
        self._said: list[tuple[Attempt, Fields]] = []
        self._keys: dict[tuple[str, str, str], int] = {}
        self._changed: list[tuple[str, int, str, int | None]] = []
        self._marks: dict[tuple[str, str], int] = {}

    @property
    def rooms(self) -> set[str]:
        """The rooms of which anybody was shown or told an event."""
        said = {answer["room"] for _, answer in self._said}
        return said | {room for _, room, _ in self._shown}

    def shown(self, epoch: str | None, name: str, fields: Fields) -> None:
        """Record that somebody was shown an event of a log."""
        room, seq = fields["room"], fields["seq"]
        if self._committed is not None:
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
        if attempt.key is not None and attempt.user is not None:
            known = self._keys.setdefault(
                (answer["room"], attempt.user, attempt.key), answer["seq"]
            )
            expect(known == answer["seq"], f"a key once: {attempt.key} is {known} and {answer}")

    def changed(self, room: str, seq: int, name: str, of: int | None) -> None:
        """Record that an edit, a deletion or a topic was acknowledged."""
        self._changed.append((room, seq, name, of))

    def marked(self, user: str, room: str, seq: int) -> None:
        """Record that a read mark was acknowledged."""
        last = self._marks.get((user, room), 0)
        expect(seq >= last, f"a read mark never goes back: {user} in {room}, {last} to {seq}")
        self._marks[user, room] = seq

    def compare(self, logs: Mapping[str, Sequence[LogEntry]], epoch: str) -> None:
        """Compare with what the store holds in the end."""
        stored = {(entry.room, entry.seq): entry for log in logs.values() for entry in log}
        for room, log in logs.items():
            expect(
                [entry.seq for entry in log] == list(range(1, len(log) + 1)),
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
        for (shown_in, room, seq), fact in self._shown.items():
            found = stored.get((room, seq))
            expect(
                found is not None and (fact[0], *fact[3:]) == (found.kind, found.user, found.of),
                f"shown means in the log: {room} {seq} of {shown_in or epoch}, {fact}, {found}",
            )
        for attempt, answer in self._said:
            found = stored.get((answer["room"], answer["seq"]))
            expect(
                found is not None and _is_said(found, attempt, duplicate=answer["duplicate"]),
                f"acknowledged means in the log: {attempt}, {answer}, {found}",
            )
        for room, seq, name, of in self._changed:
            found = stored.get((room, seq))
            expect(
                found is not None and (found.kind, found.of) == (name, of),
                f"acknowledged means in the log: {name} {of} as {room} {seq}, {found}",
            )


def _is_said(entry: LogEntry, attempt: Attempt, *, duplicate: bool) -> bool:
    """Return whether an entry of a log can be the message that was acknowledged."""
    changed = duplicate or entry.deleted or entry.edited is not None
    right = entry.kind == "message" and entry.key == attempt.key
    return right and (changed or entry.text == attempt.text)
