"""The broadcast bus: what is published is collected, committed, answered and fanned out.

Two tasks, joined by a channel, so that one batch is committed while the last one is fanned out.
What it owns: the order of commit, answer and show. What it does not know: who subscribes, and
what the events mean.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from operator import attrgetter
from time import perf_counter
from typing import Final, TypeAlias

import trio
from msgspec import Struct

from chatd.bus.topic import Topic
from chatd.journal import Journal, Unavailable
from chatd.model import Event, Operation, Outcome, Post, Receipt, Refusal

__all__ = ["Answered", "Bus", "BusStatistics", "Shown"]

Answered: TypeAlias = Callable[[Outcome], None]
"""Called with what became of an operation, before anybody is shown it. Must not raise."""

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

SWEEP_SECONDS: Final = 60.0
SWEEP_AGAIN_SECONDS: Final = 1.0
SWEEP_IDLE_SECONDS: Final = 3600.0
"""Between two looks at what is too old: as a rule; while there is more of it than one chunk; and
while nothing was committed, so that only time passed."""

UNAVAILABLE: Final = Refusal(
    "unavailable", "the store did not confirm; send it again with the same key", 1000
)


class _Probe:
    """In an operation's place: nothing is to be committed, but its empty batch goes all the way."""


_PROBE: Final = _Probe()

_Item: TypeAlias = tuple[Operation | _Probe | None, Answered]
"""None asks the collector to look at what is too old."""


class BusStatistics(Struct, frozen=True):
    """Counts since the start; ``topics`` and ``waiting`` are as of now."""

    batches: int
    events: int
    deliveries: int
    failed_commits: int
    topics: int
    waiting: int


