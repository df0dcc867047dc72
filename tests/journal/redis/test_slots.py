"""The engine in a Redis Cluster: all its keys have one slot, which may move to another server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from chatd.journal import Unavailable
from chatd.journal.engine import Lost
from chatd.journal.redis.engine import RedisEngine
from chatd.model import Post, Receipt
from tests.e2e.chatd_process import free_port
from tests.redis_server import RedisServer, needs_redis

pytestmark = needs_redis

SLOTS = 16384


class Cluster:
    """Two servers of a Redis Cluster. The first has all slots at the start."""

    def __init__(self, folder: Path) -> None:
        self.servers = [
            RedisServer(
                folder / name,
                free_port(),
                **{"cluster-enabled": "yes", "cluster-port": str(free_port())},
            )
            for name in ("one", "other")
        ]
        self.url = "redis://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    async def start(self) -> None:
        one, other = self.servers
        for server in self.servers:
            server.start()
        one.command("CLUSTER", "ADDSLOTSRANGE", "0", str(SLOTS - 1))
        one.command("CLUSTER", "MEET", "127.0.0.1", str(other.port), other.options["cluster-port"])
        for server in self.servers:
            await self._until(server, "cluster_state:ok", "cluster_known_nodes:2")

    async def _until(self, server: RedisServer, *facts: str) -> None:
        with trio.fail_after(20):
            while not all(fact in server.command("CLUSTER", "INFO") for fact in facts):  # noqa: ASYNC110
                await trio.sleep(0.02)

    def begin_to_move(self, slot: str) -> None:
        """Move the slot to the other server, up to where some of its keys are there."""
        one, other = self.servers
        here, there = (server.command("CLUSTER", "MYID") for server in self.servers)
        other.command("CLUSTER", "SETSLOT", slot, "IMPORTING", here)
        one.command("CLUSTER", "SETSLOT", slot, "MIGRATING", there)
        self._move(slot, 3)

    def move_the_rest(self, slot: str) -> None:
        self._move(slot, 1000)
        there = self.servers[1].command("CLUSTER", "MYID")
        for server in reversed(self.servers):
            server.command("CLUSTER", "SETSLOT", slot, "NODE", there)

    def _move(self, slot: str, most: int) -> None:
        one, other = self.servers
        keys = one.command("CLUSTER", "GETKEYSINSLOT", slot, str(most)).split()
        one.command("MIGRATE", "127.0.0.1", str(other.port), "", "0", "5000", "KEYS", *keys)


@pytest.fixture
def cluster(folder: Path) -> Iterator[Cluster]:
    one = Cluster(folder)
    yield one
    for server in one.servers:
        server.kill()


async def test_a_slot_that_moves_is_followed(cluster: Cluster) -> None:
    await cluster.start()
    engine = RedisEngine(cluster.url, timeout=5)
    batch = [Post("lobby", "Lobby", "u1", "ann", text, key=text) for text in "abc"]
    life = await engine.enter(None, 0, b"")
    first = await engine.commit(1, batch)
    slot = cluster.servers[0].command("CLUSTER", "KEYSLOT", "{chatd}")
    cluster.begin_to_move(slot)
    more = [Post("other", "Other", "u1", "ann", "d", key="d")]
    with pytest.raises(Lost, match=r"TRYAGAIN|ASK"):
        await engine.commit(2, more)
    with pytest.raises(Unavailable):
        await engine.enter(None, 1, b"")
    cluster.move_the_rest(slot)
    again = await engine.enter(None, 1, b"")
    assert again.node == life.node
    assert again.epoch != life.epoch
    [done] = await engine.commit(2, more)
    assert isinstance(done, Receipt)
    assert done.event.position == len(first) + 2  # behind the epoch
    assert [event.text for event in await engine.read("lobby", 0, 9, 9)] == ["a", "b", "c"]
    await engine.aclose()
