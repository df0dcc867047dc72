"""The index of words: it is derived, so it is made again whatever happens to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing

import pytest

from chatd.journal import Hits, Sender, Unavailable
from chatd.journal.index import CHUNK_EVENTS as CHUNK
from chatd.journal.retention import Retention
from chatd.journal.sqlite import SqliteJournal
from chatd.model import Erase, LogEntry, Operation, Post, Progress, Receipt, Restore, Wipe
from tests.journal.store import KEPT, Store, commit, error, found, index, nothing, post, search

DAMAGE = {
    "emptied": ["INSERT INTO words (words) VALUES ('delete-all')"],
    "dropped": ["DROP TABLE words"],
    "without data": ["DROP TABLE words_data"],
    "without its configuration": ["DROP TABLE words_config"],
    "of another format": ["UPDATE words_config SET v = 99 WHERE k = 'version'"],
    "without rows": ["DELETE FROM words_data"],
    "without leaves": ["DELETE FROM words_data WHERE id > 10"],
    "overwritten": ["UPDATE words_data SET block = zeroblob(8) WHERE id = 10"],
    "gone": ["DROP TABLE words_config", "DROP TABLE words_data", "DROP TABLE words_idx"],
}


def damage(store: Store, statements: Sequence[str]) -> None:
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        for statement in statements:
            other.execute(statement)


def edit(of: int, text: str) -> Post:
    return Post("lobby", "Lobby", "u1", "ann", text, "edit", of=of)


def delete(of: int) -> Post:
    return Post("lobby", "Lobby", "u1", "ann", None, "delete", of=of)


async def hits(journal: SqliteJournal, query: str) -> Hits:
    return await journal.search(query, {"lobby": 10**9}, 100)


@pytest.mark.parametrize("change", [edit(1, "new words"), delete(1)], ids=["edit", "delete"])
async def test_a_message_without_a_text_is_changed(store: Store, change: Post) -> None:
    async with store.open() as journal:
        await commit(journal, Post("lobby", "Lobby", "u1", "ann", None), post("words"))
        await index(journal)
        await commit(journal, change)
        assert await found(journal, "words") == ([2, 1] if change.text else [2])


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize(
    "changes",
    [
        [edit(1, "new words")],
        [delete(1)],
        [edit(1, "new words"), post("more words"), delete(1)],
        [Wipe("u1")],
        [Erase("lobby")],
    ],
    ids=["edit", "delete", "several", "wipe", "erase"],
)
async def test_a_damaged_index_refuses_no_change(
    store: Store, kind: str, changes: list[Operation]
) -> None:
    async with store.open() as journal:
        await commit(journal, post("old words"), post("other words", room="kitchen"))
        await index(journal)
        damage(store, DAMAGE[kind])
        outcomes = await journal.commit(changes)
        assert all(isinstance(one, Receipt | Progress) for one in outcomes)
        assert journal.statistics().failures == 0
        await hits(journal, "words")  # damage that no change met is seen here
        await index(journal)
        texts = {event.seq: event.text for event in await journal.read("lobby", 0, 9, 9)}
        expected = [seq for seq, text in sorted(texts.items(), reverse=True) if text]
        messages = [seq for seq in expected if seq != 2 or len(changes) > 1]
        assert [one.seq for one in await search(journal, "words")] == [
            seq
            for seq in messages
            if (await journal.read("lobby", seq - 1, seq, 1))[0].kind == "message"
        ]
        assert await found(journal, "old") == []
        assert store.states() == ["reindexing", "reindexed"]
        assert (await hits(journal, "words")).complete


@pytest.mark.parametrize("kind", DAMAGE)
async def test_retention_goes_on_without_the_index(store: Store, kind: str) -> None:
    retention = Retention(keep_days="off", keep_events=1, max_bytes="off", user_days="off")
    async with store.open(retention=retention) as journal:
        await commit(journal, post("one word"), post("two words"), post("three words"))
        await index(journal)
        damage(store, DAMAGE[kind])
        while await journal.sweep():
            pass
        assert [event.text for event in await journal.read("lobby", 0, 9, 9)] == ["three words"]
        await hits(journal, "words")
        await index(journal)
        assert await found(journal, "words") == [3]
        assert store.states() == ["reindexing", "reindexed"]


@pytest.mark.parametrize("kind", DAMAGE)
async def test_a_search_finds_damage_and_then_what_is_there(store: Store, kind: str) -> None:
    async with store.open() as journal:
        await commit(journal, post("one word"), post("two words"))
        await index(journal)
        damage(store, DAMAGE[kind])
        assert await hits(journal, "words") == Hits([], more=False, complete=False)
        await index(journal)
        assert await found(journal, "words") == [2]
        assert store.states() == ["reindexing", "reindexed"]


async def test_damage_while_the_store_is_closed_is_found(store: Store) -> None:
    async with store.open() as journal:
        await commit(journal, post("one word"), post("two words"))
        await index(journal)
    damage(store, DAMAGE["without its configuration"])
    async with store.open() as journal:
        await commit(journal, post("three words"))
        await index(journal)
        assert await found(journal, "word") == [3, 2, 1]
        assert store.states() == ["reindexing", "reindexed"]


async def test_the_index_is_made_again_when_it_is_asked_for(store: Store) -> None:
    async with store.open() as journal:
        await commit(journal, *[post(f"word{number}") for number in range(3 * CHUNK)])
        await index(journal)
        journal.reindex()
        assert await journal.index() == 0
        # New messages, and then the old ones from the newest on.
        await commit(journal, post("word"), edit(3 * CHUNK - CHUNK // 2, "word"), edit(1, "word"))
        assert (await hits(journal, '"word"')).complete is False
        while not journal.indexed:
            assert await journal.index() == 0
        assert await found(journal, '"word"') == [3 * CHUNK + 1, 3 * CHUNK - CHUNK // 2]
        await index(journal)
        assert await found(journal, '"word"') == [3 * CHUNK + 1, 3 * CHUNK - CHUNK // 2, 1]
        assert await found(journal, "word77") == [78]
        assert store.states() == ["reindexing", "reindexed"]
        tables = "SELECT name FROM sqlite_schema WHERE name LIKE 'discarded%'"
        assert journal._writer._connection.execute(tables).fetchall() == []


async def test_a_busy_room_does_not_hold_up_a_rebuild(store: Store) -> None:
    async with store.open() as journal:
        await commit(journal, *[post(f"old{number}") for number in range(3 * CHUNK)])
        await index(journal)
        journal.reindex()
        chunks = 0
        while chunks == 0 or await journal.index() == 0:
            await commit(journal, post("new"))
            chunks += 1
            assert chunks < 3 * CHUNK
        assert await found(journal, "old0") == [1]
        assert store.states() == ["reindexing", "reindexed"]


async def test_one_chunk_is_enough_for_a_message_after_a_start(store: Store) -> None:
    async with store.open() as journal:
        await commit(journal, post("one"))
        await index(journal)
    async with store.open() as journal:
        await commit(journal, post("two"))
        assert await journal.index() is None


async def test_a_rebuild_goes_on_after_a_restart(store: Store) -> None:
    async with store.open() as journal:
        await commit(journal, *[post(f"word{number}") for number in range(3 * CHUNK)])
        await index(journal)
        journal.reindex()
        await journal.index()
    async with store.open() as journal:
        assert not (await hits(journal, "word5")).complete
        await index(journal)
        assert await found(journal, '"word5"') == [6]


async def test_an_index_of_other_tokens_is_made_again(store: Store) -> None:
    async with store.open() as journal:
        await commit(journal, post("one word"), post("two words"))
        await index(journal)
    damage(store, ["UPDATE meta SET value = '1 6.1.0' WHERE name = 'tokens'"])
    async with store.open() as journal:
        assert await hits(journal, "words") == Hits([], more=False, complete=False)
        await commit(journal, edit(1, "no word"), delete(2))
        await index(journal)
        assert await found(journal, "word") == [1]


async def test_a_store_of_the_version_before_is_indexed_in_the_background(store: Store) -> None:
    with store.of_version(3) as old:
        old.execute("INSERT INTO rooms (fold, name) VALUES ('lobby', 'Lobby')")
        rows = [(number, number, 1000, f"天気 Straße {number}") for number in range(1, 201)]
        old.executemany(
            "INSERT INTO events (position, room_id, seq, at, kind, user, nick, text)"
            " VALUES (?, 1, ?, ?, 'message', 'u1', 'ann', ?)",
            rows,
        )
        old.executemany(
            "INSERT INTO words (rowid, text, room_id) VALUES (?, ?, 1)",
            [(number, text) for number, _, _, text in rows],
        )
        old.execute("UPDATE meta SET value = 200 WHERE name IN ('indexed', 'position')")
    async with store.open() as journal:
        assert not (await hits(journal, "strasse")).complete
        await commit(journal, delete(1), edit(2, "nothing"), post("天気"))
        await index(journal)
        assert await found(journal, "strasse") == list(range(200, 2, -1))
        assert await found(journal, "気") == [203, *range(200, 2, -1)]
        assert "reindexing" in store.states()


async def test_a_store_that_fails_is_no_damage_of_the_index(store: Store) -> None:
    def fail(sql: str) -> None:
        if "INTO words" in sql:
            raise error("SQLITE_IOERR_WRITE")

    async with store.open() as journal:
        await commit(journal, post("one word"))
        await index(journal)
        store.faults.before = staticmethod(fail)
        with pytest.raises(Unavailable):
            await journal.commit([edit(1, "two words")])
        store.faults.before = staticmethod(nothing)
        await journal.recover()
        assert store.states() == ["failed"]
        assert await found(journal, "one") == [1]


async def test_rooms_are_searched_together_by_time(store: Store) -> None:
    async with store.open(retention=KEPT) as journal:
        for number in range(6):
            await commit(journal, post(f"word {number}", room="ab"[number % 2]))
            store.now.ms += number % 2
        await commit(journal, post("word", room="c"))
        await index(journal)
        rooms = {"a": 10**9, "b": 10**9, "nowhere": 9}
        first = await journal.search("word", rooms, 1, before=2**53)
        # The two that have one time are on one page.
        assert [event.text for event in first.events] == ["word 5", "word 4"]
        assert first.more
        rest = await journal.search("word", rooms, 9, before=first.events[-1].at)
        assert [event.text for event in rest.events] == [f"word {n}" for n in (3, 2, 1, 0)]
        assert not rest.more


async def test_an_imported_past_comes_after_what_was_said_since(store: Store) -> None:
    async with store.open(retention=KEPT) as journal:
        for _ in range(10):
            await commit(journal, *[post("a word", room="present") for _ in range(CHUNK)])
            store.now.ms += 1000
        old = [
            LogEntry("past", seq, 1000 * seq, "message", "u2", "bob", "a word", None, None)
            for seq in range(1, 601)
        ]
        await journal.commit([Restore("past", tuple(old))])
        await index(journal)
        rooms, end = {"present": 10**9, "past": 10**9}, 2**53
        seen: list[tuple[int, int]] = []
        while True:
            hits = await journal.search("wor", rooms, 100, before=end)
            seen += [(event.at, event.position) for event in hits.events]
            end = hits.events[-1].at
            if not hits.more:
                break
        assert len(seen) == 10 * CHUNK + 600
        assert seen == sorted(seen, reverse=True)


async def test_messages_are_found_by_who_sent_them(store: Store) -> None:
    async with store.open() as journal:
        await commit(
            journal,
            Post("lobby", "Lobby", "u1", "Ann", "a word"),
            Post("lobby", "Lobby", "u1", "anna", "a word"),
            Post("lobby", "Lobby", "u2", "ann", "a word"),
            Post("lobby", "Lobby", "u3", "bob", "a word"),
        )
        await index(journal)
        rooms = {"lobby": 9}
        for query in ("word", ""):
            both = await journal.search(query, rooms, 9, sender=Sender("ANN", "u1"))
            assert [event.seq for event in both.events] == [3, 2, 1]
        named = await journal.search("word", rooms, 9, sender=Sender("ann"))
        assert [event.seq for event in named.events] == [3, 1]
