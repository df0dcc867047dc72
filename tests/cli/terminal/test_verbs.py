"""Every ``/`` command, carried out against a server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pytest
from trio.testing import MockClock

from chatd import client
from chatd.chat.rules import COMMANDS
from chatd.cli.terminal.verbs import VERBS
from chatd.settings import Auth, Chat, Settings
from chatd.testing import Harness, open_chat

Sit: TypeAlias = Any
"""The fixture of conftest.py, which no test module can import from."""

ELSEWHERE = {
    "auth": "--token-file and the saved session",
    "say": "a typed line",
    "typing": "an unfinished line",
    "read": "shown messages",
}
"""Commands of the chat that have no ``/`` command, and what sends them."""


def test_each_command_of_the_chat_can_be_typed() -> None:
    commands = set(COMMANDS)
    assert commands - VERBS.keys() == ELSEWHERE.keys()


async def test_people_and_rooms(chat: Harness, sit: Sit, autojump_clock: MockClock) -> None:
    async with sit(chat, "ann") as ann, sit(chat, "bob") as bob:
        assert await ann.type("/who")
        await ann.sees("* ann, bob")
        assert await ann.type("/nick Anna")
        await ann.sees("* You are now Anna.")
        await bob.sees("* ann is now Anna")
        assert await ann.type("/join #garden")
        await ann.sees("* You are in garden: Anna.")
        assert await ann.type("/rooms")
        await ann.sees("* garden, 1 here\n  lobby, 2 here")
        assert await ann.type("/who lobby")
        await ann.sees("* Anna, bob")
        assert await ann.type("/leave")
        await ann.sees("* You left garden.")
        assert ann.paper.label == "lobby"
        assert await ann.type("/leave")
        assert ann.paper.label == ""
        assert not await ann.type("is anybody there?")
        await ann.sees("! You are not in a room. Type /join ROOM.")
        assert await ann.type("/join lobby")
        await bob.sees("* Anna joined")


async def test_after_a_refused_join_lines_are_not_sent_to_another_room(
    chat: Harness, sit: Sit, autojump_clock: MockClock
) -> None:
    async with sit(chat, "ann") as ann, sit(chat, "bob") as bob:
        assert not await ann.type("/join @cleo")
        assert not await ann.type("for cleo alone")
        await ann.sees("! You are not in a room. Type /join ROOM.")
        assert ann.talk.chat.joined == ("lobby",)
        assert await ann.type("/join lobby")
        assert await ann.type("for all")
        await bob.sees("#1 ann: for all")
        assert "#1 ann: for cleo alone" not in bob.paper.shown


async def test_messages(chat: Harness, sit: Sit, autojump_clock: MockClock) -> None:
    async with sit(chat, "ann") as ann, sit(chat, "bob") as bob:
        assert await ann.type("cake?")
        assert await ann.type("//nothing")
        await bob.sees("#2 ann: /nothing")
        assert await ann.type("/me waves")
        await bob.sees("#3 ann: _waves_")
        assert await bob.type("/reply 1 yes, cake")
        await ann.sees("#4 bob (to #1): yes, cake")
        assert await bob.type("/edit #4 cake, please")
        await ann.sees("* bob changed #4: cake, please")
        assert await ann.type("/delete 2")
        await bob.sees("* ann deleted #2")
        assert await bob.type("/search cake")
        await bob.sees("* Found 2 messages.")
        assert bob.paper.shown[-3].endswith("#1 ann: cake?")
        assert bob.paper.shown[-2].endswith("#4 bob (to #1): cake, please (edited)")
        assert await bob.type("/search cake of another kind")
        await bob.sees("* Found no messages.")


async def test_history_goes_back_page_after_page(
    chat: Harness, sit: Sit, autojump_clock: MockClock
) -> None:
    async with sit(chat, "ann") as ann:
        for number in range(1, 31):
            assert await ann.type(f"line {number}")
    async with sit(chat, "bob") as bob:
        assert bob.paper.shown[0] == "#11 ann: line 11"
        bob.paper.shown.clear()
        assert await bob.type("/history 5")
        assert bob.paper.shown == [f"#{n} ann: line {n}" for n in range(6, 11)]
        assert await bob.type("/history")
        assert bob.paper.shown[5:] == [
            *(f"#{n} ann: line {n}" for n in range(1, 6)),
            "* There are no earlier messages.",
        ]


async def test_direct_messages_have_a_history(sit: Sit, autojump_clock: MockClock) -> None:
    async with by_token() as chat:
        async with sit(chat, "ann", token=chat.token("ann")) as ann:
            async with sit(chat, "bob", token=chat.token("bob")):
                assert await ann.type("/msg bob psst")
            assert await ann.type("/msg bob are you there?")
        async with sit(chat, "bob", token=chat.token("bob")) as bob:
            assert await bob.type("/rooms")
            await bob.sees("* @ann, 2 unread\n  lobby, 2 here")
            assert await bob.type("/join @ann")
            await bob.sees("#2 ann: are you there?")
            assert "#1 ann: psst" in bob.paper.shown


async def test_help_shows_operators_their_commands(sit: Sit, autojump_clock: MockClock) -> None:
    async with by_token() as chat, sit(chat, "ann", token=chat.token("ann")) as ann:
        assert await ann.type("/help")
        for verb in VERBS.values():
            assert f"{verb} " in ann.paper.shown[-1]
        async with sit(chat, "bob") as bob:
            assert await bob.type("/help")
            assert "/kick" not in bob.paper.shown[-1]
            assert "/edit N TEXT" in bob.paper.shown[-1]


async def test_operators_commands(sit: Sit, autojump_clock: MockClock) -> None:
    async with (
        by_token() as chat,
        sit(chat, "ann", token=chat.token("ann")) as ann,
        sit(chat, "bob") as bob,
    ):
        assert await ann.type("/topic tea and cake")
        await bob.sees("* ann set the topic: tea and cake")
        assert await ann.type("/topic -")
        await bob.sees("* ann removed the topic")
        assert await ann.type("/mute bob 10m calm down")
        assert not await bob.type("but")
        await bob.sees("! You are muted here by ann for 10 minutes: calm down (wait 600 s)")
        assert await ann.type("/unmute bob")
        assert await bob.type("thanks")
        await ann.sees("#3 bob: thanks")
        assert await ann.type("/kick bob enough")
        await bob.sees("* bob was kicked")
        await bob.in_no_room()
        assert await bob.type("/join lobby")
        assert await ann.type("/ban bob 1h spam")
        await bob.in_no_room()
        assert not await bob.type("/join lobby")
        assert await ann.type("/unban bob")
        assert await bob.type("/join lobby")
        assert await ann.type("/slow 30s")
        await ann.sees("* Slow mode is on: one message every 30 s.")
        assert await ann.type("/slow 0")
        assert await ann.type("/close 1h cleaning")
        await ann.sees("* The room is closed.")
        await bob.in_no_room()
        assert not await bob.type("/join lobby")
        assert await ann.type("/close 0")
        await ann.sees("* The room is open.")
        assert await bob.type("/join lobby")


@pytest.mark.parametrize("line", ["/kick ann", "/slow 10s", "/close", "/edit 9 x", "/join no room"])
async def test_refusals_are_shown(
    line: str, chat: Harness, sit: Sit, autojump_clock: MockClock
) -> None:
    async with sit(chat, "bob") as bob:
        assert not await bob.type(line)
        assert bob.paper.shown[-1].startswith("! ")


async def test_quit_closes_the_chat(chat: Harness, sit: Sit, autojump_clock: MockClock) -> None:
    async with sit(chat, "bob") as bob:
        assert await bob.type("/quit")
        with pytest.raises(client.Closed):
            await bob.type("hello?")


@asynccontextmanager
async def by_token() -> AsyncGenerator[Harness]:
    """Open a chat whose operator is ann."""
    settings = Settings(auth=Auth(mode="token", guests=True), chat=Chat(operators=("ann",)))
    async with open_chat(settings) as chat:
        yield chat


async def test_a_search_goes_back_page_after_page(
    chat: Harness, sit: Sit, autojump_clock: MockClock
) -> None:
    async with sit(chat, "ann") as ann:
        for number in range(1, 46):
            assert await ann.type(f"cake {number}")
        await ann.sees("#45 ann: cake 45")
        ann.paper.shown.clear()
        assert await ann.type("/search cake")
        assert len(ann.paper.shown) == 21
        assert ann.paper.shown[0].endswith(" #26 ann: cake 26")
        more = "* Found 20 messages. There are older ones. Type /search to see them."
        assert ann.paper.shown[-1] == more
        ann.paper.shown.clear()
        assert await ann.type("/search")
        assert ann.paper.shown[0].endswith(" #6 ann: cake 6")
        assert ann.paper.shown[-1] == more
        ann.paper.shown.clear()
        assert await ann.type("/search")
        assert ann.paper.shown[0].endswith("#1 ann: cake 1")
        assert ann.paper.shown[5:] == ["* Found 5 messages."]
        assert not await ann.type("/search")
        await ann.sees("! Name what to search: /search WORDS.")


async def test_no_topic_forges_a_room(chat: Harness, sit: Sit, autojump_clock: MockClock) -> None:
    async with sit(chat, "ann") as ann:
        chat.daemon.chat.apply(Settings(chat=Chat(topics="members")))
        assert await ann.type("/topic deploys\u2028  bank, 9 here")
        await ann.type("/rooms")
        await ann.sees("* lobby, 1 here: deploys\N{REPLACEMENT CHARACTER}  bank, 9 here")


async def test_a_ban_without_an_address_says_so(sit: Sit, autojump_clock: MockClock) -> None:
    async with (
        by_token() as chat,
        sit(chat, "ann", token=chat.token("ann", op=True)) as ann,
        sit(chat, "eve"),
    ):
        assert await ann.type("/ban eve")
        await ann.sees(
            "* eve is banned. Their address is not known, so they may come back as another guest."
        )
