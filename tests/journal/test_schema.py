from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from chatd.journal import schema

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
