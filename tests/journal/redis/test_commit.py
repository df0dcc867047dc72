"""Random operations on Redis do what they do on the model, in one order for all nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chatd.journal import Unavailable
from chatd.journal.engine import Engine, Fed
from chatd.journal.modelled import ModelEngine, ModelStore
from chatd.journal.redis.engine import RedisEngine
from chatd.journal.retention import Retention
from chatd.model import (
    Arrive,
    Claim,
    Depart,
    Drop,
    Enter,
    Erase,
    Exit,
    Exited,
    Forget,
    Lease,
    LogEntry,
    Operation,
    Post,
    Put,
    Record,
    Records,
    Relay,
    Remember,
    Renewed,
    Restore,
    Take,
    UserRecord,
    Wipe,
)
from tests.redis_server import RedisServer, needs_redis, new_prefix

pytestmark = needs_redis

NOW = 1_700_000_000_000
DAY = 24 * 3600 * 1000

_rooms = st.sampled_from(["a", "ç", "@u1,u2"])
_users = st.sampled_from(["u1", "u2", "u3"])
_nicks = st.sampled_from(["n", "Ñ", "o p"])
_keys = st.none() | st.sampled_from(["k1", "\0", "\1A", "k\1\2"])
_texts = st.none() | st.sampled_from(["", "\0", "a b", "e\0", "*" * 300]) | st.text(max_size=5)
_numbers = st.integers(0, 9) | st.just(10**300)
_texts = _texts.filter(lambda text: text is None or max(text, default="") < "\ud800")
_posts = st.builds(
    Post,
    room=_rooms,
    name=st.sampled_from(["A", "a"]),
    user=_users,
    nick=_nicks,
    text=_texts,
    kind=st.sampled_from(["message", "message", "topic"]),
    key=_keys,
    reply_to=st.none() | _numbers,
) | st.builds(
    Post,
    room=_rooms,
    name=st.just("a"),
    user=_users,
    nick=_nicks,
    text=_texts,
    kind=st.sampled_from(["edit", "delete"]),
    key=_keys,
    of=_numbers,
    operator=st.booleans(),
)
_kinds = st.sampled_from(["mark", "ban", "lost", "forgotten"])
_names = st.sampled_from(["u1\0a", "u1\0b", "u2\0a", "u", "é"])
_until = st.none() | st.integers(NOW - 1, NOW + DAY)
_kept = st.builds(Record, _kinds, _names, st.binary(max_size=3), _until)
_records = (
    st.builds(Put, _kept)
    | st.builds(Drop, _kinds, _names)
    | st.builds(Take, _kinds, _names)
    | st.builds(
        Records,
        st.lists(_kept, max_size=2).map(tuple),
        st.lists(st.tuples(_kinds, _names), max_size=2).map(tuple),
    )
    | st.builds(
        Lease,
        st.builds(Record, st.just("lost"), _names, st.binary(max_size=3)),
        st.integers(0, DAY),
    )
)
_people = st.builds(
    Remember,
    st.builds(UserRecord, _users, _nicks, st.none() | st.integers(NOW - DAY, NOW), st.booleans()),
) | st.builds(Forget, _users)
_looks = st.lists(st.sampled_from("xyz"), min_size=1, max_size=2, unique=True).map(tuple)
_presence = (
    st.builds(Arrive, _users, _nicks, st.booleans())
    | st.builds(Depart, _users, st.none() | st.integers(NOW, NOW + DAY), st.binary(max_size=2))
    | st.builds(Claim, _users, _nicks, _looks, st.booleans(), st.just(()) | _looks)
    | st.builds(Enter, _rooms, st.sampled_from(["A", "a"]), _users, _nicks, st.booleans())
    | st.builds(Exit, _rooms, _users, st.sampled_from(["leave", "lost", "kicked"]))
    | st.builds(Relay, st.just("kick"), st.binary(max_size=2))
)


def _restore(room: str, first: int, count: int, key: str | None) -> Restore:
    entries = [
        LogEntry(room.upper(), first + place, NOW + place, "message", "u2", "n", "old", key=None)
        for place in range(count)
    ]
    entries.append(
        LogEntry(room.upper(), first + count, NOW, "topic", "u2", "n", "of old", key=key)
    )
    return Restore(room, tuple(entries))


_rewrites = (
    st.builds(_restore, _rooms, st.integers(1, 8), st.integers(0, 2), _keys)
    | st.builds(Erase, _rooms, st.booleans())
    | st.builds(Wipe, _users)
)
# What changes stored events does not see the rest of its batch: see `test_rewriting`.
_batches = st.lists(
    st.one_of(_posts, _posts, _records, _presence, _people), min_size=1, max_size=8
) | st.lists(_rewrites, min_size=1, max_size=1)
_nodes = st.integers(0, 1)
_steps = st.one_of(
    st.tuples(st.just("commit"), _nodes, _batches),
    st.tuples(st.just("commit"), _nodes, _batches),
    st.tuples(st.just("again"), _nodes, st.none()),
    st.tuples(st.just("late"), _nodes, st.none()),
    st.tuples(st.just("void"), _nodes, st.booleans()),
    st.tuples(st.just("pass"), st.integers(0, DAY), st.none()),
    st.tuples(st.just("end"), _nodes, st.none()),
    st.tuples(st.just("sweep"), _nodes, st.none()),
)
_retentions = st.builds(
    Retention,
    keep_days=st.just("off") | st.integers(1, 2),
    keep_events=st.just("off") | st.integers(1, 5),
    max_bytes=st.just("off"),
    user_days=st.just("off") | st.integers(1, 2),
)


class _Node:
    """A node of both stores at once, and its last batch."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = engines
        self.number = 0
        self.last: Sequence[Operation] = ()
        self.before: Sequence[Operation] = ()
        self.ids = [""] * len(engines)

    async def enter(self) -> None:
        lives = [await engine.enter(None, 0, b"facts") for engine in self.engines]
        assert lives[0].position == lives[1].position
        assert sorted(lives[0].former.values()) == sorted(lives[1].former.values())
        self.ids = [life.node for life in lives]
        self.number = 0

    async def commit(self, number: int, batch: Sequence[Operation]) -> None:
        outcomes = [await _result(engine.commit(number, batch)) for engine in self.engines]
        assert outcomes[0] == outcomes[1]

    async def void(self, number: int) -> None:
        settled = [
            await _result(engine.void(node, number))
            for engine, node in zip(self.engines, self.ids, strict=True)
        ]
        assert settled[0] == settled[1]


