"""History and search."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from trio.testing import MockClock

from chatd.chat.rules import history
from chatd.model import Post, Refused
from chatd.protocol import commands, events
from chatd.settings import Limits, Settings
from tests.chat.room import Client, Room, delete, edit, member, open_room, page, refused, seqs

FAST = replace(Limits(), messages_per_second="off", bytes_per_second="off")


def search(query: str, **fields: Any) -> commands.Search:
    return commands.Search(room="lobby", query=query, **fields)


async def found(client: Client, query: str, **fields: Any) -> list[Any]:
    answer = await client.do(search(query, **fields))
    return [event.text for event in answer.events]


async def test_history_pages_both_ways(room: Room) -> None:
    ann = room.client("ann")
    await ann.join()
    for number in range(1, 8):
        await ann.say(str(number))

    async def page(**fields: Any) -> tuple[list[int], bool]:
        answer = await ann.do(commands.History(room="lobby", **fields))
        return seqs(answer.events), answer.more

    assert await page(limit=3) == ([5, 6, 7], True)
    assert await page(before=5, limit=3) == ([2, 3, 4], True)
    assert await page(before=2, limit=3) == ([1], False)
    assert await page(before=10**20, limit=7) == (list(range(1, 8)), False)
    assert await page(before=-3) == ([], False)
    assert await page(after=0, limit=3) == ([1, 2, 3], True)
    assert await page(after=4, limit=3) == ([5, 6, 7], False)
    assert await page(after=10**20) == ([], False)
    assert await page(after=0, limit=0) == ([], True)
    assert await page(after=7, limit=0) == ([], False)
    assert await page(after=-(10**20), limit=2) == ([1, 2], True)


async def test_a_page_may_count_messages_alone(autojump_clock: MockClock) -> None:
    async with open_room(Settings(limits=FAST)) as room:
        ann = room.client("ann")
        await ann.join()
        for number in range(5):
            await ann.say(str(number))
        for number in range(30):
            await ann.do(edit(1 + number % 5, f"edit {number}"))

        def said(items: list[Any]) -> list[Any]:
            return [item.seq for item in items if isinstance(item, events.Message)]

        assert said((await ann.join(limit=3)).events) == []
        assert said((await ann.join(limit=3, messages=True)).events) == [3, 4, 5]
        assert said(await page(ann, limit=2, messages=True)) == [4, 5]
        assert said(await page(ann, limit=2, messages=True, before=4)) == [2, 3]
        assert (await ann.do(commands.History(room="lobby", limit=5, messages=True))).more is False


# ---- search


async def test_search_finds_what_was_just_said_newest_first(
    ann: Client, autojump_clock: MockClock
) -> None:
    for text in ("Tea at five", "coffee at six", "more tea", "nothing"):
        await ann.say(text)
    assert await found(ann, "TEA") == ["more tea", "Tea at five"]
    assert await found(ann, "at tea") == ["Tea at five"]
    assert await found(ann, "te") == []
    assert await found(ann, "tea", before=3) == ["Tea at five"]
    answer = await ann.do(search("tea", limit=1))
    assert ([event.text for event in answer.events], answer.more) == (["more tea"], True)
    await ann.do(edit(1, "cocoa at five"))
    await ann.do(delete(3))
    assert await found(ann, "tea") == []
    assert await found(ann, "cocoa") == ["cocoa at five"]


async def test_what_search_refuses(room: Room, ann: Client, autojump_clock: MockClock) -> None:
    assert refused(await ann.do(commands.Search(room="nowhere", query="x"))) == "not_found"
    assert refused(await ann.do(commands.Search(room="*", query="x"))) == "bad_request"
    await ann.say("x")
    assert refused(await ann.do(search("x" * 257))) == "too_large"
    for query in ("", "   ", "*", '"', "AND", "x OR y", "NEAR(", "a:b", "-x", "(" * 100):
        assert refused(await ann.do(search(query))) in {None, "rate_limited"}


# ---- the rules by themselves


@pytest.mark.parametrize(
    ("fields", "expected", "more"),
    [
        ({}, [1, 2, 3, 4, 5], False),
        ({"limit": 2}, [4, 5], True),
        ({"limit": 2, "before": 3}, [1, 2], False),
        ({"limit": 1, "before": 3}, [2], True),
        ({"before": 99}, [1, 2, 3, 4, 5], False),
        ({"limit": 2, "after": 1}, [2, 3], True),
        ({"limit": 9, "after": 3}, [4, 5], False),
        ({"after": 99}, [], False),
        ({"limit": 0}, [], True),
        ({"limit": 0, "after": 1}, [], True),
        ({"limit": -5}, [], True),
    ],
)
async def test_what_a_page_has(
    fields: dict[str, Any], expected: list[int], more: bool, mock_clock: MockClock
) -> None:
    connection, membership = await member()
    post = Post("lobby", "lobby", "u", "ann", "x")
    await connection.chat.journal.commit([post] * 5)
    membership.room.feed.set_head(5)
    reply = await history.history(connection, commands.History(room="lobby", **fields))
    answer = reply.answer
    assert [each.seq for each in answer.events if isinstance(each, events.Message)] == expected
    assert (answer.more, answer.epoch) == (more, connection.chat.journal.epoch)


async def test_a_page_ends_at_the_visible_head(mock_clock: MockClock) -> None:
    connection, membership = await member()
    await connection.chat.journal.commit([Post("lobby", "lobby", "u", "ann", "x")] * 5)
    membership.room.feed.set_head(2)
    for after, before in ((None, None), (0, None), (None, 5)):
        command = commands.History(room="lobby", after=after, before=before)
        reply = await history.history(connection, command)
        assert len(reply.answer.events) == 2


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (commands.History(room="nowhere"), "not_found"),
        (commands.History(room="a b"), "bad_request"),
        (commands.Search(room="nowhere", query="x"), "not_found"),
        (commands.Search(room="lobby", query="x" * 257), "too_large"),
    ],
)
async def test_what_is_refused(command: commands.Command, code: str, mock_clock: MockClock) -> None:
    connection, _ = await member()
    rule: Any = history.search if isinstance(command, commands.Search) else history.history
    with pytest.raises(Refused) as refused:
        await rule(connection, command)
    assert refused.value.refusal.code == code
