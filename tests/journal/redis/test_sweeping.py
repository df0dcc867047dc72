"""Retention on Redis where space is short. `test_retention` has what all stores do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from chatd.journal.redis.engine import RedisEngine
from chatd.journal.retention import CHUNK, Retention
from chatd.model import Operation, Post, Put, Record, Remember, UserRecord
from tests.redis_server import RedisServer, needs_redis, new_prefix

pytestmark = needs_redis

NOW = 1_700_000_000_000


@pytest.fixture
async def engine(redis_server: RedisServer) -> AsyncIterator[RedisEngine]:
    engine = RedisEngine(redis_server.url, prefix=new_prefix(), now=lambda: NOW, timeout=60)
    await engine.enter(None, 0, b"")
    yield engine
    engine.close()


async def sweep(engine: RedisEngine, retention: Retention) -> list[int]:
    """Sweep until nothing is left; return how many events each chunk has removed."""
    chunks = []
    while (swept := await engine.sweep(retention)).more:
        chunks.append(swept.removed)
    return chunks


async def test_guests_and_read_marks_go_before_events_do(engine: RedisEngine) -> None:
    away = [Remember(UserRecord(f"g{number}", "n", NOW - number)) for number in range(CHUNK + 10)]
    marks = [Put(Record("mark", f"u\0{number}", b"", NOW + 2)) for number in range(CHUNK)]
    later = [Put(Record("lost", f"x{number}", b"", NOW + 3)) for number in range(CHUNK)]
    stays: list[Operation] = [
        *(Put(Record("ban", f"b{number}", b"", NOW + 1)) for number in range(2 * CHUNK)),
        Remember(UserRecord("subject", "n", NOW - 99, subject=True)),
        Remember(UserRecord("here", "n", None)),
        *(Post("lobby", "Lobby", "u", "n", "hello") for _ in range(50)),
    ]
    batches: list[Sequence[Operation]] = [away, marks, later, stays]
    for number, batch in enumerate(batches, 1):
        await engine.commit(number, batch)
    rows = len(away) + len(marks) + len(later) + len(stays) - 50
    # A quarter may be beside the events: first the guests go, those first who left long ago.
    small = Retention(keep_days="off", max_bytes=4 * 400 * (rows - 1), user_days="off")
    assert await sweep(engine, small) == [0]
    assert [one.user for one in await engine.present(0)] == sorted(
        ["here", "subject", *(f"g{number}" for number in range(10))]
    )
    assert len(await engine.records("mark")) == CHUNK
    smaller = Retention(keep_days="off", max_bytes=4 * 400 * (rows - 2 * CHUNK), user_days="off")
    assert await sweep(engine, smaller) == [0, 0]
    assert [one.user for one in await engine.present(0)] == ["here", "subject"]
    assert await engine.records("mark") == []
    assert len(await engine.records("lost")) == CHUNK
    assert len(await engine.records("ban")) == 2 * CHUNK
    assert len(await engine.read("lobby", 0, 100, 100)) == 50


async def test_the_oldest_events_go_when_there_are_too_many_bytes(engine: RedisEngine) -> None:
    for number in range(1, 4):
        room = f"room{number}"
        posts = [Post(room, room, "u", "n", "x" * 1000, key=str(key)) for key in range(100)]
        await engine.commit(number, posts)
    before = (await engine.sweep(Retention(max_bytes="off"))).bytes
    assert before > 300_000
    chunks = await sweep(engine, Retention(max_bytes=before // 2))
    assert max(chunks) == CHUNK
    after = (await engine.sweep(Retention(max_bytes="off"))).bytes
    assert before // 2 - 2000 < after <= before // 2
    assert sum(chunks) == 300 - sum(
        [len(await engine.read(f"room{number}", 0, 1000, 1000)) for number in range(1, 4)]
    )
    # With the events their keys have gone, so they count anew.
    [again] = await engine.commit(4, [Post("room1", "room1", "u", "n", "again", key="0")])
    assert again.event.seq == 101  # type: ignore[union-attr]
