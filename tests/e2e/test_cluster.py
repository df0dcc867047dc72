"""Several daemons over one Redis: one chat, whatever is killed, stopped or cut off."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.chatd_process import ChatdStarter
from tests.e2e.cluster import (
    Balancer,
    Cluster,
    Fault,
    cut_a_daemon_off,
    kill_a_daemon,
    kill_the_engine,
    live_through,
    stop_the_engine,
)
from tests.e2e.programs import going_on
from tests.e2e.roamers import GoneError, WebSocketPipe
from tests.e2e.sentinels import Sentinels
from tests.e2e.socketio_clients import ROOT, Clients
from tests.redis_cluster import RedisCluster
from tests.redis_server import RedisServer, needs_redis

pytestmark = needs_redis

BAN_SECONDS = 1  # some milliseconds, but the machine may be busy
LEFT_SECONDS = 5
"""How long after the end of a node's lease its members leave at the latest."""

SECONDS = 60  # ends a hang


@pytest.fixture
async def cluster(
    tmp_path: Path, start_chatd: ChatdStarter, nursery: trio.Nursery
) -> AsyncIterator[Cluster]:
    one = Cluster(tmp_path, start_chatd, nursery)
    yield one
    one.redis.kill()


async def test_clients_that_roam_miss_nothing_whatever_is_killed(cluster: Cluster) -> None:
    await cluster.open(3)
    faults: Sequence[Fault] = (
        lambda: kill_a_daemon(cluster),
        lambda: kill_the_engine(cluster),
        lambda: stop_the_engine(cluster, 2.5),
        lambda: cut_a_daemon_off(cluster, 3),
        lambda: kill_a_daemon(cluster),
    )
    roamers = await live_through(cluster, faults, calm_seconds=1.0)
    assert sum(each.recovered for each in roamers) > 0


async def live_through_failovers(
    servers: Sentinels | RedisCluster, faults: Sequence[Fault], cluster: Cluster
) -> None:
    """Let clients move between two daemons while Redis servers with replicas take turns."""
    try:
        await servers.start()
        await cluster.open_at(servers.url, 2, history__replicas=1)
        await live_through(cluster, faults, calm_seconds=0.5)
    finally:
        servers.kill()


async def test_nothing_is_lost_when_a_replica_takes_over(
    tmp_path: Path, start_chatd: ChatdStarter, nursery: trio.Nursery
) -> None:
    servers = Sentinels(tmp_path)
    faults = (servers.replace_by_stop, servers.replace_by_kill)
    await live_through_failovers(servers, faults, Cluster(tmp_path, start_chatd, nursery))


async def test_nothing_is_lost_when_a_slot_of_a_redis_cluster_changes_its_server(
    tmp_path: Path, start_chatd: ChatdStarter, nursery: trio.Nursery
) -> None:
    servers = RedisCluster(tmp_path, replicas=2)
    faults = (servers.replace_by_kill, servers.replace_by_command)
    await live_through_failovers(servers, faults, Cluster(tmp_path, start_chatd, nursery))


# ---- one thing at a time


class Speaker:
    """A client of ``chatd.v1`` at one daemon."""

    def __init__(self, pipe: WebSocketPipe) -> None:
        self._pipe = pipe
        self._events: list[dict[str, Any]] = []

    async def do(self, do: str, **fields: Any) -> dict[str, Any]:
        """Give a command; return the answer, or the error."""
        await self._pipe.send(json.dumps({"do": do, "id": 1, **fields}))
        while "re" not in (frame := json.loads(await self._pipe.receive())):
            self._events.append(frame)
        answer: dict[str, Any] = frame.get("ok") or frame["error"]
        return answer

    async def next(self, on: str) -> dict[str, Any]:
        """Wait for the next event of this name."""
        with trio.fail_after(SECONDS):
            while True:
                frame: dict[str, Any] = (
                    self._events.pop(0) if self._events else json.loads(await self._pipe.receive())
                )
                if frame.get("on") == on:
                    return frame


def speaking(port: int, nick: str) -> AbstractAsyncContextManager[WebSocketPipe]:
    return WebSocketPipe.open(port, f"/ws?nick={nick}", ["chatd.v1"])


async def test_a_ban_holds_at_every_daemon_at_once(cluster: Cluster) -> None:
    await cluster.open(2)
    here, there = cluster.ports
    took = []
    for number in range(3):
        async with speaking(there, f"bob{number}") as pipe:
            bob = Speaker(pipe)
            await bob.next("hello")
            await bob.do("join", room="lobby")
            await cluster.administer(here, "POST", "/ban", nick=f"bob{number}")
            began = time.monotonic()
            bye = await bob.next("bye")
            took.append(time.monotonic() - began)
            assert bye["code"] == 4501
    assert min(took) < BAN_SECONDS, took
    listed = await cluster.administer(there, "GET", "/bans")
    assert {one["nick"] for one in listed["bans"]} >= {"bob0", "bob1", "bob2"}


