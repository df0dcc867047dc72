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
from chatd.journal.placement import Placement
from chatd.journal.redis.engine import RedisEngine
from chatd.journal.retention import CHUNK, Retention, RetentionLog
from chatd.journal.shared import open_shared
from chatd.journal.sqlite import open_sqlite
from chatd.model import (
    Erase,
    LogEntry,
    Operation,
    Post,
    Put,
    Receipt,
    Record,
    Remember,
    Restore,
    UserRecord,
)
from tests.journal.store import Clock
from tests.redis_server import RedisServer, needs_redis, new_prefix

DAY = 24 * 3600 * 1000


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


@pytest.fixture(params=["memory", "sqlite", pytest.param("redis", marks=needs_redis)])
def opening(request: pytest.FixtureRequest, tmp_path: Path, now: Clock) -> Opening:
    return _opening(request, tmp_path, now)


@pytest.fixture(params=["memory", "sqlite"])
def local_opening(request: pytest.FixtureRequest, tmp_path: Path, now: Clock) -> Opening:
    """Return what opens a store of one daemon.

    A shared one has the clock of its engine, items have positions there too, and it does not report
    what it forgets to stay small.
    """
    return _opening(request, tmp_path, now)


def _opening(request: pytest.FixtureRequest, tmp_path: Path, now: Clock) -> Opening:
    @asynccontextmanager
    async def memory(retention: Retention, report: OperatorLog) -> AsyncIterator[Journal]:
        yield MemoryJournal(now=now, elapsed=now.elapsed, retention=retention, report=report)

    @asynccontextmanager
    async def sqlite(retention: Retention, report: OperatorLog) -> AsyncIterator[Journal]:
        path = tmp_path / "chat.db"
        opened = open_sqlite(path, now=now, elapsed=now.elapsed, retention=retention, report=report)
        async with opened as journal:
            yield journal

    @asynccontextmanager
    async def redis(retention: Retention, report: OperatorLog) -> AsyncIterator[Journal]:
        server: RedisServer = request.getfixturevalue("redis_server")
        engine = RedisEngine(server.url, prefix=new_prefix(), now=now, timeout=60)
        async with open_shared(
            engine, retention=retention, report=report, timeout_seconds=60
        ) as journal:
            yield journal

    openings: dict[str, Opening] = {"memory": memory, "sqlite": sqlite, "redis": redis}
    return openings[request.param]


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


async def test_a_forgotten_room_holds_up_nothing(opening: Opening, now: Clock) -> None:
    async with opening(rule(keep_days=2), quiet) as journal:
        await journal.commit(posts(2, "@a,b"))
        await journal.commit(posts(3))
        await journal.commit([Erase("@a,b", forget=True)])
        now.ms += 2 * DAY + 1
        await sweep(journal)
        assert await numbers(journal) == []


async def due_in(journal: Journal) -> float | None:
    await sweep(journal)
    return journal.due_in()


async def test_the_next_sweep_is_due_when_the_first_thing_goes(
    local_opening: Opening, now: Clock
) -> None:
    async with local_opening(rule(keep_days=2, user_days=1), quiet) as journal:
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


def lines(room: str, at: int, count: int = 100, first: int = 1) -> Restore:
    """Return what an import of a room commits; each message is a millisecond after the last."""
    return Restore(
        room,
        tuple(
            LogEntry(room, first + number, at + number, "message", "u", "n", "imported")
            for number in range(count)
        ),
    )


async def test_what_was_imported_goes_by_its_own_time(opening: Opening, now: Clock) -> None:
    async with opening(rule(keep_days=100), quiet) as journal:
        await journal.commit(posts(3, "ours"))
        now.days(1)
        await journal.commit([lines("old", now.ms - 300 * DAY), lines("mixed", now.ms - 100 * DAY)])
        await journal.commit(posts(3, "mixed"))
        now.ms += 50
        await sweep(journal)
        assert await numbers(journal, "old") == []
        assert await numbers(journal, "mixed") == list(range(51, 104))
        assert await numbers(journal, "ours") == [1, 2, 3]
        head = await journal.head("old")
        assert head is not None
        assert head.seq == 100


async def test_a_swept_import_hides_nothing_of_other_rooms(
    local_opening: Opening, now: Clock
) -> None:
    async with local_opening(rule(keep_days=100), quiet) as journal:
        await journal.commit([lines("old", now.ms - 300 * DAY)])
        await journal.commit(posts(1, "ours"))
        await journal.commit([lines("older", now.ms - 400 * DAY)])
        upto = journal.position
        await sweep(journal)
        assert await numbers(journal, "older") == []
        # Nothing of the room is gone before its first event.
        assert await journal.seq_at("ours", 100) == 0
        assert await journal.seq_at("ours", 101) == 1
        await journal.commit(posts(2, "new"))
        assert await journal.seq_at("new", upto) == 0
        assert await journal.seq_at("new", upto + 1) == 1
        # Of this one it is.
        assert await journal.seq_at("old", 50) == 0
        assert await journal.seq_at("old", 100) == 100
        missed = await journal.read_rooms({"ours": 100, "new": upto}, journal.position, 9)
        assert [(event.room, event.seq) for event in missed] == [
            ("ours", 1),
            ("new", 1),
            ("new", 2),
        ]


