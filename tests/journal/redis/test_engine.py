"""The engine on Redis where something fails: the server, the link, or what was configured."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from chatd.journal import Durability, StoreError, Unavailable
from chatd.journal.engine import Fed, Life, Lost, Stale
from chatd.journal.redis.engine import RedisEngine
from chatd.journal.redis.layout import FORMAT
from chatd.journal.retention import CHUNK, Retention
from chatd.model import (
    Erase,
    Event,
    Operation,
    Outcome,
    Post,
    Progress,
    Receipt,
    Relay,
    Relayed,
    Renewed,
    Swept,
    Wipe,
)
from tests.e2e.chatd_process import free_port
from tests.journal.nodes import closed_after
from tests.redis_server import RedisServer, needs_redis, new_prefix

pytestmark = needs_redis

ROOT = Path(__file__).resolve().parents[3]


def post(text: str = "hello", room: str = "lobby", *, key: str | None = None) -> Post:
    return Post(room, room.title(), "u1", "ann", text, key=key)


def seqs(outcomes: list[Outcome] | None) -> list[int]:
    assert outcomes is not None
    return [one.event.seq for one in outcomes if isinstance(one, Receipt)]


async def fed(engine: RedisEngine, after: int = 0, room: str | None = None) -> list[Fed]:
    """Return what the feed has behind a position; events of one room only, if one is named."""
    found = await engine.feed(after, lambda one: room in (None, one))
    return [one for one in found if isinstance(one, Fed)]


def _any(_room: str) -> bool:
    return True


async def texts(engine: RedisEngine, room: str = "lobby") -> list[str | None]:
    return [event.text for event in await engine.read(room, 0, 10**6, 10**6)]


@asynccontextmanager
async def opened(server: RedisServer, **options: Any) -> AsyncIterator[RedisEngine]:
    engine = RedisEngine(server.url, **{"timeout": 60, **options})
    await engine.enter(None, 0, b"facts")
    try:
        yield engine
    finally:
        engine.close()


# ---- what is refused at the start


@pytest.mark.parametrize(
    ("options", "durability", "remedy"),
    [
        ({"appendonly": "no"}, "commit", "set appendonly to yes"),
        ({}, "fsync", "appendfsync of .* is everysec: set appendfsync to always"),
        (
            {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"},
            "commit",
            "allkeys-lru.*set maxmemory-policy to noeviction",
        ),
    ],
)
async def test_a_server_that_would_lose_history_is_refused(
    folder: Path, options: dict[str, str], durability: Durability, remedy: str
) -> None:
    with RedisServer(folder, **options) as server, pytest.raises(StoreError) as refused:
        async with opened(server, durability=durability):
            pass
    assert re.search(remedy, str(refused.value))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "durability"),
    [
        ({"appendfsync": "always"}, "fsync"),
        ({"maxmemory-policy": "allkeys-lru"}, "commit"),
        ({"maxmemory": "100mb", "maxmemory-policy": "noeviction"}, "commit"),
    ],
)
async def test_a_server_that_keeps_history_is_taken(
    folder: Path, options: dict[str, str], durability: Durability
) -> None:
    with RedisServer(folder, **options) as server:
        async with opened(server, durability=durability) as engine:
            assert seqs(await engine.commit(1, [post()])) == [1]


async def test_a_replica_is_waited_for(own_server: RedisServer) -> None:
    own_server.command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(Lost, match="is a replica"):
        async with opened(own_server):
            pass


async def test_a_store_of_a_newer_version_is_refused(redis_server: RedisServer) -> None:
    prefix = new_prefix()
    redis_server.command("HSET", f"{prefix}:m", "format", str(FORMAT + 1))
    with pytest.raises(StoreError, match="a newer chatd"):
        async with opened(redis_server, prefix=prefix):
            pass


async def test_the_links_can_be_encrypted(folder: Path) -> None:
    authority = trustme.CA()
    certificate, ca_file, port = folder / "server.pem", folder / "ca.pem", free_port()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
    authority.cert_pem.write_to_path(ca_file)
    files = {"tls-cert-file": str(certificate), "tls-key-file": str(certificate)}
    options = {**files, "tls-port": str(port), "tls-auth-clients": "no"}
    with RedisServer(folder, **{**options, "tls-ca-cert-file": str(ca_file)}):
        engine = RedisEngine(f"rediss://localhost:{port}", ca_file=ca_file, timeout=60)
        await engine.enter(None, 0, b"")
        await engine.commit(1, [post("x" * 100_000)])
        assert await texts(engine) == ["x" * 100_000]
        engine.close()
        untrusting = RedisEngine(f"rediss://localhost:{port}", timeout=60)
        with pytest.raises(StoreError, match=r"is not trusted: .*: check history\.tls_ca_file"):
            await untrusting.enter(None, 0, b"")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Return a file with the password ``secret``."""
    path = tmp_path / "password"
    path.write_text("secret\n")
    return path