async def _result(waiting: Any) -> object:
    """Return a result, or the class of the exception that was raised."""
    try:
        return await waiting
    except Unavailable as error:
        return type(error)


async def _everything(engine: Engine) -> list[object]:
    """Return what is read of a store, without what differs: names of epochs and nodes."""
    found: list[object] = [
        await engine.position(),
        await engine.rooms(),
        await engine.present(0),
        await engine.subjects(),
        sorted((node.lease_until, node.facts) for node in await engine.nodes()),
    ]
    for kind in ("mark", "ban", "lost", "forgotten"):
        found += [await engine.records(kind), await engine.records(kind, "u1\0", 1)]
    for look in "xyz":
        found.append(await engine.holder(look))
    for user in ("u1", "u2", "u3"):
        said, upto = await engine.entries_of(user, 0)
        found += [await engine.user(user), said, upto]
    for room in ("a", "ç", "@u1,u2"):
        found += [
            await engine.head(room),
            await engine.read(room, 0, 10**9, 10**9),
            await engine.read_back(room, 4, 2),
            await engine.entries(room, 1, 3),
            await engine.unread(room, "u1", 2, 3),
            [(one.user, one.nick, one.op, one.total) for one in await engine.members(room)],
            *[await engine.seq_at(room, position) for position in range(0, 20, 3)],
        ]
    found.append(await engine.read_rooms({"a": 2, "ç": 0, "b": 1}, 12, 5))
    return found


