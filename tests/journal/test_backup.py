"""A copy of a live store: whole, of one moment, and of another life."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from chatd.journal import Unavailable
from chatd.journal.memory import MemoryJournal
from chatd.journal.sqlite import open_sqlite
from chatd.model import Post
from tests.journal.store import Clock


def post(text: str) -> Post:
    return Post("lobby", "Lobby", "u", "n", text)


async def test_a_copy_is_a_store_with_its_own_epoch(tmp_path: Path) -> None:
    clock, store, copy = Clock(), tmp_path / "a" / "chatd.db", tmp_path / "b" / "chatd.db"
    copy.parent.mkdir()
    async with open_sqlite(store, now=clock) as journal:
        await journal.commit([post(str(number)) for number in range(500)])
        with copy.open("wb") as out:
            async for piece in journal.backup():
                out.write(piece)
                # The store keeps working meanwhile.
                await journal.commit([post("later")])
        assert not list(store.parent.glob(".chatd-backup-*"))
        epoch = journal.epoch
    async with open_sqlite(copy, now=clock) as journal:
        head = await journal.head("lobby")
        assert head is not None
        assert head.seq == 500
        assert journal.epoch != epoch
        await journal.commit([post("goes on")])


async def test_what_a_crash_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".chatd-backup-0123"
    left.write_bytes(b"x")
    async with open_sqlite(tmp_path / "chatd.db", now=Clock()):
        assert not left.exists()


async def test_a_copy_that_cannot_be_made_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="in memory"):
        await anext(MemoryJournal(now=Clock()).backup())
    folder = tmp_path / "store"
    async with open_sqlite(folder / "chatd.db", now=Clock()) as journal:
        await trio.to_thread.run_sync(folder.rename, tmp_path / "gone")
        with pytest.raises(Unavailable, match="cannot be copied"):
            await anext(journal.backup())
        (tmp_path / "gone").rename(folder)


async def test_a_store_whose_files_were_removed_can_still_be_copied(tmp_path: Path) -> None:
    store, copy = tmp_path / "chatd.db", tmp_path / "copy" / "chatd.db"
    copy.parent.mkdir()
    async with open_sqlite(store, now=Clock()) as journal:
        await journal.commit([post("still there")])
        for suffix in ("", "-wal", "-shm", ".lock"):
            store.with_name(f"chatd.db{suffix}").unlink()
        pieces = [piece async for piece in journal.backup()]
        copy.write_bytes(b"".join(pieces))
    async with open_sqlite(copy, now=Clock()) as journal:
        assert [event.text for event in await journal.read("lobby", 0, 9, 9)] == ["still there"]
