"""Plain text, as people and the smallest of programs see it: line by line."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from chatd.chat import Chat
from chatd.chat.moderation import moderate
from chatd.chat.rules import messages
from chatd.gateways import text as module
from chatd.gateways.text import TextCodec, TextGateway
from chatd.journal import Unavailable
from chatd.model import KICKED, Event, EventKind
from chatd.protocol import commands, events
from chatd.settings import Chat as ChatSettings
from chatd.settings import Limits, Settings
from chatd.testing import Harness, TextClient, open_chat
from tests.gateways.raw import Raw, json_user, masked_binary, speak_text

FAST = Limits(messages_per_second="off", messages_burst="off", bytes_per_second="off")


async def typed(client: TextClient, text: str) -> str:
    """Type a line; give the notice it is answered with."""
    await client.say(text)
    return (await client.next("notice")).text


async def hear(client: Raw, count: int) -> list[str]:
    return [await client.hear() for _ in range(count)]


# ---- coming in


async def test_greeting_backlog_live_in_this_order(
    chat: Harness, autojump_clock: MockClock
) -> None:
    ann = await chat.client("ann")
    for text in ("one", "two\nlines"):
        await ann.say(text)
    bob = await speak_text(chat, "/?nick=bob")
    await ann.say("three")
    assert await hear(bob, 4) == [
        "Hello, I am chatd. You are bob in #lobby.",
        "ann: one",
        "ann: two\n  lines",
        "ann: three",
    ]


async def test_the_greeting_is_the_operators(autojump_clock: MockClock) -> None:
    chat_settings = ChatSettings(greeting="{nick}@{room}: {hm} welcome\nto us", default_room="Hall")
    async with open_chat(Settings(chat=chat_settings)) as chat:
        assert await (await speak_text(chat, "/ws?nick=Ann")).hear() == (
            "Ann@Hall: {hm} welcome\nto us"
        )
        # A nick may have braces; it is not another place to fill in.
        assert (await (await speak_text(chat, "/ws?nick={room}")).hear()).startswith("{room}@Hall")


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("", 20),
        ("?backlog=3", 3),
        ("?backlog=0", 0),
        ("?backlog=1000", 30),
        ("?backlog=", 20),
        ("?backlog=-1", 20),
        ("?backlog=x", 20),
        ("?backlog=%D9%A3", 20),
        ("?backlog=9999999999999999999", 20),
    ],
)
async def test_as_many_lines_of_the_past_as_were_asked_for(
    autojump_clock: MockClock, query: str, count: int
) -> None:
    async with open_chat(Settings(limits=FAST)) as chat:
        ann = await chat.client("ann")
        for number in range(30):
            await ann.say(str(number))
        bob = await speak_text(chat, f"/{query}")
        await ann.say("now")
        await bob.hear()
        assert await hear(bob, count + 1) == [
            *(f"ann: {number}" for number in range(30 - count, 30)),
            "ann: now",
        ]


async def test_the_operators_backlog(autojump_clock: MockClock) -> None:
    async with open_chat(Settings(chat=ChatSettings(backlog=1))) as chat:
        ann = await chat.client("ann")
        for text in "abc":
            await ann.say(text)
        bob = await chat.client("bob", "text")
        await bob.say("/history 2")
        assert await bob.texts(3) == ["c", "b", "c"]
        await bob.say("/history")
        assert await bob.texts(1) == ["c"]


async def test_the_room_that_was_asked_for(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await chat.client("ann", room="Den")
    bob = await speak_text(chat, "/ws?nick=bob&room=den")
    assert await bob.hear() == "Hello, I am chatd. You are bob in #Den."
    assert (await ann.next("joined")).nick == "bob"
    await bob.text("hi")
    assert await bob.hear() == "bob: hi"
    # An invalid one gets a notice and the default.
    eve = await speak_text(chat, "/ws?nick=eve&room=%2A")
    assert await hear(eve, 2) == [
        "Hello, I am chatd. You are eve in #lobby.",
        "* Room names cannot contain # * , : or @. Try coffee-room.",
    ]


async def test_an_unavailable_nick_gets_a_notice(chat: Harness, autojump_clock: MockClock) -> None:
    await chat.client("ann")
    second = await speak_text(chat, "/?nick=ANN")
    assert await hear(second, 2) == [
        "Hello, I am chatd. You are ANN-2 in #lobby.",
        "* The nick ANN is taken. You are ANN-2.",
    ]
    third = await speak_text(chat)
    assert (await third.hear()).startswith("Hello, I am chatd. You are guest-")


async def test_an_unreadable_store_gets_a_notice(
    chat: Harness, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise Unavailable("locked")

    monkeypatch.setattr(chat.daemon.chat.journal, "head", fail)
    ann = await speak_text(chat)
    assert await ann.hear() == "* The store cannot be read now. Try again in 1.0 s."
    monkeypatch.undo()
    await ann.text("/join lobby")
    assert (await ann.hear()).startswith("Hello")


async def test_an_error_while_connecting_leaves_no_member_behind(
    chat: Harness, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(TextGateway, "_join", fail)
    ann = await speak_text(chat)
    assert (await ann.closed())[0] == 1011
    await ann.aclose()
    await chat.wait_idle()
    assert not chat.daemon.chat.connections
    assert len(chat.daemon.chat.users) == 0
    assert [line["code"] for line in chat.logged("disconnect")] == [1011]
    assert len(chat.logged("fault")) == 1


# ---- what is said


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        ("hello", "hello"),
        ("hello\n", "hello"),
        ("hello\r\n", "hello"),
        ("hello\n\n", "hello\n"),
        (" hello ", " hello "),
        ("a\r\nb\nc", "a\nb\nc"),
        ("//nick bob", "/nick bob"),
        ("///", "//"),
        ("//", "/"),
        (" /nick bob", " /nick bob"),
        ("* bob left", "* bob left"),
        ("/me waves", "_waves_"),
    ],
)
async def test_a_frame_is_a_message(
    chat: Harness, autojump_clock: MockClock, frame: str, text: str
) -> None:
    ann = await json_user(chat, "ann")
    bob = await speak_text(chat, "/?nick=bob")
    await bob.hear()
    await bob.text(frame)
    assert (await ann.event())["on"] == "joined"
    assert (await ann.event())["text"] == text
    # Its sender gets it like all members.
    assert await bob.hear() == "bob: " + text.replace("\n", "\n  ")


@pytest.mark.parametrize("frame", ["", "\n", "\r\n"])
async def test_an_empty_frame_is_nothing(
    chat: Harness, autojump_clock: MockClock, frame: str
) -> None:
    ann = await chat.client("ann", "text")
    await ann.next("greeting")
    await ann.say(frame)
    await ann.say("x")
    assert (await ann.next()).text == "x"


@pytest.mark.parametrize("frame", ["\r", "a\x07", "\x1b[2J", "a\rb", "\x85", "x" * 16385])
async def test_a_refusal_goes_only_to_the_sender(
    chat: Harness, autojump_clock: MockClock, frame: str
) -> None:
    ann = await json_user(chat, "ann")
    bob = await chat.client("bob", "text")
    told = await typed(bob, frame)
    # The words of the refusal are those that JSON gives.
    answer = await ann.do("say", room="lobby", text=frame)
    assert told == answer["error"]["message"]
    assert [event["on"] for event in ann.events] == ["joined"]
    await bob.say("still here")
    assert await bob.texts(1) == ["still here"]


async def test_a_flood_gets_the_time_to_wait(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await chat.client("ann", "text")
    for number in range(20):
        await ann.say(str(number))
    assert await typed(ann, "20") == "You are sending messages too fast. Try again in 0.2 s."


async def test_an_unconfirmed_message_gets_a_notice(
    chat: Harness, autojump_clock: MockClock
) -> None:
    ann = await chat.client("ann", "text")
    chat.fill_disk()
    assert (await typed(ann, "x")).endswith("Try again in 1.0 s.")


async def test_a_binary_frame_is_1003(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await speak_text(chat)
    await ann.hear()
    await ann.send(masked_binary(b"hello"))
    assert await ann.hear() == "* binary frames are not supported"
    assert await ann.closed() == (1003, "binary frames are not supported")


# ---- what is typed with a slash


async def test_help(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await chat.client("ann", "text")
    told = await typed(ann, "/help")
    for command in ("/nick N", "/join R", "/who", "/history [N]", "/me", "/quit", "//"):
        assert command in told
    assert await typed(ann, "/HELP") == told


@pytest.mark.parametrize("command", ["/nick", "/join", "/me", "/nick  ", "/JOIN "])
async def test_a_command_without_what_it_needs(
    chat: Harness, autojump_clock: MockClock, command: str
) -> None:
    ann = await chat.client("ann", "text")
    assert (await typed(ann, command)).endswith("Type /help for the list.")


@pytest.mark.parametrize("command", ["/dance", "/", "/ nick", "/" + "x" * 1000, "/a\n* bob left"])
async def test_an_unknown_command(chat: Harness, autojump_clock: MockClock, command: str) -> None:
    ann = await speak_text(chat)
    await ann.hear()
    await ann.text(command)
    line = await ann.hear()
    assert line.startswith("* Unknown command /")
    assert "Type /help for the list, or // to begin a message with a slash." in line
    assert len(line) < 120
    assert "\n*" not in line


async def test_nick(chat: Harness, autojump_clock: MockClock) -> None:
    ann, bob = await chat.client("ann", "text"), await chat.client("bob", "text")
    assert (await ann.next("notice")).text == "bob joined"
    assert await typed(bob, "/nick  Robert ") == "bob is now Robert"
    assert (await ann.next("notice")).text == "bob is now Robert"
    assert await typed(bob, "/nick ANN") == "The nick ANN is taken. Try ANN-2."
    assert await typed(bob, "/nick a b") == "Nicks cannot contain spaces. Try a-b."
    await bob.say("hi")
    assert (await ann.next("message")).nick == "Robert"


async def test_who(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await chat.client("ann", "text")
    assert await typed(ann, "/who") == "In #lobby: ann"
    for number in range(120):
        await json_user(chat, f"n{number:03}", "lobby")
    told = await typed(ann, "/who")
    while not told.startswith("In "):
        told = (await ann.next("notice")).text
    assert told.startswith("In #lobby: ann, n000, n001")
    assert told.endswith("n098 and 21 more")


async def test_history(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await chat.client("ann", "text")
    for text in ("a", "b\nB", "c"):
        await ann.say(text)
    assert await ann.texts(3) == ["a", "b\nB", "c"]
    await ann.say("/history 2")
    assert await ann.texts(2) == ["b\nB", "c"]
    await ann.say("/history")
    assert await ann.texts(3) == ["a", "b\nB", "c"]
    for wrong in ("x", "-1", "1.5", "9" * 10, "²"):
        assert await typed(ann, f"/history {wrong}") == "Name a number: /history N."
    await ann.say("/history 0")
    await ann.say("on")
    assert (await ann.next("message")).text == "on"


async def test_join_leaves_greets_and_shows_the_past(
    chat: Harness, autojump_clock: MockClock
) -> None:
    ann, eve = await json_user(chat, "ann", "lobby"), await json_user(chat, "eve", "den")
    await eve.do("say", room="den", text="psst")
    bob = await speak_text(chat, "/?nick=bob")
    await bob.hear()
    await bob.text("/join #DEN")
    assert await hear(bob, 2) == ["Hello, I am chatd. You are bob in #den.", "eve: psst"]
    assert [(await ann.event())["on"], (await ann.event())["on"]] == ["joined", "left"]
    # Nothing from the old room arrives any more, and messages go to the new one.
    await ann.do("say", room="lobby", text="gone?")
    await bob.text("hi")
    assert await bob.hear() == "bob: hi"
    who = (await ann.do("who", room="lobby"))["ok"]["members"]
    assert [member["nick"] for member in who] == ["ann"]


async def test_join_of_the_room_it_is_in_is_no_leaving(
    chat: Harness, autojump_clock: MockClock
) -> None:
    ann = await json_user(chat, "ann")
    bob = await speak_text(chat, "/?nick=bob")
    await bob.hear()
    await bob.text("/join Lobby")
    assert await bob.hear() == "Hello, I am chatd. You are bob in #lobby."
    assert (await ann.event())["on"] == "joined"
    await bob.text("once")
    assert await bob.hear() == "bob: once"
    assert (await ann.event())["text"] == "once"


async def test_join_of_a_room_that_cannot_be_stays(autojump_clock: MockClock) -> None:
    async with open_chat(Settings(chat=ChatSettings(create_rooms=False))) as chat:
        bob = await chat.client("bob", "text")
        assert await typed(bob, "/join other") == "There is no room named other."
        assert (await typed(bob, "/join a b")).startswith("Room names cannot contain spaces.")
        await bob.say("still here")
        assert (await bob.next("message")).text == "still here"


async def test_a_refused_join_is_invisible_to_others(autojump_clock: MockClock) -> None:
    limits = Limits(requests_per_second=1, requests_burst=3)
    async with open_chat(Settings(limits=limits)) as chat:
        ann = await json_user(chat, "ann")
        bob = await chat.client("bob", "text")
        assert (await ann.event())["on"] == "joined"
        answers = [await typed(bob, "/who") for _ in range(4)]
        assert answers[-1].startswith("You are asking too often.")
        assert (await typed(bob, "/join den")).startswith("You are asking too often.")
        await bob.say("still here")
        assert (await ann.event())["text"] == "still here"


async def test_a_client_with_room_for_one_changes_it(autojump_clock: MockClock) -> None:
    settings = Settings(limits=Limits(rooms_per_client=1), chat=ChatSettings(create_rooms=False))
    async with open_chat(settings) as chat:
        bob = await chat.client("bob", "text")
        assert await typed(bob, "/join other") == "There is no room named other."
        await bob.say("still here")
        assert (await bob.next("message")).text == "still here"


async def test_no_room_of_two_is_talked_in_all_the_time(
    chat: Harness, autojump_clock: MockClock
) -> None:
    await chat.client("ann")
    bob = await speak_text(chat, "/ws?nick=bob&room=%40ann")
    assert (await hear(bob, 2))[0] == "Hello, I am chatd. You are bob in #lobby."


async def test_quit(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await speak_text(chat)
    await ann.hear()
    await ann.text("/quit")
    assert await ann.hear() == "* bye"
    assert await ann.closed() == (1000, "bye")


# ---- notices


async def test_presence(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await chat.client("ann", "text")
    bob = await chat.client("bob")
    assert (await ann.next("notice")).text == "bob joined"
    await bob.nickname("Bob")
    assert (await ann.next("notice")).text == "bob is now Bob"
    await bob.leave()
    assert (await ann.next("notice")).text == "Bob left"
    await bob.join("lobby")
    await chat.cut(bob)
    assert (await ann.next("notice")).text == "Bob joined"
    assert (await ann.next("notice")).text == "Bob left"
    # Its own is not shown.
    assert [line.on for line in ann.waiting()] == ["greeting"]


async def test_a_large_room_gets_no_presence(autojump_clock: MockClock) -> None:
    async with open_chat(Settings(limits=Limits(presence_members=2))) as chat:
        ann = await chat.client("ann", "text")
        for nick in ("bob", "eve", "joe"):
            await chat.client(nick)
        await trio.sleep(5)
        assert [line.text for line in ann.waiting("notice")] == ["bob joined"]


async def test_a_drain_is_announced_before_the_close(autojump_clock: MockClock) -> None:
    async with open_chat() as chat:
        ann = await speak_text(chat)
        await ann.hear()
        await chat.daemon.drain()
        assert await ann.hear() == "* the server is restarting"
        assert (await ann.closed())[0] == 1001


# ---- the codec


@given(st.text(min_size=1).filter(lambda text: not messages._CONTROLS.search(text)))
def test_no_message_forges_a_line(text: str) -> None:
    message = Event(1, "lobby", 1, 0, "message", "u", "ann", text)
    lines = _line(message).splitlines()
    assert lines[0].startswith("ann: ")
    assert all(line.startswith("  ") for line in lines[1:])
    notice = _line(events.Notice(text)).splitlines()
    assert notice[0].startswith("* ")
    assert all(line.startswith("  ") for line in notice[1:])


class Called:
    """A chat in which the user ``u`` is ann and the only one present."""

    def __init__(self) -> None:
        self.users = {"u": SimpleNamespace(nick=SimpleNamespace(display="ann"))}


CODEC = TextCodec(cast("Chat", Called()))


def _line(item: object, room: str = "lobby") -> str:
    block = CODEC.encode(room, [item])
    return block[{126: 4, 127: 10}.get(block[1], 2) :].decode()


def test_events_that_plain_text_does_not_show() -> None:
    told = [
        events.Presence("lobby", 3),
        events.Typing("lobby", "ann", "u", active=True),
        events.Read("lobby", 3),
        Event(1, "lobby", 1, 0, "message", "u", "ann", None, deleted=True),
        Event(1, "lobby", 1, 0, "edit", "u", "ann", None, of=1),
    ]
    assert CODEC.encode("lobby", told) == b""
    deleted = Event(1, "lobby", 1, 0, "message", "u", "ann", None, deleted=True)
    page = commands.Page("e", [events.shape("lobby", deleted)], more=False)
    assert module._messages(page).events == []


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Event(1, "lobby", 2, 0, "edit", "u", "ann", "a\nb", of=1), "* ann edited: a\n  b"),
        (Event(1, "lobby", 2, 0, "delete", "u", "ann", None, of=1), "* ann deleted a message"),
        (Event(1, "lobby", 2, 0, "topic", "u", "ann", "tea"), "* ann set the topic: tea"),
    ],
)
def test_what_is_changed_is_a_notice(event: Event, line: str) -> None:
    assert _line(event) == line


def test_a_direct_message_names_both() -> None:
    said = Event(1, "@u,v", 1, 0, "message", "v", "bob", "hi")
    assert _line(said, "@u,v") == "bob -> ann: hi"
    # Absent users appear by their id.
    said = Event(1, "@u,v", 1, 0, "message", "u", "ann", "hi")
    assert _line(said, "@u,v") == "ann -> v: hi"


async def test_the_same_story_over_both(autojump_clock: MockClock) -> None:
    """The result of the chat's rules does not depend on the protocol."""
    seen: dict[str, list[str]] = {}
    for protocol in ("json", "text"):
        async with open_chat() as chat:
            eve = await chat.client("eve")
            ann = await chat.client("ann", protocol)
            for text in ("hello", "a\r\nb", "x" * 16384, "ü" * 8192, "\ttab"):
                await ann.say(text)
            seen[protocol] = [str(text) for text in await eve.texts(5)]
            assert await ann.texts(5) == seen[protocol]
            assert [line["nick"] for line in chat.logged("message")] == ["ann"] * 5
            assert [line["receivers"] for line in chat.logged("message")] == [2] * 5
    assert seen["json"] == seen["text"]


