"""A journal on an engine that several daemons share. Each of these daemons is a node.

All events, including the node's own, reach the bus through the engine's feed, so that all nodes
show them in one order. The node's own events are held until their senders have been answered.

The engine may be out of reach, or may not confirm a request. Because of these rules, every answer
to a client and every event that it gets stays true:

* Each batch has a number. Until its deadline, it is sent again under the same number whenever the
  link breaks. After the deadline, its senders get `unavailable`, and before the next batch it is
  made void, so that it cannot be carried out unnoticed later. If it was carried out after all, the
  feed brings its events to everybody.
* While the engine is out of reach, everything is refused at once, and one task tries to enter it
  again.
* If a new life of the engine lacks events that this node may have shown, the node's clients are
  closed, and read the log again.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Final, TypeVar

import trio

from chatd.changed import Changed
from chatd.histogram import HistogramStatistics
from chatd.journal import (
    OperatorLog,
    Release,
    Retention,
    Statistics,
    StoreError,
    Unavailable,
)
from chatd.journal.damage import Damage
from chatd.journal.engine import Condition, Damaged, Engine, Fed, Life, Lost, Stale
from chatd.journal.retention import RetentionLog, no_report
from chatd.journal.shared_reads import SharedReads
from chatd.model import (
    Event,
    FeedEntry,
    Missed,
    Operation,
    Outcome,
    Passed,
    Receipt,
    Reentered,
    Relayed,
    Renewed,
)

__all__ = ["SharedJournal", "open_shared"]

_T = TypeVar("_T")

TIMEOUT_SECONDS: Final = 2.0
"""By default, the senders of a batch that is not confirmed get `unavailable` after this time."""

BEHIND_SECONDS: Final = 0.5
"""How much longer the answer may take of a message that waits behind another batch."""

GATHER_SECONDS: Final = 0.1
"""A batch that comes later than this after another one did not wait behind it: the bus gathers one
within a few milliseconds."""

BEATS: Final = 3
"""How many times a node extends its lease during one lease. When it has missed two of these beats,
it takes no more batches: other nodes may soon take it for dead."""

WATCH_SECONDS: Final = 30.0
"""How often the engine is inspected: its configuration may be changed while it runs."""

FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 1.0
"""The pause before the next attempt to reach the engine doubles each time; half of it is random. It
is short again, and the failure over, after a link has lasted for as long as the longest pause."""


class SharedJournal(SharedReads):
    """`chatd.journal.Journal` on an `Engine`. `enter` comes first, then `run` in a task.

    Args:
        engine: The engine. The journal closes it.
        facts: Returns what other nodes see of this one; see `Engine.nodes`.
        hold_ms: Returns for how long the nicks of a dead node's users are held, in ms.
        retention: The limits of retention; by default `Retention`'s defaults.
        report: Where to report what operators should know.
        timeout_seconds: How long a commit may take.

    Attributes:
        facts: See above; it may be set later, and so may ``hold_ms``.
        grace_ms: Returns for how long after `aclose` the users of this node can reconnect to others
            without having left their rooms, in ms; by default 0.
        changed: Notified when the link to the engine was lost, when it is back, and when
            ``reason`` is another one.
        condition: What the engine reported of itself when it was last inspected; None before.
        damage: Reports data that somebody has changed by hand.
        down_since: When the link was lost, on Trio's clock; None while there is one. A link that is
            lost again at once does not count.
        epoch: See `Journal`; so are ``former`` and ``key``.
        inspected: Notified when there is a new ``condition``.
        lag: How many entries of the feed this node had not read yet at its last sign of life.
        lost_positions: How many positions that this node had read are lost.
        node: This node's id.
        reason: Why the engine cannot be used, while it cannot.
        reconnects: How often the engine was entered again after the link was lost.
        resyncs: How often the feed lacked entries because this node had been away for too long.
        timeout: How long a commit may take, in seconds.
        unknown: How many items it left out, because only a newer version of chatd knows their kind.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        facts: Callable[[], bytes] = bytes,
        hold_ms: Callable[[], int] = int,
        retention: Retention | None = None,
        report: OperatorLog = no_report,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self.facts = facts
        self.hold_ms = hold_ms
        self.grace_ms: Callable[[], int] = int
        self.changed = Changed()
        self.inspected = Changed()
        self.condition: Condition | None = None
        self.down_since: float | None = trio.current_time()
        self.reason = "the store has not been reached yet"
        self.lag = self.lost_positions = 0
        self.epoch = self.node = ""
        self.former: Mapping[str, int] = {}
        self.key = b""
        self.reconnects = self.resyncs = self.unknown = 0
        super().__init__(engine)
        self.damage = Damage(report)
        engine.on_damage = self.damage.note
        self._retention = Retention() if retention is None else retention
        self._report = report
        self._retention_log = RetentionLog(self._retention, report)
        self.timeout = timeout_seconds
        self._reported: set[str] = set()  # the reasons since the link was lost
        self._refused = False  # whether the last batch was refused by an engine that can be reached
        self._entered = 0  # how often
        self._lost_at = self.down_since  # when the last link that lasted was lost
        self._lasts = True  # whether the present link has lasted, or is the first
        self._pause = FIRST_PAUSE_SECONDS
        self._ahead_ms = 0.0  # by how much the engine's clock is ahead of Trio's
        self._beaten = 0.0  # when the last beat that got an answer was sent
        # The feed.
        self._release: Release
        self._wanted: Callable[[str], bool] = _everything
        self._started = trio.Event()
        self._last: tuple[int, str] | None = None
        self._news: deque[Renewed | Reentered] = deque()
        self._shown_epoch = ""  # that of the last `Renewed` released
        self._renewed_at = -1  # the position of the feed's last `Renewed`
        self._checked_gap = -1  # behind this position, the feed lacked entries
        self._unanswered: tuple[str, ...] = ()  # how the origins of own, held entries begin
        self._released = Changed()  # own entries may be shown
        self._moved = Changed()  # the feed was read further, or cannot be read now
        # Batches.
        self._life: Life
        self._number = 0
        self._batch_began = self._batch_ended = 0.0  # the last one
        self._batch_due = math.inf  # by when the present one has to be confirmed
        self._begun = Changed()  # there is a present one
        self._confirmed = 0  # the position of the last event with a receipt
        self._doubtful: tuple[str, int] | None = None
        # Tasks.
        self._running = trio.CancelScope()
        self._connected = trio.CancelScope()
        self._stopped = trio.Event()
        self._closed = False
        # Figures.
        self._events = self._duplicates = self._batches = self._failures = 0
        self._bytes = 0
        self._due: int | None = 0
        self._commit_seconds = self._slowest_seconds = 0.0

    # ---- the link to the engine

    async def enter(self) -> None:
        """Enter the engine's present life, for the first time or again.

        Raises:
            StoreError: the engine cannot be used as it is.
            Unavailable: it cannot be reached.
        """
        began = trio.current_time()
        life = await self._engine.enter(self._last, self._number, self.facts())
        self._beaten = began
        self._entered += 1
        self._set_clock(life.now, trio.current_time())
        if self._take_over(life):
            await self._beat()
        self._refused = False
        if self.down_since is not None:
            self.down_since = None
            self.changed.notify()

    def _take_over(self, life: Life) -> bool:
        """Go on in the life that was entered. Return whether this is the same node as before."""
        same = life.node == self.node
        entered_before = self._last is not None
        if life.lost:
            same_epoch = life.epoch == self.epoch
            kept = life.position if same_epoch else life.former.get(self.epoch, 0)
            self.lost_positions += max(0, self.position - kept)
            self._report(
                "store",
                state="renewed",
                detail=f"the store has lost what this node had at the positions {kept + 1} to "
                f"{self.position}, so all its clients are closed",
            )
            self._news.append(Renewed(life.position, life.epoch, lost=True))
        elif entered_before and not same:
            self._news.append(Reentered(self._position_read))
        if not same:
            self.node, self._number = life.node, 0
        if not entered_before:
            self._shown_epoch = life.epoch
        if life.lost or not entered_before:
            self._last = (life.position, life.origin)
            self._confirmed = 0
        self._life, self.key = life, life.key
        if not any(isinstance(one, Renewed) for one in self._news):
            self.begin_anew()
        if life.raised:
            self._report(
                "store",
                state="upgraded",
                detail=f"all nodes can read format {life.raised}, so the store has this format "
                "from now on: older versions of chatd cannot use it",
            )
        return same

    def begin_anew(self) -> None:
        """Take over the epoch of the life that was entered.

        If it has lost events, this is called when all clients that may have got them are closed:
        until then, the events that clients have belong to the epoch before.
        """
        self.epoch, self.former = self._life.epoch, self._life.former

    def _set_clock(self, now: int, asked: float) -> None:
        """Set the clock by the engine's time, for which it was asked at a time of Trio's clock."""
        self._ahead_ms = now - (asked + trio.current_time()) / 2 * 1000

    def _break(self, error: Unavailable | StoreError, entered: int) -> None:
        """Close the link, so that `run` enters again; do nothing if it has already entered again.

        Args:
            error: Why.
            entered: How often the engine had been entered when the link was used.
        """
        if self.down_since is None and entered == self._entered:
            if self._lasts:
                self._lasts = False
                self._lost_at = trio.current_time()
                self._reported = {str(error)}
                self._report("store", state="failed", detail=str(error))
            self.down_since = self._lost_at
            self._explain(str(error))
            self.changed.notify()
            self._moved.notify()
            self._connected.cancel()
            self._engine.close()

    def _check(self) -> None:
        """Raise Unavailable if the engine is out of reach, or may soon take this node for dead."""
        most = self._engine.lease_seconds * (BEATS - 1) / BEATS
        if self.down_since is None and trio.current_time() - self._beaten > most:
            stale = Stale(f"the store has not heard from this node for {most:g} s")
            self._break(stale, self._entered)
        if self.down_since is not None:
            raise Unavailable(self.reason)

    async def _ask(self, asking: Callable[[], Awaitable[_T]]) -> _T:
        self._check()
        entered = self._entered
        try:
            return await asking()
        except (Lost, Stale) as error:
            self._break(error, entered)
            raise
        except Damaged as error:
            self.damage.note(str(error))
            raise
        except StoreError as error:
            self._break(error, entered)
            raise Unavailable(str(error)) from error

    async def run(self) -> None:
        """Read the feed, keep the lease and watch the engine until `aclose`.

        When the link is lost, enter again.
        """
        try:
            with self._running:
                while True:
                    if self.down_since is None:
                        async with trio.open_nursery() as nursery:
                            self._connected = nursery.cancel_scope
                            nursery.start_soon(self._guarded, self._read_feed)
                            nursery.start_soon(self._guarded, self._keep_lease)
                            nursery.start_soon(self._guarded, self._watch)
                            nursery.start_soon(self._guarded, self._limit_commits)
                            if not self._lasts:
                                nursery.start_soon(self._recover)
                    await trio.sleep(self._pause * random.uniform(0.5, 1))  # noqa: S311  no secret
                    self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
                    try:
                        await self.enter()
                    except (Unavailable, StoreError) as error:
                        self._explain(str(error))
                    else:
                        self.reconnects += 1
        finally:  # also if this task is cancelled
            self._stopped.set()

    def _explain(self, reason: str) -> None:
        """Note why the engine cannot be used. Report each reason once, after a moment."""
        if reason != self.reason:
            self.reason = reason
            self.changed.notify()
        assert self.down_since is not None  # noqa: S101  the link is lost
        short = trio.current_time() - self.down_since <= LONGEST_PAUSE_SECONDS
        if not short and reason not in self._reported:
            self._reported.add(reason)
            self._report("store", state="waiting", detail=reason)

    async def _recover(self) -> None:
        """End the failure after the link has lasted for some time."""
        await trio.sleep(LONGEST_PAUSE_SECONDS)
        self._lasts = True
        self._pause = FIRST_PAUSE_SECONDS
        self._report("store", state="recovered", detail="the store answers again")

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        entered = self._entered
        try:
            await work()
        except (Unavailable, StoreError) as error:  # also if the engine refuses to be read
            self._break(error, entered)

    async def _keep_lease(self) -> None:
        interval = self._engine.lease_seconds / BEATS
        due = trio.current_time() + interval
        if not self._started.is_set():
            # The first sign of life has this node's facts, which are known from then on.
            with trio.move_on_at(due):
                await self._started.wait()
            due = trio.current_time()
        while True:
            await trio.sleep_until(due)
            due = trio.current_time() + interval
            try:
                await self._beat()
            except (Lost, Stale, Damaged):
                raise
            except Unavailable:
                continue  # such as a full memory: the next beat may succeed
            try:
                buries = True
                while buries and trio.current_time() < due:
                    buries = await self._engine.bury(self.hold_ms())
            except (Lost, Stale):
                raise
            except Damaged as error:
                self.damage.note(str(error))
            except Unavailable:
                pass  # the same

    async def _beat(self) -> None:
        began = trio.current_time()
        now, position = await self._engine.beat(self.facts())
        self._set_clock(now, began)
        self._beaten = began
        self.lag = max(0, position - self._position_read)

    async def _watch(self) -> None:
        while True:
            began = trio.current_time()
            condition = self.condition = await self._engine.inspect()
            self._set_clock(condition.now, began)
            self.inspected.notify()
            await trio.sleep(WATCH_SECONDS)

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        with trio.CancelScope(shield=True):
            with trio.move_on_after(self.timeout if self._started.is_set() else 0):
                await self._show_all()
            if self.down_since is None:
                # While there are links: a read that ends closes them.
                await self._engine.leave(self.grace_ms())
            self._running.cancel()
            await self._stopped.wait()
            self._engine.close()

    # ---- the feed

    def start(self, release: Release, wanted: Callable[[str], bool]) -> None:
        self._release, self._wanted = release, wanted
        self._started.set()

    async def _read_feed(self) -> None:
        await self._started.wait()
        while self._news:
            await self._release([self._news[0]])
            if isinstance(item := self._news.popleft(), Renewed):
                self._shown_epoch = item.epoch
        while True:
            assert self._last is not None  # noqa: S101  `enter` came first
            fed = await self._engine.feed(self._last[0], self._wanted)
            if fed:
                await self._show(fed)

    async def _show(self, fed: Sequence[Fed | Relayed]) -> None:
        """Release entries; the node's own, only after their senders were answered."""
        block: list[FeedEntry] = []
        last = self._last or (0, "")
        for one in fed:
            if isinstance(one, Relayed):
                block.append(one)
                continue
            origin = one.origin
            if self._unanswered and origin.startswith(self._unanswered):
                await self._pass(block, last)
                block = []
                while origin.startswith(self._unanswered):
                    await self._released.wait()
            if one.position != last[0] + 1:
                self._check_epoch(last[0])
                if self._shown_epoch != self.epoch:
                    self._shown_epoch = self.epoch
                    block.append(Renewed(last[0], self.epoch))
                self.resyncs += 1
                block.append(Missed(one.position - 1))
            self.unknown += one.unknown
            if (entry := one.entry) is not None:
                block.append(entry)
                if type(entry) is Renewed:
                    self._renew(entry)
                    self._renewed_at, self._shown_epoch = entry.position, entry.epoch
            last = (one.position, origin)
        await self._pass(block, last)

    def _check_epoch(self, gap: int) -> None:
        """Raise Lost if there may be a newer epoch: the feed lacks entries behind a position.

        When the engine has been entered again, the epoch is known. Behind a `Renewed` nothing is
        missing: the events that follow it were restored.
        """
        if gap not in (self._renewed_at, self._checked_gap):
            self._checked_gap = gap
            raise Lost("the store's feed lacks entries that this daemon has not read yet")

    async def _pass(self, block: list[FeedEntry], last: tuple[int, str]) -> None:
        """Release entries; ``last`` is the position and origin of the last one read."""
        if not block and last == self._last:
            return
        if not block or block[-1].position != last[0]:
            block.append(Passed(last[0]))
        await self._release(block)
        self._last = last  # only now: after a cancellation, the entries must be read again
        self._moved.notify()

    def _renew(self, item: Renewed) -> None:
        """Take over an epoch that this node did not get when it entered."""
        if item.epoch != self.epoch and item.epoch not in self.former:
            before = item.position - 1
            former = {epoch: min(ended, before) for epoch, ended in self.former.items()}
            self.former = {**former, self.epoch: before}
            self.epoch = item.epoch

    @property
    def _position_read(self) -> int:
        return 0 if self._last is None else self._last[0]

    async def answered(self, events: Sequence[FeedEntry]) -> None:
        """Release the node's own entries, which the feed brings."""
        self._unanswered = ()
        self._released.notify()

    async def probe(self, block: Sequence[FeedEntry]) -> None:
        await self._show_all()
        await self._release(block)

    async def _show_all(self) -> None:
        """Wait until the feed has brought everything confirmed before, or the link is lost."""
        upto = self._confirmed
        while self.down_since is None and self._position_read < upto:
            await self._moved.wait()

    # ---- writing

    async def commit(self, batch: Sequence[Operation]) -> list[Outcome]:
        if not batch:
            return []
        began = perf_counter()
        now = trio.current_time()
        self._batch_due = now + self._seconds_left(now)
        self._batch_began = now
        self._begun.notify()
        try:
            outcomes = await self._commit(batch)
            self._count(outcomes)
            self._note_refusal(None)
            return outcomes
        except Unavailable as error:
            self._failures += 1
            self._note_refusal(error)
            if isinstance(error, Damaged):
                self.damage.note(str(error))
            if self._doubtful is not None:
                error.divisible = False  # it may be done
            raise
        finally:
            self._batch_due = math.inf
            self._batch_ended = trio.current_time()
            took = perf_counter() - began
            self._commit_seconds += took
            self._slowest_seconds = max(self._slowest_seconds, took)

    def _seconds_left(self, now: float) -> float:
        """Return how long the commit of the batch that comes now may take.

        Its submissions may have waited behind the batch before, though no longer than that took.
        """
        waited = self._batch_ended - self._batch_began
        if now - self._batch_ended > GATHER_SECONDS:
            waited = 0.0
        return min(self.timeout, self.timeout + BEHIND_SECONDS - waited)

    async def _limit_commits(self) -> None:
        """Raise Lost when a batch is not confirmed by its due time.

        This task sleeps through many batches, because each one is due later than the one before. A
        cancel scope for each would take a twentieth of a message's CPU time.
        """
        while self._batch_due > trio.current_time():
            if self._batch_due < math.inf:
                await trio.sleep_until(self._batch_due)
            else:
                await self._begun.wait()
        seconds = self._batch_due - self._batch_began
        raise Lost(f"the store did not confirm within {seconds:g} s")

    def _note_refusal(self, error: Unavailable | None) -> None:
        """Report once that an engine that can be reached refuses batches, and the end of it."""
        if self.down_since is not None or (error is not None and error.divisible):
            return
        if error is not None and not self._refused:
            self._report("store", state="failed", detail=str(error))
        elif error is None and self._refused:
            self._report("store", state="recovered", detail="the store takes messages again")
        self._refused = error is not None

    async def _commit(self, batch: Sequence[Operation]) -> list[Outcome]:
        await self._settle()
        sent = False
        while True:
            self._check()
            node, number = self.node, self._number + 1
            self._unanswered += (f"{node}.{number}.",)
            self._doubtful = node, number  # a cancellation leaves it so
            entered = self._entered
            try:
                outcomes = await self._engine.commit(number, batch)
            except (Lost, Stale, StoreError) as error:
                self._break(error, entered)
                with trio.move_on_at(self._batch_due):
                    while self.down_since is not None:
                        await self.changed.wait()
                if self.node == node:
                    sent = True
                    continue  # under the same number
                if (settled := await self._settle()) is not None:
                    return settled
                sent = False
            except Unavailable:
                if not sent:
                    self._doubtful = None  # nothing was done
                raise
            else:
                self._doubtful, self._number = None, number
                return outcomes

    async def _settle(self) -> list[Outcome] | None:
        """Return the outcomes of a doubtful batch; None if it never was and never will be done."""
        if self._doubtful is None:
            return None
        node, number = self._doubtful
        outcomes = await self._ask(lambda: self._engine.void(node, number))
        self._doubtful = None
        if node == self.node:
            self._number = number
        return outcomes

    def _count(self, outcomes: Sequence[Outcome]) -> None:
        self._batches += 1
        for outcome in outcomes:
            if isinstance(outcome, Receipt):
                if outcome.duplicate:
                    self._duplicates += 1
                else:
                    self._events += 1
                    self._confirmed = max(self._confirmed, outcome.event.position)

    async def recover(self) -> list[Event]:
        """Return nothing: the feed brings what was committed after all."""
        return []

    def publish(self, kind: str, body: bytes) -> None:
        """Send the other nodes something that may get lost: see `Engine.publish`."""
        if self.down_since is None:
            self._engine.publish(kind, body)

    # ---- retention

    async def sweep(self) -> bool:
        done = await self._ask(lambda: self._engine.sweep(self._retention))
        self._bytes, self._due = done.bytes, done.due
        self._retention_log.done(done.removed, size=done.bytes, more=done.more)
        return done.more

    def due_in(self) -> float | None:
        return None if self._due is None else max(0, self._due - self.steady_now()) / 1000

    def retain(self, retention: Retention) -> None:
        self._retention = self._retention_log.retention = retention

    # ---- what it is

    @property
    def position(self) -> int:
        return max(self._confirmed, self._position_read)

    @property
    def writer_blocked(self) -> bool:
        return False

    @property
    def in_place(self) -> bool:
        return self.down_since is None

    @property
    def proof_seconds(self) -> HistogramStatistics:
        """How long replicas took to confirm entries of the feed; empty if none have to."""
        return self._engine.proof_seconds.statistics()

    def steady_now(self) -> int:
        """Return the engine's time, by which bans, sessions and the like end at all nodes."""
        return round(trio.current_time() * 1000 + self._ahead_ms)

    def confirm_clock(self) -> None:
        """Do nothing: the engine's clock is trusted."""

    @property
    def indexed(self) -> bool:
        return True  # `search` reads the texts themselves

    async def index(self) -> float | None:
        return None

    def reindex(self) -> None:
        pass

    def statistics(self) -> Statistics:
        return Statistics(
            events=self._events,
            duplicates=self._duplicates,
            batches=self._batches,
            failures=self._failures,
            swept=self._retention_log.swept,
            bytes=self._bytes,
            log_bytes=0,
            log_held_seconds=0.0,
            clock_jump_seconds=0.0,
            commit_seconds=self._commit_seconds,
            slowest_seconds=self._slowest_seconds,
            threaded=False,
        )

    async def backup(self) -> AsyncGenerator[bytes]:
        raise Unavailable("Several daemons share the store. Back it up with its own tools.")
        yield b""


def _everything(_room: str) -> bool:
    return True


@asynccontextmanager
async def open_shared(
    engine: Engine,
    *,
    facts: Callable[[], bytes] = bytes,
    hold_ms: Callable[[], int] = int,
    retention: Retention | None = None,
    report: OperatorLog = no_report,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> AsyncIterator[SharedJournal]:
    """Open the store on an engine for the duration of the block. See `SharedJournal`.

    Raises:
        StoreError: the engine cannot be used as it is.
        Unavailable: it cannot be reached now.
    """
    journal = SharedJournal(
        engine,
        facts=facts,
        hold_ms=hold_ms,
        retention=retention,
        report=report,
        timeout_seconds=timeout_seconds,
    )
    try:
        await journal.enter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            try:
                yield journal
            finally:
                await journal.aclose()
    finally:
        engine.close()
