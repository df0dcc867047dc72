"""The journal: the rooms' logs, the records beside them, and a store's promises to the bus.

A journal has one writer, the bus. `Journal.commit` gives each event its numbers and makes it
durable, `Journal.answered` releases what was committed to the bus's fan-out, and the reads return a
room's past with its present texts. Nothing here knows who is connected.

* `chatd.journal.memory.MemoryJournal` keeps everything in the process, for as long as that lives.
* `chatd.journal.sqlite.open_sqlite` keeps it in one file.
* `chatd.journal.shared.open_shared` keeps it in an engine that several daemons share.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, Literal, Protocol, TypeAlias

from msgspec import Struct

from chatd.clock import JUMP_MS
from chatd.journal import words
from chatd.journal.retention import OperatorLog, Retention
from chatd.model import (
    Event,
    FeedEntry,
    Head,
    LogEntry,
    Operation,
    Outcome,
    Record,
    Refusal,
    UserRecord,
)

__all__ = [
    "FORGOTTEN",
    "MOST_HITS",
    "NOT_YOURS",
    "NO_MESSAGE",
    "UNREAD_EVENTS",
    "Durability",
    "Hits",
    "Journal",
    "LocalJournal",
    "OperatorLog",
    "Reads",
    "Release",
    "Retention",
    "Sender",
    "Statistics",
    "StoreError",
    "Unavailable",
    "new_epoch",
    "next_time",
]

FORGOTTEN: Final = "forgotten"
"""The user and the nick under which the events of a forgotten user stay in the log."""

Durability = Literal["commit", "fsync"]
"""A commit survives the end of the process (``commit``), or a loss of power too (``fsync``)."""

Release: TypeAlias = Callable[[Sequence[FeedEntry]], Awaitable[None]]
"""Has committed entries fanned out, or a probe, which is an empty list."""

UNREAD_EVENTS = 10_000
"""How many events are read at most to count unread messages: some 10 ms of a reader's time."""

MOST_HITS: Final = 500
"""How many messages a search returns at most, although they have one time."""

NO_MESSAGE = Refusal("not_found", "There is no such message.")
NOT_YOURS = Refusal("forbidden", "You can only change your own messages.")


class Unavailable(Exception):  # noqa: N818  the error code's name, as clients know it
    """The store did not confirm: what was asked may have happened or not.

    Args:
        reason: For the log.
        divisible: Whether the operations of the batch may succeed one by one. Not if the whole
            store is locked or broken: each attempt would only wait as long.
        healthy: Whether the store itself works: an operation asked for what it cannot hold.
    """

    def __init__(self, reason: str, *, divisible: bool = False, healthy: bool = False) -> None:
        super().__init__(reason)
        self.divisible = divisible
        self.healthy = healthy


class StoreError(Exception):
    """The store cannot be opened. The message is one line: the problem and the remedy."""


class Statistics(Struct, frozen=True):
    """A journal's counters since it was opened, and its size."""

    events: int
    """Events committed."""
    duplicates: int
    """Posts answered with the first event of their key."""
    batches: int
    """Batches committed."""
    failures: int
    """Commits that raised `Unavailable`."""
    swept: int
    """Events removed by retention."""
    bytes: int
    """Bytes in use on the disk or in memory, without those that are free to be used again."""
    log_bytes: int
    """The size of the write-ahead log."""
    log_held_seconds: float
    """For how long a reader has kept the log from being emptied, although that is due; else 0."""
    clock_jump_seconds: float
    """By how much the wall clock is ahead of the time by which things end: see `SteadyClock`."""
    commit_seconds: float
    """The duration of all commits together."""
    slowest_seconds: float
    """The duration of the longest commit."""
    threaded: bool
    """Whether commits run in a thread at present."""


class Sender(Struct, frozen=True):
    """Whose messages to find: those of a user, and all that were sent under a nick."""

    nick: str
    user: str | None = None

    @property
    def tokens(self) -> list[str]:
        """Tokens of which the message's own must have one."""
        nick = words.by_nick(self.nick)
        return [nick] if self.user is None else [nick, words.by_user(self.user)]


class Hits(Struct, frozen=True):
    """What a search found."""

    events: list[Event]
    """Messages, the newest first."""
    more: bool
    """Whether there are older ones."""
    complete: bool = True
    """Whether the index had all messages. Otherwise old ones may be missing."""


