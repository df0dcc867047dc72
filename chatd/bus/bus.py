"""The broadcast bus: it collects, commits and answers submissions, and fans their events out.

The order of commit, answer and fan-out is decided here. Two tasks do it, joined by a channel, so
that one batch is committed while the last one is fanned out::

    publish ─ submitted ► collect (journal.commit, resolve, journal.answered) ─ committed ► fan out

The journal releases what is to be fanned out. A store that one daemon alone writes releases the
answered batches. A store that several daemons share releases the events of all of them, in the
store's order, and between them items: news about users, members and records (see
`chatd.model.Item`). A single event for few subscribers does not take the channel if the fan-out
task has nothing to do: it is fanned out where it is released.

A subscriber has an outbox in place of a third channel. A channel and a writer task for each
subscriber cost 36 to 50 µs a delivery; offering an outbox the block, which it writes to the socket
at once, costs 2.7 µs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from operator import attrgetter
from time import perf_counter
from typing import Any, Final, Protocol, TypeAlias

import trio
from msgspec import Struct

from chatd.bus.fanout import SLICES, Group, fan_out
from chatd.bus.feed import TAIL_EVENTS, Feed, Subscription
from chatd.changed import Changed
from chatd.histogram import Histogram, HistogramStatistics
from chatd.journal import Hits, Journal, Retention, Sender, Unavailable
from chatd.logs import Log
from chatd.model import (
    Event,
    FeedEntry,
    Item,
    Missed,
    Operation,
    Outcome,
    Passed,
    Post,
    Receipt,
    Refusal,
    Swept,
)

__all__ = ["Bus", "BusStatistics", "FannedOut", "Neighbours", "Submission"]

FannedOut: TypeAlias = tuple[Sequence[Event], int]
"""Events of one room that were fanned out together, and to how many subscribers."""


class Neighbours(Protocol):
    """What must be done here about what happens at other daemons that share the store."""

    async def take_in(self, item: Item) -> None:
        """Act on an item, at its place among the events."""
        ...

    def expects(self, room: str) -> bool:
        """Return whether somebody here is in a room of direct messages that is not open."""
        ...

    async def arriving(self, room: str, seq: int) -> None:
        """Open that room: the event with this number is about to be fanned out."""
        ...


WAITING_SUBMISSIONS: Final = 1024
"""Capacity of ``submitted``, in submissions: four full batches. Then publishers wait, and with them
the readers of their connections."""

BLOCKS: Final = 1
"""Capacity of ``committed``: one block is fanned out, one waits, the next one is committed."""

SHORT_SUBSCRIBERS: Final = 512
"""To how many subscribers a single event is fanned out by the task that releases it: some 2 ms."""

BATCH_EVENTS: Final = 256
BATCH_BYTES: Final = 1024 * 1024
BATCH_SECONDS: Final = 0.002
"""Bounds of one batch: its commit and its fan-out stay within a few milliseconds."""

QUIET_ROUNDS: Final = 2
"""After a batch of several, a single submission is committed once so many rounds of the scheduler
have brought no other. Two let every reader that is ready have its turn; each costs one message in
flight some 2.5 µs."""

BURST_QUIET_ROUNDS: Final = 4
"""The same for a batch of several. A client sends a burst of messages no faster than the collector
takes them: with two rounds, 64 messages became two batches, each with a `send` to every receiver.
"""

FAILURES_IN_A_ROW: Final = 3
"""After this many operations in a row that could not be committed alone, the rest of the batch is
refused: the error is the store's, not the operation's."""

STORE_DOWN_SECONDS: Final = 5.0
"""Report not-ready for this long after a failed commit, or once a commit has hung this long."""

SWEEP_SECONDS: Final = 15.0
"""The shortest time between two retention sweeps, of some 50 µs each when nothing is due: well
below half of the least `history.purge_seconds`."""

SWEEP_AGAIN_SECONDS: Final = 0.05
"""The pause between two chunks of one sweep, of some 1 ms each."""

CATCH_UP_SECONDS: Final = 1.0
"""How long to wait for events that other daemons have shown already."""

REREAD_SECONDS: Final = 0.2
"""The pause before the store is read again, where that failed."""

REREAD_EVENTS: Final = 256
"""How many missed events are read at a time."""

LONGEST_SLEEP_SECONDS: Final = 3600.0
"""Due times are wall clock times, and that clock may be set: look at it at least this often."""

INDEX_SECONDS: Final = 1.0
"""How long new messages wait to be indexed, so that a quiet chat indexes many at once."""

INDEX_AGAIN_SECONDS: Final = 0.02
"""The pause between two chunks of 0.5 to 2 ms, of a store that has many words to index: some
6,000 messages a second."""

INDEXED_SECONDS: Final = 1.0
"""How long a search waits for new messages to be indexed."""

OLD_INDEXED_SECONDS: Final = 0.1
"""How long it then waits for old ones: there may be millions if the index is made again."""

_OPERATION: Final = attrgetter("operation")
_ROOM: Final = attrgetter("room")

UNAVAILABLE: Final = Refusal(
    "unavailable",
    "The server could not confirm that this was saved. Send it again with the same key.",
    1000,
)


class Submission:
    """An operation on its way to the journal. Subclasses use its outcome; this class ignores it.

    Attributes:
        operation: The operation.
        room: The key of the room whose log it adds to; empty for an operation of another kind.
        size: How many characters of text it has.
    """

    __slots__ = ("operation", "room", "size")

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        if type(operation) is Post:
            self.room, self.size = operation.room, len(operation.text or "")
        else:
            self.room, self.size = "", 0

    def resolve(self, outcome: Outcome) -> None:
        """Use the outcome. Called once, before the event that it caused is sent to anyone."""

    def fault(self, error: Exception) -> None:
        """Report what `resolve` raised, and close the connection that made the submission."""
        raise error


class _Request(Submission):
    """Keeps the outcome for a task that waits for it."""

    __slots__ = ("outcome", "resolved")

    def __init__(self, operation: Operation) -> None:
        super().__init__(operation)
        self.outcome: Outcome = None
        self.resolved = trio.Event()

    def resolve(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.resolved.set()


class _Probe(list[FeedEntry]):
    """An empty block, which takes the path of a submission and then of its events."""

    size: Final = 0

    def __init__(self) -> None:
        super().__init__()
        self.fanned_out = trio.Event()


class _Chore:
    """Work on the journal that the collector does, because it is the only writer."""

    __slots__ = ("do", "done", "more")

    size: Final = 0

    def __init__(self, do: Callable[[], Awaitable[bool]]) -> None:
        self.do = do
        self.done = trio.Event()
        self.more = False


_Submitted: TypeAlias = Submission | _Chore | _Probe


class BusStatistics(Struct, frozen=True):
    """Counts since the start; ``feeds``, ``waiting``, ``waiting_blocks``, ``busy`` are of now.

    ``feeds`` is the number of feeds. ``waiting`` and ``waiting_blocks`` count what is in the two
    channels. ``busy`` is for how many seconds the store, or the fan-out, has been at work on its
    batch. ``commit_seconds`` are those of a batch, with the recovery after a failure;
    ``fanout_seconds`` those of a block, from its first event to its last receiver.
    """

    batches: int
    events: int
    deliveries: int
    failed_commits: int
    feeds: int
    waiting: int
    waiting_blocks: int
    busy: float
    commit_seconds: HistogramStatistics
    fanout_seconds: HistogramStatistics


class Bus:
    """Collects, commits, answers and fans out. `run` owns its tasks.

    Args:
        journal: The store. The bus is its only writer and closes it.
        on_fanned_out: Called after a fan-out with what was fanned out, room by room.
        log: Gets a ``fault`` line for each exception of a connection's code.
        neighbours: Needed only if daemons share the store.
        waiting_submissions: The capacity of ``submitted``.
        batch_events: The most submissions in a batch.
        batch_bytes: A batch is closed at this many characters of text.

    Attributes:
        slices: See `fan_out`.
        tail_events: The most events that each feed that is opened later keeps in memory.
    """

    def __init__(
        self,
        journal: Journal,
        on_fanned_out: Callable[[Sequence[FannedOut]], None],
        log: Log,
        *,
        neighbours: Neighbours | None = None,
        waiting_submissions: int = WAITING_SUBMISSIONS,
        batch_events: int = BATCH_EVENTS,
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        self._journal = journal
        self._on_fanned_out = on_fanned_out
        self._log = log
        self._neighbours = neighbours
        self._fanned_out = self._fanning_out = journal.position
        self.slices = SLICES
        self.tail_events = TAIL_EVENTS
        self._feeds: dict[str, Feed] = {}
        self._submit, self._submitted = trio.open_memory_channel[_Submitted](waiting_submissions)
        self._hand_on, self._committed = trio.open_memory_channel[Sequence[FeedEntry]](BLOCKS)
        self._progress = Changed()
        self._bursts = False  # the last batch was of several
        self._closed = False
        self._batch_events = batch_events
        self._batch_bytes = batch_bytes
        self._commit_began = math.inf
        self._fanout_began = math.inf
        self._in_doubt = False
        self._failed_at = -math.inf
        self._unindexed = trio.Event()
        self._unindexed.set()  # the store may have been left so, or be an old one
        self._index_in = 0.0  # how long to wait after an error
        self._unswept = trio.Event()
        self._unswept.set()  # what became due while the store was closed
        self._batches = 0
        self._events = 0
        self._deliveries = 0
        self._failed_commits = 0
        self._commit_seconds = Histogram()
        self._fanout_seconds = Histogram()

    @property
    def available(self) -> bool:
        """Whether the last commit succeeded, or the store has had time to recover."""
        return (
            self._journal.in_place
            and trio.current_time() - self._failed_at > STORE_DOWN_SECONDS
            and self.stalled_for < STORE_DOWN_SECONDS
        )

    @property
    def stalled_for(self) -> float:
        """For how many seconds the collector has waited for the journal's writer thread."""
        if not self._journal.writer_blocked:
            return 0.0
        return max(0.0, trio.current_time() - self._commit_began)

    @property
    def fanned_out(self) -> int:
        """The store's position up to which everything was fanned out, or was there at the start."""
        return self._fanned_out

    @property
    def fanning_out(self) -> int:
        """The store's position up to which fanning out has begun."""
        return self._fanning_out

    async def caught_up(self, position: int) -> bool:
        """Return whether everything up to a position was fanned out; False if there is no such yet.

        Waits for what the store has already.

        Raises:
            chatd.journal.Unavailable: It has, but this daemon did not get it in time.
        """
        if position <= self._fanned_out:
            return True
        if position > await self._journal.newest():
            return False
        with trio.move_on_after(CATCH_UP_SECONDS):
            while position > self._fanned_out:
                await self._progress.wait()
            return True
        raise Unavailable("this daemon is behind the store")

    def statistics(self) -> BusStatistics:
        since = min(self._commit_began, self._fanout_began)
        return BusStatistics(
            batches=self._batches,
            events=self._events,
            deliveries=self._deliveries,
            failed_commits=self._failed_commits,
            feeds=len(self._feeds),
            waiting=self._submitted.statistics().current_buffer_used,
            waiting_blocks=self._committed.statistics().current_buffer_used,
            busy=max(0.0, trio.current_time() - since),
            commit_seconds=self._commit_seconds.statistics(),
            fanout_seconds=self._fanout_seconds.statistics(),
        )

    # ---- feeds

    def open_feed(self, key: str, name: str) -> Feed:
        """Return a new feed, whose subscribers receive the room's events from now on."""
        feed = self._feeds[key] = Feed(key, name, self._log, tail_events=self.tail_events)
        return feed

    def close_feed(self, feed: Feed) -> None:
        del self._feeds[feed.key]

    def drop_tails(self) -> None:
        """Drop all cached tails: stored events changed."""
        for feed in self._feeds.values():
            feed.drop_tail()

    # ---- publishing

    def publish_nowait(self, submission: Submission) -> None:
        """Hand a submission to the collector.

        Raises:
            trio.WouldBlock: too many submissions are waiting; use `publish`.
            trio.ClosedResourceError: after `close`.
        """
        self._submit.send_nowait(submission)

    async def publish(self, submission: Submission) -> None:
        """Hand a submission to the collector. Waits, at a checkpoint, only while it is full.

        Raises:
            trio.ClosedResourceError: after `close`.
        """
        try:
            self._submit.send_nowait(submission)
        except trio.WouldBlock:
            await self._submit.send(submission)

    async def submit_and_wait(self, operation: Operation) -> Outcome:
        """Return the outcome of an operation, once it is known.

        Raises:
            trio.ClosedResourceError: after `close`.
        """
        request = _Request(operation)
        await self.publish(request)
        await request.resolved.wait()
        return request.outcome

    async def probe(self) -> None:
        """Wait until everything that was published before has been committed and fanned out.

        Raises:
            trio.ClosedResourceError: after `close`.
        """
        probe = _Probe()
        await self._submit.send(probe)
        await probe.fanned_out.wait()

    def close(self) -> None:
        """Stop accepting submissions. `run` ends when all accepted ones are fanned out."""
        self._closed = True
        self._submit.close()

    # ---- the two tasks

    async def run(self) -> None:
        """Run until `close` was called and everything published is committed and fanned out."""
        self._journal.start(self._release, self._wants)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fan_out)
            async with trio.open_nursery() as writing:
                writing.start_soon(self._sweep)
                writing.start_soon(self._keep_indexed)
                writing.start_soon(self._collect, writing.cancel_scope)
            await self._journal.aclose()
            self._hand_on.close()  # the fan-out ends when it has taken what is there

    async def _collect(self, writing: trio.CancelScope) -> None:
        """Commit batch after batch until `close`, then end the tasks that need this one."""
        async for first in self._submitted:
            batch = await self._gather(first)
            self._commit_began = trio.current_time()
            submissions = [item for item in batch if isinstance(item, Submission)]
            others = [] if len(submissions) == len(batch) else batch
            if submissions:
                await self._commit(submissions)
            for item in others:
                if isinstance(item, _Chore):
                    item.more = await item.do()
                    item.done.set()
            self._commit_began = math.inf
            for item in others:
                if isinstance(item, _Probe):
                    await self._journal.probe(item)
        writing.cancel()

    async def _gather(self, first: _Submitted) -> list[_Submitted]:
        """Take the waiting submissions, and let the scheduler run while new ones still arrive.

        A single one is taken at once if the one before was single too.
        """
        batch = [first]
        size = first.size
        ends = perf_counter() + BATCH_SECONDS
        receive = self._submitted.receive_nowait
        quiet = 0
        enough = QUIET_ROUNDS if self._bursts else 0
        while True:
            try:
                while len(batch) < self._batch_events and size < self._batch_bytes:
                    batch.append(item := receive())
                    size += item.size
                    quiet, enough = 0, BURST_QUIET_ROUNDS
                break
            except (trio.WouldBlock, trio.EndOfChannel):
                if quiet == enough or perf_counter() >= ends:
                    break
            await trio.lowlevel.checkpoint()  # more may come with the next round
            quiet += 1
        self._bursts = len(batch) > 1
        return batch

    async def _commit(self, batch: list[Submission]) -> None:
        if len(batch) > 1:
            batch.sort(key=_ROOM)  # stable: one room's events stay in the order of their arrival
        operations = list(map(_OPERATION, batch))
        events: list[Event] = []
        began = perf_counter()
        try:
            if self._in_doubt:
                events += await self._journal.recover()
                self._in_doubt = False
            outcomes = await self._journal.commit(operations)
        except Unavailable as error:
            outcomes = await self._recover(operations, events, error)
        self._commit_seconds.observe(perf_counter() - began)
        self._batches += 1
        for submission, outcome in zip(batch, outcomes, strict=True):
            try:
                submission.resolve(outcome)
            except Exception as error:  # the boundary of the connection that it belongs to
                self._fault(submission, error)
            if isinstance(outcome, Receipt) and not outcome.duplicate:
                events.append(outcome.event)
        self._unswept.set()
        if events or not self._journal.indexed:
            self._unindexed.set()
        if self._in_doubt:
            events.sort(key=attrgetter("position"))
        self._events += len(events)
        await self._journal.answered(events)

    def _fault(self, submission: Submission, error: Exception) -> None:
        try:
            submission.fault(error)
        except Exception as another:  # the same boundary
            self._log.fault(another, detail="the end of a connection")

    async def _recover(
        self, operations: list[Operation], events: list[Event], failure: Unavailable
    ) -> list[Outcome]:
        """Return the outcomes after a failed commit; add the events that the store holds after all.

        Nothing connects these events to their submissions, so all senders are answered
        `UNAVAILABLE`. If they send again with the same key, the answer is the first event. If the
        batch is divisible and none of it was committed, each operation is committed alone, so that
        one which the store cannot take harms no other.
        """
        found = await self._find_committed(failure)
        events += found
        outcomes: list[Outcome] = []
        failures = 0
        divisible = failure.divisible and not found and len(operations) > 1
        for operation in operations if divisible else ():
            try:
                outcomes += await self._journal.commit([operation])
                failures = 0
            except Unavailable as error:
                events += await self._find_committed(error)
                outcomes.append(UNAVAILABLE)
                failures += 1
                if failures == FAILURES_IN_A_ROW or not error.divisible:
                    break
        return outcomes + [UNAVAILABLE] * (len(operations) - len(outcomes))

    async def _find_committed(self, failure: Unavailable) -> list[Event]:
        self._failed_commits += 1
        if not failure.healthy:
            self._failed_at = trio.current_time()
        self._in_doubt = True
        return await self._journal.recover()

    async def _release(self, block: Sequence[FeedEntry]) -> None:
        """Fan a block out, or have the fan-out task do it; see `chatd.journal.Release`.

        A short one is fanned out at once if that task has nothing to do, which saves a single
        message a round of the scheduler.
        """
        if self._is_short(block) and self._committed.statistics().tasks_waiting_receive:
            await self._fan_out_block(block)
            return
        try:
            self._hand_on.send_nowait(block)
        except trio.WouldBlock:
            await self._hand_on.send(block)

    def _is_short(self, block: Sequence[FeedEntry]) -> bool:
        """Return whether a block is a single event, for few subscribers of an open room."""
        if len(block) != 1 or type(event := block[0]) is not Event:
            return False
        feed = self._feeds.get(event.room)
        return feed is not None and len(feed) <= SHORT_SUBSCRIBERS

    async def _fan_out(self) -> None:
        async for block in self._committed:
            if isinstance(block, _Probe):
                block.fanned_out.set()
            else:
                await self._fan_out_block(block)

    async def _fan_out_block(self, block: Sequence[FeedEntry]) -> None:
        began = perf_counter()
        self._fanout_began = trio.current_time()
        self._fanning_out = block[-1].position
        for kind, run in groupby(block, type):
            entries: list[Any] = list(run)
            if kind is Event:
                await self._show(entries)
                continue
            for item in entries:
                await self._take_in(item)
        self._fanned_out = block[-1].position
        self._progress.notify()
        self._fanout_began = math.inf
        self._fanout_seconds.observe(perf_counter() - began)

    async def _show(self, block: Sequence[Event]) -> None:
        """Fan out events, those of all rooms in one go, and report them."""
        if self._neighbours is not None:
            await self._open_arriving(block)
        groups: list[Group[Subscription]] = []
        shown: list[FannedOut] = []
        for room, run in groupby(block, _ROOM):
            events = list(run)
            receivers = 0
            if (feed := self._feeds.get(room)) is not None:
                for group in feed.advance(events, self._fanout_began):
                    groups.append(group)
                    receivers += len(group.outboxes)
                self._deliveries += receivers * len(events)
            shown.append((events, receivers))
        await fan_out(groups, self.slices)
        try:
            self._on_fanned_out(shown)
        except Exception as error:  # the boundary of the layers above
            self._log.fault(error, detail="after a fan-out")

    # ---- what other daemons do

    def _wants(self, room: str) -> bool:
        """Return whether another daemon's events of a room are of use here."""
        return room in self._feeds or self._expects(room)

    def _expects(self, room: str) -> bool:
        neighbours = self._neighbours
        return room.startswith("@") and neighbours is not None and neighbours.expects(room)

    async def _open_arriving(self, block: Sequence[Event]) -> None:
        """Open the rooms of direct messages whose first event here is about to be fanned out."""
        assert self._neighbours is not None  # noqa: S101  only they have such rooms
        for event in block:
            if event.room not in self._feeds and self._expects(event.room):
                try:
                    await self._neighbours.arriving(event.room, event.seq)
                except Exception as error:  # the boundary of the layers above
                    self._log.fault(error, detail=f"direct messages in {event.room}")

    async def _take_in(self, item: Item) -> None:
        match item:
            case Passed():
                return
            case Missed(position):
                await self._show_missed(position)
            case Swept(_, room) if (feed := self._feeds.get(room)) is not None:
                feed.drop_tail()
        if self._neighbours is not None:
            try:
                await self._neighbours.take_in(item)
            except Exception as error:  # the boundary of the layers above
                self._log.fault(error, detail=f"news of other daemons: {type(item).__name__}")

    async def _show_missed(self, upto: int) -> None:
        """Read what the store has from the visible heads up to a position, and fan it out.

        What follows comes after this item, in its order: there may be another epoch in between.
        """
        self.drop_tails()
        for feed in list(self._feeds.values()):
            while not self._closed and self._feeds.get(feed.key) is feed:
                try:
                    if not len(feed):
                        head = await self._journal.head(feed.key)
                        feed.set_head(0 if head is None else head.seq)
                        break
                    page = await self._journal.read(
                        feed.key, feed.visible, sys.maxsize, REREAD_EVENTS
                    )
                except Unavailable:
                    await trio.sleep(REREAD_SECONDS)
                    continue
                missed = [event for event in page if event.position <= upto]
                await self._show(missed)
                if not missed or len(missed) < len(page):
                    break

    # ---- retention

    def retain(self, retention: Retention) -> None:
        """Apply other limits of retention from the next sweep on, which is soon."""
        self._journal.retain(retention)
        self._unswept.set()

    def confirm_clock(self) -> None:
        """Trust the wall clock as it is now, and remove soon what is old by it."""
        self._journal.confirm_clock()
        self._unswept.set()

    async def _sweep(self) -> None:
        """Sweep when the journal says that something is due, and some time after each commit."""
        while True:
            due_in = self._journal.due_in()
            seconds = LONGEST_SLEEP_SECONDS if due_in is None else due_in
            with trio.move_on_after(min(max(seconds, SWEEP_SECONDS), LONGEST_SLEEP_SECONDS)):
                await self._unswept.wait()
                await trio.sleep(SWEEP_SECONDS)
            self._unswept = trio.Event()
            while await self._do(self._sweep_chunk):  # noqa: ASYNC110  a pace, not a poll
                await trio.sleep(SWEEP_AGAIN_SECONDS)

    async def _do(self, work: Callable[[], Awaitable[bool]]) -> bool:
        """Run a portion of work in the collector, in its turn; return True if more is left."""
        chore = _Chore(work)
        with suppress(trio.ClosedResourceError):
            await self._submit.send(chore)
            await chore.done.wait()
        return chore.more

    async def _sweep_chunk(self) -> bool:
        swept = self._journal.statistics().swept
        try:
            more = await self._journal.sweep()
        except Unavailable:
            more = False
        if self._journal.statistics().swept != swept:
            self.drop_tails()
        if not self._journal.indexed:
            self._unindexed.set()
        return more

    # ---- the search index

    async def search(
        self,
        query: str,
        rooms: Mapping[str, int],
        limit: int,
        *,
        sender: Sender | None = None,
        before: int | None = None,
    ) -> Hits:
        """Search as `Journal.search` does, and find what was committed before the call.

        Raises:
            chatd.journal.Unavailable: The store cannot be read now, or not in time.
        """
        with trio.move_on_after(INDEXED_SECONDS):
            while not self._journal.indexed and await self._do(self._index_chunk):
                pass
        with trio.move_on_after(OLD_INDEXED_SECONDS):
            while self._unindexed.is_set() and await self._do(self._index_chunk):
                pass
        hits = await self._journal.search(query, rooms, limit, sender=sender, before=before)
        if not hits.complete:
            self._unindexed.set()  # the search may have found that the index is damaged
        return hits

    def reindex(self) -> None:
        """Rebuild the index of words, in the background."""
        self._journal.reindex()
        self._unindexed.set()

    async def _keep_indexed(self) -> None:
        while True:
            await self._unindexed.wait()
            await trio.sleep(INDEX_SECONDS)
            while await self._do(self._index_chunk):  # noqa: ASYNC110  a pace, not a poll
                await trio.sleep(INDEX_AGAIN_SECONDS)
            await trio.sleep(self._index_in)

    async def _index_chunk(self) -> bool:
        delay = await self._journal.index()
        if delay is None:
            self._unindexed = trio.Event()
        self._index_in = delay or 0.0
        return delay == 0
