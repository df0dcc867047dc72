"""The rooms' logs: what a journal promises to the floors above, and how it says that it cannot.

A journal has one writer, the bus. ``commit`` gives each event its numbers and makes it durable,
``answered`` releases what was committed to the bus's fan-out, and the reads give a room's past in
present words. Nothing here knows who is connected.

* `chatd.journal.memory.MemoryJournal` keeps all of it in the process, for as long as that lives;
* `chatd.journal.sqlite.open_sqlite` keeps it in one file.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final, Literal, Protocol

import trio
from msgspec import Struct

from chatd.journal.retention import Retention
from chatd.journal.told import OperatorLog
from chatd.model import Event, Head, LogEntry, Operation, Outcome, Record, Refusal, UserRecord

__all__ = [
    "FORGOTTEN",
    "NOT_YOURS",
    "NO_MESSAGE",
    "UNREAD_EVENTS",
    "Durability",
    "Journal",
    "LocalJournal",
    "OperatorLog",
    "Retention",
    "Statistics",
    "StoreError",
    "Unavailable",
]

FORGOTTEN: Final = "forgotten"
"""Who said what a forgotten user said, by user and by nick."""

Durability = Literal["commit", "fsync"]
"""What a commit outlives: the process (``commit``), or the machine's power too (``fsync``)."""

UNREAD_EVENTS = 10_000
"""How many events are looked at to count what is unread: some 10 ms of a reader's time."""

NO_MESSAGE = Refusal("not_found", "there is no such message")
NOT_YOURS = Refusal("forbidden", "it is somebody else's message")


class Unavailable(Exception):  # noqa: N818  the error code's name, as clients know it
    """The store did not confirm: what was asked may have happened or not.

    ``divisible`` says whether a part of the batch may fare better by itself: not where the whole
    store is locked or broken, and trying each event would only wait as often.
    """

    def __init__(self, reason: str, *, divisible: bool = False) -> None:
        super().__init__(reason)
        self.divisible = divisible


class StoreError(Exception):
    """The store cannot be opened. Its text is one line for the operator: what is, what to do."""


class Statistics(Struct, frozen=True):
    """What a journal did since it was opened, and how big it is."""

    events: int
    """Events committed."""
    duplicates: int
    """Posts answered with the first event of their key."""
    batches: int
    """Transactions committed for `Journal.commit`."""
    failures: int
    """Times that `Unavailable` was raised."""
    swept: int
    """Events removed by retention."""
    bytes: int
    """What the store takes of the disk or of memory, without what it could use again."""
    log_bytes: int
    """The write-ahead log at its last checkpoint."""
    commit_seconds: float
    """Time spent in commits, in all."""
    slowest_seconds: float
    """The longest commit."""
    threaded: bool
    """Whether commits run in a thread now."""


