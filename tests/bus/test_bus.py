"""Collect, commit, answer, fan out: in that order, whatever the store does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from chatd.bus import Bus, FannedOut, Slices, Submission, fan_out
from chatd.bus import bus as module
from chatd.journal import Hits, Retention, Unavailable
from chatd.journal.memory import MemoryJournal
from chatd.logs import open_log
from chatd.model import Event, Operation, Outcome, Post, Receipt, Refusal, Remember, UserRecord
from chatd.testing.recording import Recording
from tests.bus.test_feed import Member


def post(text: str, room: str = "r", key: str | None = None) -> Post:
    return Post(room=room, name=room, user="u", nick="n", text=text, key=key)


class Scripted(Submission):
    def __init__(self, operation: Operation, lines: list[Any], name: str) -> None:
        super().__init__(operation)
        self.lines = lines
        self.name = name

    def resolve(self, outcome: Outcome) -> None:
        if isinstance(outcome, Receipt):
            self.lines.append(("answer", self.name, outcome.event.seq, outcome.duplicate))
        else:
            self.lines.append(("answer", self.name, getattr(outcome, "code", None)))


class Script:
    """Writes down what happens, in order."""

    def __init__(self) -> None:
        self.lines: list[Any] = []
        self.records = Recording()
        self.log = open_log(sink=self.records)

    def submission(self, operation: Operation, name: str) -> Submission:
        return Scripted(operation, self.lines, name)

    def shown(self, rooms: Sequence[FannedOut]) -> None:
        for events, receivers in rooms:
            texts = [event.text for event in events]
            self.lines.append(("shown", events[0].room, texts, receivers))


class FaultyJournal(MemoryJournal):
    """Fails on demand, before or after the commit (doubtful: the events are stored after all)."""

    def __init__(self) -> None:
        super().__init__(now=lambda: 1)
        self.faults: list[str] = []
        self.committed: list[list[Operation]] = []
        self._doubtful: list[Event] = []

    async def commit(self, batch: Sequence[Operation]) -> list[Outcome]:
        fault = self.faults.pop(0) if self.faults else "none"
        if any(isinstance(op, Post) and op.text == "poison" for op in batch):
            raise Unavailable("poison", divisible=True, healthy=True)
        if fault == "before":
            raise Unavailable("the disk is full", divisible=True)
        if fault == "locked":
            raise Unavailable("locked", divisible=False)
        self.committed.append(list(batch))
        outcomes = await super().commit(batch)
        if fault in ("after", "after, and unreadable"):
            self._doubtful = [
                o.event for o in outcomes if isinstance(o, Receipt) and not o.duplicate
            ]
            if fault == "after, and unreadable":
                self.faults.insert(0, "locked")
            raise Unavailable("I/O error", divisible=True)
        return outcomes

    async def recover(self) -> list[Event]:
        if self.faults[:1] == ["locked"]:
            return []
        found, self._doubtful = self._doubtful, []
        return found


@asynccontextmanager
async def running(journal: MemoryJournal, script: Script) -> AsyncIterator[Bus]:
    bus = Bus(journal, script.shown, script.log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.run)
        yield bus
        bus.close()


@pytest.fixture
def script() -> Script:
    return Script()


async def test_the_answer_comes_before_the_event_it_caused(script: Script) -> None:
    async with running(MemoryJournal(now=lambda: 1), script) as bus:
        await bus.publish(script.submission(post("hi"), "a"))
    assert script.lines == [("answer", "a", 1, False), ("shown", "r", ["hi"], 0)]


async def test_a_single_event_for_few_is_fanned_out_in_the_same_round(script: Script) -> None:
    class Waking(Scripted):
        def resolve(self, outcome: Outcome) -> None:
            super().resolve(outcome)
            answered.set()

    async with running(MemoryJournal(now=lambda: 1), script) as bus:
        bus.open_feed("r", "R").subscribe(Member())
        for seq in range(1, 21):  # a round runs its tasks in a random order
            await trio.testing.wait_all_tasks_blocked()
            answered = trio.Event()
            await bus.publish(Waking(post("hi"), script.lines, "a"))
            await answered.wait()
            assert script.lines[-2:] == [("answer", "a", seq, False), ("shown", "r", ["hi"], 1)]


async def test_a_single_event_for_few_does_not_overtake_a_longer_fan_out(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Texts:
        def encode(self, room: str, items: Sequence[Any]) -> list[Any]:
            return [item.text for item in items]

    class Listed(Member):
        def offer(self, block: Any, messages: int = 1, /) -> None:
            if not offered:
                bus.publish_nowait(script.submission(post("short", "few"), "b"))
            offered.extend(block)

    offered: list[str] = []
    codec = Texts()
    monkeypatch.setattr(module, "SHORT_SUBSCRIBERS", 2)
    bus = Bus(MemoryJournal(now=lambda: 1), script.shown, script.log)
    bus.slices = Slices(seconds=0, recipients=2)
    for room, count in (("many", 3), ("few", 1)):
        feed = bus.open_feed(room, room)
        for _ in range(count):
            feed.subscribe(Listed(codec))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.run)
        await trio.testing.wait_all_tasks_blocked()
        await bus.publish(script.submission(post("long", "many"), "a"))
        await trio.testing.wait_all_tasks_blocked()
        bus.close()
    assert offered == ["long", "long", "long", "short"]


async def test_an_answer_that_raises_costs_its_own_connection_alone(script: Script) -> None:
    class Broken(Submission):
        def resolve(self, outcome: Outcome) -> None:
            raise ValueError("a bug")

        def fault(self, error: Exception) -> None:
            script.lines.append(("failed", str(error)))

    bus = Bus(MemoryJournal(now=lambda: 1), script.shown, script.log)
    await bus.publish(Broken(post("1")))
    await bus.publish(script.submission(post("2"), "2"))
    bus.close()
    await bus.run()
    assert script.lines == [
        ("failed", "a bug"),
        ("answer", "2", 2, False),
        ("shown", "r", ["1", "2"], 0),
    ]


async def test_what_waits_together_is_committed_together_and_sorted_by_room(script: Script) -> None:
    journal = FaultyJournal()
    bus = Bus(journal, script.shown, script.log)
    for text, room in (("1", "b"), ("2", "a"), ("3", "b"), ("4", "a")):
        await bus.publish(script.submission(post(text, room), text))
    bus.close()
    await bus.run()
    assert len(journal.committed) == 1
    assert [line for line in script.lines if line[0] == "shown"] == [
        ("shown", "a", ["2", "4"], 0),
        ("shown", "b", ["1", "3"], 0),
    ]
    assert bus.statistics().batches == 1


async def test_a_batch_is_bounded_in_events_and_bytes(script: Script) -> None:
    journal = FaultyJournal()
    bus = Bus(journal, script.shown, script.log, batch_events=10, batch_bytes=50)
    for number in range(25):
        await bus.publish(script.submission(post(str(number)), "x"))
    for _ in range(3):
        await bus.publish(script.submission(post("y" * 40), "x"))
    bus.close()
    await bus.run()
    assert max(map(len, journal.committed)) <= 10
    assert [len(batch) for batch in journal.committed][-1] <= 2
    assert sum(map(len, journal.committed)) == 28


@pytest.mark.parametrize(
    ("before", "rounds", "sizes"),
    [
        ((), 1, [1, 1]),  # at once
        (("burst", "burst"), module.QUIET_ROUNDS - 1, [2, 2]),
        (("burst", "burst"), module.BURST_QUIET_ROUNDS, [2, 1, 1]),
    ],
)
async def test_a_single_submission_waits_for_more_after_a_batch_of_several(
    script: Script,
    monkeypatch: pytest.MonkeyPatch,
    before: Sequence[str],
    rounds: int,
    sizes: list[int],
) -> None:
    monkeypatch.setattr(module, "BATCH_SECONDS", 60.0)
    journal = FaultyJournal()
    async with running(journal, script) as bus:
        for text in before:
            await bus.publish(script.submission(post(text), "x"))
        await trio.testing.wait_all_tasks_blocked()  # the collector waits
        await bus.publish(script.submission(post("1"), "x"))
        for _ in range(1 + rounds):  # one until the collector has it
            await trio.lowlevel.checkpoint()
        await bus.publish(script.submission(post("2"), "x"))
    assert list(map(len, journal.committed)) == sizes


async def test_a_batch_of_several_waits_longer_for_more(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_SECONDS", 60.0)
    journal = FaultyJournal()
    async with running(journal, script) as bus:
        await trio.testing.wait_all_tasks_blocked()
        for text in ("1", "2"):
            await bus.publish(script.submission(post(text), "x"))
        for _ in range(module.BURST_QUIET_ROUNDS):
            await trio.lowlevel.checkpoint()
        await bus.publish(script.submission(post("3"), "x"))
    assert list(map(len, journal.committed)) == [3]


async def test_publishers_wait_while_the_collector_is_full(script: Script) -> None:
    journal = MemoryJournal(now=lambda: 1)
    bus = Bus(journal, script.shown, script.log, waiting_submissions=2)
    await bus.publish(script.submission(post("1"), "1"))
    await bus.publish(script.submission(post("2"), "2"))
    with trio.move_on_after(0) as scope:
        await bus.publish(script.submission(post("3"), "3"))
    assert scope.cancelled_caught
    assert bus.statistics().waiting == 2
    bus.close()
    await bus.run()


async def test_a_key_is_said_once_and_shown_once(script: Script) -> None:
    async with running(MemoryJournal(now=lambda: 1), script) as bus:
        await bus.publish(script.submission(post("one", key="k"), "a"))
        await bus.publish(script.submission(post("two", key="k"), "b"))
    assert ("answer", "b", 1, True) in script.lines
    assert [line[2] for line in script.lines if line[0] == "shown"] == [["one"]]


async def test_a_poisoned_event_costs_itself_alone(script: Script) -> None:
    bus = Bus(FaultyJournal(), script.shown, script.log)
    for text in ("1", "poison", "2"):
        await bus.publish(script.submission(post(text), text))
    bus.close()
    await bus.run()
    assert script.lines == [
        ("answer", "1", 1, False),
        ("answer", "poison", "unavailable"),
        ("answer", "2", 2, False),
        ("shown", "r", ["1", "2"], 0),
    ]


async def test_after_a_doubtful_commit_what_is_there_is_fanned_out_and_its_senders_ask_again(
    script: Script,
) -> None:
    journal = FaultyJournal()
    journal.faults = ["after"]
    async with running(journal, script) as bus:
        await bus.publish(script.submission(post("1", key="k"), "1"))
        await bus.publish(script.submission(post("2"), "2"))
        await trio.testing.wait_all_tasks_blocked()
        assert script.lines == [
            ("answer", "1", "unavailable"),
            ("answer", "2", "unavailable"),
            ("shown", "r", ["1", "2"], 0),
        ]
        await bus.publish(script.submission(post("1", key="k"), "1 again"))
    assert script.lines[3:] == [("answer", "1 again", 1, True)]


async def test_what_turns_up_while_a_batch_is_tried_one_by_one_keeps_its_place(
    script: Script,
) -> None:
    journal = FaultyJournal()
    journal.faults = ["before", "none", "after", "none"]
    bus = Bus(journal, script.shown, script.log)
    for text in ("1", "2", "3"):
        await bus.publish(script.submission(post(text), text))
    bus.close()
    await bus.run()
    assert script.lines == [
        ("answer", "1", 1, False),
        ("answer", "2", "unavailable"),
        ("answer", "3", 3, False),
        ("shown", "r", ["1", "2", "3"], 0),
    ]


async def test_an_observer_that_raises_does_not_end_the_bus(script: Script) -> None:
    def raising(rooms: Sequence[FannedOut]) -> None:
        script.shown(rooms)
        raise ValueError("a bug")

    bus = Bus(MemoryJournal(now=lambda: 1), raising, script.log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.run)
        for room in ("a", "b"):
            await bus.publish(script.submission(post("1", room), "1"))
            await bus.probe()
        bus.close()
    assert [line[1] for line in script.lines if line[0] == "shown"] == ["a", "b"]
    assert [name for name, _ in script.records.records] == ["fault", "fault"]


async def test_an_end_that_raises_too_does_not_end_the_bus(script: Script) -> None:
    class Broken(Submission):
        def resolve(self, outcome: Outcome) -> None:
            raise ValueError("a bug")

    bus = Bus(MemoryJournal(now=lambda: 1), script.shown, script.log)
    await bus.publish(Broken(post("1")))
    bus.close()
    await bus.run()
    assert script.lines == [("shown", "r", ["1"], 0)]
    assert [name for name, _ in script.records.records] == ["fault"]


async def test_a_doubtful_event_is_refused_and_fanned_out_if_it_was_stored(script: Script) -> None:
    journal = FaultyJournal()
    journal.faults = ["after, and unreadable"]
    async with running(journal, script) as bus:
        await bus.publish(script.submission(post("1"), "1"))
        await trio.testing.wait_all_tasks_blocked()
        assert script.lines == [("answer", "1", "unavailable")]
        assert not bus.available
        journal.faults.clear()
        await bus.publish(script.submission(post("2"), "2"))
    assert script.lines[1:] == [("answer", "2", 2, False), ("shown", "r", ["1", "2"], 0)]


async def test_a_store_that_takes_nothing_refuses_the_rest_of_a_batch_quickly(
    script: Script, autojump_clock: trio.testing.MockClock
) -> None:
    journal = FaultyJournal()
    journal.faults = ["before"] * 100
    bus = Bus(journal, script.shown, script.log)
    for number in range(20):
        await bus.publish(script.submission(post(str(number)), "x"))
    await bus.publish(script.submission(Remember(UserRecord("u", "n", None)), "x"))
    bus.close()
    await bus.run()
    assert len(journal.faults) == 100 - 1 - module.FAILURES_IN_A_ROW
    assert script.lines == [("answer", "x", "unavailable")] * 21
    assert not bus.available
    await trio.sleep(module.STORE_DOWN_SECONDS + 0.1)
    assert bus.available


class Sweeping(MemoryJournal):
    """Notes when it was swept; ``chunks`` are left to be removed, then the rest is ``due``."""

    def __init__(self, *, chunks: int = 0, due: float | None = None) -> None:
        super().__init__(now=lambda: 1)
        self.chunks = chunks
        self.due = due
        self.swept: list[float] = []

    async def sweep(self) -> bool:
        self.swept.append(trio.current_time())
        self.chunks -= 1
        return self.chunks > 0

    def due_in(self) -> float | None:
        return None if self.due is None else max(0.0, self.due - trio.current_time())


async def test_a_sweep_continues_while_more_is_left(
    script: Script, autojump_clock: MockClock
) -> None:
    journal = Sweeping(chunks=3)
    async with running(journal, script):
        await trio.sleep(20)
    assert journal.swept == pytest.approx([15, 15.05, 15.1])


async def test_a_sweep_comes_some_time_after_a_commit(
    script: Script, autojump_clock: MockClock
) -> None:
    journal = Sweeping()
    async with running(journal, script) as bus:
        await trio.sleep(100)
        await bus.publish(script.submission(post("1"), "1"))
        await trio.sleep(10)
        await bus.publish(script.submission(post("2"), "2"))
        await trio.sleep(1000)
    assert journal.swept == pytest.approx([15, 115])


async def test_a_sweep_comes_when_it_is_due_but_not_too_often(
    script: Script, autojump_clock: MockClock
) -> None:
    journal = Sweeping(due=100.0)
    async with running(journal, script):
        await trio.sleep(150)
    assert journal.swept == pytest.approx([15, 100, 115, 130, 145])


async def test_a_sweep_comes_soon_after_the_rule_changes(
    script: Script, autojump_clock: MockClock
) -> None:
    journal = Sweeping()
    async with running(journal, script) as bus:
        await trio.sleep(100)
        bus.retain(Retention(keep_days=1))
        await trio.sleep(20)
    assert journal.swept == pytest.approx([15, 115])


async def test_a_day_without_commits_sees_a_sweep_an_hour(
    script: Script, autojump_clock: MockClock
) -> None:
    journal = Sweeping()
    async with running(journal, script):
        await trio.sleep(24 * 3600)
    assert len(journal.swept) == 24


class Indexing(MemoryJournal):
    """Has words to index, in chunks, and notes when it was asked.

    Each commit adds a chunk, which is indexed before the ``old`` ones.
    """

    def __init__(self, old: int) -> None:
        super().__init__(now=lambda: 1)
        self.old = old
        self.new = 0
        self.fails = False
        self.asked: list[float] = []

    async def commit(self, batch: Sequence[Operation]) -> list[Outcome]:
        self.new += len(batch)
        return await super().commit(batch)

    @property
    def indexed(self) -> bool:
        return not self.new

    async def index(self) -> float | None:
        self.asked.append(trio.current_time())
        if self.fails:
            return 30.0
        if self.new:
            self.new -= 1
        else:
            self.old = max(0, self.old - 1)
        return 0.0 if self.new or self.old else None

    async def search(self, *_args: Any, **_options: Any) -> Hits:
        return Hits([], more=False, complete=not self.old)


async def test_what_no_store_can_hold_does_not_make_the_store_unavailable(script: Script) -> None:
    journal = FaultyJournal()
    async with running(journal, script) as bus:
        for _ in range(5):
            assert isinstance(await bus.submit_and_wait(post("poison")), Refusal)
            assert bus.available
        journal.faults.append("before")
        assert isinstance(await bus.submit_and_wait(post("x")), Refusal)
        assert not bus.available


async def test_words_are_indexed_in_chunks_a_second_later(
    script: Script, autojump_clock: trio.testing.MockClock
) -> None:
    journal = Indexing(3)
    async with running(journal, script) as bus:
        await trio.sleep(10)
        chunk = module.INDEX_AGAIN_SECONDS
        assert journal.asked == pytest.approx([1, 1 + chunk, 1 + 2 * chunk])
        await bus.publish(script.submission(post("x"), "x"))
        await trio.sleep(100)
        assert journal.asked[3:] == pytest.approx([11])


async def test_an_index_that_fails_is_tried_again_later(
    script: Script, autojump_clock: trio.testing.MockClock
) -> None:
    journal = Indexing(1)
    journal.fails = True
    async with running(journal, script) as bus:
        await trio.sleep(10)
        assert await bus.search("x", {"lobby": 9}, 9) == Hits([], more=False, complete=False)
        assert trio.current_time() == pytest.approx(10)
        journal.fails = False
        await trio.sleep(100)
        assert journal.asked == pytest.approx([1, 10, 32])


async def test_a_search_waits_for_earlier_commits(
    script: Script, autojump_clock: trio.testing.MockClock
) -> None:
    journal = Indexing(1)
    async with running(journal, script) as bus:
        await bus.publish(script.submission(post("x"), "x"))
        await trio.testing.wait_all_tasks_blocked()
        assert journal.new == 1
        await bus.search("x", {}, 9)
        assert (journal.new, journal.old) == (0, 0)
        asked = len(journal.asked)
        await bus.search("x", {}, 9)
        assert len(journal.asked) == asked
        assert trio.current_time() == 0
    await bus.search("x", {}, 9)


async def test_a_search_does_not_wait_for_a_whole_old_store(
    script: Script, autojump_clock: trio.testing.MockClock
) -> None:
    class Slow(Indexing):
        async def index(self) -> float | None:
            await trio.sleep(0.3)
            return await super().index()

    journal = Slow(20)
    async with running(journal, script) as bus:
        await bus.search("x", {}, 9)
        assert trio.current_time() == pytest.approx(module.OLD_INDEXED_SECONDS)
        journal.new = 20
        await bus.search("x", {}, 9)
        both = module.INDEXED_SECONDS + 2 * module.OLD_INDEXED_SECONDS
        assert trio.current_time() == pytest.approx(both)


async def test_shown_is_the_position_up_to_which_all_was_fanned_out(script: Script) -> None:
    journal = MemoryJournal(now=lambda: 1)
    await journal.commit([post("1"), post("2")])
    bus = Bus(journal, script.shown, script.log)
    assert bus.fanned_out == 2
    seen: list[int] = []

    class Looking(Submission):
        def resolve(self, outcome: Outcome) -> None:
            seen.append(bus.fanned_out)

    await bus.publish(Looking(post("3", "a")))
    await bus.publish(script.submission(post("4", "b"), "4"))
    bus.close()
    await bus.run()
    assert (seen, bus.fanned_out) == ([2], 4)


async def test_a_probe_goes_behind_what_was_published_and_commits_nothing(script: Script) -> None:
    journal = FaultyJournal()
    async with running(journal, script) as bus:
        await bus.publish(script.submission(post("hi"), "a"))
        await bus.probe()
        assert script.lines == [("answer", "a", 1, False), ("shown", "r", ["hi"], 0)]
        await bus.probe()
        assert len(journal.committed) == 1
        assert bus.statistics().batches == 1


async def test_two_probes_at_once_come_out_alike(script: Script) -> None:
    async with (
        running(MemoryJournal(now=lambda: 1), script) as bus,
        trio.open_nursery() as nursery,
    ):
        for _ in range(3):
            nursery.start_soon(bus.probe)
        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.child_tasks


async def test_a_closed_bus_takes_no_probe(script: Script) -> None:
    async with running(MemoryJournal(now=lambda: 1), script) as bus:
        bus.close()
        with pytest.raises(trio.ClosedResourceError):
            await bus.probe()


@pytest.mark.parametrize("task", ["collect", "fan out"])
async def test_the_age_of_the_current_batch(
    script: Script, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, task: str
) -> None:
    journal = MemoryJournal(now=lambda: 1)

    def hangs(step: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def hanging(*arguments: Any) -> Any:
            await trio.sleep(20)
            return await step(*arguments)

        return hanging

    if task == "collect":
        monkeypatch.setattr(journal, "commit", hangs(journal.commit))
    else:
        monkeypatch.setattr(module, "fan_out", hangs(fan_out))
    async with running(journal, script) as bus:
        bus.open_feed("r", "r")
        await trio.testing.wait_all_tasks_blocked()
        assert bus.statistics().busy == 0
        await bus.publish(script.submission(post("hi"), "a"))
        await trio.sleep(15)
        assert bus.statistics().busy == pytest.approx(15)
        await bus.probe()
        assert bus.statistics().busy == 0