class Reads(Protocol):
    """What is read of a store. Every read raises `Unavailable` if that fails, or takes too long."""

    async def read(self, room: str, after: int, upto: int, limit: int) -> list[Event]:
        """Return the first ``limit`` events with ``after < seq <= upto``, oldest first."""
        ...

    async def read_back(self, room: str, before: int, limit: int) -> list[Event]:
        """Return the last ``limit`` events with ``seq < before``, oldest first."""
        ...

    async def read_rooms(self, rooms: Mapping[str, int], upto: int, limit: int) -> list[Event]:
        """Return the first ``limit`` events of several rooms, in the order of their positions.

        Args:
            rooms: The position behind which to read, for each room.
            upto: The last position to read.
            limit: How many events to return at most.
        """
        ...

    async def head(self, room: str) -> Head | None:
        """Return the room as it was last committed; None if it never had an event."""
        ...

    async def rooms(self) -> list[Head]:
        """Return the rooms that have events, by their keys, without those of direct messages."""
        ...

    async def seq_at(self, room: str, position: int) -> int:
        """Return the room's last number at a position of the store; 0 if it had none yet.

        Also 0 if retention may have removed events behind that position.
        """
        ...

    async def unread(self, room: str, user: str, after: int, most: int) -> int:
        """Return how many messages of others follow a number, without deleted ones.

        Counting stops at ``most``, and after `UNREAD_EVENTS` events.
        """
        ...

    async def records(self, kind: str, prefix: str = "", limit: int = -1) -> list[Record]:
        """Return the records of a kind whose names begin with ``prefix``, by name.

        Records that have ended are left out. A negative ``limit`` means no limit.
        """
        ...

    async def user(self, user: str) -> UserRecord | None:
        """Return what is kept of the user."""
        ...

    async def present(self, since: int) -> list[UserRecord]:
        """Return the users who are present, or were at ``since`` (ms) or later.

        Opening a store marks all its users as gone at that moment.
        """
        ...

    async def subjects(self) -> list[UserRecord]:
        """Return all stored users with tokens."""
        ...

    async def entries(self, room: str, after: int, limit: int) -> list[LogEntry]:
        """Return the first ``limit`` entries of a room's log after a number, as stored."""
        ...

    async def entries_of(self, user: str, after: int) -> tuple[list[LogEntry], int | None]:
        """Return a chunk of a user's entries after a position, and where the chunk ends.

        The end is None after the last chunk.
        """
        ...


