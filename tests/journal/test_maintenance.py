"""Behind the commits: words are made findable, and what went leaves the store's files."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing

from chatd.journal.index import CHUNK_EVENTS
from chatd.journal.retention import CHUNK, Retention
from chatd.journal.sqlite import INDEX_RETRY_SECONDS, SqliteJournal, Tuning
from chatd.model import Post
from tests.journal.store import KEPT, Store, commit, error, found, index, nothing, post

PURGED = Retention(
    keep_days="off", keep_events="off", max_bytes="off", user_days="off", purge_seconds=60
)


def edit(of: int, text: str) -> Post:
    return Post("lobby", "Lobby", "u1", "ann", text, "edit", of=of)


def delete(of: int) -> Post:
    return Post("lobby", "Lobby", "u1", "ann", None, "delete", of=of)


def files(store: Store) -> bytes:
    """Return the bytes of all the store's files, in lower case like the index."""
    return b"".join(path.read_bytes() for path in store.path.parent.iterdir()).lower()


async def sweep(journal: SqliteJournal) -> int:
    retention_log = 0
    while await journal.sweep():
        retention_log += 1
    return retention_log


async def purge(journal: SqliteJournal) -> None:
    """Sweep until the files are clean: a checkpoint may be at the log meanwhile."""
    while journal._writer.marks.dirty is not None:
        await sweep(journal)


# What goes


async def test_text_that_went_is_in_no_file_in_time(store: Store) -> None:
    retention = Retention(keep_days=1, keep_events="off", max_bytes="off", purge_seconds=60)
    async with store.open(retention=retention) as journal:
        await commit(journal, post("Retired"))
        store.now.days(1)
        store.now.ms += 1
        await commit(journal, post("Zebra eats"), post("Quagga " * 500), post("Keeps grazing"))
        await index(journal)
        await commit(journal, edit(2, "Yak eats"), edit(2, "Xerus eats"), delete(3))
        await index(journal)
        await sweep(journal)
        assert await found(journal, "retired") == []
        for word in (b"retired", b"zebra", b"quagga"):
            assert word in files(store), word
        assert journal.due_in() == 30
        store.now.ms += 30_000
        assert await sweep(journal) > 0
        await purge(journal)
        left = files(store)
        for word in (b"retired", b"zebra", b"yak", b"quagga"):
            assert word not in left, word
        assert b"xerus" in left
        assert await found(journal, "grazing") == [4]
        assert await found(journal, "xerus") == [2]
        assert await journal.sweep() is False
        assert journal._writer.marks.dirty is None


async def test_words_leave_an_index_of_many_parts(store: Store) -> None:
    draw = random.Random(1)
    async with store.open(retention=PURGED) as journal:
        for part in range(30):
            texts = [f"w{draw.randrange(500)}n secret{part}x{one}" for one in range(CHUNK)]
            made = await commit(journal, *[post(text) for text in texts])
            await index(journal)
            await commit(journal, edit(made[0].seq, f"plain{part}"), delete(made[-1].seq))
        store.now.ms += 30_000
        await commit(journal, post("newer"), edit(2, "changed while it is cleaned"))
        while await journal.sweep():
            await index(journal)
        await purge(journal)
        connection = sqlite3.connect(store.path)
        connection.execute("CREATE VIRTUAL TABLE temp.v USING fts5vocab (main, words, row)")
        terms = {row[0] for row in connection.execute("SELECT term FROM temp.v")}
        connection.close()
        assert terms >= {"plain0", "plain29", "newer", "cleaned", "secret0x2"}
        for part in range(30):
            for word in (f"secret{part}x0", f"secret{part}x{CHUNK - 1}"):
                assert word not in terms
                assert word.encode() not in files(store)


async def test_what_goes_while_the_files_are_cleaned_is_cleaned_next(store: Store) -> None:
    async with store.open(retention=PURGED) as journal:
        await commit(journal, post("first"), post("Second"))
        await index(journal)
        await commit(journal, delete(1))
        store.now.ms += 30_000
        assert await journal.sweep() is True
        await commit(journal, delete(2))
        await sweep(journal)
        assert journal._writer.marks.dirty == store.now()
        store.now.ms += 30_000
        await purge(journal)
        assert b"second" not in files(store)


