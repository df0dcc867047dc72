"""An engine that must have replicas: nothing is confirmed, and nothing returned, that they lack."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from chatd.journal import StoreError
from chatd.journal.engine import Fed, Life, Lost
from chatd.journal.redis.engine import RedisEngine
from chatd.journal.retention import Retention
from chatd.model import Outcome, Post, Receipt
from tests.e2e.chatd_process import free_port
from tests.redis_server import RedisServer, needs_redis

pytestmark = needs_redis

SOON = 1.0
"""A time-out, in seconds, for what is not answered in time."""

UNCONFIRMED = r"0 replicas confirmed in time, but history.replicas is 1|did not answer in time"


class Pair:
    """A primary server and its replica."""

    def __init__(self, folder: Path) -> None:
        self.primary = RedisServer(folder / "primary", free_port())
        self.replica = RedisServer(folder / "replica", free_port())

    def start(self) -> None:
        self.primary.start()
        self.replica.start()
        self.replica.follow(self.primary)


@pytest.fixture
def pair(folder: Path) -> Iterator[Pair]:
    both = Pair(folder)
    try:
        both.start()
        yield both
    finally:
        both.replica.kill()
        both.primary.kill()


async def entered(engine: RedisEngine) -> Life:
    """Enter, as often as it takes: the time-out of some tests is short for a busy machine."""
    with trio.fail_after(60):
        while True:
            with suppress(Lost):
                return await engine.enter(None, 0, b"")


@asynccontextmanager
async def opened(server: RedisServer, **options: Any) -> AsyncIterator[RedisEngine]:
    engine = RedisEngine(server.url, **{"timeout": 60, "replicas": 1, **options})
    try:
        await entered(engine)
        yield engine
    finally:
        engine.close()


def post(text: str = "hello") -> Post:
    return Post("lobby", "Lobby", "u1", "ann", text)


def seqs(outcomes: list[Outcome] | None) -> list[int]:
    return [one.event.seq for one in outcomes or () if isinstance(one, Receipt)]


def _any(_room: str) -> bool:
    return True


async def positions(engine: RedisEngine, after: int = 0) -> list[int]:
    return [one.position for one in await engine.feed(after, _any) if isinstance(one, Fed)]


async def test_what_replicas_have_is_confirmed_and_shown(pair: Pair) -> None:
    async with opened(pair.primary) as engine:
        assert seqs(await engine.commit(1, [post(), post()])) == [1, 2]
        assert await positions(engine) == [1, 2]
        assert [event.seq for event in await engine.read("lobby", 0, 9, 9)] == [1, 2]
        assert engine.proof_seconds.statistics().counts[-1] == 1
        assert pair.replica.command("XLEN", "{chatd}:f") == "2"


async def test_nothing_is_confirmed_or_shown_that_a_stopped_replica_lacks(pair: Pair) -> None:
    async with (
        opened(pair.primary, timeout=SOON) as engine,
        opened(pair.primary, timeout=SOON) as reader,
        opened(pair.primary, timeout=SOON) as asker,
        opened(pair.primary, replicas=0) as heedless,
    ):
        life = await entered(engine)
        await engine.commit(1, [post("before")])
        assert await positions(reader) == [1]
        pair.replica.stop()
        async with trio.open_nursery() as nursery:

            async def read_on() -> None:
                with pytest.raises(Lost, match=UNCONFIRMED):
                    await reader.feed(1, _any)

            nursery.start_soon(read_on)
            await trio.testing.wait_all_tasks_blocked()
            await heedless.commit(1, [post("unproven")])
        refused: list[Callable[[], Awaitable[object]]] = [
            lambda: asker.read("lobby", 0, 9, 9),
            lambda: engine.commit(2, [post("in doubt")]),
            lambda: asker.enter(None, 0, b""),
            lambda: engine.enter(None, 1, b""),
        ]
        for call in refused:
            with pytest.raises(Lost, match=UNCONFIRMED):
                await call()
        pair.replica.go_on()
        await engine.enter(None, 1, b"")
        assert seqs(await engine.void(life.node, 2)) == [3]
        assert await positions(engine, 1) == [2, 3]


async def test_nothing_goes_on_without_a_replica(pair: Pair) -> None:
    pair.replica.kill()
    engine = RedisEngine(pair.primary.url, timeout=SOON, replicas=1)
    with pytest.raises(Lost, match=UNCONFIRMED):
        await engine.enter(None, 0, b"")
    pair.replica.start()
    pair.replica.follow(pair.primary)
    assert (await entered(engine)).position == 0
    engine.close()


async def test_reading_goes_on_while_memory_is_full(pair: Pair) -> None:
    async with opened(pair.primary) as engine:
        await engine.commit(1, [post("x" * 1000) for _ in range(100)])
        pair.primary.command("CONFIG", "SET", "maxmemory", "1mb")
        assert len(await engine.read("lobby", 0, 999, 999)) == 100
        assert len(await positions(engine)) == 100
        assert (await engine.sweep(Retention(keep_events=1))).removed


async def test_a_server_that_wants_replicas_itself_is_waited_for(pair: Pair) -> None:
    async with opened(pair.primary) as engine:
        pair.primary.command("CONFIG", "SET", "min-replicas-to-write", "2")
        with pytest.raises(Lost, match="cannot ask its replicas: NOREPLICAS"):
            await engine.read("lobby", 0, 9, 9)


async def test_without_replicas_there_is_no_proof(redis_server: RedisServer) -> None:
    redis_server.command("CONFIG", "RESETSTAT")
    async with opened(redis_server, replicas=0, prefix="{alone}") as engine:
        await engine.commit(1, [post()])
        assert await positions(engine) == [1]
        assert "cmdstat_wait" not in redis_server.command("INFO", "commandstats")
        assert redis_server.command("EXISTS", "{alone}:proof") == "0"


async def test_the_right_to_wait_is_taken_away_and_given_back(pair: Pair, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("secret")
    for server in (pair.primary, pair.replica):
        server.command("ACL", "SETUSER", "chatd", "on", ">secret", "~*", "&*", "+@all")
    async with opened(pair.primary, user="chatd", password_file=secret) as engine:
        pair.primary.command("ACL", "SETUSER", "chatd", "-wait")
        with pytest.raises(StoreError, match=r"needs more rights: .*'wait'"):
            await engine.commit(1, [post()])
        with pytest.raises(StoreError, match="needs more rights: it may not run WAIT"):
            await engine.enter(None, 0, b"")
        pair.primary.command("ACL", "SETUSER", "chatd", "+wait")
        life = await entered(engine)
        assert seqs(await engine.void(life.node, 1)) == [1]  # it was done, but never proven


async def test_a_check_writes_nothing_and_counts_the_replicas(pair: Pair) -> None:
    for replicas in (0, 1, 2):
        engine = RedisEngine(pair.primary.url, timeout=60, replicas=replicas)
        for _ in range(2):  # one check does not change the next one
            if replicas < 2:
                await engine.check()
            else:
                with pytest.raises(Lost, match=r"has 1 replicas, but history\.replicas is 2"):
                    await engine.check()
        engine.close()
    assert pair.primary.command("DBSIZE") == "0"
