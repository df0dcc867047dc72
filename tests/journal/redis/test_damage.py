"""What happens when somebody changes the store in Redis by hand, or takes chatd's rights away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from chatd.changed import Changed
from chatd.journal import StoreError, Unavailable
from chatd.journal.engine import Damaged
from chatd.journal.redis.engine import RedisEngine
from chatd.journal.retention import Retention
from chatd.journal.shared import SharedJournal, open_shared
from chatd.model import (
    Arrive,
    Claim,
    Enter,
    Event,
    FeedEntry,
    Operation,
    Post,
    Put,
    Record,
    Remember,
    UserRecord,
)
from tests.journal.redis.test_engine import documented_rights
from tests.redis_server import RedisServer, needs_redis, new_prefix

pytestmark = needs_redis


def post(text: str = "hello", room: str = "lobby") -> Post:
    return Post(room, room.title(), "u1", "ann", text)


class Node:
    """A node on Redis: its journal, what it has shown, and what it has reported."""

    _progress = Changed()
    """Notified when any node has shown or reported something, or its state has changed."""

    def __init__(self, engine: RedisEngine) -> None:
        self.engine = engine
        self.journal: SharedJournal
        self.reports: list[tuple[str, str]] = []
        self.shown: list[tuple[int, str | None]] = []

    def report(self, _event: str, /, **fields: object) -> None:
        self.reports.append((str(fields["state"]), str(fields["detail"])))
        self._progress.notify()

    async def show(self, committed: trio.MemoryReceiveChannel[Sequence[FeedEntry]]) -> None:
        async for block in committed:
            self.shown += ((one.position, one.text) for one in block if isinstance(one, Event))
            self._progress.notify()

    async def watch(self) -> None:
        while True:
            await self.journal.changed.wait()
            self._progress.notify()

    async def say(self, text: str) -> None:
        failure = None
        try:
            await self.journal.commit([post(text)])
        except Unavailable as error:
            failure = error
        await self.journal.answered([])
        if failure is not None:
            raise failure

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(60):
            while not condition():
                await self._progress.wait()


@asynccontextmanager
async def node(server: RedisServer, prefix: str, **options: Any) -> AsyncIterator[Node]:
    engine = RedisEngine(server.url, prefix=prefix, timeout=5, lease_seconds=3, **options)
    opened = Node(engine)
    async with (
        open_shared(engine, report=opened.report, timeout_seconds=5) as opened.journal,
        trio.open_nursery() as nursery,
    ):
        send, receive = trio.open_memory_channel[Sequence[FeedEntry]](10)
        nursery.start_soon(opened.show, receive)
        nursery.start_soon(opened.watch)
        opened.journal.start(send.send, lambda _: True)
        yield opened
        nursery.cancel_scope.cancel()


# ---- the feed


@pytest.mark.parametrize(
    "entry",
    [
        ("*", "a", "b"),
        ("*", "o", "x.1.0", "k", "E", "1", "lobby", "2", "9", "3", "garbage"),
        ("*", "o", "\xff", "k", "N"),
        ("2-0", "a", "b"),
        ("1-7", "a", "b"),
    ],
)
async def test_an_entry_that_somebody_adds_to_the_feed_is_removed(
    redis_server: RedisServer, entry: tuple[str, ...]
) -> None:
    prefix = new_prefix()
    async with node(redis_server, prefix) as first, node(redis_server, prefix) as second:
        await first.say("1")
        added = redis_server.command("XADD", f"{prefix}:f", *entry)
        # A node that reads the feed a moment later does not find it any more.
        await first.until(lambda: bool(first.reports or second.reports))
        said = (
            f"the entry {added} of {prefix}:f in Redis, which chatd has not written, is removed: "
            f"let nobody else write to keys that begin with {prefix}"
        )
        reported = ("damaged", said)
        assert {*first.reports, *second.reports} == {reported}
        await second.say("2")
        await first.say("3")
        for one in (first, second):
            await one.until(lambda one=one: len(one.shown) == 3)  # type: ignore[misc]
            assert one.shown == [(1, "1"), (2, "2"), (3, "3")]
            assert one.journal.resyncs == 0
            assert one.journal.reconnects == 0


async def test_an_entry_that_was_added_and_deleted_again_stops_nobody(
    redis_server: RedisServer,
) -> None:
    prefix = new_prefix()
    async with node(redis_server, prefix) as only:
        await only.say("1")
        redis_server.command(
            "EVAL",
            "redis.call('XDEL', KEYS[1], redis.call('XADD', KEYS[1], '*', 'a', 'b'))",
            "1",
            f"{prefix}:f",
        )
        await only.say("2")
        await only.until(lambda: only.shown == [(1, "1"), (2, "2")])


async def test_an_entry_that_cannot_be_read_at_its_place_is_left_out(
    redis_server: RedisServer,
) -> None:
    prefix = new_prefix()
    async with node(redis_server, prefix) as only:
        await only.say("1")
        redis_server.command(
            "EVAL",
            "redis.call('HSET', KEYS[1], 'pos', 2) redis.call('XADD', KEYS[2], '2-0', 'a', 'b')",
            "2",
            f"{prefix}:m",
            f"{prefix}:f",
        )
        await only.until(lambda: bool(only.reports))
        await only.say("3")
        await only.until(lambda: only.shown == [(1, "1"), (3, "3")])
        assert only.journal.resyncs == 0
        assert "is left out" in str(only.reports[0][1])


async def test_a_feed_that_was_deleted_goes_on(redis_server: RedisServer) -> None:
    prefix = new_prefix()
    async with node(redis_server, prefix) as first:
        await first.say("1")
        await first.until(lambda: first.shown == [(1, "1")])
        redis_server.command("DEL", f"{prefix}:f")
        async with node(redis_server, prefix) as second:
            assert second.journal.position == 1
            await second.say("2")
            await first.until(lambda: first.shown == [(1, "1"), (2, "2")])
            await second.until(lambda: second.shown == [(2, "2")])
            assert first.journal.resyncs == second.journal.resyncs == 0


# ---- everything else

BATCH: Final[list[Operation]] = [
    Arrive("u1", "ann", subject=True),
    Claim("u1", "ann", ("ann",), True, ("ann",)),
    Remember(UserRecord("u1", "ann", 10**14, subject=True)),
    Enter("lobby", "Lobby", "u1", "ann", op=False),
    Put(Record("ban", "\0x", b"{}", 10**15)),
    Put(Record("mark", "u1\0lobby", b"1")),
    Post("lobby", "Lobby", "u1", "ann", "hello", key="k"),
]


async def use_everything(engine: RedisEngine, batches: list[object]) -> list[str]:
    """Call what reads and writes. Return the reasons of those calls that cannot be done.

    ``batches`` has the batches that were committed.
    """
    reasons: list[str] = []
    engine.on_damage = reasons.append
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: engine.read("lobby", 0, 100, 100),
        lambda: engine.read_back("lobby", 100, 100),
        lambda: engine.read_rooms({"lobby": 0}, 100, 100),
        lambda: engine.head("lobby"),
        engine.rooms,
        lambda: engine.seq_at("lobby", 5),
        lambda: engine.unread("lobby", "u2", 0, 100),
        lambda: engine.entries("lobby", 0, 100),
        lambda: engine.entries_of("u1", 0),
        lambda: engine.records("ban"),
        lambda: engine.user("u1"),
        lambda: engine.present(0),
        engine.subjects,
        engine.position,
        lambda: engine.members("lobby"),
        engine.occupied,
        lambda: engine.holder("ann"),
        engine.nodes,
        lambda: engine.sweep(Retention(keep_days=1, max_bytes=1)),
        lambda: engine.beat(b""),
        lambda: engine.bury(0),
    ]

    async def commit(operation: Operation) -> None:
        await engine.commit(len(batches) + 1, [operation])
        batches.append(operation)

    calls += [partial(commit, one) for one in BATCH]
    for call in calls:
        try:
            await call()
        except Unavailable as error:
            reasons.append(str(error))
    return reasons


KEYS = (
    *("at", "b", "debts", "e", "f", "facts", "held", "k", "kinds", "looks", "m", "n", "names"),
    *("nicks", "of", "order", "own", "p", "r", "rooms", "s", "seen", "subjects", "totals", "u"),
    "until",
)


CHANGE = """
local key, change = KEYS[1], ARGV[1]
local kind = redis.call('TYPE', key).ok
if change ~= 'garbage' then redis.call('DEL', key) end
if change == 'type' then
  redis.call('RPUSH', key, 'x')
