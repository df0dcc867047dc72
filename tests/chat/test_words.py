"""Words that change: edit, delete, topic, reply, search; what is typed, and what was read."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from chatd.chat.rules import messages, presence
from chatd.chat.tokens import Grant
from chatd.protocol import commands, events
from chatd.settings import Chat, Limits, Settings
from tests.chat.room import Client, Room, open_room, perform, refused

FAST = replace(Limits(), messages_per_second="off", bytes_per_second="off")


@pytest.fixture
async def ann(room: Room) -> Client:
    client = room.client("ann")
    await client.join()
    return client


@pytest.fixture
async def bob(room: Room, ann: Client) -> Client:
    client = room.client("bob")
    await client.join()
    return client


def promote(client: Client) -> None:
    """Make an operator of it, as a token would."""
    user = client.connection.user.id
    grant = Grant(user, key="", expires=2**50, lifetime=2**50, op=True)
    client.connection.renew_grant(grant)


def edit(seq: int, text: str, room: str = "lobby") -> commands.Edit:
    return commands.Edit(room=room, seq=seq, text=text)


def delete(seq: int, room: str = "lobby") -> commands.Delete:
    return commands.Delete(room=room, seq=seq)


async def page(client: Client, **fields: Any) -> list[Any]:
    answer = await client.do(commands.History(room="lobby", **fields))
    return list(answer.events)


# ---- edit, delete


async def test_an_edit_is_an_event_and_the_message_has_its_words(ann: Client, bob: Client) -> None:
    said = await ann.say("helo")
    changed = await ann.do(edit(said.seq, "hello\r\nworld"))
    assert changed.seq == 2
    await bob.until(lambda: bob.told(events.Edit))
    told = bob.told(events.Edit)[0]
    assert (told.seq, told.of, told.nick, told.text) == (2, 1, "ann", "hello\nworld")
    message, event = await page(bob)
    assert (message.seq, message.text, message.edited) == (1, "hello\nworld", changed.at)
    assert (event.seq, event.of, event.text) == (2, 1, "hello\nworld")
    # Edited again: the first edit has the present words too.
    await ann.do(edit(said.seq, "again"))
    assert [item.text for item in await page(bob)] == ["again"] * 3


async def test_a_deleted_message_leaves_its_number(ann: Client, bob: Client) -> None:
    said = await ann.say("oh no")
    await ann.do(edit(said.seq, "oh dear"))
    assert (await ann.do(delete(said.seq))).seq == 3
    await bob.until(lambda: bob.told(events.Delete))
    assert bob.told(events.Delete)[0].of == 1
    message, edited, _ = await page(bob)
    assert (message.deleted, message.text, edited.text) == (True, None, None)
    for again in (delete(said.seq), edit(said.seq, "back")):
        assert refused(await ann.do(again)) == "not_found"


async def test_who_resumes_is_told_of_changes(room: Room, ann: Client) -> None:
    said = await ann.say("one")
    since = commands.Position(said.epoch, said.seq)
    await ann.do(edit(said.seq, "two"))
    await ann.do(delete(said.seq))
    late = room.client("late")
    joined = await late.join(since=since)
    assert joined.recovered
    assert [type(event) for event in joined.events] == [events.Edit, events.Delete]
    assert joined.events[0].text is None


async def test_only_the_author_edits_and_deletes(room: Room, ann: Client, bob: Client) -> None:
    said = await ann.say("mine")
    assert refused(await bob.do(edit(said.seq, "his"))) == "forbidden"
    assert refused(await bob.do(delete(said.seq))) == "forbidden"
    promote(bob)
    assert refused(await bob.do(edit(said.seq, "his"))) == "forbidden"
    assert (await bob.do(delete(said.seq))).seq == 2
    await bob.until(lambda: bob.told(events.Delete))
    assert [line["of"] for name, line in room.log.records if name == "delete"] == [said.seq]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (edit(1, "x", "elsewhere"), "not_joined"),
        (delete(1, "elsewhere"), "not_joined"),
        (edit(2, "x"), "not_found"),
        (delete(7), "not_found"),
        (edit(0, "x"), "bad_request"),
        (delete(-1), "bad_request"),
        (delete(2**60), "bad_request"),
        (edit(1, ""), "bad_request"),
        (edit(1, "a\x07"), "bad_request"),
        (edit(1, "x" * 16385), "too_large"),
    ],
)
async def test_what_cannot_be_changed(ann: Client, command: commands.Command, code: str) -> None:
    await ann.say("first")
    assert refused(await ann.do(command)) == code


async def test_an_edit_of_an_edit_is_of_no_message(ann: Client) -> None:
    await ann.say("first")
    await ann.do(edit(1, "second"))
    assert refused(await ann.do(edit(2, "third"))) == "not_found"


async def test_changes_count_as_words(room: Room, ann: Client, autojump_clock: MockClock) -> None:
    await ann.say("first")
    answers = [await ann.do(edit(1, str(number))) for number in range(20)]
    assert [refused(answer) for answer in answers] == [None] * 19 + ["rate_limited"]
    assert 0 < answers[-1].retry_ms <= 200


# ---- reply_to


async def test_a_reply_names_a_message(ann: Client, bob: Client) -> None:
    said = await ann.say("tea?")
    await bob.say("please", reply_to=said.seq)
    assert [event.reply_to for event in await page(ann)] == [None, said.seq]
    assert refused(await bob.say("what?", reply_to=9)) == "not_found"
    assert refused(await bob.say("what?", reply_to=0)) == "bad_request"
    await ann.do(delete(said.seq))
    # The number stands, so what answers it may.
    assert (await bob.say("gone", reply_to=said.seq)).seq == 4


# ---- topic


async def test_a_topic_is_the_operators(room: Room, ann: Client, bob: Client) -> None:
    assert refused(await ann.do(commands.Topic(room="lobby", text="tea"))) == "forbidden"
    assert not (await ann.join()).may_set_topic
    promote(ann)
    assert (await ann.join()).may_set_topic
    changed = await ann.do(commands.Topic(room="lobby", text="tea"))
    assert changed.seq == 1
    await bob.until(lambda: bob.told(events.Topic))
    assert bob.told(events.Topic)[0].text == "tea"
    assert (await room.client("cleo").join()).topic == "tea"
    entries = (await bob.do(commands.Rooms())).rooms
    assert [(entry.room, entry.topic) for entry in entries] == [("lobby", "tea")]
    await ann.do(commands.Topic(room="lobby", text=""))
    assert (await bob.join()).topic == ""


async def test_a_topic_outlives_the_room_being_empty(room: Room, ann: Client) -> None:
    promote(ann)
    await ann.do(commands.Topic(room="lobby", text="tea"))
    await ann.do(commands.Leave(room="lobby"))
    assert room.chat.rooms.get("lobby") is None
    assert (await ann.join()).topic == "tea"


async def test_where_members_may_set_it(autojump_clock: MockClock) -> None:
    chat = Chat(topics="members", rules=("notes write=operators",))
    async with open_room(Settings(chat=chat)) as room:
        ann = room.client("ann")
        assert (await ann.join()).may_set_topic
        assert not (await ann.join("notes")).may_set_topic
        assert refused(await ann.do(commands.Topic(room="notes", text="x"))) == "forbidden"
        for text, code in (
            ("x" * messages.TOPIC_BYTES, None),
            ("x" * (messages.TOPIC_BYTES + 1), "too_large"),
            ("two\nlines", "bad_request"),
            ("\x1b[31m", "bad_request"),
        ):
            assert refused(await ann.do(commands.Topic(room="lobby", text=text))) == code
        assert refused(await ann.do(commands.Topic(room="x", text="x"))) == "not_joined"


# ---- search


def search(query: str, **fields: Any) -> commands.Search:
    return commands.Search(room="lobby", query=query, **fields)


async def found(client: Client, query: str, **fields: Any) -> list[Any]:
    answer = await client.do(search(query, **fields))
    return [event.text for event in answer.events]


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


# ---- typing


async def test_typing_is_told_to_the_others(
    room: Room, ann: Client, bob: Client, autojump_clock: MockClock
) -> None:
    second = room.client()
    second.connection.switch_user(ann.connection.user)
    await second.join()
    for on in (True, True, False, False):
        await _typing(ann, on=on)
    told = [event.active for event in bob.told(events.Typing)]
    assert told == [True, False]
    assert bob.told(events.Typing)[0].nick == "ann"
    assert ann.told(events.Typing) == second.told(events.Typing) == []
    # On and off again is told at most so often.
    await _typing(ann, on=True)
    assert len(bob.told(events.Typing)) == 2
    await trio.sleep(presence.TYPING_SECONDS)
    await _typing(ann, on=True)
    assert len(bob.told(events.Typing)) == 3


async def test_nobody_types_where_they_are_not(ann: Client) -> None:
    answer = await ann.do(commands.Typing(room="elsewhere", on=True))
    assert refused(answer) == "not_joined"


async def test_a_crowd_is_not_told_who_types(autojump_clock: MockClock) -> None:
    settings = Settings(limits=replace(Limits(), presence_members=1))
    async with open_room(settings) as room:
        ann, bob = room.client("ann"), room.client("bob")
        await ann.join()
        await bob.join()
        await _typing(ann, on=True)
        assert bob.told(events.Typing) == []


async def _typing(client: Client, *, on: bool) -> None:
    def answered(answer: Any) -> None:
        raise AssertionError(answer)

    await perform(client.connection, commands.Typing(room="lobby", on=on), answered)


# ---- read


async def test_read_marks_are_kept_and_never_go_back(
    room: Room, ann: Client, bob: Client, autojump_clock: MockClock
) -> None:
    for number in range(5):
        await bob.say(str(number))
    await ann.say("mine")
    second = room.client()
    second.connection.switch_user(ann.connection.user)
    marked = await ann.do(commands.Read(room="lobby", seq=2))
    assert (marked.room, marked.seq) == ("lobby", 2)
    assert [event.seq for event in second.told(events.Read)] == [2]
    assert ann.told(events.Read) == bob.told(events.Read) == []
    assert (await ann.do(commands.Read(room="lobby", seq=1))).seq == 2
    joined = await second.join()
    assert (joined.read, joined.unread) == (2, 3)
    entry = (await second.do(commands.Rooms())).rooms[0]
    assert (entry.read, entry.unread) == (2, 3)
    await bob.do(delete(4))
    assert (await second.join()).unread == 2
    # Who never marked anything is told nothing.
    joined = await bob.join()
    assert (joined.read, joined.unread) == (None, None)


async def test_read_marks_outlive_the_process(
    room: Room, ann: Client, autojump_clock: MockClock
) -> None:
    await ann.say("x")
    await ann.do(commands.Read(room="lobby", seq=1))
    secret = room.chat.users.session(ann.connection.user)
    ann.close()
    await trio.sleep(3600)
    assert room.chat.users.get(ann.connection.user.id) is None
    again = room.client()
    await again.do(commands.Auth(session=secret))
    assert (await again.join()).read == 1


@pytest.mark.parametrize(
    ("room_name", "seq", "code"),
    [("lobby", 2, "bad_request"), ("lobby", -1, "bad_request"), ("elsewhere", 1, "not_joined")],
)
async def test_what_cannot_be_read(ann: Client, room_name: str, seq: int, code: str) -> None:
    await ann.say("x")
    assert refused(await ann.do(commands.Read(room=room_name, seq=seq))) == code


# ---- pages of messages


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
