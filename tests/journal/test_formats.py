"""Nodes of different versions on one engine: which format its store has, and who is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from chatd.journal import StoreError
from chatd.journal.engine import Engine
from chatd.journal.modelled import ModelEngine, ModelStore
from chatd.journal.redis.engine import RedisEngine
from chatd.journal.redis.layout import FORMAT
from tests.journal.nodes import NOW
from tests.redis_server import RedisServer, needs_redis

OLD, NEW = FORMAT, FORMAT + 1

Versions: TypeAlias = Callable[[int], Engine]
"""Makes an engine of a version that can read the formats up to this one."""


class NewerRedis(RedisEngine):
    format = NEW


class NewerModel(ModelEngine):
    format = NEW


@pytest.fixture(params=["model", pytest.param("redis", marks=needs_redis)])
async def versions(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Versions]:
    made: list[Engine] = []

    def make(kinds: dict[int, type[Any]], *args: Any) -> Versions:
        def version(newest: int) -> Engine:
            made.append(kinds[newest](*args))
            return made[-1]

        return version

    if request.param == "model":
        yield make({OLD: ModelEngine, NEW: NewerModel}, ModelStore(lambda: NOW))
    else:
        with RedisServer(tmp_path / "redis") as server:
            yield make({OLD: RedisEngine, NEW: NewerRedis}, server.url)
            for engine in made:
                engine.close()


async def test_the_format_rises_when_the_last_older_node_has_left(versions: Versions) -> None:
    old, other = versions(OLD), versions(OLD)
    await old.enter(None, 0, b"")
    await other.enter(None, 0, b"")
    first = versions(NEW)
    assert (await first.enter(None, 0, b"")).raised == 0
    await old.leave(0)
    second = versions(NEW)
    assert (await second.enter(None, 0, b"")).raised == 0  # one older node is left
    again = versions(OLD)
    assert (await again.enter(None, 0, b"")).raised == 0  # an upgrade can be taken back until then
    await again.leave(0)
    await other.leave(60_000)  # its users may come back, but it does not write any more
    third = versions(NEW)
    assert (await third.enter(None, 0, b"")).raised == NEW
    assert (await versions(NEW).enter(None, 0, b"")).raised == 0
    with pytest.raises(StoreError, match="update this one"):
        await versions(OLD).enter(None, 0, b"")


async def test_a_node_whose_lease_is_over_does_not_hold_the_format_back(versions: Versions) -> None:
    old = versions(OLD)
    await old.enter(None, 0, b"")
    await old.leave(0)
    assert (await versions(NEW).enter(None, 0, b"")).raised == NEW
    with pytest.raises(StoreError, match="update this one"):
        await old.enter(None, 0, b"")


async def test_a_new_store_has_the_newest_format(versions: Versions) -> None:
    assert (await versions(NEW).enter(None, 0, b"")).raised == 0
    with pytest.raises(StoreError, match="update this one"):
        await versions(OLD).enter(None, 0, b"")
