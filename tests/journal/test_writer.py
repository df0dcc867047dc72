"""The store's file: what survives, what is refused, and when its numbers get a new epoch."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from chatd.clock import SteadyClock
from chatd.journal import Durability, StoreError, new_epoch, schema
from chatd.journal.retention import Retention
from chatd.journal.writer import Writer
from chatd.model import Receipt, Remember, UserRecord
from tests.journal.store import Store, commit, found, index, post

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
    assert store.reports == []


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
            ("chat.db", "chat.db-wal", "chat.db-shm", "chat.db.lock", ".chat.db.keepsake"), 0o600
        )
    left = {path.name for path in store.path.parent.iterdir()}
    assert left == {"chat.db", "chat.db.lock", ".chat.db.keepsake"}
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
    """Return a store with the current files, as if its process had been killed."""
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
            assert left.reports[0][0] == "store"
            assert left.reports[0][1]["state"] == "renewed"
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
        assert "put there from a backup" in str(store.reports[-1][1]["detail"])
        renewed = journal.epoch
        event = (await commit(journal, post("number 2 of another life")))[0]
        assert event.seq == 2
    async with store.open(durability) as journal:
        assert journal.epoch == renewed


async def test_the_clock_of_a_backup_is_no_reason_for_doubt(store: Store) -> None:
    async with store.open() as journal:
        await commit(journal, post())
        copy = b"".join([piece async for piece in journal.backup()])
    store.path.write_bytes(copy)
    store.now.jumped += 30 * 24 * 3600 * 1000
    async with store.open() as journal:
        assert journal.steady_now() == store.now()
        assert "put there from a backup" in str(store.reports[-1][1]["detail"])


async def test_an_epoch_that_looks_like_a_number_stays_a_text(store: Store) -> None:
    """Stores that were made before `new_epoch` may have one, which SQLite took for a number."""
    async with store.open():
        pass
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("UPDATE meta SET value = '1497772785948700' WHERE name = 'epoch'")
    async with store.open() as journal:
        assert journal.epoch == "1497772785948700"
        journal._writer.doubt = True
        assert await journal.recover() == []
        assert journal.epoch == "1497772785948700"


async def test_a_new_epoch_never_looks_like_a_number() -> None:
    assert not new_epoch()[0].isdigit()


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
    assert store.reports == []


def writer_of(store: Store, durability: Durability = "commit") -> Writer:
    return Writer(
        store.path,
        durability=durability,
        now=store.now,
        clock=SteadyClock(store.now, store.now.elapsed),
        runtime_dir=store.runtime,
        factory=sqlite3.Connection,
    )


def kill(writer: Writer) -> None:
    """Let go of the store as the end of the process does, without closing it."""
    writer._connection.close()
    writer.files.close()
    assert writer._lock is not None
    writer._lock.release()


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


@pytest.mark.parametrize(
    ("damage", "refused"),
    [
        ("UPDATE events SET at = x'9e'", False),
        ("UPDATE meta SET value = x'9e' WHERE name = 'life'", True),
        ("DELETE FROM meta", True),
    ],
)
async def test_values_of_other_types_are_damage(store: Store, damage: str, refused: bool) -> None:
    async with store.open() as journal:
        await commit(journal, post())
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute(damage)
        connection.commit()
    if refused:
        with pytest.raises(StoreError, match=f"{store.path} is damaged"):
            async with store.open():
                pass
    else:
        async with store.open() as journal:
            assert (await commit(journal, post()))[0].seq == 2


async def test_what_the_index_alone_knows_is_not_found(store: Store) -> None:
    async with store.open() as journal:
        await commit(journal, post(text="one word"), post(text="another word"))
        await index(journal)
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("DELETE FROM events WHERE position = 1")
        connection.commit()
    async with store.open() as journal:
        assert await found(journal, "word") == [2]


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


async def test_a_path_that_is_not_a_folder_is_refused(store: Store) -> None:
    store.path.parent.write_text("a file")
    assert "give the folder" in await refusal(store)


async def test_an_older_store_takes_the_steps_it_lacks(store: Store) -> None:
    async with store.open():
        pass
    step = ("CREATE TABLE more (x)", "INSERT INTO more VALUES (42)")
    steps = (*schema.STEPS, step)
    with closing(sqlite3.connect(store.path, isolation_level=None)) as connection:
        for _ in range(2):
            schema.migrate(connection, store.path, steps)
        assert connection.execute("SELECT x FROM more").fetchall() == [(42,)]
        assert connection.execute("PRAGMA user_version").fetchone() == (len(steps),)


async def test_a_step_that_fails_changes_nothing(store: Store) -> None:
    async with store.open() as journal:
        made = await commit(journal, post())
    steps = (*schema.STEPS, ("DELETE FROM events", "not SQL"))
    connection = sqlite3.connect(store.path, isolation_level=None)
    with closing(connection), pytest.raises(sqlite3.Error):
        schema.migrate(connection, store.path, steps)
    async with store.open() as journal:
        assert await journal.read("lobby", 0, 9, 9) == made
