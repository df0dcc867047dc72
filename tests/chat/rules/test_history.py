"""History and search."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from chatd.chat.rules import history
from chatd.chat.token_keys import new_key, read_keys
from chatd.chat.tokens import Keys
from chatd.journal import Hits
from chatd.model import Post, Refused
from chatd.protocol import commands, events
from chatd.settings import Auth, Limits, Settings
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
    assert await found(ann, "te") == ["more tea", "Tea at five"]
    assert await found(ann, '"te"') == []
    assert await found(ann, "tea", before=3) == ["Tea at five"]
    answer = await ann.do(search("tea", limit=1))
    assert ([event.text for event in answer.events], answer.more) == (["more tea"], True)
    await ann.do(edit(1, "cocoa at five"))
    await ann.do(delete(3))
    assert await found(ann, "tea") == []
    assert await found(ann, "cocoa") == ["cocoa at five"]


async def test_a_search_without_a_room_is_one_of_all_own_rooms(
    room: Room, ann: Client, autojump_clock: MockClock
) -> None:
    bob = room.client("bob")
    for name in ("lobby", "kitchen", "secret"):
        await bob.join(name)
    await ann.join("kitchen")
    for name in ("lobby", "secret", "kitchen"):
        await bob.say(f"tea in {name}", room=name)
        await trio.sleep(1)
    everywhere = commands.Search(query="tea")
    answer = await ann.do(everywhere)
    assert [(one.room[:7], one.text) for one in answer.events] == [
        ("kitchen", "tea in kitchen"),
        ("lobby", "tea in lobby"),
    ]
    assert not answer.more
    page = await ann.do(replace(everywhere, limit=1))
    assert page.more
    before = datetime.fromisoformat(page.events[-1].at)
    rest = await ann.do(replace(everywhere, before=before))
    assert [one.text for one in rest.events] == ["tea in lobby"]
    assert refused(await ann.do(replace(everywhere, before=7))) == "bad_request"
    naive = before.replace(tzinfo=None)
    assert refused(await ann.do(replace(everywhere, before=naive))) == "bad_request"
    assert refused(await ann.do(search("tea", before=before))) == "bad_request"


async def test_a_conversation_of_the_past_is_searched_too(autojump_clock: MockClock) -> None:
    keys = Keys(read_keys(new_key(symmetric=True).encode()))
    async with open_room(Settings(auth=Auth(mode="token")), keys=keys) as room:
        ann, bob = await room.subject("ann"), await room.subject("bob")
        await ann.say("tea for you", room="@bob")
        ann.close()
        bob.close()
        again = await room.subject("bob")
        answer = await again.do(commands.Search(query="tea"))
        assert [one.text for one in answer.events] == ["tea for you"]


async def test_messages_are_found_by_sender(
    room: Room, ann: Client, autojump_clock: MockClock
) -> None:
    bob = room.client("bob")
    await bob.join()
    await ann.say("tea")
    await bob.say("tea")
    assert await found(ann, "tea", sender="BOB") == ["tea"]
    await bob.do(commands.Nick(nick="robert"))
    await bob.say("more tea")
    assert await found(ann, "", sender="robert") == ["more tea", "tea"]
    assert await found(ann, "tea", sender="@bob") == ["tea"]
    assert await found(ann, "tea", sender="nobody") == []
    assert refused(await ann.do(search("tea", sender="a b"))) == "bad_request"


async def test_a_page_of_several_rooms_ends_between_two_times(
    autojump_clock: MockClock,
) -> None:
    async with open_room(Settings(limits=FAST)) as room:
        ann = room.client("ann")
        await ann.join()
        for at in range(3):
            for _ in range(10):
                await ann.say(f"{at} {'tea ' * 4000}")
            await trio.sleep(1)
        answer = await ann.do(commands.Search(query="tea"))
        assert answer.more
        assert [one.text[0] for one in answer.events] == ["2"] * 10


async def test_an_index_that_is_not_complete_is_said(
    room: Room, ann: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def partly(*_args: Any, **_options: Any) -> Hits:
        return Hits([], more=False, complete=False)

    monkeypatch.setattr(room.chat.journal, "search", partly)
    assert (await ann.do(search("tea"))).incomplete


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