async def test_a_user_without_the_rights_is_refused(own_server: RedisServer, secret: Path) -> None:
    own_server.command(
        "ACL", "SETUSER", "chatd", "on", ">secret", "~*", "+@read", "+hello", "+info"
    )
    with pytest.raises(StoreError, match="needs more rights"):
        async with opened(own_server, user="chatd", password_file=secret):
            pass


def documented_rights(user: str) -> list[str]:
    """Return a user's rights, which docs/cluster.md and the example show alike."""
    example = (ROOT / "config" / "cluster" / "users.acl.example").read_text()
    assert f"\n```\n{example}```\n" in (ROOT / "docs" / "cluster.md").read_text()
    (rights,) = re.findall(rf"^user {user} on >\S+ (.*)$", example, re.MULTILINE)
    return str(rights).split()


async def test_the_rights_in_the_documentation_suffice(
    own_server: RedisServer, secret: Path
) -> None:
    rights = documented_rights("chatd")
    own_server.command("ACL", "SETUSER", "chatd", "reset", "on", ">secret", *rights)
    async with opened(own_server, user="chatd", password_file=secret) as engine:
        await engine.commit(1, [post(key="k"), Relay("kick", b"")])
        assert await texts(engine) == ["hello"]
        assert len(await fed(engine)) == 2
        await engine.sweep(Retention(purge_seconds=0))
        delete = Post("lobby", "Lobby", "u1", "ann", None, "delete", of=1)
        await engine.commit(2, [delete])
        await engine.beat(b"")
        own_server.await_rewrite()
        assert "aof_last_rewrite_time_sec:-1" not in own_server.command("INFO", "persistence")
        while await engine.bury(0):
            pass
        await engine.leave(0)


@pytest.mark.parametrize(
    "command",
    [
        "FLUSHALL",
        "FLUSHDB",
        "KEYS *",
        "GET other",
        "SET other 1",
        "CONFIG SET appendonly no",
        "ACL SETUSER chatd +@all",
        "CLIENT KILL USER default",
        "SCRIPT FLUSH",
        "FUNCTION FLUSH",
        "REPLICAOF 127.0.0.1 1",
        "SHUTDOWN NOSAVE",
    ],
)
def test_the_rights_in_the_documentation_go_no_further(
    redis_server: RedisServer, command: str
) -> None:
    rights = documented_rights("chatd")
    redis_server.command("ACL", "SETUSER", "chatd", "reset", "on", ">secret", *rights)
    login = ("--user", "chatd", "--pass", "secret", "--no-auth-warning")
    assert redis_server.command(*login, *command.split()).startswith("NOPERM")


# ---- batches that are in doubt


async def test_a_batch_that_is_sent_again_is_done_once(redis_server: RedisServer) -> None:
    async with opened(redis_server, prefix=new_prefix()) as engine:
        batch = [post("a"), post("b", key="k"), post("c", key="k")]
        first = await engine.commit(1, batch)
        assert await engine.commit(1, batch) == first
        assert await engine.commit(1, batch) == first
        assert seqs(await engine.commit(2, [post("d")])) == [3]
        with pytest.raises(Unavailable):
            await engine.commit(1, batch)
        with pytest.raises(Stale):
            await engine.commit(4, batch)
        assert await texts(engine) == ["a", "b", "d"]


async def test_a_void_batch_is_not_done_when_it_arrives_late(redis_server: RedisServer) -> None:
    async with opened(redis_server, prefix=new_prefix()) as engine:
        life = await engine.enter(None, 0, b"")
        await engine.commit(1, [post("a")])
        assert await engine.void(life.node, 2) is None
        assert await engine.void(life.node, 2) is None
        for _ in range(2):
            with pytest.raises(Unavailable, match="comes too late"):
                await engine.commit(2, [post("late")])
        await engine.commit(3, [post("b")])
        with pytest.raises(Unavailable):
            await engine.commit(2, [post("late")])
        assert seqs(await engine.void(life.node, 3)) == [2]
        assert await engine.void(life.node, 2) is None
        assert await texts(engine) == ["a", "b"]


