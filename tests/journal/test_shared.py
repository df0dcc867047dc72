"""The journal on an engine that daemons share: one order for all, and nothing guessed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeAlias

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from chatd.journal import StoreError, Unavailable
from chatd.journal.engine import Condition, Fed, Lost
from chatd.journal.modelled import ModelEngine, ModelStore
from chatd.journal.retention import Retention
from chatd.journal.shared import WATCH_SECONDS
from chatd.model import (
    Enter,
    Entered,
    Exited,
    LogEntry,
    Missed,
    Operation,
    Outcome,
    Passed,
    Put,
    Receipt,
    Record,
    RecordChanged,
    Reentered,
    Relay,
    Relayed,
    Renewed,
    Restore,
    Swept,
)
from tests.journal.nodes import NOW, TestNode, open_node, post, trio_now

Nodes: TypeAlias = tuple[TestNode, TestNode]


@pytest.fixture
def store() -> ModelStore:
    return ModelStore(trio_now)


@pytest.fixture
async def nodes(store: ModelStore) -> AsyncIterator[tuple[TestNode, TestNode]]:
    async with open_node(store) as first, open_node(store) as second:
        yield first, second


def seq(outcomes: list[object]) -> int:
    [outcome] = outcomes
    assert isinstance(outcome, Receipt)
    return outcome.event.seq


async def settled(seconds: float = 1.0) -> None:
    """Wait until the nodes have done what they can without another second passing."""
    await trio.sleep(seconds)


# ---- the feed


async def test_all_nodes_get_the_events_of_all_in_one_order(
    nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, second = nodes
    for number in range(10):
        await first.say(post(f"a{number}"))
        await second.say(post(f"b{number}", "other"))
    await settled()
    assert len(first.texts) == 20
    assert first.entries == second.entries


async def test_an_own_event_waits_for_its_answer_and_holds_up_what_follows(
    nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, second = nodes
    await first.journal.commit([post("own")])
    await second.say(post("foreign"))
    await settled()
    assert first.texts == []
    assert second.texts == ["own", "foreign"]
    await first.journal.answered([])
    await settled()
    assert first.texts == ["own", "foreign"]


async def test_events_of_rooms_that_are_not_wanted_are_passed_over(
    store: ModelStore, autojump_clock: MockClock
) -> None:
    opening = open_node(store, wanted=lambda room: room == "here")
    async with opening as first, open_node(store) as second:
        await second.say(post("1", "there"), post("2", "here"), post("3", "there"))
        await settled()
        assert first.texts == ["2"]
        assert first.entries[-1] == Passed(3)
        await first.say(post("own", "there"))
        await settled()
        assert first.texts == ["2", "own"]  # a node's own events are always wanted


async def test_items_come_at_their_place(nodes: Nodes, autojump_clock: MockClock) -> None:
    first, second = nodes
    record = Record("ban", "\0x", b"why")
    await first.say(post("1"), Put(record), Relay("kick", b"x"), post("2"))
    await settled()
    assert [type(entry).__name__ for entry in second.entries] == [
        "Event",
        "RecordChanged",
        "Relayed",
        "Event",
    ]
    assert second.items() == [RecordChanged(2, "ban", "\0x", record), Relayed(3, "kick", b"x")]


async def test_an_item_of_a_newer_version_is_passed_over_and_counted(
    nodes: Nodes, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = nodes
    feed = second.engine.feed

    async def feed_of_a_newer_version(
        after: int, wanted: Callable[[str], bool]
    ) -> Sequence[Fed | Relayed]:
        return [
            replace(one, entry=None, unknown=True)
            if isinstance(one, Fed) and isinstance(one.entry, Relayed)
            else one
            for one in await feed(after, wanted)
        ]

    monkeypatch.setattr(second.engine, "feed", feed_of_a_newer_version)
    await first.say(post("1"))
    await settled()
    await first.say(Relay("what is new", b""), post("2"))
    await settled()
    assert second.texts == ["1", "2"]
    assert second.items() == []
    assert (first.journal.unknown, second.journal.unknown) == (0, 1)


async def test_what_is_published_reaches_the_others_without_a_place(
    nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, second = nodes
    first.journal.publish("typing", b"u")
    await settled()
    assert second.items() == [Relayed(0, "typing", b"u")]
    assert first.items() == []


async def test_entries_that_were_trimmed_are_reported_as_missed(
    store: ModelStore, nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, second = nodes
    await first.say(post("1"))
    await settled()
    second.engine.cut_off()
    for number in range(2, 6):
        await first.say(post(str(number)))
    store.trim()
    second.engine.heal()
    await settled()
    assert second.texts == ["1", "5"]
    assert second.items() == [Missed(4)]
    assert [event.text for event in await second.journal.read("r", 1, 9, 9)] == ["2", "3", "4", "5"]


# ---- doubt


async def test_a_batch_whose_answer_is_lost_is_sent_again_and_done_once(
    nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, second = nodes
    first.engine.lose_answers()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def breaks() -> None:
            await trio.sleep(0.5)
            first.engine.heal()
            first.engine.break_link()

        assert seq(list(await first.say(post("once")))) == 1
    assert seq(list(await first.say(post("next")))) == 2
    await settled(2)
    assert first.texts == second.texts == ["once", "next"]
    assert first.reports.states == ["failed", "recovered"]


async def test_a_batch_on_a_link_that_broke_is_sent_on_the_next_one(
    nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, second = nodes
    first.engine.hold_back()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.say, post("once"))
        await trio.sleep(0.5)
        first.engine.break_link()
        await trio.sleep(0.5)
        assert second.texts == ["once"]
        first.engine.deliver()  # the copy on the broken link
    await settled()
    assert first.texts == second.texts == ["once"]
    assert first.reports.states == ["failed", "recovered"]


async def test_a_batch_that_was_done_stays_in_doubt_if_the_engine_refuses_its_repetition(
    nodes: Nodes, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = nodes
    engine, commit = first.engine, first.engine.commit
    sent = 0

    async def commit_once(number: int, batch: Sequence[Operation]) -> list[Outcome]:
        nonlocal sent
        sent += 1
        if sent == 2:  # its memory is full by now
            raise Unavailable("OOM", divisible=True)
        outcomes = await commit(number, batch)
        if sent == 1:
            engine.break_link()
            raise Lost("the answer was lost")
        return outcomes

    monkeypatch.setattr(engine, "commit", commit_once)
    with pytest.raises(Unavailable, match="OOM") as refused:
        await first.say(post("done"))
    # Alone, its operations would be said again.
    assert not refused.value.divisible
    [outcome] = await first.say(post("next"))
    assert isinstance(outcome, Receipt)
    assert outcome.event.text == "next"
    await settled()
    assert first.texts == second.texts == ["done", "next"]


async def test_after_the_deadline_a_batch_is_not_confirmed_but_shown_if_it_was_done(
    nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, second = nodes
    first.engine.lose_answers()
    began = trio.current_time()
    with pytest.raises(Unavailable):
        await first.say(post("done"))
    assert trio.current_time() - began == 2.0
    assert first.texts == []
    with pytest.raises(Unavailable):  # at once: nobody waits for the next deadline
        await first.say(post("refused"))
    assert trio.current_time() - began == 2.0
    first.engine.heal()
    await settled(2)
    assert seq(list(await first.say(post("next")))) == 2
    await settled()
    assert first.texts == second.texts == ["done", "next"]


async def refused_after_2_s(node: TestNode) -> None:
    began = trio.current_time()
    with pytest.raises(Unavailable):
        await node.say(post("1"))
    assert trio.current_time() - began == 2.0


async def test_a_batch_is_refused_at_its_deadline_if_the_engine_goes_away_meanwhile(
    store: ModelStore, nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, _ = nodes
    store.stall()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refused_after_2_s, first)
        await trio.sleep(1)
        store.kill()


async def test_a_batch_is_refused_at_its_deadline_if_the_link_is_new(
    store: ModelStore, nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, _ = nodes
    first.engine.hold_back()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refused_after_2_s, first)
        await trio.sleep(1)
        first.engine.break_link()
        for down in (True, False):
            while (first.journal.down_since is not None) != down:
                await first.journal.changed.wait()
        first.engine.cut_off()


async def test_batches_that_were_confirmed_do_not_put_off_the_deadline_of_the_next(
    nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, _ = nodes
    for number in range(5):
        await first.say(post(str(number)))
        await trio.sleep(0.7)
    first.engine.cut_off()
    began = trio.current_time()
    with pytest.raises(Unavailable):
        await first.say(post("lost"))
    assert trio.current_time() - began == pytest.approx(2)
    assert first.reports == [("failed", "the store did not confirm within 2 s")]


async def test_a_batch_that_was_cancelled_is_in_doubt(
    nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, second = nodes
    first.engine.lose_answers()
    with trio.move_on_after(0.5):
        await first.say(post("done"))
    first.engine.heal()
    await first.journal.answered([])
    await settled()
    assert seq(list(await first.say(post("next")))) == 2
    await settled()
    assert first.texts == second.texts == ["done", "next"]


async def test_a_batch_that_waited_behind_another_one_is_answered_in_time_too(
    nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, _ = nodes
    began = trio.current_time()
    first.engine.cut_off()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.say, post("1"))
        await trio.sleep(1.8)
        first.engine.heal()
    assert trio.current_time() - began == 1.8
    first.engine.cut_off()
    with pytest.raises(Unavailable):
        await first.say(post("2"))
    assert trio.current_time() - began == pytest.approx(2.5)
    first.engine.heal()
    await settled(2)
    first.engine.cut_off()
    began = trio.current_time()
    with pytest.raises(Unavailable):
        await first.say(post("3"))
    assert trio.current_time() - began == 2  # it waited behind nothing


async def test_a_batch_that_comes_too_late_is_not_done(
    nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, second = nodes
    assert seq(list(await first.say(post("1")))) == 1
    first.engine.hold_back()
    with pytest.raises(Unavailable):
        await first.say(post("late"))
    await settled(2)
    assert seq(list(await first.say(post("2")))) == 2
    first.engine.deliver()
    assert seq(list(await first.say(post("3")))) == 3
    await settled()
    assert first.texts == second.texts == ["1", "2", "3"]


async def test_a_batch_that_comes_before_it_is_made_void_is_done_once(
    nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, second = nodes
    first.engine.hold_back()
    with pytest.raises(Unavailable):
        await first.say(post("late"))
    first.engine.deliver()
    await settled(2)
    assert seq(list(await first.say(post("2")))) == 2
    await settled()
    assert first.texts == second.texts == ["late", "2"]


async def test_a_stopped_server_does_what_it_was_asked_when_it_goes_on(
    store: ModelStore, nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, second = nodes
    store.stall()
    with pytest.raises(Unavailable):
        await first.say(post("asked"))
    await trio.sleep(10)
    store.go_on()
    await settled(3)
    assert seq(list(await second.say(post("then")))) == 2
    assert seq(list(await first.say(post("last")))) == 3
    await settled()
    assert first.texts == second.texts == ["asked", "then", "last"]


async def test_while_the_engine_is_away_everything_is_refused_at_once(
    store: ModelStore, nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, _ = nodes
    store.kill()
    await settled()
    began = trio.current_time()
    with pytest.raises(Unavailable):
        await first.say(post("1"))
    with pytest.raises(Unavailable):
        await first.journal.head("r")
    assert trio.current_time() == began
    assert not first.journal.in_place
    assert first.journal.down_since is not None
    store.restart()
    while first.journal.down_since is not None:
        await first.journal.changed.wait()
    assert first.journal.in_place
    await first.say(post("1"))


async def test_a_feed_that_is_refused_is_read_again(
    nodes: Nodes, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = nodes
    feed = first.engine.feed
    refusals: list[float] = []

    async def refuse(after: int, wanted: Callable[[str], bool]) -> Sequence[Fed | Relayed]:
        if trio.current_time() < 10:
            refusals.append(trio.current_time())
            raise Unavailable("BUSY a script runs")
        return await feed(after, wanted)

    monkeypatch.setattr(first.engine, "feed", refuse)
    await second.say(post("1"))  # ends the read that is under way
    await settled(10)
    assert 5 < len(refusals) < 30  # less and less often
    await second.say(post("2"))
    await settled(2)
    assert first.texts == ["1", "2"]
    assert "BUSY a script runs" in str(first.reports[0])
    assert first.reports.states[-1] == "recovered"


async def test_a_probe_does_not_wait_for_an_engine_that_is_away(
    store: ModelStore, nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, _ = nodes
    first.engine.lose_answers()  # of the feed too
    store.kill()
    with trio.fail_after(1):
        await first.journal.probe([])


# ---- lives and epochs


async def test_a_restart_that_loses_nothing_makes_a_new_epoch_and_keeps_the_former(
    store: ModelStore, nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, second = nodes
    epoch = first.journal.epoch
    await first.say(post("1"))
    await settled()
    store.restart()
    await settled(2)
    assert first.journal.epoch == second.journal.epoch != epoch
    assert first.journal.former == second.journal.former == {epoch: 1}
    assert first.items() == second.items() == [Renewed(2, first.journal.epoch)]
    assert seq(list(await first.say(post("2")))) == 2
    await settled()
    assert second.texts == ["1", "2"]


async def test_a_node_that_was_away_for_two_lives_knows_the_last_epoch(
    store: ModelStore, nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, second = nodes
    epochs = [first.journal.epoch]
    first.engine.cut_off()
    for _ in range(2):
        store.restart()
        await settled(2)
        epochs.append(second.journal.epoch)
    first.engine.heal()
    await settled(3)
    assert first.journal.epoch == epochs[-1]
    assert first.journal.former == second.journal.former == {epochs[0]: 0, epochs[1]: 1}
    assert first.items() == [Renewed(1, epochs[1]), Renewed(2, epochs[2])]


async def test_a_node_that_had_shown_what_is_lost_begins_anew(
    store: ModelStore, nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, second = nodes
    await first.say(post("1"))
    await settled()
    second.engine.cut_off()
    await first.say(post("2"))
    await settled()
    assert (first.texts, second.texts) == (["1", "2"], ["1"])
    store.restart(lose=1)
    second.engine.heal()
    await settled(3)
    epoch = first.journal.epoch
    assert first.items() == [Renewed(2, epoch, lost=True)]
    assert second.items() == [Renewed(2, epoch)]
    assert second.journal.epoch == epoch
    assert "renewed" in first.reports.states
    assert seq(list(await first.say(post("other 2")))) == 2
    await settled()
    assert first.texts == ["1", "2", "other 2"]
    assert second.texts == ["1", "other 2"]


async def test_a_node_whose_answered_batch_is_lost_begins_anew_though_it_had_shown_nothing(
    store: ModelStore, nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, _ = nodes
    await first.say(post("1"))
    await settled()
    await first.journal.commit([post("2")])
    store.restart(lose=1)
    await first.journal.answered([])
    await settled(3)
    assert first.items() == [Renewed(2, first.journal.epoch, lost=True)]


async def test_restored_entries_make_a_new_epoch_everywhere(
    nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, second = nodes
    epoch = first.journal.epoch
    await first.say(post("1"))
    entry = LogEntry("other", 7, NOW, "message", "u", "n", "old")
    await first.say(Restore("other", (entry,)))
    await second.say(post("2"))
    await settled()
    assert first.journal.epoch == second.journal.epoch != epoch
    assert first.journal.former == second.journal.former == {epoch: 1}
    assert first.items() == second.items() == [Renewed(2, first.journal.epoch), Missed(3)]


async def test_a_new_epoch_is_reported_although_its_entry_was_trimmed(
    store: ModelStore, nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, second = nodes
    first.engine.cut_off()
    await second.say(post("1"))
    await second.say(Restore("other", (LogEntry("other", 7, NOW, "message", "u", "n", "old"),)))
    await second.say(post("2"))
    store.trim()
    first.engine.heal()
    await settled(2)
    epoch = second.journal.epoch
    assert first.journal.epoch == epoch
    assert first.items() == [Renewed(0, epoch), Missed(3)]
    await second.say(Restore("other", (LogEntry("other", 8, NOW, "message", "u", "n", "old"),)))
    await settled()
    await second.say(post("3"))
    await settled()
    assert first.items()[2:] == [Renewed(5, second.journal.epoch), Missed(6)]
    assert first.journal.reconnects == 1


async def test_a_link_that_breaks_again_at_once_goes_on_being_lost(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async def refuse(*_: object) -> list[Fed]:
        raise Unavailable("NOPERM")

    async with open_node(store) as node:
        await settled(3)
        with monkeypatch.context() as patch:
            patch.setattr(node.engine, "feed", refuse)
            node.engine.break_link()
            lost_at = trio.current_time()
            await trio.sleep(60)
            assert node.journal.down_since == pytest.approx(lost_at, abs=0.1)
            assert node.journal.reconnects < 130
            assert node.reports.states == ["failed", "waiting"]  # for another reason
        await settled(5)
        assert node.reports.states == ["failed", "waiting", "recovered"]
        node.engine.break_link()
        await settled()
        assert node.reports.states == ["failed", "waiting", "recovered", "failed"]


# ---- replicas


async def test_nothing_is_acknowledged_or_shown_that_the_replicas_do_not_have(
    autojump_clock: MockClock,
) -> None:
    store = ModelStore(trio_now, replicas=1)
    async with open_node(store) as first, open_node(store) as second:
        await first.say(post("1"))
        await settled()
        store.cut_replicas()
        with pytest.raises(Unavailable):
            await first.say(post("2"))
        await settled()
        assert first.texts == second.texts == ["1"]
        store.fail_over()
        store.heal_replicas()
        await settled(3)
        assert seq(list(await first.say(post("other 2")))) == 2
        await settled()
        assert first.texts == second.texts == ["1", "other 2"]
        assert all(not one.lost for one in first.items() if isinstance(one, Renewed))


# ---- leases


async def test_a_node_that_was_away_too_long_is_buried_and_comes_back_as_another(
    nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, second = nodes
    before = first.journal.node
    await first.say(Enter("r", "R", "u", "ann"))
    await settled()
    assert second.items() == [Entered(1, "r", "R", "u", "ann", False, True, 1)]
    first.engine.cut_off()
    await trio.sleep(25)
    assert second.items()[1:] == [Exited(2, "r", "u", "ann", "lost", True, 0)]
    first.engine.heal()
    await settled(2)
    assert first.journal.node != before
    assert first.items()[1:] == [Reentered(1), *second.items()[1:]]
    assert seq(list(await first.say(post("1")))) == 1


async def test_a_node_that_gets_no_answers_is_buried_too(
    nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, second = nodes
    before = first.journal.node
    await first.say(Enter("r", "R", "u", "ann"))
    await settled()
    first.engine.lose_answers()
    await trio.sleep(30)
    assert second.items()[1:] == [Exited(2, "r", "u", "ann", "lost", True, 0)]
    first.engine.heal()
    await settled(2)
    assert first.journal.node != before
    assert first.items()[1:] == [Reentered(1), *second.items()[1:]]


async def test_a_batch_in_doubt_is_settled_under_the_nodes_former_id(
    nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, _ = nodes
    first.engine.lose_answers()
    with pytest.raises(Unavailable):
        await first.say(post("done"))
    await trio.sleep(30)
    first.engine.heal()
    await settled(3)
    assert seq(list(await first.say(post("next")))) == 2
    await settled()
    assert first.texts == ["done", "next"]


async def test_a_node_that_left_is_buried_without_waiting_for_its_lease(
    store: ModelStore, autojump_clock: MockClock
) -> None:
    async with open_node(store) as second:
        async with open_node(store) as first:
            await first.say(Enter("r", "R", "u", "ann"))
        await trio.sleep(6)
        assert isinstance(second.items()[-1], Exited)


async def test_users_of_a_node_that_left_have_a_while_to_come_back(
    store: ModelStore, autojump_clock: MockClock
) -> None:
    async with open_node(store) as second:
        async with open_node(store) as first:
            first.journal.grace_ms = lambda: 10_000
            await first.say(Enter("r", "R", "u", "ann"), Enter("r", "R", "v", "bob"))
        await trio.sleep(9)
        await second.say(Enter("r", "R", "u", "ann"))
        await settled()
        assert not any(isinstance(one, Exited) for one in second.items())
        await trio.sleep(6)
        left = [one for one in second.items() if isinstance(one, Exited)]
        assert {(one.user, one.last) for one in left} == {("u", False), ("v", True)}


async def test_the_format_rises_with_the_last_upgraded_node(
    store: ModelStore, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_node(store):
        monkeypatch.setattr(ModelEngine, "format", 2)
        async with open_node(store) as first:
            assert first.reports.states == []
    async with open_node(store) as second:
        assert second.reports.states == ["upgraded"]
        monkeypatch.setattr(ModelEngine, "format", 1)
        with pytest.raises(StoreError, match="update this one"):
            async with open_node(store):
                pass


async def test_a_node_beats_while_it_buries_another_one(
    nodes: Nodes, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = nodes

    async def bury_one_of_many(_hold_ms: int) -> bool:
        await trio.sleep(1)
        return True

    monkeypatch.setattr(first.engine, "bury", bury_one_of_many)
    for number in range(30):
        await first.say(post(str(number)))
        await settled()
    assert first.reports.states == []


async def test_a_node_that_missed_its_beats_refuses_until_it_has_entered_again(
    store: ModelStore, nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, _ = nodes
    first.journal._beaten -= 11  # as after a pause of the machine
    with pytest.raises(Unavailable, match="not heard from this node"):
        await first.say(post("1"))
    await settled()
    await first.say(post("1"))


# ---- the rest


async def test_retention_removes_events_once_for_all_nodes(
    nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, second = nodes
    first.journal.retain(Retention(keep_events=2))
    await first.say(*(post(str(number)) for number in range(5)))
    while await first.journal.sweep():
        pass
    await settled()
    assert first.items() == second.items() == [Swept(6, "r", 4)]
    assert first.journal.statistics().swept == 3
    assert [event.seq for event in await second.journal.read("r", 0, 9, 9)] == [4, 5]


async def test_a_search_reads_page_by_page(nodes: Nodes, autojump_clock: MockClock) -> None:
    first, second = nodes
    for begin in range(0, 1200, 200):
        await first.say(*(post(f"word {number}") for number in range(begin, begin + 200)))
    hits = await second.journal.search('"word 7"', {"r": 10**9}, 5)
    assert [event.text for event in hits.events] == ["word 7"]
    assert not hits.more


async def test_the_engine_s_clock_is_every_nodes(
    store: ModelStore, autojump_clock: MockClock
) -> None:
    store.jump_ms = 5_000_000
    async with open_node(store) as node:
        assert node.journal.steady_now() == pytest.approx(trio_now() + 5_000_000, abs=1)
        store.jump_ms = 0
        await trio.sleep(6)  # the next beat
        assert node.journal.steady_now() == pytest.approx(trio_now(), abs=1)


# ---- the watch


async def test_an_engine_that_no_longer_keeps_its_promises_is_not_used_until_it_does(
    store: ModelStore, nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, second = nodes
    await first.say(post("1"))
    store.unfit = "it has no append-only file: set appendonly to yes"
    began = trio.current_time()
    while first.journal.down_since is None:
        await first.journal.changed.wait()
    assert trio.current_time() - began <= WATCH_SECONDS
    assert first.journal.reason == store.unfit
    with pytest.raises(Unavailable, match="appendonly"):
        await first.say(post("2"))
    with pytest.raises(Unavailable, match="appendonly"):
        await first.journal.head("r")
    await settled(10)
    assert first.reports == [("failed", store.unfit)]
    store.unfit = None
    await settled(2)
    assert seq(list(await first.say(post("3")))) == 2
    await settled()
    assert first.reports.states == second.reports.states == ["failed", "recovered"]
    assert first.texts == second.texts == ["1", "3"]


async def test_the_engines_condition_is_known_from_the_start(
    store: ModelStore, autojump_clock: MockClock
) -> None:
    store.memory, store.memory_limit = 8, 10
    async with open_node(store) as first:
        await settled()
        assert first.journal.condition == Condition(NOW, 8, 10, 1)
        store.memory = 9
        await first.journal.inspected.wait()
        assert trio.current_time() == pytest.approx(WATCH_SECONDS)
        assert first.journal.condition == Condition(trio_now(), 9, 10, 1)


async def test_a_reason_that_lasts_is_reported_once(
    store: ModelStore, nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, _ = nodes
    store.kill()
    await settled(0.5)
    assert first.reports.states == ["failed"]
    await settled(60)
    assert first.reports[1:] == [("waiting", "nothing listens at the engine's address")]
    store.restart()
    store.unfit = "it has no append-only file"
    await settled(60)
    assert first.reports[2:] == [("waiting", store.unfit)]
    store.unfit = None
    await settled(2)
    assert first.reports.states[3:] == ["recovered"]


async def test_an_engine_that_refuses_batches_is_reported_once_and_can_be_read(
    nodes: Nodes, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = nodes
    await first.say(post("1"))
    full = True
    commit = first.engine.commit

    async def refuse(number: int, batch: Sequence[Operation]) -> list[Outcome]:
        if full:
            raise Unavailable("its memory is full")
        return await commit(number, batch)

    monkeypatch.setattr(first.engine, "commit", refuse)
    for _ in range(3):
        with pytest.raises(Unavailable, match="full"):
            await first.say(post("2"))
    assert [event.text for event in await first.journal.read("r", 0, 9, 9)] == ["1"]
    assert first.reports == [("failed", "its memory is full")]
    full = False
    assert seq(list(await first.say(post("2")))) == 2
    assert first.reports.states == ["failed", "recovered"]


async def test_a_node_knows_how_far_it_is_behind(nodes: Nodes, autojump_clock: MockClock) -> None:
    first, second = nodes
    await first.journal.commit([post("held"), post("back")])  # shown only once it is answered
    await settled(6)
    assert (first.journal.lag, second.journal.lag) == (2, 0)
    await first.journal.answered([])
    await settled(6)
    assert first.journal.lag == 0


async def test_lost_positions_are_counted_and_named(
    store: ModelStore, nodes: Nodes, autojump_clock: MockClock
) -> None:
    first, second = nodes
    for number in range(5):
        await first.say(post(str(number)))
    await settled()
    store.restart(lose=2)
    await settled(2)
    assert (first.journal.lost_positions, second.journal.lost_positions) == (2, 2)
    assert "positions 4 to 5," in str(dict(first.reports)["renewed"])