elseif change == 'garbage' and kind == 'hash' then
  for _, field in ipairs(redis.call('HKEYS', key)) do redis.call('HSET', key, field, 'garbage') end
  redis.call('HSET', key, 'garbage', 'garbage')
elseif change == 'garbage' and kind == 'zset' then
  redis.call('ZADD', key, 1, 'garbage', 'inf', 'other')
elseif change == 'garbage' and kind == 'string' then
  redis.call('SET', key, 'garbage')
end
"""


@pytest.mark.parametrize("name", KEYS)
async def test_whatever_is_changed_by_hand_is_said_in_one_line(
    redis_server: RedisServer, name: str
) -> None:
    prefix = new_prefix()
    engine = RedisEngine(redis_server.url, prefix=prefix, timeout=60)
    node = (await engine.enter(None, 0, b"")).node
    await engine.commit(1, BATCH)
    batches: list[object] = [BATCH]
    redis_server.command("ZADD", f"{prefix}:held", "1", "u9")
    redis_server.command("HSET", f"{prefix}:debts", "u9", "[]")
    found = redis_server.command("KEYS", f"{prefix}:{name}*").split("\n")
    [key, *_] = [one for one in found if one.split(":")[1] == name]
    try:
        for change in ("garbage", "type", "delete"):
            redis_server.command("EVAL", CHANGE, "1", key, change)
            reasons = await use_everything(engine, batches)
            try:
                life = await engine.enter(None, 0, b"")
                if life.node != node:
                    node, batches = life.node, []
            except (Unavailable, StoreError) as error:
                reasons.append(str(error))
            assert not any("\n" in reason for reason in reasons)
            if change == "type":
                assert any(key in reason for reason in reasons), reasons
    finally:
        engine.close()


@pytest.mark.parametrize("field", ["pos", "at", "bytes", "format"])
async def test_a_store_whose_head_is_no_number_is_down(
    redis_server: RedisServer, field: str
) -> None:
    prefix = new_prefix()
    async with node(redis_server, prefix) as only:
        await only.say("1")
        before = redis_server.command("HGET", f"{prefix}:m", field)
        redis_server.command("HSET", f"{prefix}:m", field, "garbage")
        if field == "format":  # which is read by those that enter
            redis_server.command("DEL", f"{prefix}:n")
        remedy = f"the key {prefix}:m in Redis is not as chatd has written it: restore a backup"
        await only.until(lambda: only.journal.reason.startswith(remedy))
        assert only.journal.down_since is not None
        with pytest.raises(Unavailable, match="restore a backup"):
            await only.say("2")
        redis_server.command("HSET", f"{prefix}:m", field, before)
        await only.until(lambda: only.journal.down_since is None)
        await only.say("3")
        await only.until(lambda: only.shown[-1] == (only.journal.position, "3"))


async def test_numbers_are_not_given_again_in_a_room_that_was_deleted(
    redis_server: RedisServer,
) -> None:
    prefix = new_prefix()
    engine = RedisEngine(redis_server.url, prefix=prefix, timeout=60)
    await engine.enter(None, 0, b"")
    await engine.commit(1, [post("1")])
    redis_server.command("DEL", f"{prefix}:r:lobby")
    with pytest.raises(Damaged, match=r":r:lobby in Redis .* restore a backup"):
        await engine.commit(2, [post("2")])
    with pytest.raises(Damaged, match=r":r:lobby"):
        await engine.read("lobby", 0, 10, 10)
    await engine.commit(2, [post("elsewhere", "other")])
    engine.close()


# ---- rights


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("secret")
    return path


RIGHTS = ("hset", "xadd", "zrange", "publish")


async def test_a_right_that_is_taken_away_is_an_outage_until_it_is_given_back(
    own_server: RedisServer, secret: Path
) -> None:
    rights = documented_rights("chatd")
    own_server.command("ACL", "SETUSER", "chatd", "reset", "on", ">secret", *rights)
    options = {"user": "chatd", "password_file": secret}
    async with node(own_server, "{chatd}", **options) as only:
        for right in RIGHTS:
            own_server.command("ACL", "SETUSER", "chatd", f"-{right}")
            with pytest.raises(StoreError, match=f"needs more rights: .*{right.upper()}"):
                async with node(own_server, "{chatd}", **options):
                    pass
            only.journal.reason = ""
            with suppress(Unavailable):
                await only.say(right)
                await only.journal.nodes()
            if right != "publish":  # which is not needed at once
                await only.until(lambda: "needs more rights" in only.journal.reason)
                assert only.journal.down_since is not None
            own_server.command("ACL", "SETUSER", "chatd", f"+{right}")
            await only.until(lambda: only.journal.down_since is None)
        await only.say("last")
        await only.until(lambda: only.shown[-1][1] == "last")
        assert [position for position, _ in only.shown] == list(
            range(only.shown[0][0], only.shown[-1][0] + 1)
        )


async def test_without_the_right_to_wait_for_replicas_nothing_begins(
    own_server: RedisServer, secret: Path
) -> None:
    rights = [*documented_rights("chatd"), "-wait"]
    own_server.command("ACL", "SETUSER", "chatd", "reset", "on", ">secret", *rights)
    with pytest.raises(StoreError, match="may not run WAIT"):
        async with node(own_server, "{chatd}", user="chatd", password_file=secret, replicas=1):
            pass
    async with node(own_server, "{chatd}", user="chatd", password_file=secret):
        pass  # without replicas it is not needed