async def test_two_nodes_have_one_order(redis_server: RedisServer) -> None:
    prefix = new_prefix()
    async with (
        opened(redis_server, prefix=prefix) as first,
        opened(redis_server, prefix=prefix) as other,
    ):
        for number in range(1, 20):
            await first.commit(number, [post(f"a{number}"), post(room="elsewhere")])
            await other.commit(number, [post(f"b{number}")])
        feed = await fed(other, room="lobby")
        assert [one.position for one in feed] == list(range(1, 58))
        events = [one.entry for one in feed if one.entry is not None]
        assert [one.seq for one in events if isinstance(one, Event)] == list(range(1, 39))
        # A node gets its own events whether it wants them or not.
        shown = [one.entry is not None for one in await fed(first, room="none")]
        assert shown == [True, True, False] * 19


# ---- the server fails


async def test_a_server_that_is_killed_keeps_what_it_confirmed(own_server: RedisServer) -> None:
    async with opened(own_server, timeout=5) as engine:
        life = await engine.enter(None, 0, b"")
        await engine.commit(1, [post("a", key="k")])
        [shown] = await fed(engine)
        own_server.kill()
        with pytest.raises(Lost):
            await engine.commit(2, [post("b")])
        with pytest.raises(Lost, match="no connection"):
            await texts(engine)
        with pytest.raises(Lost, match="cannot connect"):
            await engine.enter((1, shown.origin), 1, b"")
        own_server.start()
        again = await engine.enter((1, shown.origin), 1, b"")
        assert (again.lost, again.node, again.position) == (False, life.node, 2)
        assert again.epoch != life.epoch
        assert again.former == {life.epoch: 1}
        [renewed] = await fed(engine, 1)
        assert renewed.entry == Renewed(2, again.epoch)
        assert await engine.void(life.node, 2) is None
        assert seqs(await engine.commit(3, [post("again", key="k"), post("c")])) == [1, 2]


async def test_a_server_that_wakes_without_its_last_moments(own_server: RedisServer) -> None:
    """Its append-only file ends earlier, as after a loss of power."""
    async with opened(own_server) as engine:
        await engine.commit(1, [post("a")])
        [shown] = await fed(engine)
        before = _incremental(own_server).stat().st_size
        await engine.commit(2, [post("b")])
        [_, last] = await fed(engine)
        own_server.kill()
        os.truncate(_incremental(own_server), before)
        own_server.start()
        life = await engine.enter((2, last.origin), 2, b"")
        assert life.lost
        assert await texts(engine) == ["a"]
        assert shown.position == 1


def _incremental(server: RedisServer) -> Path:
    [path] = (server.folder / "appendonlydir").glob("*.incr.aof")
    return path


async def test_a_store_that_was_emptied_has_lost_what_was_read(own_server: RedisServer) -> None:
    async with opened(own_server) as engine:
        await engine.commit(1, [post("a"), post("b")])
        [_, last] = await fed(engine)
        own_server.command("FLUSHALL")
        with pytest.raises(Stale):
            await engine.commit(2, [post("c")])
        life = await engine.enter((2, last.origin), 1, b"")
        assert life.lost
        assert life.position == 0


async def test_a_server_that_is_stopped_has_a_deadline(own_server: RedisServer) -> None:
    async with opened(own_server, timeout=1) as engine:
        life = await engine.enter(None, 0, b"")
        await engine.commit(1, [post("a")])
        own_server.stop()
        async with closed_after(0.3, engine):
            with pytest.raises(Lost, match="broke"):
                await engine.commit(2, [post("b")])
        for call in (lambda: engine.commit(2, [post("b")]), engine.position):
            with pytest.raises(Lost, match="no connection"):
                await call()
        begin = trio.current_time()
        with pytest.raises(Lost, match="in time"):
            await engine.enter(None, 1, b"")
        assert trio.current_time() - begin < 10  # the machine may be busy
        own_server.go_on()
        # What had been sent is done when the server goes on, or it is made void before.
        again = await engine.enter(None, 1, b"")
        assert (again.node, again.epoch) == (life.node, life.epoch)
        done = await engine.void(life.node, 2)
        assert await texts(engine) == (["a"] if done is None else ["a", "b"])


