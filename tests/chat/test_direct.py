"""Direct messages: only the two users are in the room, without joining; storage."""

from __future__ import annotations

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from chatd.chat.names import Name
from chatd.chat.pages import QUEUE_SHARE
from chatd.chat.rules.rooms import ENTRY_BYTES
from chatd.chat.sessions import is_kept, new_user
from chatd.chat.user import User
from chatd.protocol import commands, events
from chatd.protocol.pairs import other_of
from tests.chat.room import Client, Room, refused


def subject(room: Room, name: str) -> Client:
    """Return a client of a signed-in user."""
    user = User(name, Name(name, name), chosen=True)
    room.chat.users._add(user)
    client = room.client()
    client.connection.switch_user(user)
    return client


async def test_rooms_of_two_come_first_in_the_list_on_all_its_pages(
    room: Room,
) -> None:
    one = replace(room.chat.settings.limits, send_queue_bytes=ENTRY_BYTES * QUEUE_SHARE)
    room.chat.settings = replace(room.chat.settings, limits=one)
    ann, bob = subject(room, "ann"), room.client("bob")
    for name in ("0a", "0b", "zoo"):
        await bob.join(name)
    await bob.say("psst", "@ann")
    direct = ann.connection.memberships.keys() - {"lobby"}
    listed: list[str] = []
    more = True
    while more is True:
        page = await ann.do(commands.Rooms(after=listed[-1] if listed else None))
        listed += [entry.room for entry in page.rooms]
        more = page.more
    assert listed == [*direct, "0a", "0b", "zoo"]


def test_whose_words_are_kept() -> None:
    ann, bob = new_user(), new_user()
    room = "@" + ",".join(sorted((ann, bob)))
    assert (other_of(room, ann), other_of(room, bob)) == (bob, ann)
    assert not is_kept(room)
    assert is_kept(f"@{ann},subject")
    assert is_kept("@a,b")


async def test_both_users_get_it_on_all_their_connections(
    room: Room, autojump_clock: MockClock
) -> None:
    ann, bob, eve = subject(room, "ann"), room.client("bob"), room.client("eve")
    second = room.client()
    second.connection.switch_user(ann.connection.user)
    said = await ann.say("psst", "@BOB")
    name = "@" + ",".join(sorted(("ann", bob.connection.user.id)))
    assert (said.room, said.seq, said.kept) == (name, 1, True)
    for one in (ann, second, bob):
        await one.until(one.texts)
        message = one.told(events.Message)[0]
        assert (message.room, message.nick, message.text) == (name, "ann", "psst")
    answered = await bob.say("what?", "@ann")
    assert (answered.room, answered.seq) == (name, 2)
    await second.until(lambda: second.texts() == ["psst", "what?"])
    # A later connection is in the room too.
    third = room.client()
    third.connection.switch_user(ann.connection.user)
    await bob.say("hello?", name)
    await third.until(lambda: third.texts() == ["hello?"])
    assert eve.got == []
    for command in (
        commands.Say(room=name, text="me too"),
        commands.Join(room=name),
        commands.History(room=name),
        commands.Search(room=name, query="psst"),
        commands.Who(room=name),
        commands.Read(room=name, seq=1),
        commands.Typing(room=name, on=True),
        commands.Edit(room=name, seq=1, text="x"),
    ):
        assert refused(await eve.do(command)) == "forbidden"
    assert (await eve.do(commands.Rooms())).rooms == []


async def test_there_is_no_presence(room: Room, autojump_clock: MockClock) -> None:
    ann, bob = subject(room, "ann"), room.client("bob")
    await ann.say("hi", "@bob")
    second = room.client()
    second.connection.switch_user(ann.connection.user)
    ann.close()
    second.close()
    await trio.sleep(60)
    assert bob.told(events.Joined) == bob.told(events.Left) == []
    assert refused(await bob.do(commands.Leave(room="@ann"))) in {"bad_request", "not_found"}


async def test_between_guests_it_is_delivered_but_not_stored(
    room: Room, autojump_clock: MockClock
) -> None:
    ann, bob = room.client("ann"), room.client("bob")
    said = await ann.say("psst", "@bob")
    assert (said.kept, said.seq, said.epoch) == (False, None, None)
    await bob.until(bob.texts)
    message = bob.told(events.Message)[0]
    assert (message.text, message.seq, message.room) == ("psst", None, said.room)
    assert ann.texts() == ["psst"]
    topic = commands.Topic(room="@bob", text="secrets")
    assert refused(await ann.do(topic)) == "forbidden"
    assert not (await ann.join("@bob")).may_set_topic
    assert await room.chat.journal.head(said.room) is None
    assert (await ann.do(commands.History(room="@bob"))).events == []
    assert [line["bytes"] for name, line in room.log.records if name == "message"] == [4]


