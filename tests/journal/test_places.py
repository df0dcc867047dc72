"""The index of events by room and number: events that are not in it yet are found, too."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from chatd.journal import Unavailable, schema
from chatd.journal.places import UNFILED_EVENTS, places
from chatd.journal.sqlite import SqliteJournal
from chatd.model import Erase, Event, Post, Progress
from tests.journal.store import KEPT, Store, commit, error, index, nothing, post

ROOMS: tuple[str, ...] = ("lobby", "kitchen")


def filed(store: Store) -> tuple[int, int]:
    """Return up to which position events are filed, and how many are."""
    with closing(sqlite3.connect(store.path)) as connection:
        query = "SELECT value, (SELECT count(*) FROM places) FROM meta WHERE name = 'filed'"
        upto, count = connection.execute(query).fetchone()
        return upto, count


async def say(journal: SqliteJournal, count: int) -> list[Event]:
    """Commit so many messages in both rooms, in batches of 50."""
    said: list[Event] = []
    while len(said) < count:
        batch = [post("x", room=ROOMS[number % 2]) for number in range(min(50, count - len(said)))]
        said += await commit(journal, *batch)
    return said


async def test_events_are_found_whether_they_are_filed_or_not(store: Store) -> None:
    async with store.open(retention=KEPT) as journal:
        said = await say(journal, UNFILED_EVENTS + 100)
        upto, count = filed(store)
        assert UNFILED_EVENTS <= upto == count < len(said)
        last = len(said) // 2
        edge = upto // 2  # the number of each room's last event that is filed
        for room in ROOMS:
            log = [event for event in said if event.room == room]
            assert await journal.read(room, 0, last, 1000) == log
            assert await journal.read(room, edge - 2, edge + 2, 3) == log[edge - 2 : edge + 1]
            assert await journal.read_back(room, last + 1, 1000) == log
            assert await journal.read_back(room, edge + 3, 4) == log[edge - 2 : edge + 2]
            assert [entry.seq for entry in await journal.entries(room, edge - 1, 3)] == [
                *range(edge, edge + 3)
            ]
            head = await journal.head(room)
            assert head is not None
            assert head.seq == last
            assert await journal.unread(room, "u2", edge - 2, 1000) == last - edge + 2
            for event in log[edge - 2 : edge + 2] + log[-1:]:
                assert await journal.seq_at(room, event.position) == event.seq
        assert [head.seq for head in await journal.rooms()] == [last, last]
        after = dict.fromkeys(ROOMS, upto - 3)
        assert await journal.read_rooms(after, len(said), 1000) == said[upto - 3 :]
        assert await journal.read_rooms(after, upto + 1, 1000) == said[upto - 3 : upto + 1]


async def test_numbers_continue_after_a_restart(store: Store) -> None:
    async with store.open() as journal:
        await say(journal, 4)
    async with store.open() as journal:
        assert filed(store) == (0, 0)
        assert [event.seq for event in await say(journal, 2)] == [3, 3]


async def test_a_quiet_store_has_all_events_filed(store: Store) -> None:
    async with store.open() as journal:
        await say(journal, 7)
        assert filed(store) == (0, 0)
        await index(journal)
        assert filed(store) == (7, 7)


async def test_a_message_is_changed_before_it_is_filed(store: Store) -> None:
    async with store.open() as journal:
        await say(journal, 2)
        await commit(journal, Post("lobby", "Lobby", "u1", "ann", "new", "edit", of=1))
        assert filed(store) == (0, 0)
        assert [event.text for event in await journal.read("lobby", 0, 9, 9)] == ["new", "new"]


async def test_a_room_is_erased_before_it_is_filed(store: Store) -> None:
    async with store.open() as journal:
        await say(journal, 4)
        assert await journal.commit([Erase("lobby")]) == [Progress(None)]
        assert await journal.read("lobby", 0, 9, 9) == []
        assert filed(store) == (4, 2)
        assert [event.seq for event in await say(journal, 2)] == [3, 3]


async def test_an_event_leaves_the_index_with_its_row(store: Store) -> None:
    async with store.open() as journal:
        await say(journal, 6)
        await index(journal)
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("DELETE FROM events WHERE position = 3")
        assert filed(store) == (6, 5)
        assert [event.seq for event in await journal.read("lobby", 0, 9, 9)] == [1, 3]


async def test_filing_that_fails_loses_nothing(store: Store) -> None:
    async with store.open() as journal:
        said = await say(journal, UNFILED_EVENTS - 1)

        def fail(sql: str) -> None:
            if "INTO places" in sql:
                raise error("SQLITE_FULL")

        store.faults.before = staticmethod(fail)
        with pytest.raises(Unavailable):
            await say(journal, 1)
        store.faults.before = staticmethod(nothing)
        assert await journal.recover() == []
        said += await say(journal, 1)
        assert filed(store) == (UNFILED_EVENTS, UNFILED_EVENTS)
        rooms = dict.fromkeys(ROOMS, 0)
        assert await journal.read_rooms(rooms, len(said), len(said)) == said


async def test_a_store_of_the_version_before_keeps_its_index(store: Store) -> None:
    with store.of_version(5) as old:
        old.execute("INSERT INTO rooms (fold, name, oldest) VALUES ('lobby', 'Lobby', 1000)")
        old.executemany(
            "INSERT INTO events (position, room_id, seq, at, kind, user, nick, text)"
            " VALUES (?, 1, ?, 1000, 'message', 'u1', 'ann', 'x')",
            [(2 * number, number) for number in range(1, 1001)],
        )
    async with store.open() as journal:
        assert filed(store) == (2000, 1000)
        assert [event.seq for event in await commit(journal, post("y"))] == [1001]
        await index(journal)
        assert filed(store) == (2001, 1001)
        assert [event.position for event in await journal.read("lobby", 998, 9999, 9)] == [
            *(1998, 2000, 2001)
        ]
        with closing(sqlite3.connect(store.path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_no_read_of_a_room_reads_the_others(store: Store) -> None:
    async with store.open():
        pass
    query = f"{schema.EVENT} WHERE e.position IN ({places('1', 'seq > 2')}) ORDER BY e.position"
    with closing(sqlite3.connect(store.path)) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {query}", {"limit": 9}).fetchall()
    steps = [step for *_, step in plan]
    assert "SEARCH places USING PRIMARY KEY (room_id=? AND seq>?)" in steps
    assert not [step for step in steps if step.startswith(("SCAN e", "SCAN places"))]