async def test_scripts_that_were_flushed_are_loaded_again(redis_server: RedisServer) -> None:
    async with opened(redis_server, prefix=new_prefix()) as engine:
        redis_server.command("SCRIPT", "FLUSH")
        with pytest.raises(Lost, match="NOSCRIPT"):
            await engine.commit(1, [post()])
        await engine.enter(None, 0, b"")
        assert seqs(await engine.commit(1, [post()])) == [1]


async def test_full_memory_refuses_posts_and_lets_retention_go_on(
    own_server: RedisServer,
) -> None:
    async with opened(own_server) as engine:
        await engine.commit(1, [post("x" * 1000) for _ in range(200)])
        own_server.command("CONFIG", "SET", "maxmemory", "1mb")
        with pytest.raises(Unavailable, match="memory is full: raise its maxmemory") as refused:
            await engine.commit(2, [post()])
        assert not refused.value.divisible
        assert len(await texts(engine)) == 200
        assert (await engine.sweep(Retention(keep_events=1))).removed == CHUNK
        await engine.beat(b"")
        await engine.inspect()
        own_server.command("CONFIG", "SET", "maxmemory", "0")
        assert seqs(await engine.commit(2, [post()])) == [201]


async def test_a_node_enters_a_server_whose_memory_is_full_and_makes_room(
    own_server: RedisServer,
) -> None:
    async with opened(own_server) as engine:
        await engine.commit(1, [post("x" * 1000) for _ in range(200)])
    own_server.command("CONFIG", "SET", "maxmemory", "1mb")
    async with opened(own_server) as engine:
        assert (await engine.sweep(Retention(keep_events=1))).removed == CHUNK


async def test_full_memory_neither_keeps_a_batch_in_doubt_nor_a_node(
    own_server: RedisServer,
) -> None:
    async with opened(own_server) as engine, opened(own_server) as other:
        life = await engine.enter(None, 0, b"")
        own_server.command("CONFIG", "SET", "maxmemory", "1mb")
        assert await engine.void(life.node, 1) is None
        await engine.leave(0)
        assert life.node not in [one.node for one in await other.nodes()]


async def test_a_script_that_fails_writes_nothing(redis_server: RedisServer) -> None:
    prefix = new_prefix()
    async with opened(redis_server, prefix=prefix) as engine:
        await engine.commit(1, [post("a")])
        redis_server.command("SET", f"{prefix}:r:other", "no hash")
        with pytest.raises(Unavailable, match=r":r:other in Redis is not as") as refused:
            await engine.commit(2, [post("b"), post("c", room="other")])
        assert refused.value.divisible
        assert await texts(engine) == ["a"]
        assert await engine.position() == 1
        assert seqs(await engine.commit(2, [post("b")])) == [2]


async def test_a_reader_that_is_cancelled_harms_nobody(redis_server: RedisServer) -> None:
    async with opened(redis_server, prefix=new_prefix()) as engine:
        await engine.commit(1, [post("a")])
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(texts, engine)
            nursery.cancel_scope.cancel()
        assert await texts(engine) == ["a"]


# ---- leases


async def test_a_node_whose_lease_is_over_gets_another_id(redis_server: RedisServer) -> None:
    now = 1_700_000_000_000

    def clock() -> int:
        return now

    prefix = new_prefix()
    async with opened(redis_server, prefix=prefix, now=clock) as engine:
        first: Life = await engine.enter(None, 0, b"facts")
        now += 14_999
        assert await engine.beat(b"new") == (now, 0)
        now += 14_999
        again = await engine.enter(None, 0, b"facts")  # the lease goes on as it was
        assert again.node == first.node
        now += 1
        for call in (
            lambda: engine.beat(b""),
            lambda: engine.commit(1, [post()]),
        ):
            with pytest.raises(Stale):
                await call()
        second = await engine.enter(None, 0, b"facts")
        assert second.node != first.node
        assert await engine.bury(1000) is True
        assert await engine.bury(1000) is False
        assert [node.node for node in await engine.nodes()] == [second.node]
        assert seqs(await engine.commit(1, [post()])) == [1]


async def test_the_feed_is_trimmed_but_for_its_last_entry(redis_server: RedisServer) -> None:
    now = 1_700_000_000_000

    def clock() -> int:
        return now

    async with opened(redis_server, prefix=new_prefix(), now=clock) as engine:
        await engine.commit(1, [post("a"), post("b")])
        await engine.sweep(Retention(purge_seconds=20))
        await engine.beat(b"")
        now += 10_000
        await engine.beat(b"")
        assert [one.position for one in await fed(engine)] == [2]


