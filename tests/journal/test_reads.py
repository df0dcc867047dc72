from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from chatd.journal import Unavailable
from chatd.journal.reads import Reader

ENDLESS = (
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n LIMIT 1"
)


def unchecked() -> None:
    """Take any file for the store."""


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "chat.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (x)")
    yield path
    connection.close()


async def test_a_query_has_a_time_limit(path: Path) -> None:
    reader = Reader(path, sqlite3.Connection, unchecked, seconds=0.02)
    with pytest.raises(Unavailable, match="interrupted"):
        await reader.rows(ENDLESS)
    assert await reader.rows("SELECT ?", (1,)) == [(1,)]
    reader.close()


async def test_nothing_is_written(path: Path) -> None:
    reader = Reader(path, sqlite3.Connection, unchecked)
    with pytest.raises(Unavailable, match="readonly"):
        await reader.rows("INSERT INTO t VALUES (1)")
    reader.close()


async def test_connections_are_bounded_and_used_again(path: Path) -> None:
    opened: list[int] = []

    class Counted(sqlite3.Connection):
        def __init__(self, *values: object, **named: object) -> None:
            opened.append(threading.get_ident())
            super().__init__(*values, **named)  # type: ignore[arg-type]  # as they came

    reader = Reader(path, Counted, unchecked)
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(reader.rows, "SELECT 1")
    assert 1 <= len(opened) <= 2
    reader.close()


@pytest.mark.parametrize(("slow_seconds", "in_loop"), [(60.0, True), (0.0, False)])
async def test_a_few_rows_are_read_in_the_loop_until_that_is_slow(
    path: Path, slow_seconds: float, in_loop: bool
) -> None:
    threads: list[int] = []

    class Watched(sqlite3.Connection):
        def execute(self, *values: Any) -> sqlite3.Cursor:
            threads.append(threading.get_ident())
            return super().execute(*values)

    reader = Reader(path, Watched, unchecked, slow_seconds=slow_seconds)
    assert await reader.few_rows("SELECT ?", (1,)) == [(1,)]
    assert await reader.few_rows("SELECT ?", (2,)) == [(2,)]
    assert (threads[-1] == threading.get_ident()) is in_loop
    reader.close()


async def test_closed_under_a_read(path: Path) -> None:
    reader = Reader(path, sqlite3.Connection, unchecked, seconds=0.2)
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(Unavailable):
                await reader.rows(ENDLESS)

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        reader.close()
    with pytest.raises(Unavailable, match="closed"):
        await reader.rows("SELECT 1")