async def test_members_of_a_killed_daemon_leave(cluster: Cluster) -> None:
    await cluster.open(2, cluster__lease_seconds=3)
    here, there = cluster.ports
    async with speaking(here, "ann") as ours, speaking(there, "bob") as theirs:
        ann, bob = Speaker(ours), Speaker(theirs)
        await ann.do("join", room="lobby")
        joined = await bob.do("join", room="lobby")
        assert [member["nick"] for member in joined["members"]] == ["ann", "bob"]
        assert (await ann.next("joined"))["nick"] == "bob"
        nodes = await cluster.administer(here, "GET", "/nodes")
        assert [one["here"] for one in nodes["nodes"]].count(True) == 1
        assert len(nodes["nodes"]) == 2
        killed = time.monotonic()
        await cluster.kill(there)
        left = await ann.next("left")
        assert (left["nick"], left["reason"]) == ("bob", "lost")
        assert time.monotonic() - killed < 3 + LEFT_SECONDS


async def test_a_real_socketio_client_recovers_at_another_daemon(
    cluster: Cluster, clients: Clients, nursery: trio.Nursery
) -> None:
    await cluster.open(2)
    first, second = cluster.ports
    balancer = Balancer(first)
    await nursery.start(balancer.run)
    url = f"http://localhost:{balancer.port}"
    roamer = await clients.open("client-4.8", url, ["websocket"], auth={"nick": "roamer"})
    assert await roamer.hears("connect") == [False]
    [hello] = await roamer.hears("hello")
    async with speaking(second, "ann") as pipe:
        ann = Speaker(pipe)
        for room in ("lobby", "side"):
            await ann.do("join", room=room)
        assert "ok" in (await roamer.request("join", {"room": "side"}))[0]
        for number in range(3):
            await ann.do("say", room="side", text=f"side {number}")
            await ann.do("say", room="lobby", text=f"lobby {number}")
        heard = [await roamer.hears("chat message") for _ in range(6)]
        balancer.behind = second
        await cluster.kill(first)
        for number in range(3, 6):
            await ann.do("say", room="lobby", text=f"lobby {number}")
            await ann.do("say", room="side", text=f"side {number}")
        assert await roamer.hears("connect") == [True]
        [again] = await roamer.hears("hello")
        assert (again["user"], again["nick"]) == (hello["user"], "roamer")
        await ann.do("say", room="side", text="side 6")
        heard += [await roamer.hears("chat message") for _ in range(7)]
        for room, count in (("lobby", 6), ("side", 7)):
            texts = [text for text, about, *_ in heard if about["room"] == room]
            assert texts == [f"{room} {number}" for number in range(count)]
        assert roamer.heard("chat message") == []
        assert "ok" in (await roamer.request("chat message", "here I am"))[0]


async def test_a_daemon_waits_for_its_engine_and_goes_on_by_itself(
    cluster: Cluster, start_chatd: ChatdStarter
) -> None:
    settings = {
        "history.store": "redis",
        "history.url": cluster.redis.url,
        "cluster.patience_seconds": 1,
    }
    chatd = await start_chatd.begin(settings)
    assert str(cluster.redis.socket) in (await chatd.line("store", state="waiting"))["detail"]
    with pytest.raises(OSError, match="failed"):
        await trio.open_tcp_stream("127.0.0.1", chatd.port)
    await cluster.start_redis()
    await chatd.line("ready")
    async with speaking(chatd.port, "ann") as pipe:
        ann = Speaker(pipe)
        await ann.next("hello")
        await ann.do("join", room="lobby")
        await ann.do("say", room="lobby", text="before")
        cluster.redis.kill()
        await chatd.line("store", state="failed")
        assert (await ann.do("say", room="lobby", text="while"))["code"] == "unavailable"
        assert (await ann.next("bye"))["code"] == 1001
    with pytest.raises(GoneError):
        async with speaking(chatd.port, "ann") as pipe:
            await pipe.receive()
    await cluster.start_redis()
    await chatd.line("store", state="recovered", detail="the store answers again")
    async with speaking(chatd.port, "ann") as pipe:
        joined = await Speaker(pipe).do("join", room="lobby")
        assert [event["text"] for event in joined["events"]] == ["before"]
    chatd.signal(signal.SIGTERM)
    assert await chatd.ended() == 0


