"""Retention in both stores: order and size of the removals, and their reports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
import trio.testing

from chatd.journal import Journal, OperatorLog
from chatd.journal.memory import MemoryJournal
from chatd.journal.retention import CHUNK, Retention, RetentionLog
from chatd.journal.sqlite import CommitPlacement, open_sqlite
from chatd.model import Operation, Post, Put, Receipt, Record, Remember, UserRecord

DAY = 24 * 3600 * 1000


class Clock:
    ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.ms


def rule(
    keep_days: int | None = None,
    keep_events: int | None = None,
    max_bytes: int | None = None,
    user_days: int | None = None,
) -> Retention:
    return Retention(
        keep_days=keep_days or "off",
        keep_events=keep_events or "off",
        max_bytes=max_bytes or "off",
        user_days=user_days or "off",
    )


Opening: TypeAlias = Callable[[Retention, OperatorLog], AbstractAsyncContextManager[Journal]]


def quiet(_event: str, /, **_fields: object) -> None:
    """Ignore a report."""


@pytest.fixture
def now() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
def opening(request: pytest.FixtureRequest, tmp_path: Path, now: Clock) -> Opening:
    @asynccontextmanager
    async def memory(retention: Retention, report: OperatorLog) -> AsyncIterator[Journal]:
        yield MemoryJournal(now=now, retention=retention, report=report)

    @asynccontextmanager
    async def sqlite(retention: Retention, report: OperatorLog) -> AsyncIterator[Journal]:
        path = tmp_path / "chat.db"
        async with open_sqlite(path, now=now, retention=retention, report=report) as journal:
            yield journal

    return memory if request.param == "memory" else sqlite


def posts(count: int, room: str = "lobby", text: str = "text") -> list[Operation]:
    return [Post(room, room, "u", "n", text, key=f"{room}{number}") for number in range(count)]


async def sweep(journal: Journal) -> int:
    """Sweep until nothing is left; give the number of chunks that removed something."""
    chunks = 0
    while await journal.sweep():
        chunks += 1
    return chunks


async def numbers(journal: Journal, room: str = "lobby") -> list[int]:
    return [event.seq for event in await journal.read(room, 0, 10**9, 10**9)]


async def test_old_events_go_in_chunks(opening: Opening, now: Clock) -> None:
    async with opening(rule(keep_days=2), quiet) as journal:
        await journal.commit(posts(150))
        now.ms += DAY
        await journal.commit(posts(1, "other"))
        now.ms += DAY
        assert await sweep(journal) == 0
        now.ms += 1
        assert await journal.sweep() is True
        assert await numbers(journal) == list(range(CHUNK + 1, 151))
        assert await sweep(journal) == 2
        assert await numbers(journal) == []
        assert await numbers(journal, "other") == [1]
        assert journal.statistics().swept == 150


async def due_in(journal: Journal) -> float | None:
    await sweep(journal)
    return journal.due_in()


async def test_the_next_sweep_is_due_when_the_first_thing_goes(
    opening: Opening, now: Clock
) -> None:
    async with opening(rule(keep_days=2, user_days=1), quiet) as journal:
        assert await due_in(journal) is None
        await journal.commit(posts(1))
        assert await due_in(journal) == (2 * DAY + 1) / 1000
        await journal.commit([Remember(UserRecord("u", "n", now.ms - 1000))])
        await journal.commit([Remember(UserRecord("v", "n", None))])
        assert await due_in(journal) == (DAY - 999) / 1000
        await journal.commit([Put(Record("ban", "x", b"", now.ms + 5000))])
        assert await due_in(journal) == 5
        now.ms += 5000
        assert journal.due_in() == 0
        assert await sweep(journal) == 1
        assert await due_in(journal) == (DAY - 5999) / 1000
        journal.retain(rule(keep_days=1))
        assert await due_in(journal) == (DAY - 4999) / 1000
        now.ms += DAY
        # In a file, removed text must be overwritten within half of purge_seconds.
        assert await due_in(journal) in (None, 1800)
        assert await numbers(journal) == []


async def test_a_clock_that_jumped_ahead_keeps_what_came_then(opening: Opening, now: Clock) -> None:
    async with opening(rule(keep_days=1), quiet) as journal:
        now.ms += 10 * DAY
        await journal.commit(posts(1))
        now.ms -= 10 * DAY
        await journal.commit([Post("lobby", "lobby", "u", "n", "after")])
        now.ms += 2 * DAY
        assert await sweep(journal) == 0
        assert await numbers(journal) == [1, 2]
        now.ms += 10 * DAY
        await sweep(journal)
        assert await numbers(journal) == []


async def test_each_room_keeps_its_newest(opening: Opening) -> None:
    async with opening(rule(keep_events=10), quiet) as journal:
        await journal.commit(posts(100, "busy") + posts(10, "calm"))
        assert await sweep(journal) == 2
        assert await numbers(journal, "busy") == list(range(91, 101))
        assert await numbers(journal, "calm") == list(range(1, 11))
        assert await sweep(journal) == 0
        await journal.commit([Post("calm", "calm", "u", "n", "one more")])
        await sweep(journal)
        assert await numbers(journal, "calm") == list(range(2, 12))


async def test_the_rule_may_change_while_the_store_is_open(opening: Opening) -> None:
    async with opening(rule(keep_events=100), quiet) as journal:
        await journal.commit(posts(50, "busy") + posts(10, "calm"))
        await sweep(journal)
        journal.retain(rule(keep_events=20))
        await sweep(journal)
        assert await numbers(journal, "busy") == list(range(31, 51))
        journal.retain(rule())
        await journal.commit(posts(50, "busy"))
        await sweep(journal)
        # 20 of them had been said before.
        assert await numbers(journal, "busy") == list(range(31, 81))
        assert len(await numbers(journal, "calm")) == 10


async def test_a_key_lives_as_long_as_its_event(opening: Opening) -> None:
    async with opening(rule(keep_events=1), quiet) as journal:
        await journal.commit(posts(2))
        await sweep(journal)
        gone, there = await journal.commit(posts(2))
        assert isinstance(gone, Receipt)
        assert isinstance(there, Receipt)
        assert (gone.duplicate, gone.event.seq) == (False, 3)
        assert (there.duplicate, there.event.seq) == (True, 2)


async def test_a_store_over_its_bound_loses_its_oldest(opening: Opening) -> None:
    told: list[tuple[str, object]] = []

    def tell(event: str, /, **fields: object) -> None:
        if event == "retention" or fields["state"] == "filling":
            told.append((event, fields.get("state")))

    async with opening(rule(max_bytes=2_000_000), tell) as journal:
        for number in range(4):
            await journal.commit(posts(50, f"r{number}", "x" * 5000))
        assert await sweep(journal) == 0
        assert told == []
        for number in range(4, 8):
            await journal.commit(posts(50, f"r{number}", "x" * 5000))
        await sweep(journal)
        assert told == [("store", "filling"), ("retention", None)]
        assert 1_500_000 < journal.statistics().bytes <= 2_000_000
        assert await numbers(journal, "r0") == []
        assert await numbers(journal, "r7") == list(range(1, 51))
        head = await journal.head("r0")
        assert head is not None
        assert head.seq == 50


async def test_absent_users_are_forgotten(opening: Opening, now: Clock) -> None:
    async with opening(rule(user_days=2), quiet) as journal:
        gone = [Remember(UserRecord(f"g{number}", "n", now.ms)) for number in range(100)]
        await journal.commit([*gone, Remember(UserRecord("here", "n", None))])
        now.ms += DAY
        await journal.commit([Remember(UserRecord("late", "n", now.ms))])
        now.ms += DAY + 1
        assert await sweep(journal) == 2
        assert [record.user for record in await journal.present(0)] == ["here", "late"]


async def test_a_sweep_with_nothing_to_do_does_not_grow(tmp_path: Path, now: Clock) -> None:
    # Counted in instructions of SQLite's machine, not in time.
    path = tmp_path / "chat.db"
    retention = rule(keep_days=5, keep_events=100_000, max_bytes=10**12, user_days=5)
    costs: list[int] = []
    placement = CommitPlacement(always_threaded=False, slow_seconds=60.0)
    async with open_sqlite(path, now=now, retention=retention, placement=placement) as journal:
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        for _ in range(2):
            for number in range(20):
                await journal.commit(posts(50, f"room {number} {len(costs)}"))
            await journal.sweep()
            journal._writer._connection.set_progress_handler(count, 1)
            steps = 0
            await journal.sweep()
            costs.append(steps)
            journal._writer._connection.set_progress_handler(None, 0)
    assert costs[0] == costs[1]


async def test_a_nearly_full_store_is_reported_once_until_it_is_emptier(
    mock_clock: trio.testing.MockClock,
) -> None:
    told: list[dict[str, object]] = []

    def tell(_event: str, /, **fields: object) -> None:
        told.append(fields)

    retention_log = RetentionLog(rule(max_bytes=1000), tell)
    for size in (899, 900, 950, 860, 900, 849, 900):
        retention_log.done(0, size=size, more=False)
    assert [fields["store_bytes"] for fields in told] == [900, 900]
    told.clear()
    retention_log.done(64, size=0, more=True)
    assert told == []
    retention_log.done(3, size=0, more=False)
    retention_log.done(5, size=0, more=False)
    mock_clock.jump(60)
    await trio.lowlevel.checkpoint()
    retention_log.done(0, size=0, more=False)
    assert [fields["events"] for fields in told] == [67, 5]