BREAKS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


def forging(text: str) -> list[object]:
    """Return everything that has a line, with a text of somebody's in each of its places."""
    at = 1_750_000_000_000

    def event(kind: EventKind, nick: str = "eve", text: str | None = text) -> Event:
        return Event(1, "lobby", 1, at, kind, "u", nick, text, of=1)

    return [
        *(event(kind) for kind in ("message", "edit", "topic")),
        *(event(kind, text) for kind in ("message", "edit", "topic", "delete")),
        event("topic", text, ""),
        events.shape("lobby", event("message")),
        events.Joined("lobby", text, "u"),
        events.Left("lobby", text, "u", "leave"),
        events.NickChange("lobby", "u", text, "eve"),
        events.NickChange("lobby", "u", "eve", text),
        events.Notice(text),
    ]


@pytest.mark.parametrize("separator", BREAKS)
def test_no_text_forges_a_line(separator: str) -> None:
    text = f"hello{separator}root: fire!{separator}{separator}* root left"
    for item in forging(text):
        first, *rest = _line(item).splitlines()
        assert first.endswith(("hello", "hello ", "the topic", "hello -> eve")) or "hello" in first
        assert rest
        assert all(line.startswith("  ") for line in rest)
    bye = module.goodbye_frames(CODEC, KICKED, text)
    assert all(line.startswith("  ") for line in bye[2:].decode().splitlines()[1:])


