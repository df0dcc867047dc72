from __future__ import annotations

import gzip
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from chatd.journal import schema
from chatd.model import Receipt
from tests.journal.store import Store, commit, found, index, post

VERSION_3 = Path(__file__).with_name("version3.db.gz")
"""A store as version 3 of the schema left it, closed cleanly."""

PATH = Path("/srv/chat.db")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (sqlite3.SQLITE_NOTADB, f"{PATH} is damaged (why): restore a backup"),
        (sqlite3.SQLITE_CORRUPT, f"{PATH} is damaged (why): restore a backup"),
        (sqlite3.SQLITE_BUSY, f"{PATH} is locked by another program"),
        (sqlite3.SQLITE_CANTOPEN, f"{PATH} cannot be written (why): give the file"),
        (sqlite3.SQLITE_READONLY | 8 << 8, f"{PATH} cannot be written (why): give the file"),
        (sqlite3.SQLITE_FULL, f"{PATH}: the disk is full"),
        (sqlite3.SQLITE_IOERR, f"{PATH} cannot be opened (why)"),
        (None, f"{PATH} cannot be opened (why)"),
    ],
)
def test_an_error_of_sqlite_says_what_to_do(code: int | None, text: str) -> None:
    error = sqlite3.OperationalError("why")
    if code is not None:
        error.sqlite_errorcode = code
    assert str(schema.store_error(PATH, error)).startswith(text)


def test_an_error_that_is_not_text_is_damage() -> None:
    error = UnicodeDecodeError("utf-8", b"\x9e", 0, 1, "invalid start byte")
    assert str(schema.store_error(PATH, error)).startswith(f"{PATH} is damaged (")


async def test_a_store_of_version_3_is_as_it_was(store: Store) -> None:
    at = 1_700_000_000_000
    store.path.parent.mkdir()
    store.path.write_bytes(gzip.decompress(VERSION_3.read_bytes()))
    async with store.open() as journal:
        assert [(head.room, head.seq, head.topic) for head in await journal.rooms()] == [
            ("den", 2, ""),
            ("lobby", 7, "topic of old"),
        ]
        kept = await journal.read("lobby", 0, 99, 99)
        assert [(event.seq, event.text) for event in kept] == [
            (5, "text 4"),
            (6, "six"),
            (7, "topic of old"),
        ]
        with closing(sqlite3.connect(store.path)) as connection:
            rooms = connection.execute("SELECT fold, oldest, gone FROM rooms ORDER BY fold")
            assert rooms.fetchall() == [
                ("den", at + 1000, 10),
                ("gone", None, 10),
                ("lobby", at, 10),
            ]
        # What is gone before an event that is there is not known of any room.
        assert await journal.seq_at("lobby", 4) == 0
        assert await journal.seq_at("lobby", 5) == 5
        (again,) = await journal.commit([post("other words", key="k4")])
        assert isinstance(again, Receipt)
        assert again.duplicate
        assert [event.seq for event in await commit(journal, post("new"))] == [8]
        await index(journal)
        assert await found(journal, "six") == [6]
        assert [record.value for record in await journal.records("mark")] == [b"3"]
        assert await journal.present(0) != []
