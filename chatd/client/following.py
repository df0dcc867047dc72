"""Where a client is in one room's log: what it was given, and what it has still to fetch. Sans-IO.

Events reach the application in the order of their numbers, each once:

* a number that was given is dropped;
* the next number is given, if there is room for it;
* any other is *late*: from then on nothing of the room is given live, the log is read on from the
  last given number, and live events count again once that has reached the newest that was heard of.
  So the room's log, which the daemon keeps, is the queue of an application that is slow to take.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

from chatd.client.changes import Gap
from chatd.protocol.commands import Entered, Page, Position
from chatd.protocol.events import ServerEvent, Unknown, number

__all__ = ["Following", "Take"]


class Take(Enum):
    """What becomes of a numbered event."""

    NOW = auto()
    SEEN = auto()
    LATE = auto()


class Following:
    """A room that is followed.

    ``epoch`` is empty until the first page of it tells. ``seq`` is the number of the last event
    given; None while no event was seen of a room whose join asked for none. ``newest`` is the
    highest number heard of. While ``resuming`` nothing counts that is heard live: the answer to the
    join tells what it goes on from.
    """

    def __init__(self, entered: Entered, since: Position | None) -> None:
        self.room = entered.room
        self.epoch = entered.epoch
        self.late = False
        self.gap: Gap | None = None
        self.newest = 0
        self.resuming = False
        self.seq: int | None
        if (end := entered.end) is not None:
            self.seq = end
        elif since is not None and entered.recovered:
            self.seq = since.seq
        else:
            # The answer's number may lie past the end of the empty page, but for an empty room.
            self.seq = None if entered.seq else 0
        self._joined_at = entered.seq

    @property
    def position(self) -> Position:
        """Where to go on."""
        return Position(self.epoch, self._joined_at if self.seq is None else self.seq)

    def take(self, seq: int, *, fits: bool) -> Take:
        """Decide on an event heard live. ``fits`` tells whether there is room to give it."""
        if self.seq is not None and seq <= self.seq:
            return Take.SEEN
        if self.late or not fits or (self.seq is not None and seq != self.seq + 1):
            self.late = True
            self.newest = max(self.newest, seq)
            return Take.LATE
        self.seq = seq
        return Take.NOW

    def rejoining(self) -> Position:
        """Begin anew on a new connection; gives the ``since`` of the join."""
        self.resuming = True
        self.late = False
        self.newest = 0
        return self.position

    def rejoined(self, entered: Entered) -> None:
        """Take a new connection's join. The events of its page come through `take`."""
        since = self.position
        self.resuming = False
        self.room = entered.room
        if entered.recovered:
            self.seq = since.seq
            return
        self.gap = self.gap or Gap(entered.room, since)
        self.epoch = entered.epoch
        first = next((seq for one in entered.events if (seq := number(one)) is not None), None)
        self.seq = entered.seq if first is None else first - 1

    def read(self, page: Page, newest: int) -> Sequence[ServerEvent | Unknown | Gap]:
        """Take a page of the log after ``seq``, asked for when ``newest`` was the newest.

        Gives what is to be given, in order.
        """
        given: list[ServerEvent | Unknown | Gap] = []
        if not self.epoch:
            self.epoch = page.epoch
        elif page.epoch != self.epoch:
            self.gap = self.gap or Gap(self.room, self.position)
            self.epoch = page.epoch
            self.seq = None
        given += self.told()
        for event in page.events:
            seq = number(event)
            if seq is None or (self.seq is not None and seq <= self.seq):
                continue
            if self.seq is not None and seq != self.seq + 1:
                self.gap = self.gap or Gap(self.room, self.position)
            given += self.told()
            given.append(event)
            self.seq = seq
        if not page.events and (self.seq is None or self.seq < newest):
            self.gap = self.gap or Gap(self.room, self.position)
            given += self.told()
            self.seq = newest
        self.late = self.seq is None or self.seq < self.newest
        return given

    def told(self) -> list[Gap]:
        """Give the gap that is to be told before anything else of the room, once."""
        gap, self.gap = self.gap, None
        return [] if gap is None else [gap]