@pytest.mark.parametrize("days", [-40, 36_500])
async def test_a_time_of_another_clock_holds_up_nothing(
    opening: Opening, now: Clock, days: int
) -> None:
    async with opening(rule(keep_days=10), quiet) as journal:
        await journal.commit([lines("r", now.ms + days * DAY, 3)])
        await journal.commit([lines("r", now.ms, 3, first=4)])
        now.days(9)
        await sweep(journal)
        assert await numbers(journal, "r") == ([1, 2, 3, 4, 5, 6] if days > 0 else [4, 5, 6])
        now.days(2)
        await sweep(journal)
        assert await numbers(journal, "r") == []


async def test_events_of_the_future_age_from_when_they_are_seen(
    local_opening: Opening, now: Clock
) -> None:
    async with local_opening(rule(keep_days=10), quiet) as journal:
        await journal.commit([lines("r", now.ms + 36_500 * DAY, 3)])
        assert await due_in(journal) == (10 * DAY + 1) / 1000
        now.days(10)
        await sweep(journal)
        assert await numbers(journal, "r") == [1, 2, 3]
        now.ms += 1
        await sweep(journal)
        assert await numbers(journal, "r") == []


async def test_a_clock_far_ahead_removes_nothing_until_it_is_confirmed(
    local_opening: Opening, now: Clock
) -> None:
    told: list[object] = []

    def tell(_event: str, /, **fields: object) -> None:
        if "clock" in str(fields.get("state")):
            told.append(fields["state"])

    async with local_opening(rule(keep_days=100, user_days=30), tell) as journal:
        await journal.commit(posts(3))
        await journal.commit(
            [
                Remember(UserRecord("g", "n", now.ms)),
                Put(Record("ban", "x", b"", now.ms + 3600_000)),
            ]
        )
        now.jumped = 800 * DAY
        await journal.commit(posts(1, "meanwhile"))
        assert await sweep(journal) == 0
        assert await numbers(journal) == [1, 2, 3]
        assert [record.name for record in await journal.records("ban")] == ["x"]
        assert [record.user for record in await journal.present(0)] == ["g"]
        assert told == ["clock_jumped"]
        assert journal.statistics().clock_jump_seconds == 800 * 24 * 3600
        now.ms += 20_000
        now.jumped = 0
        assert await sweep(journal) == 0
        assert told == ["clock_jumped", "clock_trusted"]
        # What was said meanwhile is as old as it is seen to be.
        now.days(99)
        await sweep(journal)
        assert await numbers(journal, "meanwhile") == [1]
        assert await numbers(journal) == [1, 2, 3]
        now.days(1.1)
        await sweep(journal)
        assert await numbers(journal, "meanwhile") == []
        assert await numbers(journal) == []


async def test_a_jump_that_stays_is_followed_after_a_day(
    local_opening: Opening, now: Clock
) -> None:
    async with local_opening(rule(keep_days=100), quiet) as journal:
        await journal.commit(posts(3))
        now.jumped = 800 * DAY
        await sweep(journal)
        now.ms += 23 * 3600_000
        await sweep(journal)
        assert await numbers(journal) == [1, 2, 3]
        now.ms += 3600_000
        await sweep(journal)
        assert await numbers(journal) == []


async def test_a_jump_that_an_operator_confirms_is_followed(
    local_opening: Opening, now: Clock
) -> None:
    async with local_opening(rule(keep_days=100), quiet) as journal:
        await journal.commit(posts(3))
        now.jumped = 800 * DAY
        assert await sweep(journal) == 0
        journal.confirm_clock()
        await sweep(journal)
        assert await numbers(journal) == []


@pytest.mark.parametrize("days", [3, 101])
async def test_a_store_that_was_closed_for_long_is_reported_only_if_something_is_kept_by_it(
    tmp_path: Path, now: Clock, days: int
) -> None:
    told: list[object] = []

    def tell(_event: str, /, **fields: object) -> None:
        if "clock" in str(fields.get("state")):
            told.append(fields["state"])

    path, retention = tmp_path / "chat.db", rule(keep_days=100)
    for pause in (0, days):
        now.jumped += pause * DAY
        opening = open_sqlite(path, now=now, elapsed=now.elapsed, retention=retention, report=tell)
        async with opening as journal:
            if not pause:
                await journal.commit(posts(1))
            await sweep(journal)
            assert await numbers(journal) == [1]
            jump = journal.statistics().clock_jump_seconds
    assert jump == days * 24 * 3600
    assert told == (["clock_jumped"] if days > 100 else [])


