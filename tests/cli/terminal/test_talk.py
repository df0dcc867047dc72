"""A chat at the terminal: what it shows, and its status line."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, TypeAlias

import trio
from trio.testing import MockClock

from chatd import client
from chatd.model import GOING_AWAY
from chatd.settings import Auth, Chat, Limits, Settings
from chatd.testing import Harness, open_chat
from chatd.testing.cable import Cable, Plug

Sit: TypeAlias = Any
"""The fixture of conftest.py, which no test module can import from."""


async def test_entering_a_room_shows_its_messages_and_members(
    chat: Harness, sit: Sit, autojump_clock: MockClock
) -> None:
    ann = await chat.client("ann")
    await ann.chat.say("hello")
    await ann.chat.say("gone")
    await ann.chat.edit("lobby", 1, "Hello!")
    await ann.chat.delete("lobby", 2)
    async with sit(chat, "bob") as bob:
        assert bob.paper.shown == [
            "#1 ann: Hello! (edited)",
            "#2 ann: (deleted)",
            "* You are in lobby: ann, bob.",
        ]
        assert (bob.paper.label, bob.paper.status_line) == ("lobby", "bob | 2 here")


async def test_events_are_shown(chat: Harness, sit: Sit, autojump_clock: MockClock) -> None:
    async with sit(chat, "bob") as bob:
        ann = await chat.client("ann")
        await bob.sees("* ann joined")
        await bob.status("bob | 2 here")
        await ann.chat.say("hello")
        await bob.sees("#1 ann: hello")
        await ann.chat.edit("lobby", 1, "hello bob")
        await bob.sees("* ann changed #1: hello bob")
        await ann.chat.delete("lobby", 1)
        await bob.sees("* ann deleted #1")
        await ann.chat.nick("Anna")
        await bob.sees("* ann is now Anna")
        await ann.chat.leave("lobby")
        await bob.sees("* Anna left")
        await bob.status("bob | 1 here")


async def test_typing_is_shown_for_a_while(
    chat: Harness, sit: Sit, autojump_clock: MockClock
) -> None:
    async with sit(chat, "ann") as ann, sit(chat, "bob") as bob:
        began = trio.current_time()
        ann.talk.drafts("h")
        await bob.status("ann is typing")
        await bob.paper.until(lambda: "typing" not in bob.paper.status_line)
        assert 5 < trio.current_time() - began < 10
        ann.talk.drafts("he")
        await bob.status("ann is typing")
        ann.talk.drafts("")
        await bob.paper.until(lambda: "typing" not in bob.paper.status_line)
        assert trio.current_time() - began < 10


async def test_typing_a_command_is_not_announced(
    chat: Harness, sit: Sit, autojump_clock: MockClock
) -> None:
    async with sit(chat, "ann") as ann, sit(chat, "bob") as bob:
        ann.talk.drafts("/msg zoe")
        await ann.type("done")
        await bob.sees("#1 ann: done")
        assert "typing" not in bob.paper.status_line


async def test_a_message_ends_the_typing(
    chat: Harness, sit: Sit, autojump_clock: MockClock
) -> None:
    async with sit(chat, "ann") as ann, sit(chat, "bob") as bob:
        ann.talk.drafts("h")
        await bob.status("ann is typing")
        await ann.type("hello")
        await bob.sees("#1 ann: hello")
        assert "typing" not in bob.paper.status_line


async def test_messages_from_other_rooms_have_the_rooms_label(
    chat: Harness, sit: Sit, autojump_clock: MockClock
) -> None:
    async with sit(chat, "ann") as ann, sit(chat, "bob") as bob:
        await bob.type("/join garden")
        await ann.type("hello")
        await bob.sees("[lobby] #1 ann: hello")
        await ann.type("/msg bob psst")
        await bob.sees("[@ann] ann: psst")
        await ann.sees("[@bob] ann: psst")
        await bob.type("/join @ann")
        await bob.type("what?")
        await bob.sees("bob: what?")
        await ann.sees("[@bob] bob: what?")
        assert bob.paper.label == "@ann"


async def test_direct_messages_follow_a_change_of_nick(
    chat: Harness, sit: Sit, autojump_clock: MockClock
) -> None:
    async with sit(chat, "ann") as ann, sit(chat, "bob") as bob:
        await ann.type("/join @bob")
        await ann.type("psst")
        await bob.sees("[@ann] ann: psst")
        await bob.type("/nick Robert")
        await ann.sees("* bob is now Robert")
        assert ann.paper.label == "@Robert"
        await ann.type("still there?")
        await bob.sees("[@ann] ann: still there?")
        await bob.type(f"/join {ann.talk.room}")  # by the room's own name
        await bob.sees("* Only ann can read what you write here.")
        await bob.type("/msg ann yes")
        await ann.sees("Robert: yes")


async def test_messages_sent_during_a_join_come_after_the_history(
    chat: Harness, sit: Sit, autojump_clock: MockClock
) -> None:
    ann = await chat.client("ann", room="garden")
    for text in ("before", "also before"):
        await ann.chat.say(text)
    plug = Plug(chat.dial)
    async with sit(chat, "bob", dial=plug) as bob, trio.open_nursery() as nursery:
        # The page and the message after it arrive together.
        plug.stall()
        nursery.start_soon(bob.type, "/join garden")
        assert (await ann.next("joined")).nick == "bob"
        await ann.chat.say("after it")
        plug.flow()
        await bob.sees("#3 ann: after it")
        assert [line for line in bob.paper.shown if line[0] == "#"] == [
            "#1 ann: before",
            "#2 ann: also before",
            "#3 ann: after it",
        ]


async def test_after_a_lost_connection_the_missed_messages_come(
    chat: Harness, sit: Sit, autojump_clock: MockClock
) -> None:
    ann = await chat.client("ann")
    async with sit(chat, "bob") as bob:
        await ann.chat.leave("lobby")
        await bob.status("1 here")
        await bob.talk.chat.reconnect()
        await bob.sees("* Connected again as bob.")
        assert any(line.startswith("! Connection lost") for line in bob.paper.shown)
        await ann.chat.join("lobby")
        await ann.chat.say("hello")
        await bob.sees("#1 ann: hello")
        await bob.status("bob | 2 here")


async def test_members_who_left_during_an_outage_are_not_counted(
    chat: Harness, sit: Sit, autojump_clock: MockClock
) -> None:
    ann = await chat.client("ann")
    dials = 0

    async def dial() -> Cable:
        nonlocal dials
        dials += 1
        if dials > 1:
            await ann.chat.leave("lobby")
        return await chat.dial()

    async with sit(chat, "bob", dial=dial) as bob:
        await bob.status("2 here")
        await bob.talk.chat.reconnect()
        await bob.status("1 here")


async def test_a_message_over_the_rate_limit_is_sent_later(
    sit: Sit, autojump_clock: MockClock
) -> None:
    settings = Settings(limits=Limits(messages_per_second=1, messages_burst=1))
    async with open_chat(settings) as chat, sit(chat, "ann") as ann:
        began = trio.current_time()
        for number in range(3):
            assert await ann.type(f"line {number}")
        await ann.sees("#3 ann: line 2")
        assert trio.current_time() - began > 1
        assert not [line for line in ann.paper.shown if line.startswith("!")]


async def test_after_a_kick_there_is_no_current_room(sit: Sit, autojump_clock: MockClock) -> None:
    settings = Settings(auth=Auth(mode="token", guests=True), chat=Chat(operators=("ann",)))
    async with open_chat(settings) as chat:
        ann = await chat.client("ann", token=chat.token("ann"))
        async with sit(chat, "bob", room="garden") as bob:
            await bob.type("/join lobby")
            await ann.chat.kick(room="lobby", nick="bob", reason="enough")
            await bob.sees("* bob was kicked")
            await bob.sees("* You are not in a room. Type /join ROOM.")
            assert not await bob.type("meant for the lobby")
            assert bob.talk.chat.joined == ("garden",)
            await bob.talk.chat.reconnect()
            assert bob.talk.chat.joined == ("garden",)


async def test_read_marks_are_sent(chat: Harness, sit: Sit, autojump_clock: MockClock) -> None:
    ann = await chat.client("ann")
    async with sit(chat, "bob") as bob:
        session = bob.talk.chat.identity.session
        async with client.connect(chat.dial, session=session) as elsewhere:
            await elsewhere.join("lobby")
            await ann.chat.say("hello")
            read = [event async for event in until(elsewhere, client.Read)][-1]
            assert read == client.Read(room="lobby", seq=1)
            (lobby,) = await elsewhere.rooms()
            assert (lobby.read, lobby.unread) == (1, 0)
    for text in ("unseen", "unseen too"):
        await ann.chat.say(text)
    async with sit(chat, "bob", session=session) as bob:
        await bob.sees("* You are in lobby: ann, bob. 2 unread.")


async def until(chat: client.Chat, kind: type) -> AsyncGenerator[client.AnyEvent]:
    """Yield events up to the first of a kind."""
    async for event in chat:
        yield event
        if isinstance(event, kind):
            return


async def test_what_is_typed_without_a_connection_is_shown_as_waiting(
    chat: Harness, sit: Sit, autojump_clock: MockClock
) -> None:
    async with sit(chat, "ann") as ann:
        ann.talk.waiting("at once")
        for websocket in list(chat.daemon.server.connections):
            websocket.end(GOING_AWAY)
        await ann.talk.chat.lost()
        ann.talk.waiting("in a moment")
        assert "* Waiting to be sent: at once" not in ann.paper.shown
        await ann.sees("* Waiting to be sent: in a moment")
        assert await ann.type("in a moment")
        await ann.sees("#1 ann: in a moment")