async def test_a_store_that_was_closed_meanwhile_is_cleaned_after_it_is_opened(
    store: Store,
) -> None:
    async with store.open(retention=PURGED) as journal:
        await commit(journal, post("Zebra"))
        await index(journal)
        await commit(journal, delete(1))
        await index(journal)
    assert b"zebra" in files(store)
    store.now.ms += 60_000
    async with store.open(retention=PURGED) as journal:
        await purge(journal)
        assert b"zebra" not in files(store)


async def test_a_clock_that_went_back_is_not_waited_for(store: Store) -> None:
    async with store.open(retention=PURGED) as journal:
        await commit(journal, post("Zebra"))
        await commit(journal, delete(1))
        assert await journal.sweep() is False
        store.now.ms -= 3_600_000
        await purge(journal)
        assert b"zebra" not in files(store)


async def test_the_log_is_emptied_later_if_it_is_being_read(
    store: Store,
) -> None:
    async with store.open(retention=PURGED, tuning=Tuning(truncate_ms=0)) as journal:
        await commit(journal, post("Zebra"))
        await commit(journal, delete(1))
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT * FROM events").fetchone()
            store.now.ms += 30_000
            await sweep(journal)
            assert b"zebra" in files(store)
        await purge(journal)
        assert b"zebra" not in files(store)


def reading(store: Store) -> sqlite3.Connection:
    """Return another program's connection, inside a transaction that it does not end."""
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM events").fetchone()
    return other


async def test_a_reader_that_stays_is_reported_and_made_good(
    store: Store, mock_clock: trio.testing.MockClock
) -> None:
    async with store.open(retention=PURGED) as journal:
        await commit(journal, post("Zebra"))
        await commit(journal, delete(1))
        with closing(reading(store)):
            store.now.ms += 30_000
            await sweep(journal)
            assert store.reports == []
            assert journal.due_in() == 0
            mock_clock.jump(15)
            await sweep(journal)
            await sweep(journal)
            (told,) = [fields for _, fields in store.reports]
            assert told["state"] == "held"
            assert "fuser" in str(told["detail"])
            assert told["store_bytes"] == store.path.with_name("chat.db-wal").stat().st_size
            assert journal.statistics().log_held_seconds == 15
            assert b"zebra" in files(store)
        await sweep(journal)
        assert b"zebra" not in files(store)
        assert store.states() == ["held", "recovered"]
        assert journal.statistics().log_held_seconds == 0


async def test_a_log_that_a_reader_made_long_is_emptied_when_it_leaves(
    store: Store,
) -> None:
    async with store.open(tuning=Tuning(checkpoint_pages=50, long_pages=100)) as journal:
        await commit(journal, post())
        with closing(reading(store)):
            while not journal._long_log:
                await commit(journal, *[post("x" * 1000) for _ in range(64)])
                await trio.lowlevel.checkpoint()
            for _ in range(3):
                await sweep(journal)
                assert journal.due_in() == 0
            assert store.states() == ["held"]
            assert journal.statistics().log_bytes > 100 * 2048
            # Nothing is deleted because of it.
            head = await journal.head("lobby")
            assert head is not None
            assert len(await journal.read("lobby", 0, 10**9, 10**9)) == head.seq
        await sweep(journal)
        assert journal.statistics().log_bytes == 0
        assert store.states() == ["held", "recovered"]
        assert journal.due_in() is None


async def test_a_failed_purge_is_reported_and_repeated(store: Store) -> None:
    def fail(sql: str) -> None:
        if "TRUNCATE" in sql:
            raise error("SQLITE_IOERR")

    async with store.open(retention=PURGED) as journal:
        await commit(journal, post("Zebra"))
        await commit(journal, delete(1))
        store.now.ms += 30_000
        store.faults.before = staticmethod(fail)
        await sweep(journal)
        assert journal.due_in() == 0
        store.faults.before = staticmethod(nothing)
        await purge(journal)
        assert journal.due_in() is None
        assert b"zebra" not in files(store)
        assert store.states() == ["failed", "recovered"]


# The index


