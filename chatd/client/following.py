"""A client's position in one room's log: which events were delivered, and which are to be read.

It does no I/O. Events are delivered in the order of their numbers, each once:

* An event with a number that was delivered is dropped.
* An event with the next number is delivered, if there is room for it.
* Any other event makes the room *late*. From then on its live events are not delivered; the log is
  read on from the last number delivered, until that has reached the highest number that came live.
  So the log, which the daemon keeps, is the queue of a program that takes its events slowly.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

from chatd.client.changes import Gap
from chatd.protocol.commands import Entered, Page, Position
from chatd.protocol.events import ServerEvent, Unknown, number

__all__ = ["Following", "Take"]


class Take(Enum):
    """What to do with a live event: deliver it, drop it as a duplicate, or read it from the log."""

    NOW = auto()
    SEEN = auto()
    LATE = auto()


class Following:
    """The position in the log of one room.

    Attributes:
        room: The room's name.
        epoch: The log's epoch; empty until the first page has it.
        seq: The number of the last event delivered; None if the join asked for no events and none
            came since.
        newest: The highest number that came live.
        late: True if the log has to be read on.
        gap: A gap to be reported before the next event.
        resuming: True while a join is not answered. Live events are ignored: the answer has the
            position from which to continue.
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
            # The room's last number may be greater than that of the page's last event.
            self.seq = None if entered.seq else 0
        self._joined_at = entered.seq

    @property
    def position(self) -> Position:
        """The position from which to continue."""
        return Position(self.epoch, self._joined_at if self.seq is None else self.seq)

    def take(self, seq: int, *, fits: bool) -> Take:
        """Return what to do with a live event. ``fits``: there is room to deliver it."""
        if self.seq is not None and seq <= self.seq:
            return Take.SEEN
        if self.late or not fits or (self.seq is not None and seq != self.seq + 1):
            self.late = True
            self.newest = max(self.newest, seq)
            return Take.LATE
        self.seq = seq
        return Take.NOW

    def renewed(self, epoch: str) -> None:
        """Go on under another epoch of the log, whose numbers continue."""
        if self.epoch:
            self.epoch = epoch

    def rejoining(self) -> Position:
        """Start to join again on a new connection, and return the ``since`` of the join."""
        self.resuming = True
        self.late = False
        self.newest = 0
        return self.position

    def rejoined(self, entered: Entered) -> None:
        """Accept the answer to that join. The events of its page then go through `take`."""
        since = self.position
        self.resuming = False
        self.room, self.epoch = entered.room, entered.epoch
        if entered.recovered:
            self.seq = since.seq
            return
        self.gap = self.gap or Gap(entered.room, since)
        first = next((seq for one in entered.events if (seq := number(one)) is not None), None)
        self.seq = entered.seq if first is None else first - 1

    def read(self, page: Page, newest: int) -> Sequence[ServerEvent | Unknown | Gap]:
        """Accept a page of the log after ``seq`` and return the events to deliver, in order.

        ``newest`` is the attribute's value when the page was asked for.
        """
        delivered: list[ServerEvent | Unknown | Gap] = []
        if not self.epoch:
            self.epoch = page.epoch
        elif page.epoch != self.epoch:
            self.gap = self.gap or Gap(self.room, self.position)
            self.epoch = page.epoch
            self.seq = None
        delivered += self.pending_gap()
        for event in page.events:
            seq = number(event)
            if seq is None or (self.seq is not None and seq <= self.seq):
                continue
            if self.seq is not None and seq != self.seq + 1:
                self.gap = self.gap or Gap(self.room, self.position)
            delivered += self.pending_gap()
            delivered.append(event)
            self.seq = seq
        if not page.events and (self.seq is None or self.seq < newest):
            self.gap = self.gap or Gap(self.room, self.position)
            delivered += self.pending_gap()
            self.seq = newest
        self.late = self.seq is None or self.seq < self.newest
        return delivered

    def pending_gap(self) -> list[Gap]:
        """Return the gap to be reported before the next event, once."""
        gap, self.gap = self.gap, None
        return [] if gap is None else [gap]
