"""What operators do to a cluster: an upgrade, a move to another store and back, a backup."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from chatd import client
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter
from tests.e2e.cluster import Cluster, Fault, live_through, upgrade_a_daemon
from tests.e2e.programs import chatd_says
from tests.e2e.roamers import JsonRoamer, SocketIoRoamer
from tests.redis_server import RedisServer, needs_redis

pytestmark = needs_redis


@pytest.fixture
async def cluster(
    tmp_path: Path, start_chatd: ChatdStarter, nursery: trio.Nursery
) -> AsyncIterator[Cluster]:
    one = Cluster(tmp_path, start_chatd, nursery)
    yield one
    one.redis.kill()


async def test_a_rolling_upgrade_loses_nothing_and_nobody(
    cluster: Cluster, start_chatd: ChatdStarter
) -> None:
    await cluster.open(3, cluster__lease_seconds=3, chat__presence_grace_seconds=4)
    upgrades: list[Fault] = [partial(upgrade_a_daemon, cluster, port) for port in cluster.ports]
    buried: Fault = partial(trio.sleep, 6)  # longer than the time in which users can come back
    roamers = await live_through(
        cluster,
        [*upgrades, buried],
        calm_seconds=0.5,
        kinds=(JsonRoamer, SocketIoRoamer),
    )
    assert [nick for roamer in roamers for nick in roamer.departures] == []
    *first, last = [cluster.daemons[port] for port in cluster.ports]
    upgraded = await last.line("store", state="upgraded")
    assert "format 2" in upgraded["detail"]
    assert not any(line.get("state") == "upgraded" for one in first for line in one.lines)
    older = await start_chatd.begin({"history.store": "redis", "history.url": cluster.redis.url})
    assert await older.ended() == 78
    [refusal] = older.noise
    assert refusal.endswith("update this one")
    older.noise.clear()


async def say(one: client.Chat, text: str) -> client.Position:
    """Say a text in the lobby; return the message's position."""
    said = await one.say(text, room="lobby")
    assert said.epoch is not None
    assert said.seq is not None
    return client.Position(said.epoch, said.seq)


# ---- from one store to another