async def test_a_conversation_is_listed_and_resumed(room: Room, autojump_clock: MockClock) -> None:
    ann, bob = subject(room, "ann"), room.client("bob")
    first = await ann.say("one", "@bob")
    await ann.join("lobby")
    listed = (await ann.do(commands.Rooms())).rooms
    assert [(entry.room, entry.nick) for entry in listed] == [(first.room, "bob"), ("lobby", None)]
    ann.close()
    await bob.say("two", "@ann")
    await bob.say("three", "@ann")
    user = ann.connection.user
    await trio.sleep(3600)
    again = subject(room, "ann")
    entry = (await again.do(commands.Rooms())).rooms[0]
    assert (entry.read, entry.unread) == (0, 2)
    assert again.connection.user is not user
    joined = await again.join(first.room, since=commands.Position(first.epoch, first.seq))
    assert joined.may_set_topic
    assert (joined.recovered, joined.room) == (True, first.room)
    assert [event.text for event in joined.events] == ["two", "three"]
    await bob.say("four", "@ann")
    await again.until(lambda: again.texts() == ["four"])
    page = await again.do(commands.History(room="@bob"))
    assert [event.text for event in page.events] == ["one", "two", "three", "four"]
    await again.do(commands.Read(room="@bob", seq=2))
    entry = (await again.do(commands.Rooms())).rooms[0]
    assert (entry.read, entry.unread, entry.seq) == (2, 2, 4)


async def test_the_room_stays_with_the_user_not_the_nick(
    room: Room, autojump_clock: MockClock
) -> None:
    ann, bob = subject(room, "ann"), room.client("bob")
    first = await ann.say("one", "@bob")
    await bob.do(commands.Nick(nick="robert"))
    assert (await ann.say("two", "@robert")).room == first.room
    assert refused(await ann.say("three", "@bob")) == "not_found"
    other = room.client("bob")
    assert (await ann.say("four", "@bob")).room != first.room
    await other.until(lambda: other.texts() == ["four"])


async def test_rules_as_elsewhere(room: Room, autojump_clock: MockClock) -> None:
    ann, bob = subject(room, "ann"), room.client("bob")
    said = await ann.say("helo", "@bob")
    assert (await ann.do(commands.Edit(room="@bob", seq=1, text="hello"))).seq == 2
    assert refused(await bob.do(commands.Edit(room="@ann", seq=1, text="x"))) == "forbidden"
    assert (await bob.do(commands.Topic(room="@ann", text="us"))).seq == 3
    assert (await ann.do(commands.Delete(room=said.room, seq=1))).seq == 4
    assert refused(await ann.say("x" * 16385, "@bob")) == "too_large"
    assert (await bob.say("re", "@ann", key="k")).seq == 5
    assert (await bob.say("re", "@ann", key="k")).duplicate


@pytest.mark.parametrize(
    ("spelled", "code"),
    [
        ("@nobody", "not_found"),
        ("@", "not_found"),
        ("@@ann", "not_found"),
        ("@ann", "bad_request"),
        ("@ann,ann", "bad_request"),
        ("@x,y", "forbidden"),
        ("@ann,nobody", "not_found"),
        ("@ann,b,c", "not_found"),
        ("@ann," + "x" * 10_000, "not_found"),
    ],
)
async def test_invalid_recipients(
    room: Room, spelled: str, code: str, autojump_clock: MockClock
) -> None:
    ann = subject(room, "ann")
    assert refused(await ann.say("x", spelled)) == code
    assert room.chat.rooms.direct("ann") == []


async def test_many_conversations_begun_at_once_are_too_many(
    room: Room, autojump_clock: MockClock
) -> None:
    ann = subject(room, "ann")
    others = [room.client(f"n{number}") for number in range(30)]
    codes = [refused(await ann.join(f"@n{number}")) for number in range(30)]
    assert codes == [None] * 20 + ["rate_limited"] * 10
    assert len(room.chat.rooms.direct("ann")) == 20
    ann.close()
    for other in others:
        other.close()
    assert room.chat.rooms.direct("ann") == []
    assert len(room.chat.rooms) == 0
