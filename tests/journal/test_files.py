"""The files on the disk are the ones that are open: what the store does when they are not."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chatd.journal import Unavailable
from tests.journal.store import Store, commit, post


def remove_all(store: Store) -> None:
    for path in store.path.parent.glob("chat.db*"):
        path.unlink()


def remove_log(store: Store) -> None:
    store.path.with_name("chat.db-wal").unlink()


def remove_index_of_the_log(store: Store) -> None:
    store.path.with_name("chat.db-shm").unlink()


def cut_log(store: Store) -> None:
    os.truncate(store.path.with_name("chat.db-wal"), 0)


def cut_file(store: Store) -> None:
    os.truncate(store.path, 0)


def move_file(store: Store) -> None:
    store.path.rename(store.path.with_name("away.db"))


def move_folder(store: Store) -> None:
    store.path.parent.rename(store.path.parent.with_name("away"))


def replace_folder(store: Store) -> None:
    move_folder(store)
    store.path.parent.mkdir()


def copy_of(store: Store) -> Path:
    copy = store.path.parent.parent / "backup.db"
    copy.unlink(missing_ok=True)
    with closing(sqlite3.connect(store.path)) as live, closing(sqlite3.connect(copy)) as other:
        live.backup(other)
    return copy


def replace_file(store: Store) -> None:
    copy_of(store).rename(store.path)


def overwrite_file(store: Store) -> None:
    store.path.write_bytes(copy_of(store).read_bytes())


MEDDLING = [
    remove_all,
    remove_log,
    remove_index_of_the_log,
    cut_log,
    move_file,
    replace_file,
    move_folder,
    replace_folder,
]


@pytest.mark.parametrize("meddle", MEDDLING)
async def test_nothing_is_confirmed_that_is_in_no_file(
    store: Store, meddle: Callable[[Store], None]
) -> None:
    async with store.open() as journal:
        await commit(journal, post("before"))
        assert journal.in_place
        meddle(store)
        for _ in range(2):
            with pytest.raises(Unavailable) as caught:
                await journal.commit([post("after", key="k")])
            assert not caught.value.divisible
            assert await journal.recover() == []
        told = [fields for _, fields in store.reports]
        assert [fields["state"] for fields in told] == ["misplaced"]
        detail = str(told[0]["detail"])
        assert str(store.path) in detail
        assert "chatd ctl backup" in detail
        assert "\n" not in detail


SEEN = [*(one for one in MEDDLING if one is not cut_log), cut_file, overwrite_file]


@pytest.mark.parametrize("meddle", SEEN)
async def test_it_is_seen_without_a_commit(store: Store, meddle: Callable[[Store], None]) -> None:
    async with store.open() as journal:
        await commit(journal, post("before"))
        assert journal._checkpoint()
        assert journal.in_place
        meddle(store)
        assert not journal.in_place
        assert not journal.in_place
        assert store.states() == ["misplaced"]


@pytest.mark.parametrize("checkpointed", [False, True])
async def test_a_backup_that_is_copied_over_the_open_store_is_seen(
    store: Store, checkpointed: bool
) -> None:
    async with store.open() as journal:
        await commit(journal, *[post("x" * 1000) for _ in range(30)])
        if checkpointed:
            assert journal._checkpoint()
        copy = b"".join([piece async for piece in journal.backup()])
        await commit(journal, post("after the backup"))
        assert journal.in_place
        store.path.write_bytes(copy)
        assert not journal.in_place
        with pytest.raises(sqlite3.Error):
            journal._writer.checkpoint()
        assert store.path.read_bytes() == copy


async def test_an_older_state_that_is_copied_back_is_seen(store: Store) -> None:
    async with store.open() as journal:
        await commit(journal, post("x" * 1000))
    old = store.path.read_bytes()
    async with store.open() as journal:
        await commit(journal, *[post("x" * 1000) for _ in range(30)])
        assert journal._checkpoint()
        assert journal.in_place
        store.path.write_bytes(old.ljust(store.path.stat().st_size, b"\0"))
        assert not journal.in_place


async def test_a_checkpoint_of_another_program_is_no_meddling(store: Store) -> None:
    async with store.open() as journal:
        for number in range(5):
            await commit(journal, *[post("x" * 1000) for _ in range(20)])
            with closing(sqlite3.connect(store.path)) as other:
                other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if number == 2:
                    other.execute("CREATE TABLE theirs (x)")
            assert journal.in_place
        assert store.reports == []


async def test_what_comes_back_is_used_again(store: Store) -> None:
    async with store.open() as journal:
        made = await commit(journal, post("before"))
        epoch = journal.epoch
        away = store.path.with_name("away.db")
        move_file(store)
        with pytest.raises(Unavailable):
            await journal.commit([post("doubtful", key="k")])
        away.rename(store.path)
        assert journal.in_place
        # It was written into the file that is back.
        made += await journal.recover()
        assert [event.text for event in made] == ["before", "doubtful"]
        made += await commit(journal, post("after"))
        assert await journal.read("lobby", 0, 9, 9) == made
        assert store.states() == ["misplaced", "recovered"]
    async with store.open() as journal:
        assert journal.epoch == epoch
        assert await journal.read("lobby", 0, 9, 9) == made


async def test_another_store_is_neither_read_nor_written(store: Store, tmp_path: Path) -> None:
    async with store.open() as journal:
        made = await commit(journal, post("mine"))
        other = Store(tmp_path / "other")
        async with other.open() as stranger:
            await commit(stranger, post("theirs"))
        other.path.rename(store.path)
        theirs = store.path.read_bytes()
        with pytest.raises(Unavailable):
            await journal.read("lobby", 0, 9, 9)
        with pytest.raises(sqlite3.Error):
            journal._checkpoint()
        with pytest.raises(Unavailable):
            await journal.commit([post("lost")])
        assert store.path.read_bytes() == theirs
        epoch = journal.epoch
        assert made[0].seq == 1
    # Neither the file nor what is beside it was touched at the end.
    assert store.path.read_bytes() == theirs
    async with store.open() as journal:
        assert journal.epoch != epoch
        assert [event.text for event in await journal.read("lobby", 0, 9, 9)] == ["theirs"]
        assert "put there from a backup" in str(store.reports[-1][1]["detail"])
    assert store.path.with_name("chat.db-wal.former").exists()


async def test_a_log_in_the_place_of_the_removed_one_is_left_alone(store: Store) -> None:
    async with store.open() as journal:
        await commit(journal, post())
        remove_all(store)
        copy = store.path.with_name("chat.db")
        copy.write_bytes(b"")
        for suffix in ("-wal", "-shm"):
            store.path.with_name(f"chat.db{suffix}").write_bytes(b"another's")
    assert store.path.with_name("chat.db-wal").read_bytes() == b"another's"
    assert store.path.with_name("chat.db-shm").read_bytes() == b"another's"


async def test_a_log_that_another_program_emptied_is_whole(store: Store) -> None:
    async with store.open() as journal:
        made = await commit(journal, *[post("x" * 2000) for _ in range(50)])
        with closing(sqlite3.connect(store.path)) as other:
            assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        assert store.path.with_name("chat.db-wal").stat().st_size == 0
        made += await commit(journal, post("goes on"))
        assert await journal.read("lobby", 0, 99, 99) == made
        assert store.reports == []


async def test_a_file_beside_the_store_does_no_harm(store: Store) -> None:
    async with store.open() as journal:
        for number in range(3):
            store.path.with_name(f"other{number}").write_text("")
            await commit(journal, post())
        assert store.reports == []


@pytest.mark.parametrize("ends", ["closed", "killed"])
async def test_a_start_without_the_store_that_was_here_says_so(store: Store, ends: str) -> None:
    async with store.open() as journal:
        await commit(journal, post("one"), post("two"))
        if ends == "killed":
            remove_all(store)
    if ends == "closed":
        remove_all(store)
    store.reports.clear()
    async with store.open() as journal:
        assert await journal.rooms() == []
    (told,) = [fields for _, fields in store.reports]
    assert told["state"] == "missing"
    assert "number" in str(told["detail"])
    assert "2023-11-14" in str(told["detail"])
    async with store.open():
        assert len(store.reports) == 1


async def test_a_sweep_notes_how_far_the_store_has_come(store: Store) -> None:
    async with store.open() as journal:
        await commit(journal, post("one"))
        assert journal._writer._keepsake.read() == (1, store.now())
        store.now.ms += 15_000
        await commit(journal, post("two"), post("three"))
        await journal.sweep()
        assert journal._writer._keepsake.read() == (3, store.now())


async def test_a_new_store_and_one_without_events_are_nothing_to_speak_of(store: Store) -> None:
    for _ in range(2):
        async with store.open():
            pass
        remove_all(store)
    assert store.reports == []


async def test_a_removed_file_with_its_log_left_is_not_mixed(store: Store) -> None:
    async with store.open() as journal:
        await commit(journal, post("one"))
        store.path.unlink()
    assert store.path.with_name("chat.db-wal").exists()
    store.reports.clear()
    async with store.open() as journal:
        assert await journal.rooms() == []
        await commit(journal, post("new"))
    assert store.states() == ["missing"]


async def test_a_commit_looks_at_the_log_and_the_folder(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store.open() as journal:
        await commit(journal, post())
        seen: list[object] = []
        stat, lseek = os.stat, os.lseek

        def path_seen(path: Any, **how: Any) -> os.stat_result:
            seen.append(path)
            return stat(path, **how)

        def end_seen(descriptor: int, *where: int) -> int:
            seen.append(descriptor)
            return lseek(descriptor, *where)

        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", path_seen)
            patch.setattr(os, "lseek", end_seen)
            await commit(journal, post())
        assert seen == [journal._writer.files._log, os.fspath(store.path.parent)]