async def test_small_corrections_of_the_clock_turn_no_time_back(
    opening: Opening, now: Clock
) -> None:
    async with opening(rule(), quiet) as journal:
        for step in (0, -5, -59_000, 60_000, -3_600_000):
            now.jumped += step
            await journal.commit(posts(1, f"r{step}"))
        kept = [(await journal.read(f"r{step}", 0, 9, 9))[0].at - now.ms for step in (0, -5)]
        assert kept == [0, 0]
        assert (await journal.read("r-59000", 0, 9, 9))[0].at == now.ms
        assert (await journal.read("r60000", 0, 9, 9))[0].at == now.ms + 995
        assert (await journal.read("r-3600000", 0, 9, 9))[0].at < now.ms


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

    async with opening(rule(max_bytes=1_750_000), tell) as journal:
        for number in range(4):
            await journal.commit(posts(50, f"r{number}", "x" * 5000))
        assert await sweep(journal) == 0
        assert told == []
        for number in range(4, 8):
            await journal.commit(posts(50, f"r{number}", "x" * 5000))
        await sweep(journal)
        assert told == [("store", "filling"), ("retention", None)]
        assert 1_500_000 < journal.statistics().bytes <= 1_750_000
        assert await numbers(journal, "r0") == []
        assert await numbers(journal, "r7") == list(range(1, 51))
        head = await journal.head("r0")
        assert head is not None
        assert head.seq == 50


async def test_the_oldest_of_all_rooms_go_first_by_their_times(
    opening: Opening, now: Clock
) -> None:
    async with opening(rule(max_bytes=700_000), quiet) as journal:
        await journal.commit(posts(20, "a", "x" * 15_000))
        now.days(2)
        await journal.commit(posts(20, "b", "x" * 15_000))
        # Said after a, before b; stored last.
        old = [
            LogEntry("c", seq, now.ms - DAY, "message", "u", "n", "x" * 15_000)
            for seq in range(1, 41)
        ]
        await journal.commit([Restore("c", tuple(old))])
        await sweep(journal)
        assert await numbers(journal, "a") == []
        assert await numbers(journal, "b") == list(range(1, 21))
        left = await numbers(journal, "c")
        assert left == list(range(left[0], 41))
        assert 5 < len(left) < 40


async def test_guests_push_no_events_out(local_opening: Opening, now: Clock) -> None:
    bound = 1 << 20
    told: list[object] = []

    def tell(_event: str, /, **fields: object) -> None:
        told.append(fields.get("state"))

    async with local_opening(rule(max_bytes=bound), tell) as journal:
        await journal.commit(posts(100))
        for start in range(0, 10_400, 400):
            now.ms += 1
            guests = [
                Remember(UserRecord(f"gabcdefghijk{number:05}", f"guest-{number}", now.ms))
                for number in range(start, start + 400)
            ]
            await journal.commit(guests)
        await journal.commit([Remember(UserRecord("sub", "sub", 1, subject=True))])
        await sweep(journal)
        assert await numbers(journal) == list(range(1, 101))
        assert journal.statistics().bytes < bound
        assert told.count("crowded") == 1
        left = [record.user for record in await journal.present(0)]
        # Those who left last are still known, and no subject's name becomes free.
        assert "gabcdefghijk10399" in left
        assert "sub" in left
        assert 500 < len(left) < 2000
        await journal.commit(posts(1, "new"))
        await sweep(journal)
        assert await numbers(journal, "new") == [1]


async def test_a_store_full_of_what_must_stay_says_so_and_keeps_the_messages(
    local_opening: Opening, now: Clock
) -> None:
    told: list[dict[str, object]] = []

    def tell(_event: str, /, **fields: object) -> None:
        if fields.get("state") == "stuck":
            told.append(fields)

    async with local_opening(rule(max_bytes=1 << 20), tell) as journal:
        bans: list[Operation] = [
            Put(Record("ban", f"room\0{number:0100}", b"x" * 200, now.ms + DAY))
            for number in range(6000)
        ]
        await journal.commit(bans)
        marks = [Put(Record("mark", f"u{number}", b"1", now.ms + DAY)) for number in range(500)]
        await journal.commit([*marks, *posts(10)])
        await sweep(journal)
        assert await numbers(journal) == list(range(1, 11))
        assert len(await journal.records("ban")) == 6000
        assert await journal.records("mark") == []
        assert len(told) == 1
        assert "Raise history.max_bytes" in str(told[0]["detail"])
        await journal.commit(posts(1, "new"))
        await sweep(journal)
        assert await numbers(journal, "new") == [1]
        assert len(told) == 1


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
    placement = Placement(always_threaded=False, slow_seconds=60.0)
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
