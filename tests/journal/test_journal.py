"""The contract of every journal, and that both keep it alike."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chatd.journal import Journal, Sender
from chatd.journal.memory import MemoryJournal
from chatd.journal.modelled import ModelEngine, ModelStore
from chatd.journal.redis.engine import RedisEngine
from chatd.journal.retention import Retention
from chatd.journal.shared import SharedJournal, open_shared
from chatd.journal.sqlite import open_sqlite
from chatd.model import (
    Drop,
    Erase,
    Event,
    FeedEntry,
    Forget,
    Head,
    LogEntry,
    Operation,
    Outcome,
    Post,
    Progress,
    Put,
    Receipt,
    Record,
    Refusal,
    Remember,
    Restore,
    Take,
    Taken,
    UserRecord,
    Wipe,
)
from tests.journal.store import Clock, found, index, search
from tests.redis_server import RedisServer, needs_redis, new_prefix

NOW = 1_700_000_000_000
DAY = 24 * 3600 * 1000
KEPT = Retention(keep_days="off", keep_events="off", max_bytes="off", user_days="off")


def post(
    text: str = "hello", *, room: str = "lobby", user: str = "u1", key: str | None = None
) -> Post:
    return Post(room, room.title(), user, f"nick {user}", text, key=key)


def edit(of: int, text: str, *, user: str = "u1", operator: bool = False) -> Post:
    return Post("lobby", "Lobby", user, "n", text, "edit", of=of, operator=operator)


def delete(of: int, *, user: str = "u1", operator: bool = False) -> Post:
    return Post("lobby", "Lobby", user, "n", None, "delete", of=of, operator=operator)


def reply(to: int, *, room: str = "lobby") -> Post:
    return Post(room, room.title(), "u1", "n", "yes", reply_to=to)


def codes(outcomes: list[Outcome]) -> list[str | None]:
    """Return the code of each refusal, None for a success."""
    return [outcome.code if isinstance(outcome, Refusal) else None for outcome in outcomes]


async def log(journal: Journal, room: str = "lobby") -> list[Event]:
    return await journal.read(room, 0, 10**9, 10**9)


def events(outcomes: list[Outcome]) -> list[Event]:
    assert all(isinstance(outcome, Receipt) for outcome in outcomes)
    return [outcome.event for outcome in outcomes if isinstance(outcome, Receipt)]


@pytest.fixture(
    params=["memory", "commit", "fsync", "shared", pytest.param("redis", marks=needs_redis)]
)
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journal]:
    if request.param == "memory":
        yield MemoryJournal(now=lambda: NOW, retention=KEPT)
        return
    if request.param == "shared":
        async with open_shared(ModelEngine(ModelStore(lambda: NOW)), retention=KEPT) as shared:
            yield shared
        return
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        engine = RedisEngine(server.url, prefix=new_prefix(), now=lambda: NOW, timeout=60)
        async with open_shared(engine, retention=KEPT, timeout_seconds=60) as shared:
            yield shared
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
            Post("lobby", "x", "u1", "n", None, "delete", of=1),
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


async def test_subjects_are_distinguished_from_guests(journal: Journal) -> None:
    ann, bob = UserRecord("ann", "Ann", None, True), UserRecord("bob", "bob", NOW, True)
    guest = UserRecord("g1", "x", None)
    await journal.commit([Remember(bob), Remember(guest), Remember(ann)])
    assert await journal.subjects() == [ann, bob]
    assert await journal.user("ann") == ann
    assert await journal.present(0) == [ann, bob, guest]


async def test_answered_events_are_released_before_a_probe(journal: Journal) -> None:
    sending, committed = trio.open_memory_channel[Sequence[FeedEntry]](1)
    journal.start(sending.send, lambda _room: True)
    made = events(await journal.commit([post("a"), post("b")]))
    await journal.answered(made)
    await journal.answered([])
    probe: list[FeedEntry] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.probe, probe)
        assert await committed.receive() == made
        assert await committed.receive() is probe
    await journal.probe(probe)
    with trio.move_on_after(0) as scope:
        await journal.probe(probe)
    assert scope.cancelled_caught  # the channel is full
    await journal.aclose()
    await journal.aclose()


async def test_an_empty_batch_and_a_needless_settle_do_nothing(journal: Journal) -> None:
    assert await journal.commit([]) == []
    assert await journal.recover() == []
    assert journal.statistics().batches == 0


async def test_any_text_comes_back(journal: Journal) -> None:
    texts = ["", "\0 in it", "é\u2028🎉", "x" * 20_000, "'; DROP TABLE events; --"]
    await journal.commit([post(text) for text in texts])
    assert [event.text for event in await journal.read("lobby", 0, 99, 99)] == texts


async def test_nothing_to_sweep(journal: Journal) -> None:
    await journal.commit([post(), Remember(UserRecord("u", "n", 0))])
    assert await journal.sweep() is False
    assert journal.statistics().swept == 0


# Words that change


async def test_an_edit_gives_its_message_and_all_edits_of_it_the_present_text(
    journal: Journal,
) -> None:
    await journal.commit([post("first"), post("other")])
    first = events(await journal.commit([edit(1, "second")]))[0]
    assert (first.seq, first.kind, first.text, first.of) == (3, "edit", "second", 1)
    again = events(await journal.commit([edit(1, "third")]))[0]
    assert again.text == "third"
    assert [(one.text, one.edited, one.deleted) for one in await log(journal)] == [
        ("third", NOW, False),
        ("other", None, False),
        ("third", None, False),
        ("third", None, False),
    ]
    assert await journal.read_back("lobby", 4, 1) == [
        Event(3, "lobby", 3, NOW, "edit", "u1", "n", "third", 1)
    ]


async def test_a_delete_takes_the_text_of_its_message_and_of_all_edits(journal: Journal) -> None:
    await journal.commit([post("first"), edit(1, "second")])
    made = events(await journal.commit([delete(1)]))[0]
    assert (made.seq, made.kind, made.text, made.of) == (3, "delete", None, 1)
    assert [(one.text, one.edited, one.deleted) for one in await log(journal)] == [
        (None, None, True),
        (None, None, False),
        (None, None, False),
    ]
    assert codes(await journal.commit([edit(1, "third"), delete(1)])) == ["not_found"] * 2


async def test_a_batch_takes_effect_in_its_order(journal: Journal) -> None:
    outcomes = await journal.commit(
        [edit(1, "too early"), post("a"), edit(1, "b"), reply(1), delete(1), edit(1, "too late")]
    )
    assert codes(outcomes) == ["not_found", None, None, None, None, "not_found"]
    assert [one.text for one in events([one for one in outcomes if isinstance(one, Receipt)])] == [
        "a",
        "b",
        "yes",
        None,
    ]
    assert [(one.seq, one.position, one.text) for one in await log(journal)] == [
        (1, 1, None),
        (2, 2, None),
        (3, 3, "yes"),
        (4, 4, None),
    ]


async def test_only_the_author_edits_and_an_operator_deletes(journal: Journal) -> None:
    await journal.commit([post("a", user="u1"), post("b", user="u1")])
    outcomes = await journal.commit(
        [
            edit(1, "x", user="u2"),
            edit(1, "x", user="u2", operator=True),
            delete(1, user="u2"),
            delete(1, user="u2", operator=True),
            post("goes on"),
        ]
    )
    assert codes(outcomes) == ["forbidden", "forbidden", "forbidden", None, None]
    assert [one.text for one in await log(journal)] == [None, "b", None, "goes on"]


async def test_what_is_no_message_is_not_found(journal: Journal) -> None:
    await journal.commit([post("a"), edit(1, "b"), delete(1)])
    outcomes = await journal.commit(
        [
            edit(2, "an edit is no message"),
            edit(99, "x"),
            edit(0, "x"),
            edit(-1, "x"),
            edit(10**300, "x"),
            Post("lobby", "Lobby", "u1", "n", "of nothing", "edit"),
            Post("elsewhere", "E", "u1", "n", "x", "edit", of=1),
            Post("elsewhere", "E", "u1", "n", None, "delete", of=1),
            reply(2),
            reply(10**300),
            reply(1, room="elsewhere"),
            reply(1),  # a deleted message still has its place
        ]
    )
    assert codes(outcomes) == ["not_found"] * 11 + [None]
    assert await journal.head("elsewhere") is None
    assert journal.statistics().events == 4


async def test_a_reply_names_its_message(journal: Journal) -> None:
    await journal.commit([post("a")])
    made = events(await journal.commit([reply(1)]))[0]
    assert (made.kind, made.reply_to) == ("message", 1)
    assert (await log(journal))[1] == made


async def test_a_key_gives_the_first_message_in_present_words(journal: Journal) -> None:
    await journal.commit([post("a", key="k")])
    outcomes = await journal.commit([edit(1, "b"), post("again", key="k"), post("c", key="k2")])
    again = outcomes[1]
    assert isinstance(again, Receipt)
    assert (again.duplicate, again.event.seq, again.event.text) == (True, 1, "b")
    assert [one.text for one in await log(journal)] == ["b", "b", "c"]


async def test_a_key_counts_before_a_rule_that_is_broken_since(journal: Journal) -> None:
    changed = Post("lobby", "Lobby", "u1", "n", "b", "edit", key="e", of=1)
    first = await journal.commit([post("a"), changed, delete(1)])
    assert events(first)[1].seq == 2
    assert codes(again := await journal.commit([changed])) == [None]
    assert [one.duplicate for one in again if isinstance(one, Receipt)] == [True]
    within = Post("lobby", "Lobby", "u1", "n", "yes", key="w")
    lost = Post("lobby", "Lobby", "u1", "n", "yes", key="w", reply_to=99)
    assert [one.seq for one in events(await journal.commit([within, lost]))] == [4, 4]


async def test_the_last_topic_is_the_rooms(journal: Journal) -> None:
    topics = [Post("lobby", "Lobby", "u1", "n", text, "topic") for text in ("one", "two")]
    made = events(await journal.commit(topics))
    assert await journal.head("lobby") == Head("lobby", "Lobby", 2, "two")
    assert await journal.rooms() == [Head("lobby", "Lobby", 2, "two")]
    assert await log(journal) == made


async def test_an_edit_of_a_message_that_is_gone_has_no_text(tmp_path: Path) -> None:
    retention = Retention(keep_days="off", keep_events=1, max_bytes="off")
    opened = open_sqlite(tmp_path / "chat.db", now=lambda: NOW, retention=retention)
    async with opened as sqlite:
        for journal in (sqlite, MemoryJournal(now=lambda: NOW, retention=retention)):
            await journal.commit([post("a"), edit(1, "b")])
            while await journal.sweep():
                pass
            assert [(one.seq, one.kind, one.text) for one in await log(journal)] == [
                (2, "edit", None)
            ]
            assert codes(await journal.commit([edit(1, "c"), reply(1)])) == ["not_found"] * 2


# Direct messages, unread, positions


async def test_direct_messages_rooms_are_not_listed(journal: Journal) -> None:
    await journal.commit([post(room="@u1,u2"), post(room="!"), post(room="Zoo"), post(room="{")])
    assert [head.room for head in await journal.rooms()] == ["!", "Zoo", "{"]
    assert await journal.head("@u1,u2") is not None


async def test_unread_counts_what_others_said_and_stands(journal: Journal) -> None:
    said = [post("mine"), post("a", user="u2"), post("b", user="u2"), post("c", user="u3")]
    topic = Post("lobby", "Lobby", "u2", "n", "a topic", "topic")
    await journal.commit([*said, topic, edit(2, "A", user="u2"), delete(4, user="u3")])
    assert await journal.unread("lobby", "u1", 0, 100) == 2
    assert await journal.unread("lobby", "u1", 2, 100) == 1
    assert await journal.unread("lobby", "u2", 0, 100) == 1
    assert await journal.unread("lobby", "u1", 0, 1) == 1
    assert await journal.unread("lobby", "u1", 10**300, 100) == 0
    assert await journal.unread("nowhere", "u1", 0, 100) == 0


async def test_what_was_missed_in_several_rooms_comes_by_position(journal: Journal) -> None:
    rooms = ["a", "b", "c", "a", "b", "c", "a", "c"]
    made = events(await journal.commit([post(str(n), room=room) for n, room in enumerate(rooms)]))
    behind = {"a": 1, "b": 2, "nowhere": 0}
    missed = [one for one in made if one.room in behind and one.position > behind[one.room]]
    assert await journal.read_rooms(behind, 10**9, 100) == missed
    assert await journal.read_rooms(behind, 5, 100) == [one for one in missed if one.position <= 5]
    assert await journal.read_rooms(behind, 10**300, 2) == missed[:2]
    assert await journal.read_rooms(behind, 10**9, -1) == []
    assert await journal.read_rooms({"a": 4, "b": 10**300}, 10**9, 9) == [made[6]]
    assert await journal.read_rooms({}, 10**9, 9) == []
    for position in range(10):
        there = [one.seq for one in made if one.room == "a" and one.position <= position]
        assert await journal.seq_at("a", position) == max(there, default=0)
    assert await journal.seq_at("nowhere", 5) == 0
    assert journal.position == 8


# Records


async def test_records_are_kept_dropped_and_taken(journal: Journal) -> None:
    one, two = Record("marks", "u1\0a", b"1", None), Record("marks", "u1\0b", b"2", NOW + 1)
    other, over = Record("bans", "u1\0a", b"x", None), Record("marks", "u1\0c", b"3", NOW)
    outcomes = await journal.commit([Put(one), Put(two), Put(other), Put(over), post()])
    assert outcomes[:4] == [None] * 4
    assert await journal.records("marks") == [one, two]
    assert await journal.records("marks", "u1\0b") == [two]
    assert await journal.records("marks", "u1", 1) == [one]
    assert await journal.records("marks", "u2") == []
    newer = Record("marks", "u1\0a", b"\0\xff", NOW + 5)
    await journal.commit([Put(newer), Drop("marks", "u1\0b"), Drop("marks", "never")])
    assert await journal.records("marks") == [newer]
    outcomes = await journal.commit(
        [
            Take("marks", "u1\0a"),
            Take("marks", "u1\0a"),
            Take("marks", "u1\0c"),
            Put(one),
            Take("marks", "u1\0a"),
        ]
    )
    assert outcomes == [Taken(newer), Taken(None), Taken(None), None, Taken(one)]
    assert await journal.records("marks") == []
    assert await journal.records("bans") == [other]


async def test_records_whose_time_is_over_are_swept(journal: Journal) -> None:
    await journal.commit([Put(Record("s", str(number), b"", NOW)) for number in range(100)])
    await journal.commit([Put(Record("s", "stays", b"", NOW + 1))])
    assert [await journal.sweep() for _ in range(3)] == [True, True, False]
    assert [record.name for record in await journal.records("s")] == ["stays"]


# Search


async def test_all_records_with_a_prefix_are_found_however_many(journal: Journal) -> None:
    many = [Record("marks", f"u1\0{number:03}", b"", None) for number in range(250)]
    await journal.commit([Put(record) for record in (*many, Record("marks", "u2\0a", b"", None))])
    assert await journal.records("marks", "u1\0") == many
    assert await journal.records("marks", "u1\0", 100) == many[:100]
    assert await journal.records("marks", "u1\0", 101) == many[:101]
    assert await journal.records("marks", "u1\0", 0) == []


async def test_search_gives_messages_with_all_words_newest_first(journal: Journal) -> None:
    texts = ["one two three", "two", "Three, TWO!", "four", "é Straße", "thirty-two"]
    await journal.commit([post(text) for text in texts])
    await journal.commit(
        [post("two three", room="other"), Post("lobby", "L", "u", "n", "two", "topic")]
    )
    await index(journal)
    assert await found(journal, "two") == [6, 3, 2, 1]
    assert await found(journal, "three two") == [3, 1]
    assert await found(journal, '"two three"') == [1]
    assert await found(journal, '"three two') == [3]
    assert await found(journal, "thirty-two") == [6]
    assert await found(journal, "E straße") == [5]
    assert await found(journal, "tw") == [6, 3, 2, 1]
    assert await found(journal, '"tw"') == []
    assert await found(journal, "strasse") == [5]
    assert await found(journal, "five two") == []
    assert await found(journal, "two", "nowhere") == []
    assert [one.seq for one in await search(journal, "two", "lobby", 3, 100)] == [2, 1]
    assert [one.seq for one in await search(journal, "two", "lobby", 6, 2)] == [3, 2]
    assert await search(journal, "two", "lobby", 1, 100) == []
    assert await search(journal, "two", "lobby", 0, 100) == []
    assert await search(journal, "two", "lobby", 10**300, -1) == []
    assert (await search(journal, "four", "lobby", 10**300, 9))[0].text == "four"


@pytest.mark.parametrize(
    "query", ["", "  ", "!", '""', "*", "\0", "\ud800", "-", "( ) : ^ + {", '"', "x" * 10_000]
)
async def test_nothing_to_search_for_finds_nothing(journal: Journal, query: str) -> None:
    await journal.commit([post("a ! * \0 - ( x")])
    await index(journal)
    assert await found(journal, query) == []


@pytest.mark.parametrize(
    "query", ["AND", "a OR b", "NOT b", "NEAR(a b)", "text:a", "ab*", "^ab", "a + b", '"a" "b"']
)
async def test_a_query_is_words_and_no_language(journal: Journal, query: str) -> None:
    await journal.commit([post("a"), post("b"), post("a b ab and or not b near a b text a")])
    await index(journal)
    assert await found(journal, query) == [3]


async def test_changed_words_are_found_as_they_are(journal: Journal) -> None:
    await journal.commit([post("old words"), post("gone words"), post("late words")])
    await index(journal)
    await journal.commit([edit(1, "new words"), delete(2), post("fresh"), edit(6, "fresher")])
    assert await found(journal, "old") == []
    assert await found(journal, "gone") == []
    assert await found(journal, "words") == [3, 1]
    await index(journal)
    assert await found(journal, "new") == [1]
    assert await found(journal, '"fresh"') == []
    assert await found(journal, "fresher") == [6]
    assert await journal.index() is None


# Both alike: random operations on both give the same receipts, reads and heads.

_rooms = st.sampled_from(["a", "b", "ç"])
_users = st.sampled_from(["u1", "u2"])
_texts = (
    st.none()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.lists(st.sampled_from(["a", "B", "é", "c-d", "e", "1"]), max_size=4).map(" ".join)
)
_queries = st.lists(st.sampled_from(["a", "b", "E", '"a b"', "C d", "1"]), max_size=3).map(" ".join)
_keys = st.none() | st.sampled_from(["k1", "k2", "k3"])
_plain = st.builds(
    Post,
    room=_rooms,
    name=st.sampled_from(["A", "a"]),
    user=_users,
    nick=st.sampled_from(["n", "N"]),
    text=_texts,
    kind=st.sampled_from(["message", "message", "topic"]),
    key=_keys,
    reply_to=st.none() | st.integers(1, 9),
)
_changes = st.builds(
    Post,
    room=_rooms,
    name=st.just("a"),
    user=_users,
    nick=st.just("n"),
    text=_texts,
    kind=st.just("edit"),
    key=_keys,
    of=st.integers(0, 9),
) | st.builds(
    Post,
    room=_rooms,
    name=st.just("a"),
    user=_users,
    nick=st.just("n"),
    text=st.none(),
    kind=st.just("delete"),
    key=_keys,
    of=st.integers(0, 9),
    operator=st.booleans(),
)
_posts = _plain | _changes
_names = st.sampled_from(["u1\0a", "u1\0b", "u2"])
_records = (
    st.builds(
        Put,
        st.builds(
            Record,
            st.sampled_from(["s", "t"]),
            _names,
            st.binary(max_size=2),
            st.none() | st.integers(NOW - 1, NOW + DAY),
        ),
    )
    | st.builds(Drop, st.just("s"), _names)
    | st.builds(Take, st.just("s"), _names)
)
_remembers = st.builds(
    Remember, st.builds(UserRecord, _users, st.sampled_from(["n", "m"]), st.none() | st.just(NOW))
)


def _restore(room: str, first: int, times: list[int]) -> Restore:
    entries = (
        LogEntry(room.upper(), first + place, NOW + at, "message", "u2", "n", "from elsewhere")
        for place, at in enumerate(times)
    )
    return Restore(room, tuple(entries))


_rewrites = st.builds(
    _restore,
    _rooms,
    st.integers(1, 12),
    st.lists(st.integers(-3 * DAY, 3 * DAY), min_size=1, max_size=4),
) | st.builds(Erase, _rooms, st.booleans())
_number = st.integers(-3, 30)
_operations = _posts | _remembers | _records | _rewrites
_steps = st.one_of(
    st.tuples(st.just("commit"), st.lists(_operations, min_size=1, max_size=9)),
    st.tuples(st.just("pass"), st.integers(0, 2 * DAY)),
    st.tuples(st.just("jump"), st.integers(-2 * DAY, 2 * DAY)),
    st.tuples(st.just("sweep"), st.none()),
    st.tuples(st.just("read"), st.tuples(_rooms, _number, _number, _number)),
    st.tuples(st.just("read_back"), st.tuples(_rooms, _number, _number)),
    st.tuples(st.just("read_rooms"), st.tuples(st.dictionaries(_rooms, _number), _number, _number)),
    st.tuples(st.just("seq_at"), st.tuples(_rooms, _number)),
    st.tuples(st.just("unread"), st.tuples(_rooms, _users, _number, _number)),
    st.tuples(st.just("index"), st.none()),
    st.tuples(st.just("index a chunk"), st.none()),
    st.tuples(st.just("reindex"), st.none()),
    st.tuples(
        st.just("search"),
        st.tuples(
            _queries,
            st.dictionaries(_rooms, _number, max_size=2),
            st.integers(-1, 3),
            st.none() | st.builds(Sender, st.sampled_from(["n", "N", "m"]), st.none() | _users),
            st.none() | st.integers(NOW - 1, NOW + 2),
        ),
    ),
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
        *[await log(journal, room) for room in ("a", "b", "ç")],
        *[await journal.records(shelf) for shelf in ("s", "t")],
    ]


async def _fronts_are_kept(path: Path) -> bool:
    """Return whether each room has the time of its first event, or one not later."""
    with closing(sqlite3.connect(path)) as connection:
        wrong = connection.execute(
            "SELECT count(*) FROM (SELECT oldest, (SELECT at FROM events WHERE room_id = rooms.id"
            " ORDER BY seq LIMIT 1) AS at FROM rooms)"
            " WHERE (oldest IS NULL) != (at IS NULL) OR oldest > at"
        ).fetchone()[0]
    return not wrong


async def _both(steps: list[tuple[str, Any]], retention: Retention) -> None:
    clock = Clock()
    clock.ms = NOW
    with tempfile.TemporaryDirectory() as folder:
        memory = MemoryJournal(now=clock, elapsed=clock.elapsed, retention=retention)
        path = Path(folder) / "chat.db"
        opened = open_sqlite(path, now=clock, elapsed=clock.elapsed, retention=retention)
        async with opened as sqlite:
            for step, values in steps:
                if step == "commit":
                    batch: list[Operation] = values
                    assert await sqlite.commit(batch) == await memory.commit(batch)
                elif step == "pass":
                    clock.ms += values
                elif step == "jump":
                    clock.jumped += values
                    # Two small corrections count as one large one if no call lies between them.
                    assert sqlite.steady_now() == memory.steady_now()
                elif step == "read":
                    assert await sqlite.read(*values) == await memory.read(*values)
                elif step == "read_back":
                    assert await sqlite.read_back(*values) == await memory.read_back(*values)
                elif step == "read_rooms":
                    assert await sqlite.read_rooms(*values) == await memory.read_rooms(*values)
                elif step == "seq_at":
                    assert await sqlite.seq_at(*values) == await memory.seq_at(*values)
                elif step == "unread":
                    assert await sqlite.unread(*values) == await memory.unread(*values)
                elif step == "reindex":
                    sqlite.reindex()
                elif step == "index a chunk":
                    await sqlite.index()
                elif step == "index":
                    await index(sqlite)
                elif step == "search":
                    await index(sqlite)
                    query, rooms, limit, sender, before = values
                    if before is None:
                        rooms = dict(list(rooms.items())[:1])
                    hits = [
                        await one.search(query, rooms, limit, sender=sender, before=before)
                        for one in (sqlite, memory)
                    ]
                    assert hits[0] == hits[1]
                else:
                    for journal in (sqlite, memory):
                        while await journal.sweep():
                            pass
                    assert await _everything(sqlite) == await _everything(memory)
            assert await _everything(sqlite) == await _everything(memory)
            assert sqlite.steady_now() == memory.steady_now()
            assert await _fronts_are_kept(path)
            assert sqlite.statistics().events == memory.statistics().events
            assert sqlite.statistics().swept == memory.statistics().swept
            assert sqlite.statistics().duplicates == memory.statistics().duplicates
        await memory.aclose()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_steps, max_size=15), _retentions)
# Restored events count for keep_events too.
@example(
    [("sweep", None), ("commit", [_restore("b", 1, [0, 0])]), ("sweep", None)],
    Retention(keep_days="off", keep_events=1, max_bytes="off", user_days="off"),
)
# SQLite calls its clock when a text is removed; the journal in memory does not.
@example(
    [
        ("commit", [_restore("a", 1, [0])]),
        ("jump", -18_110),
        ("commit", [Erase("a", False)]),
        ("jump", -41_891),
    ],
    Retention(keep_days="off", keep_events="off", max_bytes="off", user_days="off"),
)
def test_both_journals_are_alike(steps: list[tuple[str, Any]], retention: Retention) -> None:
    trio.run(_both, steps, retention)


# Elsewhere and away


def a_line(seq: int, text: str | None = "hello", **fields: Any) -> LogEntry:
    return LogEntry("Lobby", seq, NOW + seq, "message", "u1", "n", text, **fields)


async def entries(journal: Journal, room: str = "lobby") -> list[LogEntry]:
    return await journal.entries(room, 0, 1000)


async def test_lines_are_as_they_are_stored(journal: Journal) -> None:
    await journal.commit([post("one", key="k"), reply(1), edit(1, "two"), edit(1, "three")])
    await journal.commit([delete(2)])
    topic = Post("lobby", "Lobby", "u2", "n", "tea", "topic")
    await journal.commit([topic])
    found = await entries(journal)
    assert [(line.seq, line.kind, line.text, line.of) for line in found] == [
        (1, "message", "three", None),
        (2, "message", None, None),
        (3, "edit", None, 1),
        (4, "edit", None, 1),
        (5, "delete", None, 2),
        (6, "topic", "tea", None),
    ]
    assert (found[0].key, found[0].edited is not None, found[1].deleted) == ("k", True, True)
    assert (found[0].room, found[1].reply_to) == ("Lobby", 1)
    assert await journal.entries("lobby", 2, 2) == found[2:4]
    assert await journal.entries("nowhere", 0, 9) == []


async def test_what_was_stored_elsewhere_is_the_same_here(journal: Journal) -> None:
    await journal.commit([post("one", key="k"), reply(1), edit(1, "two"), delete(2)])
    await journal.commit([Post("lobby", "Lobby", "u2", "n", "tea", "topic")])
    stored = await entries(journal)
    other = MemoryJournal(now=lambda: NOW)
    async with other_store(other, journal) as there:
        epoch = there.epoch
        assert await there.commit([Restore("lobby", tuple(stored))]) == [None]
        assert there.epoch != epoch
        assert await entries(there) == stored
        assert (await there.head("lobby")) == Head("lobby", "Lobby", 5, "tea")
        # Keys stay valid, and numbers continue.
        [again] = await there.commit([post("other", key="k")])
        assert isinstance(again, Receipt)
        assert (again.duplicate, again.event.seq) == (True, 1)
        [receipt] = await there.commit([post("next")])
        assert isinstance(receipt, Receipt)
        assert receipt.event.seq == 6
        await index(there)
        assert await found(there, "two") == [1]


@asynccontextmanager
async def other_store(memory: MemoryJournal, like: Journal) -> AsyncIterator[Journal]:
    """Return another store of the same kind."""
    if isinstance(like, MemoryJournal | SharedJournal):
        yield memory
        return
    with tempfile.TemporaryDirectory() as folder:
        async with open_sqlite(Path(folder) / "other.db", now=lambda: NOW) as journal:
            yield journal


async def test_lines_that_do_not_continue_the_log_are_refused(journal: Journal) -> None:
    def restore(*seqs: int) -> Restore:
        return Restore("lobby", tuple(map(a_line, seqs)))

    assert codes(await journal.commit([restore(5, 6), restore(6), restore(8), restore(7, 9)])) == [
        None,
        *["bad_request"] * 3,
    ]
    assert [line.seq for line in await entries(journal)] == [5, 6]
    await journal.commit([post("here", key="k")])
    key = Restore("lobby", (a_line(8, key="k"),))
    assert codes(await journal.commit([key, restore(8)])) == ["bad_request", None]
    assert [event.seq for event in await journal.read_back("lobby", 100, 10)] == [5, 6, 7, 8]
    assert await journal.seq_at("lobby", await journal.newest()) == 8


async def test_a_user_is_wiped_and_forgotten(journal: Journal) -> None:
    mine = Post("lobby", "Lobby", "u1", "me", "about me", "topic")
    await journal.commit([post("mine", key="k"), post("yours", user="u2"), mine])
    await journal.commit(
        [Remember(UserRecord("u1", "me", NOW)), Put(Record("mark", "u1\0a", b"1"))]
    )
    await journal.commit([Put(Record("mark", "u11\0a", b"2"))])
    await index(journal)
    said, upto = await journal.entries_of("u1", 0)
    assert ([line.text for line in said], upto) == (["mine", "about me"], None)
    assert await journal.commit([Wipe("u1"), Forget("u1")]) == [Progress(None), None]
    first, second, third = await journal.read("lobby", 0, 10, 10)
    assert (first.user, first.nick, first.text, first.deleted) == (
        "forgotten",
        "forgotten",
        None,
        True,
    )
    assert (second.text, third.text) == ("yours", "")
    assert (await journal.head("lobby")) == Head("lobby", "Lobby", 3, "")
    assert await search(journal, "mine", "lobby", 10, 10) == []
    assert await journal.user("u1") is None
    assert [record.name for record in await journal.records("mark")] == ["u11\0a"]
    assert (await journal.entries_of("u1", 0))[0] == []
    # The key is free again.
    [receipt] = await journal.commit([post("again", key="k")])
    assert isinstance(receipt, Receipt)
    assert receipt.duplicate is False


async def test_a_room_is_erased_and_its_numbers_are_not_given_again(journal: Journal) -> None:
    await journal.commit([post(str(number)) for number in range(150)])
    await index(journal)
    while (outcomes := await journal.commit([Erase("lobby")])) != [Progress(None)]:
        assert isinstance(outcomes[0], Progress)
    assert await journal.read("lobby", 0, 1000, 1000) == []
    assert await search(journal, "7", "lobby", 1000, 10) == []
    [receipt] = await journal.commit([post("next")])
    assert isinstance(receipt, Receipt)
    assert receipt.event.seq == 151
    assert receipt.event.position > 150
    assert await journal.commit([Erase("nowhere")]) == [Progress(None)]