async def test_the_feed_keeps_its_last_entry_though_a_life_had_come_further(
    own_server: RedisServer,
) -> None:
    now = 1_700_000_000_000

    def clock() -> int:
        return now

    async with opened(own_server, now=clock) as engine:
        before = _incremental(own_server).stat().st_size
        await engine.commit(1, [post("a"), post("b"), post("c")])
        await engine.sweep(Retention(purge_seconds=20))
        await engine.beat(b"")
        own_server.kill()
        os.truncate(_incremental(own_server), before)
        own_server.start()
        await engine.enter(None, 1, b"")
        now += 10_000
        await engine.beat(b"")
        assert len(await fed(engine)) == 1


async def test_what_is_published_comes_to_the_other_nodes_at_once(
    redis_server: RedisServer,
) -> None:
    prefix = new_prefix()
    async with (
        opened(redis_server, prefix=prefix) as one,
        opened(redis_server, prefix=prefix) as other,
    ):
        one.publish("typing", b"\0on")
        assert await other.feed(0, lambda _room: True) == [Relayed(0, "typing", b"\0on")]
        other.publish("typing", b"off")
        # A node's own are an empty block.
        published = [*await one.feed(0, _any), *await one.feed(0, _any)]
        assert published == [Relayed(0, "typing", b"off")]
        assert await other.feed(0, _any) == []
        await one.commit(1, [post("a")])
        for engine in (one, other):
            assert [entry.position for entry in await fed(engine)] == [1]
        one.close()
        one.publish("typing", b"lost")


async def test_what_no_node_can_have_published_is_ignored(redis_server: RedisServer) -> None:
    async with opened(redis_server, prefix=(prefix := new_prefix())) as engine:
        redis_server.command("PUBLISH", f"{prefix}:published", "hello")
        assert await engine.feed(0, _any) == []


async def test_removed_words_leave_the_servers_file(own_server: RedisServer) -> None:
    now = 1_700_000_000_000

    def clock() -> int:
        return now

    def on_disk() -> bool:
        files = (own_server.folder / "appendonlydir").iterdir()
        return any(b"secret words" in file.read_bytes() for file in files)

    async with opened(own_server, now=clock) as engine:
        await engine.commit(1, [post("secret words"), post("other")])
        delete = Post("lobby", "Lobby", "u1", "ann", None, "delete", of=1)
        await engine.commit(2, [delete])
        await engine.sweep(Retention(purge_seconds=20))
        await engine.beat(b"")
        assert on_disk()
        now += 10_000
        await engine.beat(b"")
        own_server.await_rewrite()
        assert not on_disk()
        assert await texts(engine) == [None, "other", None]
        assert [entry.position for entry in await fed(engine)] == [3]
        now += 10_000
        await engine.commit(3, [post("more")])
        assert [entry.position for entry in await fed(engine, 3)] == [4]
        await engine.beat(b"")
        assert own_server.command("INFO", "persistence").count("aof_rewrite_in_progress:0")


# ---- operations that read before they write


async def test_rewriting_does_not_see_the_rest_of_its_batch(redis_server: RedisServer) -> None:
    async with opened(redis_server, prefix=new_prefix()) as engine:
        batch: list[Operation] = [post("a"), Wipe("u1", 7), Erase("lobby"), Erase("other")]
        outcomes = await engine.commit(1, batch)
        assert outcomes[1:] == [Progress(7), Progress(0), Progress(None)]
        assert await texts(engine) == ["a"]
        assert await engine.commit(2, [Wipe("u1")]) == [Progress(None)]
        assert await texts(engine) == [None]


async def test_a_room_is_erased_in_chunks(redis_server: RedisServer) -> None:
    async with opened(redis_server, prefix=new_prefix()) as engine:
        await engine.commit(1, [post(key=str(number)) for number in range(CHUNK + 5)])
        assert await engine.commit(2, [Erase("lobby", forget=True)]) == [Progress(CHUNK)]
        assert len(await texts(engine)) == 5
        assert await engine.commit(3, [Erase("lobby", forget=True)]) == [Progress(None)]
        assert await engine.head("lobby") is None
        swept = [one.entry for one in await fed(engine, CHUNK + 5)]
        assert swept == [Swept(70, "lobby", CHUNK + 1), Swept(71, "lobby", CHUNK + 6)]
        assert seqs(await engine.commit(4, [post(key="1")])) == [1]