class Bus:
    """Collects, commits, answers and fans out. ``run`` owns its tasks."""

    def __init__(self, journal: Journal, shown: Shown) -> None:
        self._journal = journal
        self._shown = shown
        self._topics: dict[str, Topic] = {}
        self._publish, self._published = trio.open_memory_channel[_Item](WAITING_OPERATIONS)
        self._probes: deque[Answered] = deque()  # one for each empty block on the feed
        self._entered = math.inf  # when the collector began to work with the store
        self._in_doubt = False
        self._failed_at = -math.inf
        self._more_to_sweep = False
        self._committed = trio.Event()
        self._batches = 0
        self._events = 0
        self._deliveries = 0
        self._failed_commits = 0

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

    def statistics(self) -> BusStatistics:
        return BusStatistics(
            batches=self._batches,
            events=self._events,
            deliveries=self._deliveries,
            failed_commits=self._failed_commits,
            topics=len(self._topics),
            waiting=self._published.statistics().current_buffer_used,
        )

    # ---- topics

    def open_topic(self, room: str, name: str) -> Topic:
        """Register a topic. What is committed from now on is shown through it."""
        topic = self._topics[room] = Topic(room, name)
        return topic

    def close_topic(self, topic: Topic) -> None:
        del self._topics[topic.room]

    # ---- publishing

    async def publish(self, operation: Operation, answered: Answered) -> None:
        """Hand an operation to the collector. Waits, at a checkpoint, only while it is full.

        Raises:
            trio.ClosedResourceError: after ``close``.
        """
        try:
            self._publish.send_nowait((operation, answered))
        except trio.WouldBlock:
            await self._publish.send((operation, answered))

    async def probe(self) -> None:
        """Wait until an empty batch has gone through both tasks, behind all that was published.

        Raises:
            trio.ClosedResourceError: after ``close``.
        """
        shown = trio.Event()
        await self._publish.send((_PROBE, lambda _: shown.set()))
        await shown.wait()

    def close(self) -> None:
        """Take nothing more. ``run`` ends when what was taken is committed and shown."""
        self._publish.close()

    # ---- the two tasks

    async def run(self) -> None:
        """Run until ``close`` was called and everything published is committed and shown."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fan_out)
            async with trio.open_nursery() as sweeping:
                sweeping.start_soon(self._sweep)
                await self._collect()
                sweeping.cancel_scope.cancel()
            # Closing the journal ends its feed, and so the fan-out, once all of it is shown.
            await self._journal.aclose()

    async def _collect(self) -> None:
        async for first in self._published:
            batch = await self._gather(first)
            self._entered = trio.current_time()
            operations = [
                (op, answered)
                for op, answered in batch
                if op is not None and not isinstance(op, _Probe)
            ]
            if operations:
                await self._commit(operations)
            for operation, answered in batch:
                if operation is None:
                    await self._retain()
                    answered(None)
            self._entered = math.inf
            for operation, answered in batch:
                if isinstance(operation, _Probe):
                    self._probes.append(answered)
                    await self._journal.hand_on([])

    async def _gather(self, first: _Item) -> list[_Item]:
        """Take what is there, and let the scheduler run while new operations still arrive."""
        batch = [first]
        size = _weight(first[0])
        ends = perf_counter() + BATCH_SECONDS
        quiet = 0
        while quiet < QUIET_ROUNDS and perf_counter() < ends:
            await trio.lowlevel.checkpoint()
            quiet += 1
            while len(batch) < BATCH_EVENTS and size < BATCH_BYTES:
                try:
                    item = self._published.receive_nowait()
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
                batch.append(item)
                size += _weight(item[0])
                quiet = 0
            else:
                break
        return batch

    async def _commit(self, batch: list[tuple[Operation, Answered]]) -> None:
        # Stable: one room's events stay in the order in which they came.
        batch.sort(key=_room)
        operations = [operation for operation, _ in batch]
        shown: list[Event] = []
        try:
            if self._in_doubt:
                # Answered as unavailable, there after all: shown now, for their numbers come first.
                shown += await self._journal.settle()
                self._in_doubt = False
            outcomes = await self._journal.commit(operations)
        except Unavailable as error:
            outcomes = await self._after_failure(operations, shown, divisible=error.divisible)
        self._batches += 1
        self._committed.set()
        for (_, answered), outcome in zip(batch, outcomes, strict=True):
            answered(outcome)
            if isinstance(outcome, Receipt) and not outcome.duplicate:
                shown.append(outcome.event)
        if shown:
            if self._in_doubt:
                shown.sort(key=attrgetter("position"))
            self._events += len(shown)
            await self._journal.hand_on(shown)

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
                self._probes.popleft()(None)
                continue
            for room, events in _by_room(block):
                topic = self._topics.get(room)
                receivers = 0 if topic is None else await topic.show(events)
                self._deliveries += receivers * len(events)
                self._shown(room, events, receivers)

    # ---- what is too old

    async def _sweep(self) -> None:
        """Ask the collector to look, by the way every operation goes: it is the only writer."""
        while True:
            # While nothing is committed only age is to be looked at.
            self._committed = trio.Event()
            with trio.move_on_after(SWEEP_IDLE_SECONDS):
                await self._committed.wait()
            await trio.sleep(SWEEP_SECONDS)
            while await self._swept():  # noqa: ASYNC110  a pace, not a poll
                await trio.sleep(SWEEP_AGAIN_SECONDS)

    async def _swept(self) -> bool:
        swept = trio.Event()
        with suppress(trio.ClosedResourceError):
            await self._publish.send((None, lambda _: swept.set()))
            await swept.wait()
        return self._more_to_sweep

    async def _retain(self) -> None:
        swept = self._journal.statistics().swept
        try:
            self._more_to_sweep = await self._journal.sweep()
        except Unavailable:
            self._more_to_sweep = True
        if self._journal.statistics().swept != swept:
            for topic in self._topics.values():
                topic.forget()


def _weight(operation: Operation | _Probe | None) -> int:
    return len(operation.text or "") if isinstance(operation, Post) else 0


def _room(item: tuple[Operation, Answered]) -> str:
    operation = item[0]
    return operation.room if isinstance(operation, Post) else ""


def _is_of(event: Event, post: Operation) -> bool:
    return isinstance(post, Post) and (
        event.room,
        event.user,
        event.nick,
        event.kind,
        event.text,
        event.of,
        event.reply_to,
    ) == (
        post.room,
        post.user,
        post.nick,
        post.kind,
        post.text,
        post.of,
        post.reply_to,
    )


def _by_room(block: Sequence[Event]) -> Iterator[tuple[str, Sequence[Event]]]:
    if block[0].room == block[-1].room and len({event.room for event in block}) == 1:
        return iter([(block[0].room, block)])
    return ((room, list(run)) for room, run in groupby(block, attrgetter("room")))
