"""The journal in a file: what becomes of it when the disk fails, and where its work runs."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from chatd.journal import Unavailable, schema
from chatd.journal.retention import Retention
from chatd.journal.sqlite import SqliteJournal, Tuning, open_sqlite
from chatd.model import Event, LogEntry, Post, Receipt, Remember, Restore, UserRecord
from tests.journal.store import Store, commit, error, index, nothing, post, search


def break_connection(journal: SqliteJournal) -> None:
    """Close the writer's connection, while another one keeps the log from being removed."""
    schema.connect(journal._writer.path, sqlite3.Connection, busy_ms=0).execute("BEGIN")
    journal._writer._connection.close()


# Faults of the disk


async def test_a_value_that_no_row_holds_is_no_fault_of_the_store(store: Store) -> None:
    async with store.open() as journal:
        with pytest.raises(Unavailable) as caught:
            await journal.commit([post("\ud800")])
        assert caught.value.healthy
        assert caught.value.divisible


async def test_a_full_disk_and_room_again(store: Store) -> None:
    async with store.open() as journal:
        made = await commit(journal, post("before", key="k"))
        pages = journal._writer._connection.execute("PRAGMA page_count").fetchone()[0]
        journal._writer._connection.execute(f"PRAGMA max_page_count = {pages}")
        for _ in range(2):
            with pytest.raises(Unavailable) as caught:
                await journal.commit([post("x" * 100_000, key="big")])
            assert caught.value.divisible
            assert not caught.value.healthy
            assert await journal.recover() == []
        made += await commit(journal, post("a small one fits"))
        assert await journal.read("lobby", 0, 9, 9) == made
        journal._writer._connection.execute("PRAGMA max_page_count = 1000000")
        made += await commit(journal, post("x" * 100_000, key="big"))
        assert [event.seq for event in made] == [1, 2, 3]
        assert await journal.read("lobby", 0, 9, 9) == made
        assert store.states() == ["failed", "recovered"]
        assert journal.statistics().failures == 2


@pytest.mark.parametrize("where", ["BEGIN IMMEDIATE", "INSERT INTO events", "COMMIT"])
async def test_nothing_is_there_of_a_commit_that_failed_before_its_end(
    store: Store, where: str
) -> None:
    async with store.open() as journal:
        made = await commit(journal, post("before"))

        def fail(sql: str) -> None:
            if sql.startswith(where):
                raise error("SQLITE_IOERR")

        store.faults.before = staticmethod(fail)
        with pytest.raises(Unavailable) as caught:
            await journal.commit([post("lost", key="k"), Remember(UserRecord("u1", "ann", None))])
        assert not caught.value.divisible
        store.faults.before = staticmethod(nothing)
        assert await journal.recover() == []
        assert await journal.user("u1") is None
        made += await commit(journal, post("after", key="k"))
        assert await journal.read("lobby", 0, 9, 9) == made
        assert [event.position for event in made] == [1, 2]


async def test_a_commit_that_failed_at_its_end_is_there_after_all(store: Store) -> None:
    async with store.open() as journal:

        def fail(sql: str) -> None:
            if sql == "COMMIT":
                raise error("SQLITE_IOERR_FSYNC")

        store.faults.after = staticmethod(fail)
        with pytest.raises(Unavailable):
            await journal.commit([post("doubtful", key="k"), post("too")])
        store.faults.after = staticmethod(nothing)
        with pytest.raises(Unavailable, match="in doubt"):
            await journal.commit([post("too early")])
        assert await journal.sweep() is False
        found = await journal.recover()
        assert [(event.seq, event.text) for event in found] == [(1, "doubtful"), (2, "too")]
        assert await journal.recover() == []
        assert await journal.commit([post("again", key="k")]) == [Receipt(found[0], duplicate=True)]
        assert await journal.read("lobby", 0, 9, 9) == found
        assert journal.statistics().events == 2


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_changed_words_in_a_doubtful_commit_are_wholly_there_or_not(
    store: Store, moment: str
) -> None:
    async with store.open() as journal:
        await commit(journal, post("first words"), post("other words"))
        await index(journal)

        def fail(sql: str) -> None:
            if sql == "COMMIT":
                raise error("SQLITE_IOERR_FSYNC")

        setattr(store.faults, moment, staticmethod(fail))
        changes = [
            Post("lobby", "Lobby", "u1", "ann", "new words", "edit", of=1),
            Post("lobby", "Lobby", "u1", "ann", "newer words", "edit", of=1),
            Post("lobby", "Lobby", "u1", "ann", None, "delete", of=2),
        ]
        with pytest.raises(Unavailable):
            await journal.commit(changes)
        setattr(store.faults, moment, staticmethod(nothing))
        found = await journal.recover()
        texts = [event.text for event in await journal.read("lobby", 0, 9, 9)]
        searched = [event.text for event in await search(journal, "words")]
        if moment == "before":
            assert found == []
            assert texts == ["first words", "other words"]
            assert searched == ["other words", "first words"]
        else:
            assert [event.text for event in found] == ["newer words", "newer words", None]
            assert texts == ["newer words", None, "newer words", "newer words", None]
            assert searched == ["newer words"]
            assert journal._writer.marks.dirty == store.now()