async def _feed(engine: Engine, after: int) -> list[object]:
    """Return the feed behind a position, without what differs."""
    found: list[object] = []
    last = (await engine.enter(None, 0, b"")).position
    while after < last:
        for one in await engine.feed(after, lambda _room: True):
            assert isinstance(one, Fed)
            assert one.entry is not None
            after = one.position
            batch = one.origin.split(".")[1:-1]
            if isinstance(one.entry, Renewed):
                found.append((one.position, batch))
            elif isinstance(one.entry, Exited) and not batch:
                # Who leaves with a dead node does so in any order.
                if not (found and isinstance(found[-1], set)):
                    found.append(set())
                buried: Any = found[-1]
                buried.add((one.entry.room, one.entry.user, one.entry.last))
            else:
                found.append((one.position, batch, one.entry))
    return found


async def _compare(url: str, steps: list[tuple[str, Any, Any]], retention: Retention) -> None:
    now = NOW

    def clock() -> int:
        return now

    prefix = new_prefix()
    store = ModelStore(clock)
    nodes = [
        _Node([RedisEngine(url, prefix=prefix, now=clock, timeout=60), ModelEngine(store)])
        for _ in range(2)
    ]
    for node in nodes:
        await node.enter()
    redis, model = nodes[0].engines
    for step, value, more in steps:
        if step == "pass":
            now += value
            for node in nodes:
                beats = [await _result(engine.beat(b"beat")) for engine in node.engines]
                assert beats[0] == beats[1]
            continue
        node = nodes[value]
        if step == "commit":
            node.number, node.before, node.last = node.number + 1, node.last, more
            await node.commit(node.number, more)
        elif step == "again":
            if node.number:
                await node.commit(node.number, node.last)
        elif step == "late":  # a copy of the batch before the last one, which may be void
            if node.before and node.number > 1:
                await node.commit(node.number - 1, node.before)
                await node.commit(node.number, node.last)  # an engine knows only its last batch
        elif step == "void":
            node.number = max(1, node.number + more)
            await node.void(node.number)
        elif step == "end":
            for engine in node.engines:
                await engine.leave(0)
            for engine in nodes[1 - value].engines:
                while await engine.bury(DAY):
                    pass
            await node.enter()
        else:
            # On Redis, a node shortens only those rooms to which it has added events.
            for engine in (*node.engines, *nodes[1 - value].engines):
                while (await engine.sweep(retention)).more:
                    pass
            assert await _everything(redis) == await _everything(model)
    assert await _everything(redis) == await _everything(model)
    # Each trims it at its own time, perhaps between those who leave together.
    feeds = await _feed(redis, 0), await _feed(model, 0)
    both = min(map(len, feeds)) - (len(feeds[0]) != len(feeds[1]))
    assert feeds[0][len(feeds[0]) - both :] == feeds[1][len(feeds[1]) - both :]
    for node in nodes:
        for engine in node.engines:
            engine.close()


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@example(
    steps=[
        ("commit", 0, [_restore("ç", 1, 0, None)]),
        ("commit", 0, [_restore("a", 1, 0, None)]),
        ("commit", 0, [Wipe("u2")]),
    ],
    retention=Retention(),
)
@example(  # a room that grows between two sweeps
    steps=[
        ("sweep", 1, None),
        ("commit", 0, [_restore("a", 1, 1, None)]),
        ("sweep", 1, None),
    ],
    retention=Retention(keep_events=1),
)
@given(steps=st.lists(_steps, max_size=12), retention=_retentions)
def test_redis_and_the_model_are_alike(
    redis_server: RedisServer, steps: list[tuple[str, Any, Any]], retention: Retention
) -> None:
    trio.run(_compare, redis_server.url, steps, retention)