class Journal(Protocol):
    """Logs behind one small door. One task writes (`commit`, `recover`, `sweep`), any reads."""

    @property
    def epoch(self) -> str:
        """Names this life of the store's numbers."""
        ...

    @property
    def key(self) -> bytes:
        """32 random bytes made with the store, to sign sessions' secrets with."""
        ...

    @property
    def position(self) -> int:
        """The store's last position: of what was committed and told."""
        ...

    @property
    def writer_blocked(self) -> bool:
        """Whether a thread is inside a call of the one that writes."""
        ...

    def start(self, committed: trio.MemorySendChannel[list[Event]]) -> None:
        """Take the channel on which committed events are to be put, in the order of positions.

        Whoever calls this closes the channel, after `aclose`. Until then a store that several
        daemons share may put events of others there at any time.
        """
        ...

    async def commit(self, batch: Sequence[Operation]) -> list[Outcome]:
        """Commit the whole batch or nothing of it; outcomes come in the batch's order.

        A room's ``seq``, the store's ``position`` and ``at`` are drawn inside. A key that was there
        before, in the store or in this batch, gives the first event, as a duplicate. Once begun it
        is not left half way: a cancellation waits for it.

        An ``edit`` gives the message its text and the time, a ``delete`` takes its text away, in
        the store too. Either is refused, alone, with ``not_found`` where there is no such message
        or it is deleted, and with ``forbidden`` where it is somebody else's (`Post`); so is, with
        ``not_found``, a ``reply_to`` that names no message. A ``topic`` becomes its room's.

        Raises `Unavailable`; then `recover` must come before the next commit.
        """
        ...

    async def recover(self) -> list[Event]:
        """Read the store again; return the events of unconfirmed batches that it holds after all.

        These events had no receipt. While the store cannot be read the list is empty, commits go on
        to raise `Unavailable`, and the next call reads again.
        """
        ...

    async def answered(self, events: list[Event]) -> None:
        """Release a batch's events, in the order of positions: their senders have their answers.

        This very list is put on ``committed``, at once or in its turn, as one block; so is an empty
        one, by which the bus finds out whether its tasks move. Waits while the channel is full.
        """
        ...

    async def read(self, room: str, after: int, upto: int, limit: int) -> list[Event]:
        """Give the first ``limit`` events with ``after < seq <= upto``, oldest first.

        Raises `Unavailable`, as the other reads do.
        """
        ...

    async def read_back(self, room: str, before: int, limit: int) -> list[Event]:
        """Give the last ``limit`` events with ``seq < before``, oldest first."""
        ...

    async def head(self, room: str) -> Head | None:
        """Give the room as it was last committed; None if it never had an event."""
        ...

    async def rooms(self) -> list[Head]:
        """Give the rooms that have events, in the order of their folded names.

        Direct messages' rooms, which begin with ``@``, are left out.
        """
        ...

    async def read_rooms(self, rooms: Mapping[str, int], upto: int, limit: int) -> list[Event]:
        """Give events of several rooms, each behind a position of its own, up to another.

        In the order of their positions; the first ``limit`` of them.
        """
        ...

    async def seq_at(self, room: str, position: int) -> int:
        """Give the room's last number up to a position of the store; 0 if there was none yet.

        Also 0 where retention may have removed events behind that position, which nobody can tell.
        """
        ...

    async def unread(self, room: str, user: str, after: int, most: int) -> int:
        """Count messages of others that came after a number and stand; no further than ``most``.

        Of the next `UNREAD_EVENTS` events.
        """
        ...

    async def search(self, room: str, query: str, before: int, limit: int) -> list[Event]:
        """Give the last ``limit`` messages with ``seq < before`` that have all the query's words.

        The newest first. Words are found whole, without regard to case and accents; words in
        quotes stand beside one another. What was not `index`-ed yet is not found. Raises
        `Unavailable` also where it takes too long.
        """
        ...

    async def records(self, kind: str, prefix: str = "", limit: int = -1) -> list[Record]:
        """Give what stands on a shelf, by name: whose names begin so, whose time is not over."""
        ...

    async def entries(self, room: str, after: int, limit: int) -> list[LogEntry]:
        """Give a room's log as it is stored, behind a number: the first ``limit`` lines."""
        ...

    async def entries_of(self, user: str, after: int) -> tuple[list[LogEntry], int | None]:
        """Give what a user said behind a position, a chunk of it; and its end, None: of all."""
        ...

    def backup(self) -> AsyncGenerator[bytes]:
        """Give a store that is as this one is now, in pieces, while this one goes on.

        Raises `Unavailable`: where there is no file, or no room for another.
        """
        ...

    async def user(self, user: str) -> UserRecord | None:
        """Give what is kept of the user."""
        ...

    async def present(self, since: int) -> list[UserRecord]:
        """Give users who are present or were at ``since`` or later.

        A store that is opened first takes everybody in it as gone at that moment.
        """
        ...

    async def index(self) -> bool:
        """Make one chunk of new words findable; True if more is left."""
        ...

    async def subjects(self) -> list[UserRecord]:
        """Give everybody who is kept and came by a token."""
        ...

    async def sweep(self) -> bool:
        """Remove one chunk (at most 64 events) of what retention lets go; True if more is left.

        Records whose time is over go too. What was deleted leaves the store's files, in further
        chunks, within ``Retention.purge_seconds``.
        """
        ...

    def due_in(self) -> float | None:
        """Return in how many seconds `sweep` next has something to do; None if nothing comes due.

        As of the last sweep: commits and `retain` may have changed it since.
        """
        ...

    def retain(self, retention: Retention) -> None:
        """Keep by this rule from the next sweep on."""
        ...

    async def aclose(self) -> None:
        """Close the store, cleanly. A second call does nothing."""
        ...

    def statistics(self) -> Statistics: ...


class LocalJournal:
    """The feed of a store that one daemon alone writes: what was answered goes straight on."""

    _committed: trio.MemorySendChannel[list[Event]]

    def start(self, committed: trio.MemorySendChannel[list[Event]]) -> None:
        self._committed = committed

    async def answered(self, events: list[Event]) -> None:
        try:
            self._committed.send_nowait(events)
        except trio.WouldBlock:
            await self._committed.send(events)
