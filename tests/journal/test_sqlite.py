"""The journal in a file: what survives, what becomes of it when the disk fails, where it runs."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
import trio

from chatd.journal import Durability, StoreError, Unavailable, schema
from chatd.journal import pace as pace_module
from chatd.journal import sqlite as sqlite_module
from chatd.journal.retention import Retention
from chatd.journal.sqlite import SqliteJournal, open_sqlite
from chatd.journal.writer import Writer
from chatd.model import Event, Operation, Post, Receipt, Remember, UserRecord

KEPT = Retention(keep_days="off", keep_events="off", max_bytes="off", user_days="off")


class Clock:
    """A wall clock in ms that stands still until it is moved."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.ms

    def days(self, days: float) -> None:
        self.ms += int(days * 24 * 3600 * 1000)


class FaultyCursor(sqlite3.Cursor):
    def execute(self, sql: str, parameters: Any = ()) -> Self:
        FaultyConnection.statements.append(sql)
        FaultyConnection.before(sql)
        super().execute(sql, parameters)
        FaultyConnection.after(sql)
        return self

    def executemany(self, sql: str, parameters: Iterable[Any]) -> Self:
        FaultyConnection.before(sql)
        super().executemany(sql, parameters)
        return self


def nothing(_sql: str) -> None:
    """Do as the disk does on a good day."""


class FaultyConnection(sqlite3.Connection):
    """Calls ``before`` and ``after`` around every statement of every connection."""

    before: ClassVar[Callable[[str], None]] = staticmethod(nothing)
    after: ClassVar[Callable[[str], None]] = staticmethod(nothing)
    statements: ClassVar[list[str]] = []

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(FaultyCursor)

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        return FaultyCursor(self).execute(sql, parameters)