class Journal(Reads, Protocol):
    """A store of room logs. One task calls `commit`, `recover`, `index` and `sweep`; any reads."""

    @property
    def epoch(self) -> str:
        """Names this generation of the store's numbers."""
        ...

    @property
    def former(self) -> Mapping[str, int]:
        """Former epochs, and the last position of each that is still the same in this one."""
        ...

    @property
    def key(self) -> bytes:
        """32 random bytes, made with the store, for signing session secrets."""
        ...

    @property
    def position(self) -> int:
        """The position of the last event that was committed and confirmed."""
        ...

    async def newest(self) -> int:
        """Return the position of the last event, also if another daemon has committed it.

        Raises:
            Unavailable: the store cannot be read.
        """
        ...

    @property
    def writer_blocked(self) -> bool:
        """Whether the writer is inside a call in its thread."""
        ...

    @property
    def in_place(self) -> bool:
        """Whether the store is still where it was opened; looked up at each call, some 5 µs.

        If not, commits raise `Unavailable` until it is back.
        """
        ...

    def steady_now(self) -> int:
        """Return the time in ms since 1970 by which bans, sessions and records end.

        It does not follow a jump of the wall clock: see `chatd.clock.SteadyClock`.
        """
        ...

    def confirm_clock(self) -> None:
        """Trust the wall clock as it is now."""
        ...

    # ---- writing

    def start(
        self,
        release: Release,
        wanted: Callable[[str], bool],
    ) -> None:
        """Take the function to which committed events are to be passed, in the order of positions.

        Each is passed after the call for the one before has returned. Until `aclose` has returned,
        a store that several daemons share may pass events of the others at any time, and items
        among them.

        Args:
            release: Fans a block out, or hands it to the fan-out. Waits while that is busy.
            wanted: Returns whether other daemons' events of a room, by its key, are of use here.
        """
        ...

    async def commit(self, batch: Sequence[Operation]) -> list[Outcome]:
        """Commit the whole batch or nothing of it, and return the outcomes in its order.

        The events' ``seq``, ``position`` and ``at`` are drawn inside the transaction. If a key has
        been used before, in the store or in this batch, the outcome is the first event, as a
        duplicate. A cancellation waits for a commit that has begun; if daemons share the store, it
        leaves open whether the batch is committed.

        An ``edit`` replaces the text of its message, a ``delete`` removes it, in the store too.
        Each is refused alone: with ``not_found`` if the message does not exist or is deleted, with
        ``forbidden`` if it is another user's (see `Post`). So is, with ``not_found``, a
        ``reply_to`` that names no message. A ``topic`` becomes the room's topic.

        Raises:
            Unavailable: `recover` must be called before the next commit.
        """
        ...

    async def recover(self) -> list[Event]:
        """Read the store again; return the events of unconfirmed batches that it holds after all.

        These events had no receipt. While the store cannot be read the list is empty, commits keep
        raising `Unavailable`, and the next call reads again.
        """
        ...

    async def answered(self, events: Sequence[FeedEntry]) -> None:
        """Release a batch, of which the events are these: its senders have been answered.

        Called after every batch, with the events in the order of positions. They are passed to
        ``release``, at once or in their turn. Waits while the fan-out is busy.
        """
        ...

    async def probe(self, block: Sequence[FeedEntry]) -> None:
        """Pass this very list to ``release``, behind what was released.

        The bus checks with it that its tasks make progress, so it never waits for a store that is
        away.
        """
        ...

    @property
    def indexed(self) -> bool:
        """Whether the index has every new message; old ones may still be missing."""
        ...

    async def index(self) -> float | None:
        """Make one chunk of messages searchable, new ones first.

        Return in how many seconds there is more to do; None if nothing is left.
        """
        ...

    def reindex(self) -> None:
        """Have `index` begin again from nothing."""
        ...

    async def sweep(self) -> bool:
        """Remove one chunk, at most 64 events, of what retention drops; True if more is left.

        Records that have ended and users who were away too long are removed too. Texts that were
        deleted leave the store's files, in further chunks, within ``Retention.purge_seconds``.
        """
        ...

    def due_in(self) -> float | None:
        """Return in how many seconds `sweep` next has something to do; None if nothing comes due.

        As of the last sweep: commits and `retain` may have changed it since.
        """
        ...

    def retain(self, retention: Retention) -> None:
        """Apply these limits from the next sweep on."""
        ...

    async def search(
        self,
        query: str,
        rooms: Mapping[str, int],
        limit: int,
        *,
        sender: Sender | None = None,
        before: int | None = None,
    ) -> Hits:
        """Return the last ``limit`` messages that have all phrases of a query, the newest first.

        `chatd.journal.words` says what a query means and which texts match it. With ``before``, the
        rooms' messages are ordered by their times, and ``limit`` is exceeded, up to `MOST_HITS`, by
        messages of the last one's time: the next page begins before it.

        Args:
            query: The words. It may have none if there is a ``sender``.
            rooms: The number below which to search, for each room.
            limit: How many messages to return.
            sender: Whose messages to find; None for everybody's.
            before: The time before which the messages were sent, in ms; None if there is one room,
                whose next page begins below a number.
        """
        ...

    def backup(self) -> AsyncGenerator[bytes]:
        """Return a copy of the store as it is now, in pieces, while the store stays in use.

        Raises:
            Unavailable: the store is in memory, or the disk has no space for a copy. The message
                is a sentence for people.
        """
        ...

    async def aclose(self) -> None:
        """Close the store cleanly. A second call does nothing."""
        ...

    def statistics(self) -> Statistics: ...


def next_time(last: int, now: int) -> int:
    """Return the time of the next events, in ms. A small correction of the clock is no way back.

    Only a clock that was set is: an import refuses times that go back.

    Args:
        last: The time of the last events.
        now: The wall clock's time.
    """
    return last if 0 < last - now <= JUMP_MS else now


def new_epoch() -> str:
    """Return a random epoch. It begins with a letter: SQLite would store digits as a number."""
    return f"e{secrets.token_hex(8)[1:]}"


def first_hits(found: Iterator[Event], limit: int, *, by_time: bool, complete: bool = True) -> Hits:
    """Return the first of these hits; with ``by_time`` also those that have the last one's time."""
    events = list(islice(found, limit))
    for event in found:
        tied = by_time and events and events[-1].at == event.at and len(events) < MOST_HITS
        if not tied:
            return Hits(events, more=True, complete=complete)
        events.append(event)
    return Hits(events, more=False, complete=complete)


class LocalJournal:
    """The way back to the bus, for a store that one daemon alone writes: nothing lies between."""

    former: Mapping[str, int] = {}
    _release: Release

    def start(self, release: Release, wanted: Callable[[str], bool]) -> None:
        self._release = release

    async def answered(self, events: Sequence[FeedEntry]) -> None:
        if events:
            await self._release(events)

    async def probe(self, block: Sequence[FeedEntry]) -> None:
        await self._release(block)
