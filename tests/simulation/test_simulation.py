"""Some seeds of the simulation, and proof that it finds what it is for.

``make simulate`` plays thousands. The shortest schedules that found a fault are in ``found/``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from chatd.chat.membership import Membership
from chatd.chat.nicks import Nicks
from chatd.chat.rooms import Room
from chatd.journal import shared
from chatd.journal.engine import Life
from chatd.journal.memory import MemoryJournal
from chatd.journal.modelled import ModelStore
from chatd.journal.modelled.state import State
from chatd.model import Passed, Post
from tests.simulation.checks import Violation
from tests.simulation.playing import failure_of, play, schedule, shortest
from tests.simulation.steps import read_steps

MEMORY_SEEDS = 40
SQLITE_SEEDS = 10
CLUSTER_SEEDS = 50
CHUNK = 10

FOUND = sorted(Path(__file__).with_name("found").glob("*.txt"))


@pytest.mark.parametrize("first", range(0, MEMORY_SEEDS, CHUNK))
def test_a_daemon_in_memory_keeps_its_promises(first: int) -> None:
    for seed in range(first, first + CHUNK):
        play(schedule(seed, "memory"), seed, "memory")


def test_a_daemon_on_a_file_keeps_its_promises() -> None:
    for seed in range(SQLITE_SEEDS):
        play(schedule(seed, "sqlite"), seed, "sqlite")


@pytest.mark.parametrize("first", range(0, CLUSTER_SEEDS, CHUNK))
@pytest.mark.parametrize("store", ["cluster", "replicated"])
def test_three_daemons_on_one_engine_keep_their_promises(first: int, store: str) -> None:
    for seed in range(first, first + CHUNK):
        play(schedule(seed, store), seed, store)


@pytest.mark.parametrize("store", ["memory", "cluster"])
def test_the_same_seed_is_the_same_run(store: str) -> None:
    for seed in range(3):
        once, twice = (play(schedule(seed, store), seed, store) for _ in range(2))
        assert once.trace == twice.trace


@pytest.mark.parametrize("file", FOUND, ids=lambda file: file.stem)
def test_what_was_found_is_mended(file: Path) -> None:
    text = file.read_text()
    where = text.partition("\n")[0].removeprefix("# store: ")
    store, _, seed = where.partition(", seed ")
    play(read_steps(text), int(seed or 0), store)


def test_a_schedule_can_be_written_down() -> None:
    steps = schedule(1, "memory")
    assert read_steps("# seed 1\n" + "\n".join(map(str, steps))) == steps
    with pytest.raises(ValueError, match="A step is written as"):
        read_steps("say client 1")


# ---- what it finds

Break = Callable[[pytest.MonkeyPatch], None]


def loses_an_event(patch: pytest.MonkeyPatch) -> None:
    start = Membership.start
    patch.setattr(Membership, "start", lambda self, seq: start(self, seq + (seq > 0)))


def sends_an_event_twice(patch: pytest.MonkeyPatch) -> None:
    start = Membership.start
    patch.setattr(Membership, "start", lambda self, seq: start(self, max(0, seq - 1)))


def forgets_keys(patch: pytest.MonkeyPatch) -> None:
    commit = MemoryJournal.commit

    async def without_keys(self: MemoryJournal, batch: Any) -> Any:
        for operation in batch:
            if isinstance(operation, Post) and operation.key is not None:
                self._keys.pop((operation.room, operation.user, operation.key), None)
        return await commit(self, batch)

    patch.setattr(MemoryJournal, "commit", without_keys)


def gives_nicks_away(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Nicks, "is_free", lambda _self, _name, _user: True)


def says_left_twice(patch: pytest.MonkeyPatch) -> None:
    announce = Room._announce

    def twice(self: Room, event: Any, user: Any) -> None:
        announce(self, event, user)
        if event.on == "left":
            announce(self, event, user)

    patch.setattr(Room, "_announce", twice)


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (loses_an_event, "everybody sees everything|the order|all lines"),
        (sends_an_event_twice, "the order|all lines"),
        (forgets_keys, "a key once"),
        (gives_nicks_away, "a nick is one user's"),
        (says_left_twice, "at most one left"),
    ],
)
def test_a_broken_daemon_is_found(
    broken: Break, promise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    failures = (failure_of(schedule(seed, "memory"), seed, "memory") for seed in range(50))
    found = next(failure for failure in failures if failure is not None)
    assert isinstance(found.violation, Violation)
    assert re.search(promise, str(found.violation))


def test_a_cluster_that_overlooks_a_gap_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = read_steps(
        """
        connect client=1 node=0 recover=no
        connect client=2 node=1 recover=no
        settle
        cut_off node=0
        say client=2 room=lobby key=new
        settle
        say client=2 room=lobby key=new
        settle
        trim
        mend node=0
        """
    )
    assert failure_of(steps, 0, "cluster") is None
    monkeypatch.setattr(shared, "Missed", Passed)
    failure = failure_of(steps, 0, "cluster")
    assert failure is not None
    assert failure.promise == "Violation the order of lobby"


FAILOVER = read_steps(
    """
    connect client=1 node=0 recover=no
    connect client=2 node=1 recover=no
    settle
    cut_replicas
    say client=2 room=lobby key=new
    settle
    fail_over back=1
    """
)


def test_a_node_that_shows_what_no_replica_has_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert failure_of(FAILOVER, 0, "replicated") is None
    monkeypatch.setattr(ModelStore, "_is_proven", lambda *_: True)
    failure = failure_of(FAILOVER, 0, "replicated")
    assert failure is not None
    assert failure.promise in {
        "Violation a client that was sent lost events is closed",
        "Violation shown means in the log",
    }


def test_a_node_that_overlooks_a_loss_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert failure_of(FAILOVER, 0, "cluster") is None
    monkeypatch.setattr(State, "_lacks", lambda *_: False)
    failure = failure_of(FAILOVER, 0, "cluster")
    assert failure is not None
    assert failure.promise == "Violation one log for all"


def test_a_node_that_overlooks_a_loss_after_a_split_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The former primary keeps what the present one loses; its node must learn that at the demotion.
    steps = read_steps(
        """
        connect client=1 node=1 recover=no
        connect client=2 node=2 recover=no
        settle
        say client=2 room=lobby key=new
        settle
        split node=0 target=0
        split node=1 target=1
        lose_tail back=5
        wait seconds=5
        say client=2 room=lobby key=new
        wait seconds=1
        demote
        wait seconds=1
        fail_over back=1
        wait seconds=5
        """
    )
    assert failure_of(steps, 0, "cluster") is None
    take_over = shared.SharedJournal._take_over

    def overlooking(self: shared.SharedJournal, life: Life) -> bool:
        return take_over(self, replace(life, lost=False))

    monkeypatch.setattr(shared.SharedJournal, "_take_over", overlooking)
    failure = failure_of(steps, 0, "cluster")
    assert failure is not None
    assert failure.promise == "Violation a client that was sent lost events is closed"


def test_a_failing_schedule_is_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    says_left_twice(monkeypatch)
    seed, failure = next(
        (seed, failure)
        for seed in range(50)
        if (failure := failure_of(schedule(seed, "memory"), seed, "memory"))
    )
    steps, shorter = shortest(schedule(seed, "memory"), failure, seed, "memory", 20)
    assert len(steps) < len(schedule(seed, "memory")) // 3
    assert shorter.promise == failure.promise
    assert any("left" in line for line in shorter.trace)