class Store:
    """A store's path, its clock, and what it told; opened as often as wanted."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "store" / "chat.db"
        self.runtime: Path | None = folder / "run"
        self.now = Clock()
        self.faults = FaultyConnection
        self.told: list[tuple[str, dict[str, object]]] = []

    def tell(self, event: str, /, **fields: object) -> None:
        self.told.append((event, fields))

    def states(self) -> list[object]:
        return [fields["state"] for _, fields in self.told]

    def open(
        self, durability: Durability = "commit", retention: Retention = KEPT
    ) -> AbstractAsyncContextManager[SqliteJournal]:
        return open_sqlite(
            self.path,
            durability=durability,
            retention=retention,
            now=self.now,
            runtime_dir=self.runtime,
            told=self.tell,
            factory=FaultyConnection,
        )


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(FaultyConnection, "before", staticmethod(nothing))
    monkeypatch.setattr(FaultyConnection, "after", staticmethod(nothing))
    monkeypatch.setattr(FaultyConnection, "statements", [])
    # A commit of ours may be slow on a machine that others use: that is not what is tested.
    monkeypatch.setattr(pace_module, "SLOW_SECONDS", 60.0)
    return Store(tmp_path)


def post(text: str = "hello", *, key: str | None = None, room: str = "lobby") -> Post:
    return Post(room, room.title(), "u1", "ann", text, key=key)


async def commit(journal: SqliteJournal, *batch: Operation) -> list[Event]:
    outcomes = await journal.commit(batch)
    return [outcome.event for outcome in outcomes if isinstance(outcome, Receipt)]


def error(name: str) -> sqlite3.OperationalError:
    made = sqlite3.OperationalError(f"made up: {name}")
    made.sqlite_errorcode = getattr(sqlite3, name)
    made.sqlite_errorname = name
    return made


# What survives


async def test_the_log_is_there_after_a_restart(store: Store) -> None:
    async with store.open() as journal:
        made = await commit(journal, post("a", key="k"), post("b"))
        epoch, key = journal.epoch, journal.key
    async with store.open() as journal:
        assert (journal.epoch, journal.key) == (epoch, key)
        assert len(key) == 32
        assert await journal.read("lobby", 0, 9, 9) == made
        assert await journal.commit([post("c", key="k")]) == [Receipt(made[0], duplicate=True)]
        assert [event.seq for event in await commit(journal, post("d"))] == [3]
    assert store.told == []


async def test_those_present_at_the_end_are_gone_since_the_start(store: Store) -> None:
    async with store.open() as journal:
        await journal.commit([Remember(UserRecord("u1", "ann", None))])
    store.now.days(1)
    async with store.open() as journal:
        assert await journal.present(0) == [UserRecord("u1", "ann", store.now())]


async def test_files_are_the_owners_alone(store: Store) -> None:
    async with store.open() as journal:
        await commit(journal, post())
        assert store.path.parent.stat().st_mode & 0o777 == 0o700
        names = {path.name: path.stat().st_mode & 0o777 for path in store.path.parent.iterdir()}
        assert names == dict.fromkeys(
            ("chat.db", "chat.db-wal", "chat.db-shm", "chat.db.lock"), 0o600
        )
    assert {path.name for path in store.path.parent.iterdir()} == {"chat.db", "chat.db.lock"}
    assert store.runtime is not None
    assert list(store.runtime.iterdir()) == []


async def test_numbers_are_never_given_twice(store: Store) -> None:
    retention = Retention(keep_days=1, keep_events="off", max_bytes="off")
    async with store.open(retention=retention) as journal:
        await commit(journal, post("a"), post("b", room="other"), post("c"))
        store.now.days(2)
        assert await journal.sweep() is True
        assert await journal.sweep() is False
        assert await journal.rooms() == []
        head = await journal.head("lobby")
        assert head is not None
        assert (head.seq, head.name) == (2, "Lobby")
    async with store.open(retention=retention) as journal:
        event = (await commit(journal, post("d")))[0]
        assert (event.position, event.seq) == (4, 3)


# Epochs


def copy_of(store: Store, folder: Path) -> Store:
    """Give a store with the files as they lie there now, as if its process had been killed."""
    copy = Store(folder)
    copy.path.parent.mkdir(parents=True)
    for path in store.path.parent.iterdir():
        if path.suffix != ".lock" and not path.name.endswith("-shm"):
            (copy.path.parent / path.name).write_bytes(path.read_bytes())
    return copy


async def test_an_unclean_end_with_nothing_known_gives_a_new_epoch(
    store: Store, tmp_path: Path
) -> None:
    async with store.open() as journal:
        made = await commit(journal, post())
        left = copy_of(store, tmp_path / "left")
        left.runtime = None
        async with left.open() as woken:
            assert woken.epoch != journal.epoch
            assert woken.key == journal.key
            assert await woken.read("lobby", 0, 9, 9) == made
            assert left.told[0][0] == "store"
            assert left.told[0][1]["state"] == "renewed"
            renewed = woken.epoch
        async with left.open() as woken:
            assert woken.epoch == renewed


@pytest.mark.parametrize("durability", ["commit", "fsync"])
@pytest.mark.parametrize("taken", ["stopped", "running"])
async def test_a_backup_that_is_put_back_gets_a_new_epoch(
    store: Store, tmp_path: Path, durability: Durability, taken: str
) -> None:
    backup = tmp_path / "backup.db"
    async with store.open(durability) as journal:
        await commit(journal, post("kept"))
        epoch = journal.epoch
        if taken == "running":
            with (
                closing(sqlite3.connect(store.path)) as live,
                closing(sqlite3.connect(backup)) as copy,
            ):
                live.backup(copy)
            await commit(journal, post("given number 2, and lost"))
    if taken == "stopped":
        backup.write_bytes(store.path.read_bytes())
        async with store.open(durability) as journal:
            assert journal.epoch == epoch  # a stop and a start alone change nothing
            await commit(journal, post("given number 2, and lost"))
    store.path.write_bytes(backup.read_bytes())
    async with store.open(durability) as journal:
        assert journal.epoch != epoch
        assert "put there from a backup" in str(store.told[-1][1]["detail"])
        renewed = journal.epoch
        event = (await commit(journal, post("number 2 of another life")))[0]
        assert event.seq == 2
    async with store.open(durability) as journal:
        assert journal.epoch == renewed


async def test_a_store_that_is_moved_elsewhere_gets_a_new_epoch(
    store: Store, tmp_path: Path
) -> None:
    async with store.open() as journal:
        await commit(journal, post())
        epoch = journal.epoch
    async with copy_of(store, tmp_path / "elsewhere").open() as journal:
        assert journal.epoch != epoch


async def test_an_unclean_end_in_the_same_boot_keeps_the_epoch(store: Store) -> None:
    killed = writer_of(store)
    killed.open()
    killed.commit([post()])
    kill(killed)
    async with store.open() as journal:
        assert journal.epoch == killed.epoch
        assert len(await journal.read("lobby", 0, 9, 9)) == 1
    assert store.told == []


def writer_of(store: Store, durability: Durability = "commit") -> Writer:
    return Writer(
        store.path,
        durability=durability,
        now=store.now,
        runtime_dir=store.runtime,
        factory=sqlite3.Connection,
    )


def kill(writer: Writer) -> None:
    """Let go of everything as the end of the process does, without a word to the store."""
    writer._connection.close()
    assert writer._claim is not None
    writer._claim.release()


@pytest.mark.parametrize("then", ["commit", "fsync"])
@pytest.mark.parametrize("first", ["commit", "fsync"])
async def test_after_another_boot_what_the_last_life_promised_counts(
    store: Store, first: Durability, then: Durability
) -> None:
    killed = writer_of(store, first)
    killed.open()
    kill(killed)
    assert store.runtime is not None
    for marker in store.runtime.iterdir():
        marker.unlink()
    async with store.open(then) as journal:
        assert (journal.epoch == killed.epoch) is (first == "fsync")


async def test_another_file_in_the_stores_place_gets_a_new_epoch(store: Store) -> None:
    killed = writer_of(store)
    killed.open()
    kill(killed)
    copy = store.path.with_name("copy")
    copy.write_bytes(store.path.read_bytes())
    copy.rename(store.path)
    async with store.open() as journal:
        assert journal.epoch != killed.epoch


# Opening


async def refusal(store: Store) -> str:
    with pytest.raises(StoreError) as caught:
        async with store.open():
            pass
    text = str(caught.value)
    assert "\n" not in text
    assert str(store.path.parent) in text
    return text


async def test_a_second_opening_is_refused(store: Store) -> None:
    async with store.open() as journal:
        assert "is in use by process" in await refusal(store)
        linked = Store(store.path.parent.parent)
        linked.path = store.path.with_name("link.db")
        linked.path.symlink_to(store.path)
        assert "is in use by process" in await refusal(linked)
        await commit(journal, post())
    async with store.open():
        pass


async def test_a_damaged_file_is_refused(store: Store) -> None:
    store.path.parent.mkdir()
    store.path.write_bytes(b"no database at all " * 1000)
    assert "restore a backup" in await refusal(store)
    assert store.path.read_bytes() == b"no database at all " * 1000


async def test_a_torn_file_is_refused(store: Store) -> None:
    async with store.open() as journal:
        await commit(journal, *[post(str(number)) for number in range(500)])
    whole = store.path.read_bytes()
    store.path.write_bytes(whole[:2048] + b"\xff" * (len(whole) - 2048))
    assert "restore a backup" in await refusal(store)


async def test_a_file_of_another_program_is_refused(store: Store) -> None:
    store.path.parent.mkdir()
    connection = sqlite3.connect(store.path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    assert "another program" in await refusal(store)


async def test_a_newer_store_is_refused(store: Store) -> None:
    async with store.open():
        pass
    connection = sqlite3.connect(store.path)
    connection.execute(f"PRAGMA user_version = {len(schema.STEPS) + 1}")
    connection.close()
    assert "newer chatd" in await refusal(store)


async def test_a_folder_that_is_none_is_refused(store: Store) -> None:
    store.path.parent.write_text("a file")
    assert "give the folder" in await refusal(store)


async def test_an_older_store_takes_the_steps_it_lacks(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store.open() as journal:
        made = await commit(journal, post())
    step = ("CREATE TABLE more (x)", "INSERT INTO more VALUES (42)")
    monkeypatch.setattr(schema, "STEPS", (*schema.STEPS, step))
    async with store.open() as journal:
        assert await journal.read("lobby", 0, 9, 9) == made
    connection = sqlite3.connect(store.path)
    assert connection.execute("SELECT x FROM more").fetchall() == [(42,)]
    assert connection.execute("PRAGMA user_version").fetchone() == (len(schema.STEPS),)
    connection.close()
    async with store.open():
        pass


async def test_a_step_that_fails_changes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store.open() as journal:
        made = await commit(journal, post())
    with monkeypatch.context() as patch:
        patch.setattr(schema, "STEPS", (*schema.STEPS, ("DELETE FROM events", "not SQL")))
        assert "cannot be opened" in await refusal(store)
    async with store.open() as journal:
        assert await journal.read("lobby", 0, 9, 9) == made


# Faults of the disk


async def test_a_full_disk_and_room_again(store: Store) -> None:
    async with store.open() as journal:
        made = await commit(journal, post("before", key="k"))
        pages = journal._writer._connection.execute("PRAGMA page_count").fetchone()[0]
        journal._writer._connection.execute(f"PRAGMA max_page_count = {pages}")
        for _ in range(2):
            with pytest.raises(Unavailable) as caught:
                await journal.commit([post("x" * 100_000, key="big")])
            assert caught.value.divisible
            assert await journal.settle() == []
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
        assert await journal.settle() == []
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
        found = await journal.settle()
        assert [(event.seq, event.text) for event in found] == [(1, "doubtful"), (2, "too")]
        assert await journal.settle() == []
        assert await journal.commit([post("again", key="k")]) == [Receipt(found[0], duplicate=True)]
        assert await journal.read("lobby", 0, 9, 9) == found
        assert journal.statistics().events == 2


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
        assert await journal.settle() == []
        with pytest.raises(Unavailable, match="in doubt"):
            await journal.commit([post("more")])
        with pytest.raises(Unavailable):
            await journal.read("lobby", 0, 9, 9)
        store.faults.after = staticmethod(nothing)
        assert [event.text for event in await journal.settle()] == ["doubtful"]
        assert [event.seq for event in await commit(journal, post("more"))] == [2]


async def test_a_broken_connection_is_opened_anew(store: Store) -> None:
    async with store.open() as journal:
        made = await commit(journal, post("a"))
        journal._writer._connection.close()
        with pytest.raises(Unavailable):
            await journal.commit([post("b")])
        assert await journal.settle() == []
        made += await commit(journal, post("b"))
        assert await journal.read("lobby", 0, 9, 9) == made


async def test_a_store_that_was_taken_away_is_not_begun_anew(store: Store) -> None:
    async with store.open() as journal:
        await commit(journal, post("a"))
        away = store.path.with_name("away")
        store.path.rename(away)
        journal._writer._connection.close()
        with pytest.raises(Unavailable):
            await journal.commit([post("b")])
        assert await journal.settle() == []
        with pytest.raises(Unavailable):
            await journal.commit([post("b")])
        assert not store.path.exists()
        away.rename(store.path)
        assert await journal.settle() == []
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
        assert store.told == []


async def test_a_lock_that_stays_is_unavailable(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "BUSY_MS", 20)
    async with store.open() as journal:
        made = await commit(journal, post())
        other = sqlite3.connect(store.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable) as caught:
            await journal.commit([post("b")])
        assert not caught.value.divisible
        assert await journal.settle() == []
        assert await journal.read("lobby", 0, 9, 9) == made
        other.close()
        assert [event.seq for event in await commit(journal, post("b"))] == [2]


async def test_what_no_row_can_hold_fails_alone(store: Store) -> None:
    async with store.open() as journal:
        with pytest.raises(Unavailable) as caught:
            await journal.commit([post("good"), post("\ud800")])
        assert caught.value.divisible
        assert await journal.settle() == []
        with pytest.raises(Unavailable):
            await journal.commit([Post("lobby", "Lobby", "u", "n", "text", of=2**64)])
        assert await journal.settle() == []
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


async def test_slow_commits_move_to_the_thread_until_they_are_quick(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace_module, "QUICK_SECONDS", 60.0)
    async with store.open() as journal:
        threads = Threads(store)
        monkeypatch.setattr(pace_module, "SLOW_SECONDS", -1.0)
        await commit(journal, post())
        assert journal.statistics().threaded
        monkeypatch.setattr(pace_module, "SLOW_SECONDS", 60.0)
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


async def test_the_log_is_copied_and_begun_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "_CHECKPOINT_PAGES", 500)
    monkeypatch.setattr(sqlite_module, "_LOG_PAGES", 300)
    told = trio.Event()
    async with store.open() as journal:
        batch = [post("x" * 1000, key=str(number)) for number in range(490)]
        await commit(journal, *batch)
        assert journal.statistics().log_bytes == 0
        monkeypatch.setattr(journal, "_recovered", lambda _part: told.set())
        await commit(journal, *[post("x" * 1000) for _ in range(100)])
        told = trio.Event()
        await told.wait()
        long = journal.statistics().log_bytes
        assert long > 300 * schema.PAGE_BYTES
        size = store.path.with_name("chat.db-wal").stat().st_size
        threads = Threads(store)
        await commit(journal, post("first in the new log"))
        assert threads.inline() == [False]
        await commit(journal, post())
        assert threads.inline() == [True]
        assert journal._checkpoint() < 20
        assert store.path.with_name("chat.db-wal").stat().st_size == size
        assert len(await journal.read("lobby", 0, 999, 999)) == 592


async def test_a_failed_checkpoint_is_told_and_made_good(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "_CHECKPOINT_PAGES", 1)
    failed, recovered = trio.Event(), trio.Event()

    def fail(sql: str) -> None:
        if "wal_checkpoint" in sql:
            raise error("SQLITE_FULL")

    def told(_event: str, /, **fields: object) -> None:
        {"failed": failed, "recovered": recovered}[str(fields["state"])].set()

    async with store.open() as journal:
        journal._told = told
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
        made = await commit(journal, post())
        inside, go_on = trio.Event(), threading.Event()

        def hold(sql: str) -> None:
            if sql.startswith("SELECT e.position"):
                trio.from_thread.run_sync(inside.set)
                go_on.wait(10)

        store.faults.before = staticmethod(hold)
        read: list[Event] = []

        async def reading() -> None:
            read.extend(await journal.read("lobby", 0, 9, 9))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reading)
            await inside.wait()
            await commit(journal, post("meanwhile"))
            head = await journal.head("lobby")
            assert head is not None
            assert head.seq == 2
            go_on.set()
        assert read[:1] == made
