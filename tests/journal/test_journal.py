"""The contract of every journal, and that both keep it alike."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatd.journal import Journal
from chatd.journal.memory import MemoryJournal
from chatd.journal.retention import Retention
from chatd.journal.sqlite import open_sqlite
from chatd.model import (
    Event,
    Head,
    Operation,
    Outcome,
    Post,
    Receipt,
    Remember,
    UserRecord,
)

NOW = 1_700_000_000_000
DAY = 24 * 3600 * 1000
KEPT = Retention(keep_days="off", keep_events="off", max_bytes="off", user_days="off")


def post(
    text: str = "hello", *, room: str = "lobby", user: str = "u1", key: str | None = None
) -> Post:
    return Post(room, room.title(), user, f"nick {user}", text, key=key)


def events(outcomes: list[Outcome]) -> list[Event]:
    assert all(isinstance(outcome, Receipt) for outcome in outcomes)
    return [outcome.event for outcome in outcomes if isinstance(outcome, Receipt)]


@pytest.fixture(params=["memory", "commit", "fsync"])
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journal]:
    if request.param == "memory":
        yield MemoryJournal(now=lambda: NOW, retention=KEPT)
        return
    opened = open_sqlite(
        tmp_path / "chat.db", durability=request.param, now=lambda: NOW, retention=KEPT
    )
    async with opened as made:
        yield made


async def test_numbers_are_drawn_in_order_for_room_and_store(journal: Journal) -> None:
    outcomes = await journal.commit(
        [
            post("a"),
            post("b", room="other"),
            post("c"),
            Post("lobby", "x", "u", "n", None, "delete"),
        ]
    )
    assert [(one.position, one.room, one.seq) for one in events(outcomes)] == [
        (1, "lobby", 1),
        (2, "other", 1),
        (3, "lobby", 2),
        (4, "lobby", 3),
    ]
    assert events(outcomes)[0] == Event(
        1, "lobby", 1, NOW, "message", "u1", "nick u1", "a", None, None, None, False
    )
    assert events(outcomes)[3].text is None
    assert events(await journal.commit([post("d")]))[0].seq == 4


async def test_reads_give_what_was_committed(journal: Journal) -> None:
    made = events(await journal.commit([post(str(number)) for number in range(10)]))
    assert await journal.read("lobby", 0, 10, 100) == made
    assert await journal.read("lobby", 2, 5, 100) == made[2:5]
    assert await journal.read("lobby", 2, 10, 3) == made[2:5]
    assert await journal.read_back("lobby", 11, 3) == made[7:]
    assert await journal.read_back("lobby", 4, 100) == made[:3]
    assert await journal.read_back("lobby", 1, 100) == []
    assert await journal.read("nowhere", 0, 10, 10) == []
    assert await journal.read_back("nowhere", 10, 10) == []


async def test_numbers_named_by_clients_do_no_harm(journal: Journal) -> None:
    made = events(await journal.commit([post(str(number)) for number in range(4)]))
    assert await journal.read("lobby", 0, 10**300, 2) == made[:2]
    assert await journal.read("lobby", -(10**300), 10**300, 10**300) == made
    assert await journal.read("lobby", 10**300, 10**300, 10) == []
    assert await journal.read_back("lobby", 10**300, 10**300) == made
    assert await journal.read("lobby", 0, 4, -1) == []
    assert await journal.read_back("lobby", 4, -1) == []


async def test_a_key_is_committed_once(journal: Journal) -> None:
    first = events(await journal.commit([post("first", key="k")]))[0]
    outcomes = await journal.commit(
        [post("new"), post("again", key="k"), post("other", key="k", user="u2")]
    )
    assert outcomes[1] == Receipt(first, duplicate=True)
    assert [event.seq for event in events(outcomes)] == [2, 1, 3]
    elsewhere = events(await journal.commit([post("x", key="k", room="elsewhere")]))[0]
    assert (elsewhere.room, elsewhere.seq) == ("elsewhere", 1)
    assert [event.text for event in await journal.read("lobby", 0, 9, 9)] == [
        "first",
        "new",
        "other",
    ]


async def test_a_key_is_committed_once_within_a_batch(journal: Journal) -> None:
    one, two, three = await journal.commit([post("a", key="k"), post("b", key="k"), post("c")])
    assert isinstance(one, Receipt)
    assert two == Receipt(one.event, duplicate=True)
    assert isinstance(three, Receipt)
    assert three.event.seq == 2
    assert journal.statistics().duplicates == 1
    assert journal.statistics().events == 2


async def test_heads_and_rooms(journal: Journal) -> None:
    assert await journal.head("lobby") is None
    assert await journal.rooms() == []
    await journal.commit([post(room="zoo"), post(room="lobby"), post(room="lobby")])
    await journal.commit([Post("zoo", "ZOO", "u", "n", "the first spelling stays")])
    assert await journal.head("zoo") == Head("zoo", "Zoo", 2)
    assert await journal.rooms() == [Head("lobby", "Lobby", 2), Head("zoo", "Zoo", 2)]


async def test_users_are_remembered(journal: Journal) -> None:
    here, gone = UserRecord("u1", "Ann", None), UserRecord("u2", "Bob", NOW - 5)
    outcomes = await journal.commit([Remember(here), post(), Remember(gone)])
    assert (outcomes[0], outcomes[2]) == (None, None)
    assert await journal.user("u1") == here
    assert await journal.user("nobody") is None
    assert await journal.present(NOW - 5) == [here, gone]
    assert await journal.present(NOW - 4) == [here]
    later = UserRecord("u1", "Anna", NOW)
    await journal.commit([Remember(here), Remember(later)])
    assert await journal.user("u1") == later


async def test_the_feed_gives_blocks_in_order_and_ends(journal: Journal) -> None:
    made = events(await journal.commit([post("a"), post("b")]))
    await journal.hand_on(made)
    assert journal.statistics().waiting_blocks == 1
    with trio.move_on_after(0) as scope:
        await journal.hand_on([])
    assert scope.cancelled_caught
    assert await journal.feed.receive() == made
    await journal.aclose()
    await journal.aclose()
    with pytest.raises(trio.EndOfChannel):
        await journal.feed.receive()


async def test_an_empty_batch_and_a_needless_settle_do_nothing(journal: Journal) -> None:
    assert await journal.commit([]) == []
    assert await journal.settle() == []
    assert journal.statistics().batches == 0


async def test_any_text_comes_back(journal: Journal) -> None:
    texts = ["", "\0 in it", "é\u2028🎉", "x" * 20_000, "'; DROP TABLE events; --"]
    await journal.commit([post(text) for text in texts])
    assert [event.text for event in await journal.read("lobby", 0, 99, 99)] == texts


async def test_nothing_to_sweep(journal: Journal) -> None:
    await journal.commit([post(), Remember(UserRecord("u", "n", 0))])
    assert await journal.sweep() is False
    assert journal.statistics().swept == 0


# Both alike: random operations on both give the same receipts, reads and heads.

_rooms = st.sampled_from(["a", "b", "ç"])
_users = st.sampled_from(["u1", "u2"])
_texts = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_keys = st.none() | st.sampled_from(["k1", "k2", "k3"])
_posts = st.builds(
    Post,
    room=_rooms,
    name=st.sampled_from(["A", "a"]),
    user=_users,
    nick=st.sampled_from(["n", "N"]),
    text=_texts,
    kind=st.sampled_from(["message", "edit", "delete", "topic"]),
    key=_keys,
    of=st.none() | st.integers(1, 9),
    reply_to=st.none() | st.integers(1, 9),
)
_remembers = st.builds(
    Remember, st.builds(UserRecord, _users, st.sampled_from(["n", "m"]), st.none() | st.just(NOW))
)
_number = st.integers(-3, 30)
_steps = st.one_of(
    st.tuples(st.just("commit"), st.lists(_posts | _remembers, min_size=1, max_size=9)),
    st.tuples(st.just("pass"), st.integers(0, 2 * DAY)),
    st.tuples(st.just("sweep"), st.none()),
    st.tuples(st.just("read"), st.tuples(_rooms, _number, _number, _number)),
    st.tuples(st.just("read_back"), st.tuples(_rooms, _number, _number)),
)
_retentions = st.builds(
    Retention,
    keep_days=st.just("off") | st.integers(1, 3),
    keep_events=st.just("off") | st.integers(1, 5),
    max_bytes=st.just("off"),
    user_days=st.just("off") | st.integers(1, 2),
)


async def _everything(journal: Journal) -> list[object]:
    return [
        await journal.rooms(),
        await journal.present(0),
        *[await journal.head(room) for room in ("a", "b", "ç")],
        *[await journal.read(room, 0, 10**9, 10**9) for room in ("a", "b", "ç")],
    ]


async def _both(steps: list[tuple[str, Any]], retention: Retention) -> None:
    now = NOW

    def clock() -> int:
        return now

    with tempfile.TemporaryDirectory() as folder:
        memory = MemoryJournal(now=clock, retention=retention)
        path = Path(folder) / "chat.db"
        async with open_sqlite(path, now=clock, retention=retention) as sqlite:
            for step, values in steps:
                if step == "commit":
                    batch: list[Operation] = values
                    assert await sqlite.commit(batch) == await memory.commit(batch)
                elif step == "pass":
                    now += values
                elif step == "read":
                    assert await sqlite.read(*values) == await memory.read(*values)
                elif step == "read_back":
                    assert await sqlite.read_back(*values) == await memory.read_back(*values)
                else:
                    for journal in (sqlite, memory):
                        while await journal.sweep():
                            pass
                    assert await _everything(sqlite) == await _everything(memory)
            assert await _everything(sqlite) == await _everything(memory)
            assert sqlite.statistics().events == memory.statistics().events
            assert sqlite.statistics().swept == memory.statistics().swept
            assert sqlite.statistics().duplicates == memory.statistics().duplicates
        await memory.aclose()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_steps, max_size=15), _retentions)
def test_both_journals_are_alike(steps: list[tuple[str, Any]], retention: Retention) -> None:
    trio.run(_both, steps, retention)
