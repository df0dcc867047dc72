"""Join and resume, leave, who and the list of rooms."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from chatd.chat import pages
from chatd.chat.names import room_name
from chatd.chat.rules import rooms
from chatd.journal import Unavailable
from chatd.journal.memory import MemoryJournal
from chatd.journal.retention import Retention
from chatd.model import Refused
from chatd.protocol import commands, events
from chatd.protocol.commands import Position
from chatd.settings import Chat, Limits, Settings
from tests.chat.room import Room, Wall, member, open_room, perform, refused, seqs

UNLIMITED = replace(Settings().limits, messages_per_second="off", bytes_per_second="off")


# ---- join, resume


async def test_a_join_gives_the_newest_oldest_first_and_then_lives(room: Room) -> None:
    ann = room.client("ann")
    await ann.join()
    for number in range(5):
        await ann.say(str(number))
    bob = room.client("bob")
    joined = await bob.join(limit=3)
    assert (joined.seq, joined.recovered, joined.topic) == (5, False, "")
    assert [message.text for message in joined.events] == ["2", "3", "4"]
    assert [member.nick for member in joined.members] == ["ann", "bob"]
    assert joined.member_count == 2
    await ann.say("live")
    await bob.until(bob.texts)
    assert bob.texts() == ["live"]


async def test_a_resume_gives_what_was_missed_then_the_rest_then_what_is_live(room: Room) -> None:
    room.chat.settings = replace(room.chat.settings, limits=UNLIMITED)
    ann, bob = room.client("ann"), room.client("bob")
    first = await ann.join()
    await bob.join()
    for number in range(30):
        await bob.say(str(number))
    back = room.client("ann2")
    joined = await back.join(since=Position(first.epoch, 10), limit=5)
    assert joined.recovered
    assert (seqs(joined.events), joined.seq) == ([11, 12, 13, 14, 15], 30)
    await bob.say("30")
    await back.until(lambda: len(back.texts()) == 16)
    assert back.texts() == [str(number) for number in range(15, 31)]


@pytest.mark.parametrize("limit", [0, 1, 7, 100])
async def test_a_resume_at_the_head_has_missed_nothing(room: Room, limit: int) -> None:
    ann = room.client("ann")
    first = await ann.join()
    await ann.say("x")
    joined = await room.client().join(since=Position(first.epoch, 1), limit=limit)
    assert joined.recovered
    assert joined.events == []


async def test_a_resume_with_limit_0_gets_everything_as_events(room: Room) -> None:
    ann, bob = room.client("ann"), room.client("bob")
    first = await ann.join()
    await ann.say("x")
    await ann.say("y")
    joined = await bob.join(since=Position(first.epoch, 0), limit=0)
    assert (joined.recovered, joined.events) == (True, [])
    assert bob.texts() == ["x", "y"]


@pytest.mark.parametrize(
    "since", [("other", 1), ("", 3), ("same", 4), ("same", -1), ("same", 2**70)]
)
async def test_a_position_that_is_not_ours_gives_the_newest_and_says_so(
    room: Room, since: tuple[str, int]
) -> None:
    ann = room.client("ann")
    epoch = (await ann.join()).epoch
    for text in ("x", "y", "z"):
        await ann.say(text)
    position = Position(epoch if since[0] == "same" else since[0], since[1])
    joined = await room.client().join(since=position, limit=2)
    assert (joined.recovered, seqs(joined.events), joined.seq) == (False, [2, 3], 3)


async def test_what_retention_took_is_no_recovery(autojump_clock: MockClock) -> None:
    journal = MemoryJournal(now=Wall(), retention=Retention(keep_events=3))
    async with open_room(journal=journal) as room:
        ann = room.client("ann")
        epoch = (await ann.join()).epoch
        for number in range(10):
            await ann.say(str(number))
        await trio.sleep(600)  # the store was swept
        joined = await room.client("bob").join(since=Position(epoch, 2))
        assert (joined.recovered, seqs(joined.events)) == (False, [8, 9, 10])
        joined = await room.client("eve").join(since=Position(epoch, 7))
        assert (joined.recovered, seqs(joined.events)) == (True, [8, 9, 10])


@pytest.mark.parametrize(("limit", "count"), [(None, 100), (10**9, 500), (0, 0), (-5, 0)])
async def test_pages_are_clamped(room: Room, limit: int | None, count: int) -> None:
    room.chat.settings = replace(room.chat.settings, limits=UNLIMITED)
    ann = room.client("ann")
    await ann.join()
    for number in range(600):
        await perform(ann.connection, commands.Say(room="lobby", text=str(number)), lambda _: None)
    await ann.until(lambda: len(ann.texts()) == 600)
    assert len((await room.client().join(limit=limit)).events) == count
    assert len((await ann.do(commands.History(room="lobby", limit=limit))).events) == count


async def test_a_page_fits_the_send_queue(room: Room) -> None:
    room.chat.settings = replace(room.chat.settings, limits=UNLIMITED)
    ann = room.client("ann")
    epoch = (await ann.join()).epoch
    size = room.chat.settings.limits.message_bytes
    for _ in range(40):
        await ann.say("x" * size)
    size += pages.EVENT_BYTES
    room_for = room.chat.settings.limits.send_queue_bytes // pages.QUEUE_SHARE // size
    newest = await room.client().join()
    assert seqs(newest.events) == list(range(41 - room_for, 41))
    bob = room.client("bob")
    resumed = await bob.join(since=Position(epoch, 0))
    assert seqs(resumed.events) == list(range(1, room_for + 1))
    await bob.until(lambda: len(bob.texts()) == 40 - room_for)
    page = await ann.do(commands.History(room="lobby", after=0))
    assert (len(page.events), page.more) == (room_for, True)


async def test_joining_again_resumes_without_leaving(room: Room) -> None:
    ann, bob = room.client("ann"), room.client("bob")
    epoch = (await ann.join()).epoch
    await bob.join()
    await ann.say("x")
    again = await bob.join(since=Position(epoch, 0))
    await ann.say("y")
    await bob.until(lambda: "y" in bob.texts())
    assert ([m.text for m in again.events], bob.texts()) == (["x"], ["x", "y"])
    user = bob.connection.user.id
    assert ann.told(events.Joined) == [events.Joined("lobby", "bob", user, op=False)]


async def test_while_the_store_cannot_be_read_a_join_is_refused_and_leaves_nothing(
    autojump_clock: MockClock,
) -> None:
    class Unreadable(MemoryJournal):
        faulty = True

        async def head(self, room: str) -> None:
            if self.faulty:
                raise Unavailable("locked")

    journal = Unreadable(now=Wall())
    async with open_room(journal=journal) as room:
        ann = room.client("ann")
        assert refused(await ann.join()) == "unavailable"
        assert len(room.chat.rooms) == 0
        journal.faulty = False
        assert (await ann.join()).member_count == 1


# ---- leave


async def test_nothing_of_a_room_follows_the_answer_to_leave(room: Room) -> None:
    ann, bob = room.client("ann"), room.client("bob")
    await ann.join()
    await bob.join()
    assert (await bob.do(commands.Leave(room="Lobby"))).room == "lobby"
    bob.got.clear()
    await ann.say("x")
    assert bob.got == []
    assert ann.told(events.Left)[0].reason == "leave"
    assert refused(await bob.do(commands.Leave(room="lobby"))) == "not_joined"


async def test_an_empty_room_is_forgotten_and_its_log_is_not(room: Room) -> None:
    ann = room.client("ann")
    await ann.join("Quiet")
    await ann.do(commands.Leave(room="quiet"))
    assert len(room.chat.rooms) == 0
    await ann.join("Loud")
    await ann.say("x", room="loud")
    await ann.do(commands.Leave(room="loud"))
    listed = (await ann.do(commands.Rooms())).rooms
    assert [(entry.room, entry.members, entry.seq) for entry in listed] == [("Loud", 0, 1)]
    assert (await ann.join("LOUD")).room == "Loud"


# ---- limits


async def test_limits_on_rooms(room: Room) -> None:
    limits = replace(room.chat.settings.limits, rooms_per_client=2, rooms=3)
    room.chat.settings = replace(room.chat.settings, limits=limits)
    ann, bob = room.client("ann"), room.client("bob")
    await ann.join("a")
    await ann.join("b")
    assert refused(await ann.join("c")) == "forbidden"
    assert refused(await ann.join("a")) is None
    await bob.join("c")
    assert refused(await bob.join("d")) == "forbidden"
    assert refused(await bob.join("a")) is None


async def test_rooms_are_created_only_where_that_is_allowed(room: Room) -> None:
    chat = replace(room.chat.settings.chat, create_rooms=False)
    room.chat.settings = replace(room.chat.settings, chat=chat)
    ann = room.client("ann")
    assert refused(await ann.join("new")) == "not_found"
    assert refused(await ann.join("lobby")) is None


# ---- who, rooms


async def test_what_is_asked_of_a_room_that_is_not(room: Room) -> None:
    ann = room.client("ann")
    assert refused(await ann.do(commands.History(room="none"))) == "not_found"
    assert refused(await ann.do(commands.Who(room="none"))) == "not_found"
    assert refused(await ann.do(commands.Who(room="a b"))) == "bad_request"
    assert refused(await ann.do(commands.History(room="#"))) == "bad_request"
    assert refused(await ann.join("*")) == "bad_request"


async def test_who_pages_by_nick(room: Room) -> None:
    clients = [room.client(f"user{number:03}") for number in range(130)]
    for client in clients:
        await client.join()
    ann = clients[0]
    first = await ann.do(commands.Who(room="lobby"))
    assert (len(first.members), first.member_count) == (100, 130)
    rest = await ann.do(commands.Who(room="lobby", after=first.members[-1].nick))
    assert [member.nick for member in rest.members] == [f"user{n:03}" for n in range(100, 130)]
    assert len((await ann.do(commands.Who(room="lobby", after="user003", limit=2))).members) == 2


# ---- the rules by themselves


@pytest.mark.parametrize(
    ("room", "settings", "code"),
    [
        ("lobby", {}, None),
        ("a b", {}, "bad_request"),
        ("@nobody", {}, "not_found"),
        ("@ann", {}, "bad_request"),
        ("@ga,gb", {}, "forbidden"),
        ("new", {"chat": Chat(create_rooms=False)}, "not_found"),
        ("new", {"limits": replace(Limits(), rooms=1)}, "forbidden"),
        ("new", {"limits": replace(Limits(), rooms_per_client=1)}, "forbidden"),
        ("staff", {"chat": Chat(rules=("staff read=operators",))}, "forbidden"),
    ],
)
async def test_where_a_join_is_refused(
    room: str, settings: dict[str, Any], code: str | None, mock_clock: MockClock
) -> None:
    connection, _ = await member(Settings(**settings))
    if code is None:
        reply = await rooms.join(connection, commands.Join(room=room))
        assert (reply.answer.room, reply.answer.member_count) == ("lobby", 1)
        return
    with pytest.raises(Refused) as refused:
        await rooms.join(connection, commands.Join(room=room))
    assert refused.value.refusal.code == code
    assert list(connection.memberships) == ["lobby"]


async def test_live_events_begin_with_the_reply_to_a_join(mock_clock: MockClock) -> None:
    connection, membership = await member()
    reply = await rooms.join(connection, commands.Join(room="lobby"))
    assert (membership.subscription, membership.live_since) == (None, None)
    reply.then()
    assert membership.live_since == 0


async def test_a_room_is_left_after_the_answer(mock_clock: MockClock) -> None:
    connection, membership = await member()
    reply = await rooms.leave(connection, commands.Leave(room="LOBBY"))
    assert reply.answer == commands.RoomLeft("lobby")
    assert connection.memberships == {"lobby": membership}
    reply.then()
    assert (connection.memberships, len(connection.chat.rooms)) == ({}, 0)


@pytest.mark.parametrize(
    ("after", "limit", "nicks", "code"),
    [
        (None, None, ["ann"], None),
        ("ANN", None, [], None),
        ("am", None, ["ann"], None),
        (None, 0, [], None),
        ("a b", None, None, "bad_request"),
    ],
)
async def test_members_are_listed_by_nick(
    after: str | None, limit: int | None, nicks: list[str], code: str, mock_clock: MockClock
) -> None:
    connection, _ = await member()
    command = commands.Who(room="lobby", after=after, limit=limit)
    if code:
        with pytest.raises(Refused):
            await rooms.who(connection, command)
        return
    answer = (await rooms.who(connection, command)).answer
    assert ([each.nick for each in answer.members], answer.member_count) == (nicks, 1)


@pytest.mark.parametrize(
    ("after", "names", "more"),
    [(None, ["Hall", "lobby"], True), ("hall", ["lobby", "pub"], False), ("pub", [], False)],
)
async def test_rooms_are_listed_by_name_a_page_at_a_time(
    after: str | None,
    names: list[str],
    more: bool,
    mock_clock: MockClock,
) -> None:
    two = replace(Settings().limits, send_queue_bytes=2 * rooms.ENTRY_BYTES * pages.QUEUE_SHARE)
    rules = ("staff read=operators",)
    connection, _ = await member(Settings(chat=Chat(rules=rules), limits=two))
    for name in ("pub", "Hall", "staff"):
        connection.enter(await connection.chat.rooms.open(room_name(name)))
    answer = (await rooms.list_rooms(connection, commands.Rooms(after=after))).answer
    assert ([info.room for info in answer.rooms], answer.more) == (names, more)


async def test_a_page_of_the_list_is_bounded_in_rooms(mock_clock: MockClock) -> None:
    limits = replace(Settings().limits, send_queue_bytes=2**22)
    connection, _ = await member(Settings(limits=limits))
    for number in range(rooms.MAX_ROOMS + 1):
        connection.enter(await connection.chat.rooms.open(room_name(str(number))))
    answer = (await rooms.list_rooms(connection, commands.Rooms())).answer
    assert (len(answer.rooms), answer.more) == (rooms.MAX_ROOMS, True)
