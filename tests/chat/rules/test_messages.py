"""Say, edit, delete and topic."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from chatd.chat.replies import Commit
from chatd.chat.rules import IN_ROOM, messages
from chatd.model import Event, Post, Receipt
from chatd.protocol import commands, events
from chatd.settings import Chat, Settings
from tests.chat.room import (
    Client,
    Room,
    delete,
    edit,
    member,
    open_room,
    page,
    promote,
    refusal,
    refused,
)

# ---- say


async def test_a_message_goes_to_all_members_and_the_sender(room: Room) -> None:
    ann, bob, eve = room.client("ann"), room.client("bob"), room.client("eve")
    await ann.join()
    await bob.join("LOBBY")
    await eve.join("elsewhere")
    said = await ann.say("hi")
    await bob.until(bob.texts)
    assert (said.room, said.seq, said.duplicate) == ("lobby", 1, False)
    [message] = bob.told(events.Message)
    assert (message.room, message.seq, message.nick, message.text) == ("lobby", 1, "ann", "hi")
    assert message.at == said.at
    assert ann.texts() == ["hi"]
    assert eve.texts() == []


async def test_the_same_key_is_said_once_by_one_user(room: Room) -> None:
    ann, bob = room.client("ann"), room.client("bob")
    await ann.join()
    await bob.join()
    first = await ann.say("one", key="k")
    again = await ann.say("two", key="k")
    other = await bob.say("three", key="k")
    assert (again.seq, again.duplicate) == (first.seq, True)
    assert (other.seq, other.duplicate) == (2, False)
    await bob.until(lambda: len(bob.texts()) == 2)
    assert bob.texts() == ["one", "three"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "bad_request"),
        ("a\x00b", "bad_request"),
        ("\x1b[31m", "bad_request"),
        ("a\rb", "bad_request"),
        ("\x85", "bad_request"),
        ("x" * 16384, None),
        ("x" * 16385, "too_large"),
        ("é" * 8193, "too_large"),
        ("tab\tand\nline", None),
    ],
)
async def test_what_may_be_said(room: Room, text: str, code: str | None) -> None:
    ann = room.client("ann")
    await ann.join()
    assert refused(await ann.say(text)) == code


async def test_line_ends_are_made_one(room: Room) -> None:
    ann = room.client("ann")
    await ann.join()
    await ann.say("a\r\nb")
    await ann.until(ann.texts)
    assert ann.texts() == ["a\nb"]


@pytest.mark.parametrize("key", ["", "k" * 65, "é" * 33])
async def test_a_key_has_1_to_64_bytes(room: Room, key: str) -> None:
    ann = room.client("ann")
    await ann.join()
    assert refused(await ann.say("x", key=key)) == "bad_request"


async def test_a_reply_names_a_message_of_the_room(room: Room) -> None:
    ann = room.client("ann")
    await ann.join()
    await ann.say("?")
    assert refused(await ann.say("!", reply_to=2**70)) == "bad_request"
    assert refused(await ann.say("!", reply_to=0)) == "bad_request"
    await ann.say("!", reply_to=1)
    await ann.until(lambda: len(ann.texts()) == 2)
    assert [message.reply_to for message in ann.told(events.Message)] == [None, 1]


async def test_a_reply_names_a_message(ann: Client, bob: Client) -> None:
    said = await ann.say("tea?")
    await bob.say("please", reply_to=said.seq)
    assert [event.reply_to for event in await page(ann)] == [None, said.seq]
    assert refused(await bob.say("what?", reply_to=9)) == "not_found"
    assert refused(await bob.say("what?", reply_to=0)) == "bad_request"
    await ann.do(delete(said.seq))
    # The number stands, so what answers it may.
    assert (await bob.say("gone", reply_to=said.seq)).seq == 4


async def test_a_user_outside_a_room_cannot_send_there(room: Room) -> None:
    ann = room.client("ann")
    assert refused(await ann.say("x")) == "not_joined"
    assert refused(await ann.say("x", room="*")) == "not_joined"


async def test_a_flood_is_refused_with_the_time_to_wait_and_costs_nothing_else(
    room: Room, autojump_clock: MockClock
) -> None:
    ann = room.client("ann")
    await ann.join()
    answers = [await ann.say(str(number)) for number in range(21)]
    assert [refused(answer) for answer in answers] == [None] * 20 + ["rate_limited"]
    wait = answers[-1].retry_ms / 1000
    assert 0 < wait <= 0.2
    await trio.sleep(wait)
    assert refused(await ann.say("now")) is None
    assert refused(await ann.say("again")) == "rate_limited"


async def test_bytes_are_limited_too_and_over_all_connections_of_a_user(room: Room) -> None:
    ann = room.client("ann")
    other = room.client()
    session = room.chat.users.session(ann.connection.user)
    await other.do(commands.Auth(session=session))
    await ann.join()
    await other.join()
    text = "x" * 16384
    assert [refused(await client.say(text)) for client in (ann, other, ann, other, ann)] == [
        *[None] * 4,
        "rate_limited",
    ]


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


async def test_resuming_brings_edits_and_deletions(room: Room, ann: Client) -> None:
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


# ---- the rules by themselves


@pytest.mark.parametrize(
    ("command", "fields"),
    [
        (commands.Say(room="lobby", text="hi"), {"text": "hi"}),
        (commands.Say(room="lobby", text="a\r\nb"), {"text": "a\nb"}),
        (
            commands.Say(room="lobby", text="x", key="k", reply_to=7),
            {"text": "x", "key": "k", "reply_to": 7},
        ),
        (edit(3, "new\r\n"), {"kind": "edit", "text": "new\n", "of": 3}),
        (delete(3), {"kind": "delete", "text": None, "of": 3}),
        (commands.Topic(room="lobby", text="tea"), {"kind": "topic", "text": "tea"}),
        (commands.Topic(room="lobby", text=""), {"kind": "topic", "text": ""}),
    ],
)
async def test_a_rule_returns_what_to_commit(
    command: commands.Command, fields: dict[str, Any], mock_clock: MockClock
) -> None:
    connection, membership = await member(Settings(chat=Chat(topics="members")))
    commit = IN_ROOM[type(command)](connection, command, membership)
    assert isinstance(commit, Commit)
    expected: dict[str, Any] = {"room": "lobby", "name": "lobby", "nick": "ann", **fields}
    assert commit.operation == Post(user=connection.user.id, **expected)
    assert (commit.before, commit.barrier) == ((), False)


@pytest.mark.parametrize(
    ("command", "code", "hint"),
    [
        (commands.Say(room="lobby", text=""), "bad_request", "empty"),
        (commands.Say(room="lobby", text="\x07"), "bad_request", "control characters"),
        (commands.Say(room="lobby", text="x" * 16385), "too_large", "16384 bytes"),
        (commands.Say(room="lobby", text="x", key=""), "bad_request", "Keys"),
        (commands.Say(room="lobby", text="x", key="k" * 65), "bad_request", "64 bytes"),
        (commands.Say(room="lobby", text="x", reply_to=0), "bad_request", "reply_to"),
        (commands.Say(room="lobby", text="x", reply_to=2**53 + 1), "bad_request", "reply_to"),
        (edit(0, "x"), "bad_request", "seq"),
        (edit(1, ""), "bad_request", "empty"),
        (delete(2**60), "bad_request", "seq"),
        (commands.Topic(room="lobby", text="a\nb"), "bad_request", "single line"),
        (commands.Topic(room="lobby", text="x" * 1025), "too_large", "1024 bytes"),
    ],
)
async def test_a_rule_raises_why_it_refuses(
    command: commands.Command, code: str, hint: str, mock_clock: MockClock
) -> None:
    connection, membership = await member(Settings(chat=Chat(topics="members")))
    why = refusal(IN_ROOM[type(command)], connection, command, membership)
    assert why is not None
    assert (why.code, why.retry_ms) == (code, None)
    assert hint in why.message
    # A refusal costs nothing: a whole burst may still be said.
    for _ in range(connection.chat.settings.limits.messages_burst):  # type: ignore[arg-type]
        messages.say(connection, commands.Say(room="lobby", text="x"), membership)


@pytest.mark.parametrize(("op", "may"), [(False, False), (True, True)])
async def test_only_operators_set_a_topic_and_delete_for_others(
    op: bool, may: bool, mock_clock: MockClock
) -> None:
    connection, membership = await member(op=op)
    topic = commands.Topic(room="lobby", text="tea")
    refused = refusal(messages.topic, connection, topic, membership)
    assert (refused is None) == may
    operation = messages.delete(connection, delete(1), membership).operation
    assert isinstance(operation, Post)
    assert operation.operator == op


async def test_the_answer_to_a_say(mock_clock: MockClock) -> None:
    connection, membership = await member()
    commit = messages.say(connection, commands.Say(room="lobby", text="hi"), membership)
    assert isinstance(commit, Commit)
    event = Event(9, "lobby", 4, 1000, "message", connection.user.id, "ann", "hi")
    said = commit.to_answer(Receipt(event, duplicate=True))
    assert isinstance(said, commands.Said)
    assert (said.room, said.seq, said.duplicate) == ("lobby", 4, True)
    assert str(said.at) == "1970-01-01T00:00:01.000Z"
    assert said.epoch == connection.chat.journal.epoch