async def test_a_daemon_says_on_reload_whether_the_server_takes_the_new_password(
    cluster: Cluster, start_chatd: ChatdStarter, tmp_path: Path
) -> None:
    await cluster.start_redis()
    rights = ("on", "~*", "&*", "+@all")
    cluster.redis.command("ACL", "SETUSER", "chatd", *rights, ">old")
    password, config = tmp_path / "password", tmp_path / "chatd.toml"
    password.write_text("old\n")
    password.chmod(0o600)
    history = {
        "store": "redis",
        "url": cluster.redis.url,
        "user": "chatd",
        "password_file": str(password),
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in history.items()]
    config.write_text("\n".join(["[history]", *lines]))
    chatd = await start_chatd(config=config)
    password.write_text("new\n")
    chatd.signal(signal.SIGHUP)
    warning = await chatd.line("warning", setting="history.url")
    assert "refuses the password of the user 'chatd'" in warning["detail"]
    cluster.redis.command("ACL", "SETUSER", "chatd", ">new")
    chatd.lines.clear()
    chatd.signal(signal.SIGHUP)
    await chatd.line("reload")
    cluster.redis.command("ACL", "SETUSER", "chatd", "<old")
    cluster.redis.command("CLIENT", "KILL", "USER", "chatd")
    await chatd.line("store", state="recovered")
    assert not [line for line in chatd.lines if line["event"] == "warning"]
    assert await chatd.stop() == 0


async def test_an_event_stream_goes_on_under_another_epoch(
    cluster: Cluster, start_chatd: ChatdStarter, tmp_path: Path
) -> None:
    await cluster.start_redis()
    chatd = await start_chatd({"history.store": "redis", "history.url": cluster.redis.url})
    room = f"http://localhost:{chatd.port}/rooms/lobby"
    follow = ("curl", "-sNf", "-H", "Accept: text/event-stream", room)
    async with going_on(tmp_path, *follow) as stream, speaking(chatd.port, "ann") as pipe:
        ann = Speaker(pipe)
        await ann.next("hello")
        await ann.do("join", room="lobby")
        await ann.do("say", room="lobby", text="before")
        before = await stream.until("before")
        cluster.redis.kill()
        await chatd.line("store", state="failed")
        await cluster.start_redis()
        *_, line = await stream.until('"on":"epoch"')
        epoch = json.loads(line.removeprefix("data: "))["epoch"]
        assert await stream.line() == ""
        position = (await stream.line()).removeprefix("id: ")
        assert position.startswith(epoch)
        assert f"id: {position}" not in before
        assert await stream.line() == ""
        await ann.do("say", room="lobby", text="after")
        await stream.until("after")
    # It resumes after what it had, by the position that came with the epoch.
    resume = (*follow[:-1], "-H", f"Last-Event-ID: {position}", room)
    async with going_on(tmp_path, *resume) as stream:
        assert await stream.texts(1) == ["after"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"appendonly": "no"}, "appendonly"),
        ({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, "noeviction"),
    ],
)
async def test_an_engine_that_may_lose_messages_is_refused(
    tmp_path: Path, start_chatd: ChatdStarter, options: dict[str, str], says: str
) -> None:
    with RedisServer(tmp_path / "redis", **options) as redis:
        settings = {"history.store": "redis", "history.url": redis.url}
        chatd = await start_chatd.begin(settings)
        assert await chatd.ended() == 78
    [line] = chatd.noise
    assert says in line
    chatd.noise.clear()


async def test_a_user_with_few_rights_and_a_password_is_enough(
    tmp_path: Path, start_chatd: ChatdStarter
) -> None:
    page = (ROOT / "docs" / "cluster.md").read_text()
    (rights,) = re.findall(r"^user chatd on >PASSWORD (.*)$", page, re.MULTILINE)
    users = tmp_path / "users.acl"
    users.write_text(f"user default off\nuser chatd on >secret {rights}\n")
    password = tmp_path / "password"
    password.write_text("secret\n")
    password.chmod(0o600)
    with RedisServer(tmp_path / "redis", aclfile=str(users)) as redis:
        settings = {"history.store": "redis", "history.url": redis.url}
        refused = await start_chatd.begin(settings)
        assert await refused.ended() == 78
        assert "history.password_file" in refused.noise[0]
        refused.noise.clear()
        settings |= {"history.user": "chatd", "history.password_file": str(password)}
        chatd = await start_chatd(settings)
        async with speaking(chatd.port, "ann") as pipe:
            ann = Speaker(pipe)
            await ann.do("join", room="lobby")
            assert (await ann.do("say", room="lobby", text="hello"))["seq"] == 1
        assert await chatd.stop() == 0