async def test_an_index_chunk_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async with store.open() as journal:
        await commit(journal, *[post(f"w{number}") for number in range(CHUNK_EVENTS + 1)])
        assert await journal.index() == 0
        assert await found(journal, f"w{CHUNK_EVENTS - 1}") == [CHUNK_EVENTS]
        assert await found(journal, f"w{CHUNK_EVENTS}") == []
        assert await journal.index() is None
        assert await found(journal, f"w{CHUNK_EVENTS}") == [CHUNK_EVENTS + 1]
        await commit(journal, *[post("long " * 1250) for _ in range(4)])
        assert [await journal.index() for _ in range(2)] == [0, None]


async def test_the_index_continues_after_a_restart(store: Store) -> None:
    async with store.open() as journal:
        await commit(journal, post("one"))
        await index(journal)
        await commit(journal, post("two"))
    async with store.open() as journal:
        assert await found(journal, "two") == []
        await index(journal)
        assert (await found(journal, "one"), await found(journal, "two")) == ([1], [2])


async def test_words_of_removed_events_are_not_found(store: Store) -> None:
    retention = Retention(keep_days="off", keep_events=1, max_bytes="off")
    async with store.open(retention=retention) as journal:
        await commit(journal, post("one word"), post("two words"))
        await index(journal)
        await commit(journal, post("three words"), post("four words"))
        await sweep(journal)
        await index(journal)
        assert await found(journal, "words") == [4]
        assert await found(journal, '"word"') == []
        journal._writer._connection.execute(
            "INSERT INTO words (words, rank) VALUES ('integrity-check', 0)"
        )


async def test_an_index_that_fails_is_made_good(store: Store) -> None:
    def fail(sql: str) -> None:
        if sql.startswith("UPDATE meta"):
            raise error("SQLITE_FULL")

    async with store.open() as journal:
        await commit(journal, post("one"))
        store.faults.before = staticmethod(fail)
        assert await journal.index() == INDEX_RETRY_SECONDS
        store.faults.before = staticmethod(nothing)
        assert await found(journal, "one") == []
        await index(journal)
        assert await found(journal, "one") == [1]
        assert store.states() == ["failed", "recovered"]


async def test_a_commit_indexes_nothing(store: Store) -> None:
    async with store.open() as journal:
        await commit(journal, post("a"), edit(1, "b"), delete(1))
        assert [sql for sql in store.faults.statements if "INTO words (rowid" in sql] == []


async def test_the_index_is_merged_as_it_grows(store: Store) -> None:
    async with store.open() as journal:
        for number in range(100):
            await commit(journal, post(f"word{number} and more"))
            await journal.index()
        connection = journal._writer._connection
        parts = connection.execute("SELECT count(DISTINCT segid) FROM words_idx").fetchone()[0]
        assert parts < 16


async def test_an_old_store_is_indexed_from_its_beginning(store: Store) -> None:
    async with store.open() as journal:
        await commit(journal, post("old words"))
    with closing(sqlite3.connect(store.path)) as connection:
        for statement in (
            "DROP TABLE words",
            "DROP TABLE records",
            "DROP INDEX users_subject",
            "ALTER TABLE users DROP COLUMN subject",
            "DROP INDEX rooms_oldest",
            "ALTER TABLE rooms DROP COLUMN oldest",
            "ALTER TABLE rooms DROP COLUMN gone",
            "DROP TRIGGER events_removed",
            "DROP TABLE places",
            "CREATE UNIQUE INDEX events_seq ON events (room_id, seq)",
            "DELETE FROM meta WHERE name IN ('indexed', 'dirty', 'floor', 'tokens')",
            "DELETE FROM meta WHERE name IN ('clock', 'jump', 'doubted', 'filed')",
            "PRAGMA user_version = 1",
        ):
            connection.execute(statement)
        connection.commit()
    async with store.open() as journal:
        await index(journal)
        assert await found(journal, "old") == [1]


async def test_reads_find_while_the_index_is_written(store: Store, tmp_path: Path) -> None:
    async with store.open(retention=KEPT) as journal:
        await commit(journal, *[post(f"word number {one}") for one in range(200)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(index, journal)
            for _ in range(20):
                seqs = await found(journal, "word")
                assert seqs == sorted(seqs, reverse=True)
        assert len(await found(journal, "word")) == 200
