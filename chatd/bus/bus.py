"""The broadcast bus: what is published is collected, committed, answered and fanned out.

Two tasks, joined by a channel, so that one batch is committed while the last one is fanned out.
What it owns: the order of commit, answer and show. What it does not know: who subscribes, and
what the events mean.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from operator import attrgetter
from time import perf_counter
from typing import Final, TypeAlias

import trio
from msgspec import Struct

from chatd.bus.codec import report
from chatd.bus.topic import Topic
from chatd.histogram import Histogram, HistogramStatistics
from chatd.journal import Journal, Retention, Unavailable
from chatd.logs import Log
from chatd.model import Event, Operation, Outcome, Post, Receipt, Refusal

__all__ = ["Bus", "BusStatistics", "Shown", "Submission"]

Shown: TypeAlias = Callable[[str, Sequence[Event], int], None]
"""Called with a room, its events and how many subscribers they went to, once they have gone."""

WAITING_OPERATIONS: Final = 1024
"""What may wait for the collector: four full batches. Then publishers wait, and their readers."""

BATCH_EVENTS: Final = 256
BATCH_BYTES: Final = 1024 * 1024
BATCH_SECONDS: Final = 0.002
"""Bounds of one batch: its commit and its fan-out stay within a few milliseconds."""

QUIET_ROUNDS: Final = 2
"""Rounds of the scheduler that must bring nothing new before a batch is committed. Two let every
reader that is ready have its turn; each costs one message in flight some 2.5 µs."""

FAILURES_IN_A_ROW: Final = 3
"""After so many single events that the store would not take, the rest of a batch is refused:
the fault is the store's, not the event's."""

STORE_DOWN_SECONDS: Final = 5.0
"""How long after a failed commit, and into one that does not end, new clients are sent elsewhere.
After a failed one traffic may try again then."""

SWEEP_SECONDS: Final = 15.0
"""The shortest time between two retention sweeps, of some 50 us each when nothing is due: well
below half of the least `history.purge_seconds`."""

SWEEP_AGAIN_SECONDS: Final = 0.05
"""The pause between two chunks of one sweep, of some 1 ms each."""

LONGEST_SLEEP_SECONDS: Final = 3600.0
"""Due times are wall clock times, and that clock may be set: look at it at least this often."""

INDEX_SECONDS: Final = 1.0
INDEX_AGAIN_SECONDS: Final = 0.01
"""How long new words wait to be made findable, so that a quiet chat does it once for many; and
between two chunks, of some 2 ms each, of a store that has many to make."""

INDEXED_SECONDS: Final = 1.0
"""How long a search waits for words that are not findable yet: an old store may have millions."""

UNAVAILABLE: Final = Refusal(
    "unavailable", "the store did not confirm; send it again with the same key", 1000
)


class Submission:
    """An operation on its way to the journal. A subclass overrides what happens with its outcome.

    As it is, nobody waits for the outcome.
    """

    __slots__ = ("operation",)

    def __init__(self, operation: Operation) -> None:
        self.operation = operation

    def resolve(self, outcome: Outcome) -> None:
        """Take the outcome: called once, before anybody is sent the event that it caused."""

    def fault(self, error: Exception) -> None:
        """Report what `resolve` raised, and end the connection that made the submission."""
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


class _Probe:
    """Goes the way of a submission and its event, but nothing is committed for it."""

    __slots__ = ("passed",)

    def __init__(self) -> None:
        self.passed = trio.Event()


class _Chore:
    """Work on the journal that the collector does, because it is the only writer."""

    __slots__ = ("do", "done", "more")

    def __init__(self, do: Callable[[], Awaitable[bool]]) -> None:
        self.do = do
        self.done = trio.Event()
        self.more = False


_Item: TypeAlias = Submission | _Chore | _Probe


class BusStatistics(Struct, frozen=True):
    """Counts since the start; ``topics``, ``waiting`` and ``busy`` are as of now.

    ``commit_seconds``: of a batch, with its repair where the store failed. ``fanout_seconds``: of
    a batch, from its first event to its last receiver. ``busy``: for how many seconds the batch
    that is under way has been with the store, or with the fan-out.
    """

    batches: int
    events: int
    deliveries: int
    failed_commits: int
    topics: int
    waiting: int
    busy: float
    commit_seconds: HistogramStatistics
    fanout_seconds: HistogramStatistics


class Bus:
    """Collects, commits, answers and fans out. ``run`` owns its tasks."""

    def __init__(self, journal: Journal, shown: Shown, log: Log) -> None:
        self._journal = journal
        self._fanned_out = shown
        self._log = log
        self._shown = self._showing = journal.position
        self._topics: dict[str, Topic] = {}
        self._submit, self._submitted = trio.open_memory_channel[_Item](WAITING_OPERATIONS)
        self._probes: deque[_Probe] = deque()  # one for each empty block on the feed
        self._entered = math.inf  # when the collector began to work with the store
        self._showed = math.inf  # when the fan-out began with its block
        self._in_doubt = False
        self._failed_at = -math.inf
        self._unindexed = trio.Event()
        self._unindexed.set()  # the store may have been left so, or be an old one
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
        """Whether the store took what it was last given, or has had time to recover."""
        return (
            trio.current_time() - self._failed_at > STORE_DOWN_SECONDS
            and self.standing < STORE_DOWN_SECONDS
        )

    @property
    def standing(self) -> float:
        """For how many seconds the collector has waited for a thread inside the store."""
        return max(0.0, trio.current_time() - self._entered) if self._journal.occupied else 0.0

    @property
    def shown(self) -> int:
        """The store's position up to which everything was fanned out, or was there at the start."""
        return self._shown

    @property
    def showing(self) -> int:
        """The store's position up to which fanning out has begun: nobody was given more."""
        return self._showing

    def statistics(self) -> BusStatistics:
        since = min(self._entered, self._showed)
        return BusStatistics(
            batches=self._batches,
            events=self._events,
            deliveries=self._deliveries,
            failed_commits=self._failed_commits,
            topics=len(self._topics),
            waiting=self._submitted.statistics().current_buffer_used,
            busy=max(0.0, trio.current_time() - since),
            commit_seconds=self._commit_seconds.statistics(),
            fanout_seconds=self._fanout_seconds.statistics(),
        )

    # ---- topics

    def open_topic(self, room: str, name: str) -> Topic:
        """Register a topic. What is committed from now on is shown through it."""
        topic = self._topics[room] = Topic(room, name, self._log)
        return topic

    def close_topic(self, topic: Topic) -> None:
        del self._topics[topic.room]

    def forget(self) -> None:
        """Let go of what topics keep of the newest events: the store's have changed."""
        for topic in self._topics.values():
            topic.forget()

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

    async def ask(self, operation: Operation) -> Outcome:
        """Publish an operation and return its outcome.

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
        await probe.passed.wait()

    def close(self) -> None:
        """Accept no more submissions. `run` ends when all accepted ones are fanned out."""
        self._submit.close()

    # ---- the two tasks

    async def run(self) -> None:
        """Run until ``close`` was called and everything published is committed and shown."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fan_out)
            async with trio.open_nursery() as sweeping:
                sweeping.start_soon(self._sweep)
                sweeping.start_soon(self._keep_indexed)
                await self._collect()
                sweeping.cancel_scope.cancel()
            # Closing the journal ends its feed, and so the fan-out, once all of it is shown.
            await self._journal.aclose()

    async def _collect(self) -> None:
        async for first in self._submitted:
            batch = await self._gather(first)
            self._entered = trio.current_time()
            submissions = [item for item in batch if isinstance(item, Submission)]
            if submissions:
                await self._commit(submissions)
            for item in batch:
                if isinstance(item, _Chore):
                    item.more = await item.do()
                    item.done.set()
            self._entered = math.inf
            for item in batch:
                if isinstance(item, _Probe):
                    self._probes.append(item)
                    await self._journal.hand_on([])

    async def _gather(self, first: _Item) -> list[_Item]:
        """Take what is there, and let the scheduler run while new operations still arrive."""
        batch = [first]
        size = _weight(first)
        ends = perf_counter() + BATCH_SECONDS
        quiet = 0
        while quiet < QUIET_ROUNDS and perf_counter() < ends:
            await trio.lowlevel.checkpoint()
            quiet += 1
            while len(batch) < BATCH_EVENTS and size < BATCH_BYTES:
                try:
                    item = self._submitted.receive_nowait()
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
                batch.append(item)
                size += _weight(item)
                quiet = 0
            else:
                break
        return batch

    async def _commit(self, batch: list[Submission]) -> None:
        # Stable: one room's events stay in the order in which they came.
        batch.sort(key=_room)
        operations = [submission.operation for submission in batch]
        shown: list[Event] = []
        began = perf_counter()
        try:
            if self._in_doubt:
                # Answered as unavailable, there after all: shown now, for their numbers come first.
                shown += await self._journal.settle()
                self._in_doubt = False
            outcomes = await self._journal.commit(operations)
        except Unavailable as error:
            outcomes = await self._after_failure(operations, shown, divisible=error.divisible)
        self._commit_seconds.observe(perf_counter() - began)
        self._batches += 1
        for submission, outcome in zip(batch, outcomes, strict=True):
            try:
                submission.resolve(outcome)
            except Exception as error:  # the boundary of the connection that it belongs to
                self._report(submission, error)
            if isinstance(outcome, Receipt) and not outcome.duplicate:
                shown.append(outcome.event)
        self._unswept.set()
        if shown:
            if self._in_doubt:
                shown.sort(key=attrgetter("position"))
            self._events += len(shown)
            self._unindexed.set()
            await self._journal.hand_on(shown)

    def _report(self, submission: Submission, error: Exception) -> None:
        try:
            submission.fault(error)
        except Exception as another:  # the same boundary
            report(self._log, another, detail="the end of a connection")

    async def _after_failure(
        self, operations: Sequence[Operation], shown: list[Event], *, divisible: bool
    ) -> list[Outcome]:
        """Find out what is there after all, and try the rest one by one where that may help.

        What turns up that is none of these operations is added to ``shown``.
        """
        self._failed_commits += 1
        self._failed_at = trio.current_time()
        found = await self._journal.settle()
        self._in_doubt = True
        outcomes: list[Outcome] = []
        failures = 0
        for operation in operations:
            mine = next((i for i, event in enumerate(found) if _is_of(event, operation)), None)
            if mine is not None:
                outcomes.append(Receipt(found[mine]))
                shown += found[:mine]
                del found[: mine + 1]
            elif divisible and len(operations) > 1 and failures < FAILURES_IN_A_ROW:
                outcomes.append(await self._commit_alone(operation, shown))
                failures = failures + 1 if outcomes[-1] is UNAVAILABLE else 0
            else:
                outcomes.append(UNAVAILABLE)
        shown += found
        return outcomes

    async def _commit_alone(self, operation: Operation, shown: list[Event]) -> Outcome:
        try:
            return (await self._journal.commit([operation]))[0]
        except Unavailable:
            return (await self._after_failure([operation], shown, divisible=False))[0]

    async def _fan_out(self) -> None:
        async for block in self._journal.feed:
            if not block:
                self._probes.popleft().passed.set()
                continue
            began = perf_counter()
            self._showed = trio.current_time()
            self._showing = block[-1].position
            for room, events in _by_room(block):
                topic = self._topics.get(room)
                receivers = 0 if topic is None else await topic.show(events)
                self._deliveries += receivers * len(events)
                try:
                    self._fanned_out(room, events, receivers)
                except Exception as error:  # the boundary of the floors above
                    report(self._log, error, detail=f"after the fan-out in {room}")
            self._shown = block[-1].position
            self._showed = math.inf
            self._fanout_seconds.observe(perf_counter() - began)

    # ---- what is too old

    def retain(self, retention: Retention) -> None:
        """Apply another retention rule from the next sweep on, which is soon."""
        self._journal.retain(retention)
        self._unswept.set()

    async def _sweep(self) -> None:
        """Sweep when the journal says that something is due, and some time after each commit.

        The collector does the work, because it is the journal's only writer.
        """
        while True:
            due_in = self._journal.due_in()
            seconds = LONGEST_SLEEP_SECONDS if due_in is None else due_in
            with trio.move_on_after(min(max(seconds, SWEEP_SECONDS), LONGEST_SLEEP_SECONDS)):
                await self._unswept.wait()
                await trio.sleep(SWEEP_SECONDS)
            self._unswept = trio.Event()
            while await self._ask(self._retain):  # noqa: ASYNC110  a pace, not a poll
                await trio.sleep(SWEEP_AGAIN_SECONDS)

    async def _ask(self, work: Callable[[], Awaitable[bool]]) -> bool:
        """Have the collector do it in its turn; tell whether there is more to do."""
        chore = _Chore(work)
        with suppress(trio.ClosedResourceError):
            await self._submit.send(chore)
            await chore.done.wait()
        return chore.more

    async def _retain(self) -> bool:
        swept = self._journal.statistics().swept
        try:
            more = await self._journal.sweep()
        except Unavailable:
            more = False
        if self._journal.statistics().swept != swept:
            self.forget()
        return more

    # ---- what can be found

    async def indexed(self) -> None:
        """Wait until a search finds what was committed before, for `INDEXED_SECONDS` at most."""
        with trio.move_on_after(INDEXED_SECONDS):
            while self._unindexed.is_set() and await self._ask(self._index):
                pass

    async def _keep_indexed(self) -> None:
        while True:
            await self._unindexed.wait()
            await trio.sleep(INDEX_SECONDS)
            while await self._ask(self._index):  # noqa: ASYNC110  a pace, not a poll
                await trio.sleep(INDEX_AGAIN_SECONDS)

    async def _index(self) -> bool:
        more = await self._journal.index()
        if not more:
            self._unindexed = trio.Event()
        return more


def _weight(item: _Item) -> int:
    if isinstance(item, Submission) and isinstance(item.operation, Post):
        return len(item.operation.text or "")
    return 0


def _room(submission: Submission) -> str:
    operation = submission.operation
    return operation.room if isinstance(operation, Post) else ""


def _is_of(event: Event, operation: Operation) -> bool:
    """Tell whether this is what became of the operation, though nobody said so."""
    return (
        isinstance(operation, Post)
        and (event.room, event.user, event.nick, event.kind, event.of, event.reply_to)
        == (
            operation.room,
            operation.user,
            operation.nick,
            operation.kind,
            operation.of,
            operation.reply_to,
        )
        # In present words: the next operation may have changed them.
        and (
            event.text == operation.text
            or event.kind == "edit"
            or event.edited is not None
            or event.deleted
        )
    )


def _by_room(block: Sequence[Event]) -> Iterator[tuple[str, Sequence[Event]]]:
    if block[0].room == block[-1].room and len({event.room for event in block}) == 1:
        return iter([(block[0].room, block)])
    return ((room, list(run)) for room, run in groupby(block, attrgetter("room")))
