"""The engine in a Redis Cluster: all its keys have one slot, which may move to another server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chatd.journal import Unavailable
from chatd.journal.engine import Lost
from chatd.journal.redis.engine import RedisEngine
from chatd.model import Post, Receipt
from tests.redis_cluster import RedisCluster
from tests.redis_server import needs_redis

pytestmark = needs_redis


@pytest.fixture
def cluster(folder: Path) -> Iterator[RedisCluster]:
    one = RedisCluster(folder, 2)
    yield one
    one.kill()


def begin_to_move(cluster: RedisCluster) -> None:
    """Move the slot to the other server, up to where some of its keys are there."""
    one, other = cluster.primaries
    here, there = (server.command("CLUSTER", "MYID") for server in cluster.primaries)
    other.command("CLUSTER", "SETSLOT", str(cluster.slot), "IMPORTING", here)
    one.command("CLUSTER", "SETSLOT", str(cluster.slot), "MIGRATING", there)
    _move(cluster, 3)


def move_the_rest(cluster: RedisCluster) -> None:
    _move(cluster, 1000)
    there = cluster.primaries[1].command("CLUSTER", "MYID")
    for server in reversed(cluster.primaries):
        server.command("CLUSTER", "SETSLOT", str(cluster.slot), "NODE", there)


def _move(cluster: RedisCluster, most: int) -> None:
    one, other = cluster.primaries
    keys = one.command("CLUSTER", "GETKEYSINSLOT", str(cluster.slot), str(most)).split()
    one.command("MIGRATE", other.host, str(other.port), "", "0", "5000", "KEYS", *keys)


async def test_a_slot_that_moves_is_followed(cluster: RedisCluster) -> None:
    await cluster.start()
    engine = RedisEngine(cluster.url, timeout=5)
    batch = [Post("lobby", "Lobby", "u1", "ann", text, key=text) for text in "abc"]
    life = await engine.enter(None, 0, b"")
    first = await engine.commit(1, batch)
    begin_to_move(cluster)
    more = [Post("other", "Other", "u1", "ann", "d", key="d")]
    with pytest.raises(Lost, match=r"TRYAGAIN|ASK"):
        await engine.commit(2, more)
    with pytest.raises(Unavailable):
        await engine.enter(None, 1, b"")
    move_the_rest(cluster)
    again = await engine.enter(None, 1, b"")
    assert again.node == life.node
    assert again.epoch != life.epoch
    [done] = await engine.commit(2, more)
    assert isinstance(done, Receipt)
    assert done.event.position == len(first) + 2  # behind the epoch
    assert [event.text for event in await engine.read("lobby", 0, 9, 9)] == ["a", "b", "c"]
    engine.close()