@pytest.mark.parametrize("reopened", [False, True])
async def test_an_import_in_a_doubtful_commit_gives_the_epoch_that_the_store_has(
    store: Store, reopened: bool
) -> None:
    async with store.open() as journal:
        before = journal.epoch

        def fail(sql: str) -> None:
            if sql == "COMMIT":
                raise error("SQLITE_IOERR")

        store.faults.after = staticmethod(fail)
        line = LogEntry("Lobby", 1, 5, "message", "u1", "ann", "from elsewhere")
        with pytest.raises(Unavailable):
            await journal.commit([Restore("lobby", (line,))])
        store.faults.after = staticmethod(nothing)
        if reopened:
            break_connection(journal)
        assert [event.text for event in await journal.recover()] == ["from elsewhere"]
        epoch = journal.epoch
        assert epoch != before
        assert [event.seq for event in await commit(journal, post())] == [2]
    async with store.open() as journal:
        assert journal.epoch == epoch


async def test_the_doubt_stays_until_the_store_can_be_read(store: Store) -> None:
    async with store.open() as journal:
        ended = False

        def fail(sql: str) -> None:
            nonlocal ended
            ended = ended or sql == "COMMIT"
            if ended:
                raise error("SQLITE_IOERR")

        store.faults.after = staticmethod(fail)
        with pytest.raises(Unavailable):
            await journal.commit([post("doubtful")])
        assert await journal.recover() == []
        with pytest.raises(Unavailable, match="in doubt"):
            await journal.commit([post("more")])
        with pytest.raises(Unavailable):
            await journal.read("lobby", 0, 9, 9)
        store.faults.after = staticmethod(nothing)
        assert [event.text for event in await journal.recover()] == ["doubtful"]
        assert [event.seq for event in await commit(journal, post("more"))] == [2]


async def test_a_broken_connection_is_reopened(store: Store) -> None:
    async with store.open() as journal:
        made = await commit(journal, post("a"))
        break_connection(journal)
        with pytest.raises(Unavailable):
            await journal.commit([post("b")])
        assert await journal.recover() == []
        made += await commit(journal, post("b"))
        assert await journal.read("lobby", 0, 9, 9) == made


async def test_a_removed_store_is_not_created_again(store: Store) -> None:
    async with store.open() as journal:
        await commit(journal, post("a"))
        away = store.path.with_name("away")
        break_connection(journal)
        store.path.rename(away)
        with pytest.raises(Unavailable):
            await journal.commit([post("b")])
        assert await journal.recover() == []
        with pytest.raises(Unavailable):
            await journal.commit([post("b")])
        assert not store.path.exists()
        away.rename(store.path)
        assert await journal.recover() == []
        assert [event.seq for event in await commit(journal, post("b"))] == [2]


async def test_another_programs_lock_is_waited_for_in_the_thread(store: Store) -> None:
    async with store.open() as journal:
        other = sqlite3.connect(store.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = trio.Event()

        def seen(sql: str) -> None:
            if sql == "PRAGMA busy_timeout = 2000":
                trio.from_thread.run_sync(waiting.set)

        store.faults.before = staticmethod(seen)

        async def let_go() -> None:
            await waiting.wait()
            other.execute("ROLLBACK")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_go)
            made = await commit(journal, post())
        other.close()
        assert [event.seq for event in made] == [1]
        assert store.reports == []


async def test_a_lock_that_stays_is_unavailable(store: Store) -> None:
    async with store.open(tuning=Tuning(busy_ms=20)) as journal:
        made = await commit(journal, post())
        other = sqlite3.connect(store.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable) as caught:
            await journal.commit([post("b")])
        assert not caught.value.divisible
        assert await journal.recover() == []
        assert await journal.read("lobby", 0, 9, 9) == made
        other.close()
        assert [event.seq for event in await commit(journal, post("b"))] == [2]


