"""Which servers are fit to hold chatd's history, and whether they stay so."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from chatd.journal import StoreError, Unavailable, shared
from chatd.journal.engine import Condition, Lost
from chatd.journal.redis.address import Address
from chatd.journal.redis.engine import RedisEngine
from chatd.journal.redis.server import Server
from chatd.journal.shared import open_shared
from chatd.model import Post
from tests.redis_server import RedisServer, needs_redis

ADDRESS = Address("redis.example")
FIT = {"redis_version": "7.0.15", "aof_enabled": "1", "run_id": "r", "master_replid": "m"}


@pytest.mark.parametrize(
    ("version", "fits"),
    [("6.2.14", False), ("7.0.0", True), ("7.2.4", True), ("10.1", True), ("x", False)],
)
def test_a_server_must_be_new_enough(version: str, *, fits: bool) -> None:
    server = Server({**FIT, "redis_version": version}, None)
    if fits:
        server.check(ADDRESS, "commit")
        return
    with pytest.raises(StoreError, match=r"redis\.example:6379 is Redis .*: chatd needs 7\.0"):
        server.check(ADDRESS, "commit")


def test_a_server_whose_fsync_is_secret_is_not_trusted_with_it() -> None:
    Server(FIT, None).check(ADDRESS, "commit")
    with pytest.raises(StoreError, match="not readable by chatd's user"):
        Server(FIT, None).check(ADDRESS, "fsync")
    Server(FIT, "always").check(ADDRESS, "fsync")


def test_a_sentinel_is_no_server() -> None:
    with pytest.raises(StoreError, match=r"write sentinel://redis\.example:6379/NAME"):
        Server({**FIT, "redis_mode": "sentinel"}, None).check(ADDRESS, "commit")


def test_another_process_or_other_data_is_another_life() -> None:
    lives = {
        Server(info, None).life
        for info in (FIT, {**FIT, "run_id": "s"}, {**FIT, "master_replid": "n"})
    }
    assert len(lives) == 3


def test_a_server_that_cannot_write_its_file_is_waited_for() -> None:
    with pytest.raises(Lost, match="cannot write its append-only file: make space"):
        Server({**FIT, "aof_last_write_status": "err"}, None).check(ADDRESS, "commit")
    Server({**FIT, "aof_last_write_status": "ok"}, None).check(ADDRESS, "commit")


def test_a_server_that_loads_its_data_is_waited_for_whatever_else_it_says() -> None:
    with pytest.raises(Lost, match="is loading its data"):
        Server({**FIT, "loading": "1", "aof_enabled": "0"}, None).check(ADDRESS, "commit")
    Server({**FIT, "loading": "0"}, None).check(ADDRESS, "commit")


def test_a_servers_condition_is_without_what_its_limit_does_not_count() -> None:
    info = {
        "used_memory": "1000",
        "mem_not_counted_for_evict": "100",
        "maxmemory": "0",
        "connected_slaves": "2",
        "slave0": "ip=1,port=1,state=online,offset=1,lag=0",
        "slave1": "ip=1,port=2,state=wait_bgsave,offset=0,lag=0",
    }
    assert Server(info, None, 7).condition == Condition(7, 900, math.inf, 1)
    assert Server({**info, "maxmemory": "2000"}, None).condition.memory_limit == 2000


# ---- what changes while it runs


@needs_redis
async def test_a_server_whose_promise_is_gone_is_noticed(own_server: RedisServer) -> None:
    engine = RedisEngine(own_server.url, durability="fsync", timeout=60)
    await engine.enter(None, 0, b"")
    before = await engine.inspect()
    assert (before.replicas, before.memory_limit) == (0, math.inf)
    assert before.memory > 100_000
    for broken, mended, remedy in (
        (
            "maxmemory 100mb maxmemory-policy allkeys-lru",
            "maxmemory 0",
            "set maxmemory-policy to noeviction",
        ),
        ("appendfsync everysec", "appendfsync always", "set appendfsync to always"),
        ("appendonly no", "appendonly yes", "set appendonly to yes"),
    ):
        own_server.command("CONFIG", "SET", *broken.split())
        with pytest.raises(StoreError, match=remedy):
            await engine.inspect()
        with pytest.raises(StoreError, match=remedy):
            await engine.enter(None, 0, b"")
        own_server.command("CONFIG", "SET", *mended.split())
        await engine.enter(None, 0, b"")
        await engine.inspect()
    own_server.command("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "noeviction")
    assert (await engine.inspect()).memory_limit == 100 * 2**20
    engine.close()


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """Return a folder on a disk of 2 MiB."""
    try:
        command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("cannot mount a small disk: that needs root")
    yield folder
    subprocess.run(("umount", "--lazy", str(folder)), check=True)


@needs_redis
async def test_a_full_disk_is_noticed_and_so_is_its_end(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "WATCH_SECONDS", 0.02)
    with RedisServer(small_disk, appendfsync="everysec") as server:
        filler = small_disk / "filler"
        async with open_shared(RedisEngine(server.url, timeout=60)) as journal:
            posted = Post("r", "R", "u", "n", "x" * 10_000)
            await journal.commit([posted])
            await journal.answered([])
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            while journal.in_place:
                with suppress(Unavailable):
                    await journal.commit([posted])
                await journal.answered([])
                await trio.sleep(0.01)
            assert "make space" in journal.reason
            filler.unlink()
            while not journal.in_place:
                await journal.changed.wait()
            assert await journal.commit([posted])