@given(st.text(max_size=30))
def test_text_without_breaks_is_unchanged(text: str) -> None:
    line = _line(events.Notice(text)).removeprefix("* ")
    assert line.replace("  ", "") == text.replace("  ", "") or len(text.splitlines()) > 1
    if len(text.splitlines()) <= 1 and not text.endswith(tuple(BREAKS)):
        assert line == text


async def test_a_topic_and_a_reason_forge_no_line(chat: Harness, autojump_clock: MockClock) -> None:
    chat.daemon.chat.apply(Settings(chat=ChatSettings(topics="members")))
    ann, bob = await chat.client("ann"), await speak_text(chat, "/?nick=bob")
    await bob.hear()
    await ann.topic("lobby", "deploys\u2028root: fire!")
    assert await bob.hear() == "* ann set the topic: deploys\u2028  root: fire!"
    await moderate(
        chat.daemon.chat, "console", commands.Kick(nick="bob", reason="bye\u2029\u0085root: fire!")
    )
    assert await bob.hear() == "* bye\u2029  \u0085  root: fire!"


async def test_every_notice_is_shown_if_no_room_can_be_joined(autojump_clock: MockClock) -> None:
    closed = ("* read=operators",)
    async with open_chat(Settings(chat=ChatSettings(rules=closed))) as chat:
        await json_user(chat, "tom", None)
        tom = await speak_text(chat, "/?nick=tom&room=garden")
        assert await hear(tom, 3) == [
            "* The nick tom is taken. You are tom-2.",
            "* This room is not open to you.",
            "* This room is not open to you.",
        ]


async def test_lines_that_are_no_command_are_counted_and_cost_the_sender(
    chat: Harness, autojump_clock: MockClock
) -> None:
    ann = await speak_text(chat, "/?nick=ann")
    await ann.hear()
    began = trio.current_time()
    for line in ("/nothing", "/msg bob", "/nick", "/history many") * 75:
        await ann.text(line)
        await ann.hear()
    assert trio.current_time() - began > 0.5
    assert chat.daemon.chat.refused_commands == {("unknown", "bad_request"): 300}