def lines(text: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def fill(chatd: ChatdProcess, tokens: Mapping[str, str]) -> None:
    """Put something of each kind that a move keeps into the store."""
    async with (
        client.connect(chatd.url, token=tokens["ann"]) as ann,
        client.connect(chatd.url, token=tokens["bob"]) as bob,
        client.connect(chatd.url, token=tokens["eve"]),
    ):
        for each in (ann, bob):
            await each.join("lobby")
        await ann.say("one", room="lobby", key="k1")
        second = await say(bob, "two")
        await bob.edit("lobby", second.seq, "two, mended")
        await ann.delete("lobby", (await say(ann, "three")).seq)
        await ann.topic("lobby", "the topic")
        await ann.join("den")
        await ann.say("only here", room="den")
        await ann.say("between us", room="@bob")
        await bob.read("lobby", second.seq)
        await ann.mute(user="bob", room="den", reason="noise")
        await ann.ban(user="eve", reason="spam")


async def test_a_chat_moves_to_redis_and_back(tmp_path: Path, start_chatd: ChatdStarter) -> None:
    key = tmp_path / "token.key"
    made = await chatd_says("token", "--new-key", "--output", key)
    assert made[0] == 0, made
    common = {
        "auth.mode": "token",
        "auth.key_files": [str(key)],
        "chat.operators": ["ann"],
        "chat.presence_grace_seconds": 0,
        "admin.socket": str(tmp_path / "admin.sock"),
    }
    at = ("--socket", tmp_path / "admin.sock")

    async def export() -> bytes:
        code, text, error = await chatd_says("export", "--all", *at)
        assert (code, error) == (0, "")
        return text

    async def take(text: bytes) -> None:
        code, said, error = await chatd_says("import", *at, stdin=text)
        assert (code, error) == (0, ""), error
        assert said.startswith(f"{len(text.splitlines())} lines were imported.".encode())

    sqlite = await start_chatd(common)
    tokens = {}
    for user in ("ann", "bob", "eve"):
        code, token, _ = await chatd_says("token", "--user", user, *at)
        assert code == 0
        tokens[user] = token.decode().strip()
    await fill(sqlite, tokens)
    await sqlite.stop()
    configuration = tmp_path / "chatd.toml"
    configuration.write_text(f'history.path = "{sqlite.history}"\n')
    code, everything, error = await chatd_says("export", "--all", "--config", configuration, *at)
    assert (code, error) == (0, "")
    kinds = [one.get("on") or one.get("record") or "user" for one in lines(everything)]
    assert {*kinds} == {
        *("message", "edit", "delete", "topic", "user"),
        *("ban", "mute", "direct", "mark"),
    }
    with RedisServer(tmp_path / "redis") as server:
        shared = {**common, "history.store": "redis", "history.url": server.url}
        redis = await start_chatd(shared)
        other = await start_chatd({**shared, "admin.socket": str(tmp_path / "other.sock")})
        code, _, error = await chatd_says("import", *at, stdin=everything)
        assert code == 1
        assert re.search("Other daemons share this store.*Stop them, then import", error)
        await other.stop()
        await take(everything)
        assert await export() == everything
        code, said, _ = await chatd_says("import", *at, stdin=everything)
        assert said.startswith(b"0 lines were imported.")
        async with client.connect(redis.url, token=tokens["ann"]) as ann:
            entered = await ann.join("lobby")
            assert entered.topic == "the topic"
            assert [getattr(one, "text", None) for one in entered.events][:2] == [
                "one",
                "two, mended",
            ]
            again = await ann.say("one", room="lobby", key="k1")
            assert (again.seq, again.duplicate) == (1, True)
            assert {one.kind for one in (await ann.bans()).bans} == {"ban", "mute"}
        back = await export()
        await redis.stop()
    fresh = await start_chatd({**common, "history.path": str(tmp_path / "fresh.db")})
    await take(back)
    assert await export() == back
    assert [one for one in lines(back) if "id" not in one] == [
        one for one in lines(everything) if "id" not in one
    ]
    async with client.connect(fresh.url, token=tokens["bob"]) as bob:
        entered = await bob.join("lobby")
        assert entered.read == 2
        await bob.join("den")
        with pytest.raises(client.Refused, match="muted"):
            await bob.say("let me", room="den")


# ---- a backup of the engine


async def test_a_backup_of_redis_is_restored(tmp_path: Path, start_chatd: ChatdStarter) -> None:
    """As docs/cluster.md says it: a snapshot, restored into another redis-server."""
    with RedisServer(tmp_path / "redis") as server:
        chatd = await start_chatd({"history.store": "redis", "history.url": server.url})
        async with client.connect(chatd.url, nick="ann") as ann:
            await ann.join("lobby")
            for number in range(1, 3):
                await say(ann, f"text {number}")
            before = await say(ann, "text 3")
            server.command("--rdb", str(tmp_path / "backup.rdb"))
            after = await say(ann, "text 4")
        await chatd.stop()
    restored = tmp_path / "restored"
    restored.mkdir()
    (tmp_path / "backup.rdb").rename(restored / "dump.rdb")
    with RedisServer(restored, appendonly="no") as once:
        once.command("CONFIG", "SET", "appendonly", "yes")
        once.await_rewrite()
    with RedisServer(restored) as server:
        chatd = await start_chatd({"history.store": "redis", "history.url": server.url})
        async with client.connect(chatd.url, nick="bob") as bob:
            since = client.Position(before.epoch, before.seq - 1)
            entered = await bob.join("lobby", since=since)
            assert entered.recovered
            assert entered.epoch != before.epoch
            assert [one.text for one in entered.events] == ["text 3"]  # type: ignore[union-attr]
            await bob.say("text 4 again", room="lobby")
            entered = await bob.join("lobby", since=after)
            assert not entered.recovered
            assert [one.text for one in entered.events][2:] == ["text 3", "text 4 again"]  # type: ignore[union-attr]
        await chatd.stop()