async def test_what_no_row_can_hold_fails_alone(store: Store) -> None:
    async with store.open() as journal:
        with pytest.raises(Unavailable) as caught:
            await journal.commit([post("good"), post("\ud800")])
        assert caught.value.divisible
        assert await journal.recover() == []
        with pytest.raises(Unavailable):
            await journal.commit([Post("lobby", "Lobby", "u", "n", "text", "topic", of=2**64)])
        assert await journal.recover() == []
        assert [event.seq for event in await commit(journal, post("good"))] == [1]


async def test_a_sweep_that_fails_is_tried_again_later(store: Store) -> None:
    retention = Retention(keep_days="off", keep_events=1, max_bytes="off")
    async with store.open(retention=retention) as journal:
        await commit(journal, post("a"), post("b"))

        def fail(sql: str) -> None:
            if sql.startswith("DELETE"):
                raise error("SQLITE_FULL")

        store.faults.before = staticmethod(fail)
        assert await journal.sweep() is False
        store.faults.before = staticmethod(nothing)
        await commit(journal, post("c"))
        assert await journal.sweep() is True
        assert [event.text for event in await journal.read("lobby", 0, 9, 9)] == ["c"]
        assert store.states() == ["failed", "recovered"]


async def test_a_closed_store_says_so(store: Store) -> None:
    async with store.open() as journal:
        await journal.aclose()
        with pytest.raises(Unavailable, match="closed"):
            await journal.commit([post()])
        with pytest.raises(Unavailable, match="closed"):
            await journal.head("lobby")
        assert await journal.sweep() is False


async def test_a_store_that_cannot_be_closed_is_not_clean(store: Store) -> None:
    def fail(sql: str) -> None:
        if "clean" in sql:
            raise error("SQLITE_IOERR")

    async with store.open() as journal:
        epoch = journal.epoch
        await commit(journal, post())
        store.faults.before = staticmethod(fail)
    store.faults.before = staticmethod(nothing)
    assert store.states() == ["failed"]
    store.runtime = None
    async with store.open() as journal:
        assert journal.epoch != epoch
        assert len(await journal.read("lobby", 0, 9, 9)) == 1


# Where it runs


class Threads:
    """Notes in which thread each commit ended."""

    def __init__(self, store: Store) -> None:
        self.seen: list[threading.Thread] = []
        store.faults.after = staticmethod(self.note)

    def note(self, sql: str) -> None:
        if sql == "COMMIT":
            self.seen.append(threading.current_thread())

    def inline(self) -> list[bool]:
        seen, self.seen = self.seen, []
        return [thread is threading.main_thread() for thread in seen]


async def test_commits_run_in_the_loop(store: Store) -> None:
    async with store.open() as journal:
        threads = Threads(store)
        await commit(journal, post())
        assert threads.inline() == [True]
        assert not journal.statistics().threaded


async def test_with_fsync_commits_run_in_the_thread(store: Store) -> None:
    async with store.open("fsync") as journal:
        assert journal._writer._connection.execute("PRAGMA synchronous").fetchone() == (2,)
        threads = Threads(store)
        for _ in range(20):
            await commit(journal, post())
        assert threads.inline() == [False] * 20


async def test_slow_commits_move_to_the_thread_until_they_are_quick(store: Store) -> None:
    async with store.open() as journal:
        placement = journal._placement
        placement.quick_seconds = 60.0
        threads = Threads(store)
        placement.slow_seconds = -1.0
        await commit(journal, post())
        assert journal.statistics().threaded
        placement.slow_seconds = 60.0
        for _ in range(17):
            await commit(journal, post())
        assert threads.inline() == [True] + [False] * 16 + [True]
        assert store.states() == ["slow", "quick"]


