"""Pages: number of events, size, and the first page of a join."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from chatd.bus import Feed
from chatd.bus.feed import KEEPING_SUBSCRIBERS
from chatd.chat.pages import (
    EVENT_BYTES,
    QUEUE_SHARE,
    JoinPage,
    fitting,
    last_messages,
    page_size,
    read_after,
    read_join_page,
    read_latest,
)
from chatd.journal.memory import MemoryJournal
from chatd.logs import open_log
from chatd.model import Event, Post, Receipt
from chatd.protocol.commands import Position
from chatd.testing.recording import Recording

BIG = 1 << 20


def event(seq: int, kind: str = "message", text: str = "x") -> Event:
    return Event(seq, "lobby", seq, 0, kind, "u", "ann", text)  # type: ignore[arg-type]


def seqs(page: Sequence[Event]) -> list[int]:
    return [each.seq for each in page]


@pytest.mark.parametrize(
    ("limit", "size"), [(None, 100), (0, 0), (-1, 0), (7, 7), (500, 500), (501, 500)]
)
def test_a_page_has_as_many_events_as_were_asked_for(limit: int | None, size: int) -> None:
    assert page_size(limit) == size


@pytest.mark.parametrize(
    ("texts", "front", "back"),
    [
        ([], [], []),
        (["xxxxx", "xxxxx"], [1, 2], [1, 2]),
        (["xxxxx", "xxxxx", "xxxxx"], [1, 2], [2, 3]),
        (["x" * 11, "x"], [1], [2]),
        (["x", "x" * 11], [1], [2]),
        (["x" * 50], [1], [1]),
        (['"' * 5, '"'], [1], [2]),
        (["\U0001f600", "x"], [1], [2]),
    ],
)
def test_a_page_fits_a_quarter_of_the_send_queue_and_has_one_event(
    texts: list[str], front: list[int], back: list[int]
) -> None:
    page = [event(seq, text=text) for seq, text in enumerate(texts, 1)]
    queue_bytes = QUEUE_SHARE * (2 * EVENT_BYTES + 10)
    assert seqs(fitting(page, queue_bytes)) == front
    assert seqs(fitting(page, queue_bytes, back=True)) == back


@pytest.mark.parametrize(
    ("kinds", "limit", "rest"),
    [("mmm", 2, [2, 3]), ("memem", 2, [3, 4, 5]), ("eem", 2, [1, 2, 3]), ("mm", 0, [])],
)
def test_a_page_is_cut_before_its_last_messages(kinds: str, limit: int, rest: list[int]) -> None:
    names = {"m": "message", "e": "edit"}
    page = [event(seq, names[kind]) for seq, kind in enumerate(kinds, 1)]
    assert seqs(last_messages(page, limit)) == rest


async def store(count: int, changes: int = 0) -> MemoryJournal:
    """Return a store with a room of messages, and then changes of the first one."""
    journal = MemoryJournal(now=lambda: 0)
    post = Post("lobby", "lobby", "u", "ann", "x")
    edit = Post("lobby", "lobby", "u", "ann", "y", kind="edit", of=1)
    for operation in [post] * count + [edit] * changes:
        [outcome] = await journal.commit([operation])
        assert isinstance(outcome, Receipt)
    return journal


def feed(visible: int) -> Feed:
    found = Feed("lobby", "lobby", open_log(sink=Recording()))
    found.set_head(visible)
    return found


async def test_what_follows_is_read_up_to_the_visible_head(mock_clock: object) -> None:
    journal = await store(10)
    assert seqs(await read_after(journal, feed(8), 3, 3, BIG)) == [4, 5, 6]
    assert seqs(await read_after(journal, feed(8), 6, 9, BIG)) == [7, 8]
    assert seqs(await read_after(journal, feed(8), 8, 9, BIG)) == []


@pytest.mark.parametrize(
    ("changes", "limit", "messages", "expected"),
    [
        (0, 3, False, [8, 9, 10]),
        (5, 3, False, [13, 14, 15]),
        (5, 2, True, [9, *range(10, 16)]),
        (600, 2, True, list(range(111, 611))),  # never over 500 events
    ],
)
async def test_the_latest_events_or_messages(
    changes: int, limit: int, messages: bool, expected: list[int], mock_clock: object
) -> None:
    journal = await store(10, changes)
    page = await read_latest(journal, "lobby", 10 + changes + 1, limit, messages=messages)
    assert seqs(page) == expected


@pytest.mark.parametrize(
    ("since", "limit", "page", "seq", "recovered"),
    [
        (None, 3, [6, 7, 8], 8, False),
        (None, 0, [], 8, False),
        (5, 9, [6, 7, 8], 8, True),
        (5, 2, [6, 7], 7, True),
        (5, 0, [], 5, True),
        (8, 3, [], 8, True),
        (9, 3, [6, 7, 8], 8, False),
        (-1, 3, [6, 7, 8], 8, False),
    ],
)
async def test_a_join_begins_where_the_client_was_or_with_the_latest(
    since: int | None,
    limit: int,
    page: list[int],
    seq: int,
    recovered: bool,
    mock_clock: object,
) -> None:
    journal = await store(10)
    position = None if since is None else Position(journal.epoch, since)
    found = await read_join_page(journal, feed(8), position, limit, BIG)
    assert isinstance(found, JoinPage)
    assert (seqs(found.events), found.seq, found.recovered) == (page, seq, recovered)


async def test_a_position_of_another_epoch_is_not_recovered(mock_clock: object) -> None:
    journal = await store(10)
    found = await read_join_page(journal, feed(10), Position("other", 5), 2, BIG)
    assert (seqs(found.events), found.recovered) == ([9, 10], False)


async def test_of_many_who_join_only_the_first_reads_the_store(
    monkeypatch: pytest.MonkeyPatch, mock_clock: object
) -> None:
    journal, room = await store(10), feed(10)
    subscriber: Any = SimpleNamespace(codec=None, outbox=None)
    for _ in range(KEEPING_SUBSCRIBERS):
        room.subscribe(subscriber)
    first = await read_join_page(journal, room, None, 5, BIG, messages=True)
    for name in ("read", "read_back"):
        monkeypatch.setattr(journal, name, None)
    assert await read_join_page(journal, room, None, 5, BIG, messages=True) == first
    missed = await read_join_page(journal, room, Position(journal.epoch, 7), 5, BIG)
    assert (seqs(missed.events), missed.recovered) == ([8, 9, 10], True)


async def test_a_page_is_not_kept_if_the_store_changed_while_it_was_read(
    monkeypatch: pytest.MonkeyPatch, mock_clock: object
) -> None:
    journal, room = await store(10), feed(10)
    subscriber: Any = SimpleNamespace(codec=None, outbox=None)
    for _ in range(KEEPING_SUBSCRIBERS):
        room.subscribe(subscriber)
    read = journal.read

    async def slow(*where: Any) -> list[Event]:
        found = await read(*where)
        room.drop_tail()
        return found

    monkeypatch.setattr(journal, "read", slow)
    assert seqs(await read_after(journal, room, 7, 5, BIG)) == [8, 9, 10]
    assert room.after(7) is None
