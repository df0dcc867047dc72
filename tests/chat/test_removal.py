"""Rooms that are removed, and rooms that are full."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.lowlevel
from msgspec.structs import replace
from trio.testing import MockClock

from chatd.chat.moderation import moderate
from chatd.chat.rules import perform
from chatd.chat.token_keys import new_key, read_keys
from chatd.chat.tokens import Keys
from chatd.journal.memory import MemoryJournal
from chatd.model import Event, Head, Refused
from chatd.protocol import commands, events
from chatd.protocol.pairs import pair_name
from chatd.settings import Auth, Limits, Settings
from tests.chat.room import Client, Room, Wall, open_room, refused

KEYS = Keys(read_keys(new_key(symmetric=True).encode()))


@pytest.fixture
async def ann(room: Room) -> Client:
    client = room.client("ann")
    await client.join()
    return client


async def remove(room: Room, name: str, reason: str | None = None) -> None:
    await moderate(room.chat, "console", commands.Remove(room=name, reason=reason))


async def log(room: Room, key: str) -> list[Event]:
    return await room.chat.journal.read(key, 0, 10**9, 10**9)


async def test_a_room_is_removed_with_its_members_and_events(
    room: Room, ann: Client, autojump_clock: MockClock
) -> None:
    bob, gone = room.client("bob"), room.client("gone")
    await bob.join()
    await gone.join()
    await ann.say("secret")
    ann.connection.op = True
    await ann.do(commands.Topic(room="lobby", text="secrets"))
    gone.close()
    await remove(room, "Lobby", "enough")
    assert await log(room, "lobby") == []
    assert room.chat.rooms.get("lobby") is None
    for client in (ann, bob):
        user = client.connection.user
        own = events.Left("lobby", user.nick.display, user.id, "kicked")
        assert client.told(events.Left) == [own]
        assert client.told(events.Notice)[-1].text == "The room lobby was removed: enough"
        assert client.connection.memberships == {}
    assert refused(await ann.do(commands.Say(room="lobby", text="x"))) == "not_joined"
    assert (await ann.do(commands.Rooms())).rooms == []
    joined = await bob.join()
    assert (joined.seq, joined.topic, joined.events) == (2, "", [])
    await bob.say("new")
    assert [event.seq for event in await log(room, "lobby")] == [3]
    logged = [fields for name, fields in room.log.records if name == "remove"]
    assert [(one["room"], one["by"]) for one in logged] == [("Lobby", "console")]


async def test_what_was_said_just_before_is_removed_too(
    room: Room, ann: Client, autojump_clock: MockClock
) -> None:
    answers: list[Any] = []
    for number in range(20):
        say = commands.Say(room="lobby", text=str(number))
        assert perform(ann.connection, say, answers.append) is None
    await remove(room, "lobby")
    assert [answer.seq for answer in answers] == list(range(1, 21))
    assert await log(room, "lobby") == []
    head = await room.chat.journal.head("lobby")
    assert head is not None
    assert (head.seq, head.empty) == (20, True)


async def test_who_comes_meanwhile_waits_and_finds_the_room_empty(
    room: Room, ann: Client, autojump_clock: MockClock
) -> None:
    for number in range(15):
        await ann.say(str(number))
    bob = room.client("bob")
    answers: list[Any] = []

    async def join() -> None:
        answers.append(await bob.join())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(remove, room, "lobby")
        await trio.lowlevel.checkpoint()
        nursery.start_soon(join)
    assert (answers[0].seq, answers[0].events) == (15, [])


async def test_only_one_removes_a_room_that_exists(
    room: Room, ann: Client, autojump_clock: MockClock
) -> None:
    await ann.say("x")
    assert await _refusal(room, "nowhere") == "not_found"
    assert await _refusal(room, "a b") == "bad_request"
    codes: list[str | None] = []

    async def one() -> None:
        codes.append(await _refusal(room, "lobby"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        nursery.start_soon(one)
    assert sorted(codes, key=str) == [None, "forbidden"]
    assert await _refusal(room, "lobby") == "not_found"


async def _refusal(room: Room, name: str) -> str | None:
    try:
        await remove(room, name)
    except Refused as refused:
        return refused.refusal.code
    return None


async def test_a_conversation_is_removed(autojump_clock: MockClock) -> None:
    async with open_room(Settings(auth=Auth(mode="token")), keys=KEYS) as room:
        ann, bob = await room.subject("ann"), await room.subject("bob")
        await ann.say("secret", room="@bob")
        await bob.do(commands.Read(room="@ann", seq=1))
        key = pair_name("ann", "bob")
        await remove(room, key)
        assert await log(room, key) == []
        assert ann.told(events.Notice)[-1].text == "Your direct messages with bob were removed."
        assert ann.told(events.Left) == []
        for client in (ann, bob):
            assert (await client.do(commands.Rooms())).rooms == []
        for kind in ("direct", "mark"):
            assert await room.chat.journal.records(kind) == []
        await bob.say("again", room="@ann")
        assert [event.seq for event in await log(room, key)] == [2]


async def test_only_operators_remove(room: Room, ann: Client) -> None:
    await ann.say("x")
    assert refused(await ann.do(commands.Remove(room="lobby"))) == "forbidden"
    ann.connection.op = True
    assert refused(await ann.do(commands.Remove(room="lobby"))) is None


# ---- limits.rooms


async def test_the_default_room_always_lets_in(autojump_clock: MockClock) -> None:
    async with open_room(Settings(limits=replace(Limits(), rooms=2))) as room:
        ann = room.client("ann")
        for name in ("one", "two"):
            await ann.join(name)
            await ann.say("x", room=name)
        assert refused(await ann.join("three")) == "forbidden"
        assert refused(await room.client("bob").join("LOBBY")) is None
        assert refused(await room.client("cleo").join("lobby")) is None


class CountingJournal(MemoryJournal):
    """Counts how often all rooms are read."""

    counted = 0

    async def rooms(self) -> list[Head]:
        self.counted += 1
        return await super().rooms()


async def test_rooms_are_only_counted_at_the_limit(autojump_clock: MockClock) -> None:
    journal = CountingJournal(now=Wall())
    settings = Settings(limits=replace(Limits(), rooms=4))
    async with open_room(settings, journal=journal) as room:
        ann = room.client("ann")
        for name in ("one", "two", "three", "four"):
            await ann.join(name)
        assert journal.counted == 1  # the first time
        await ann.do(commands.Leave(room="four"))
        assert refused(await ann.join("five")) is None
        assert journal.counted == 2
        assert refused(await ann.join("six")) == "forbidden"


async def test_direct_messages_do_not_count_as_rooms(autojump_clock: MockClock) -> None:
    async with open_room(Settings(limits=replace(Limits(), rooms=2))) as room:
        ann = room.client("ann")
        for nick in ("bob", "cleo", "dora"):
            room.client(nick)
            await ann.say("psst", room=f"@{nick}")
        assert refused(await ann.join("one")) is None


async def test_a_room_without_members_and_events_does_not_count(autojump_clock: MockClock) -> None:
    async with open_room(Settings(limits=replace(Limits(), rooms=2))) as room:
        ann = room.client("ann")
        for name in ("one", "two"):
            await ann.join(name)
            await ann.say("x", room=name)
        await remove(room, "one")
        await ann.join("three")
        assert refused(await ann.join("one")) == "forbidden"
        await remove(room, "two")
        assert (await ann.join("one")).seq == 1


async def test_a_room_whose_events_are_gone_is_no_more(autojump_clock: MockClock) -> None:
    settings = Settings()
    chat = replace(settings.chat, create_rooms=False)
    async with open_room(settings) as room:
        ann = room.client("ann")
        await ann.join("old")
        await ann.say("x", room="old")
        room.chat.settings = replace(settings, chat=chat)
        await remove(room, "old")
        for command in (
            commands.Join(room="old"),
            commands.History(room="old"),
            commands.Search(room="old", query="x"),
            commands.Who(room="old"),
        ):
            assert refused(await ann.do(command)) == "not_found"
        for empty in (commands.History(room="lobby"), commands.Who(room="lobby")):
            assert refused(await ann.do(empty)) is None