async def test_a_commit_in_the_thread_is_not_left_half_way(store: Store) -> None:
    async with store.open("fsync") as journal:
        inside, go_on = trio.Event(), threading.Event()

        def hold(sql: str) -> None:
            if sql == "COMMIT":
                trio.from_thread.run_sync(inside.set)
                go_on.wait(10)

        store.faults.before = staticmethod(hold)
        made: list[Event] = []

        async def committing() -> None:
            made.extend(await commit(journal, post()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(committing)
            await inside.wait()
            nursery.cancel_scope.cancel()
            go_on.set()
        store.faults.before = staticmethod(nothing)
        assert [event.seq for event in made] == [1]
        with trio.CancelScope() as scope:
            scope.cancel()
            assert await commit(journal, post()) == []
        assert scope.cancelled_caught
        assert [event.seq for event in await commit(journal, post())] == [2]


async def test_the_log_is_copied_and_restarted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = trio.Event()
    tuning = Tuning(checkpoint_pages=500, restart_pages=300)
    async with store.open(tuning=tuning) as journal:
        batch = [post("x" * 1000, key=str(number)) for number in range(490)]
        await commit(journal, *batch)
        monkeypatch.setattr(journal, "_recovered", lambda _part: told.set())
        await commit(journal, *[post("x" * 1000) for _ in range(100)])
        told = trio.Event()
        await told.wait()
        assert journal._log_pages > 300
        size = journal.statistics().log_bytes
        assert size == store.path.with_name("chat.db-wal").stat().st_size
        threads = Threads(store)
        await commit(journal, post("first in the new log"))
        assert threads.inline() == [False]
        await commit(journal, post())
        assert threads.inline() == [True]
        assert journal._checkpoint() < 20
        assert store.path.with_name("chat.db-wal").stat().st_size == size
        assert len(await journal.read("lobby", 0, 999, 999)) == 592


async def test_a_failed_checkpoint_is_reported_and_repeated(store: Store) -> None:
    failed, recovered = trio.Event(), trio.Event()

    def fail(sql: str) -> None:
        if "wal_checkpoint" in sql:
            raise error("SQLITE_FULL")

    def report(_event: str, /, **fields: object) -> None:
        {"failed": failed, "recovered": recovered}[str(fields["state"])].set()

    async with store.open(tuning=Tuning(checkpoint_pages=1)) as journal:
        journal._report = report
        store.faults.before = staticmethod(fail)
        await commit(journal, post())
        await failed.wait()
        store.faults.before = staticmethod(nothing)
        await commit(journal, post())
        await recovered.wait()


async def test_words_that_were_removed_are_in_no_file(store: Store) -> None:
    retention = Retention(keep_days="off", keep_events=1, max_bytes="off")
    async with store.open(retention=retention) as journal:
        await commit(journal, post("secret words"), post("secret " * 1000), post("kept words"))
        assert await journal.sweep() is True
    written = store.path.read_bytes()
    assert b"kept words" in written
    assert b"secret" not in written


async def test_no_query_reads_more_than_it_gives(store: Store) -> None:
    async with store.open() as journal:
        await commit(journal, post())
        await journal.read("lobby", 0, 9, 9)
        await journal.read_back("lobby", 9, 9)
        await journal.head("lobby")
        await journal.user("u1")
        await journal.sweep()
        plans: list[str] = []
        connection = sqlite3.connect(store.path)
        for sql in set(store.faults.statements):
            if sql.startswith("SELECT") and "?" in sql and "sqlite_schema" not in sql:
                rows = connection.execute(f"EXPLAIN QUERY PLAN {sql}", (1,) * sql.count("?"))
                plans += [row[3] for row in rows]
        connection.close()
        assert plans
        assert [plan for plan in plans if "SCAN" in plan or "TEMP" in plan] == []


async def test_reads_wait_for_no_commit_and_hold_up_none(store: Store) -> None:
    async with store.open() as journal:
        await commit(journal, post())
        inside, go_on = trio.Event(), threading.Event()

        def hold(sql: str) -> None:
            if sql.startswith("SELECT count"):
                trio.from_thread.run_sync(inside.set)
                go_on.wait(10)

        store.faults.before = staticmethod(hold)
        counted: list[int] = []

        async def reading() -> None:
            counted.append(await journal.unread("lobby", "u2", 0, 9))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reading)
            await inside.wait()
            await commit(journal, post("meanwhile"))
            head = await journal.head("lobby")
            assert head is not None
            assert head.seq == 2
            go_on.set()
        assert counted[0] in (1, 2)


async def test_searches_take_no_thread_of_other_reads(tmp_path: Path) -> None:
    gate = threading.Event()
    async with open_sqlite(tmp_path / "chatd.db", now=lambda: 1) as journal:
        await commit(journal, post("a word"))
        async with trio.open_nursery() as nursery:
            # A search that takes long.
            nursery.start_soon(journal._searcher.run, lambda _store: gate.wait(60))
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(30):
                for _ in range(5):
                    assert await journal.head("lobby") is not None
                    assert len(await journal.read("lobby", 0, 9, 9)) == 1
            with trio.move_on_after(0.1) as waited:
                await journal.search("word", {"lobby": 9}, 10)
            assert waited.cancelled_caught
            gate.set()
