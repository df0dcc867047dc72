"""Every ``/`` command, carried out against a daemon."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pytest
from trio.testing import MockClock

from chatd import client
from chatd.chat.rules import RULES
from chatd.cli.terminal.verbs import VERBS
from chatd.settings import Auth, Chat, Settings
from chatd.testing import Harness, open_chat

Sit: TypeAlias = Any
"""The fixture of conftest.py, which no test module can import from."""

ELSEWHERE = {
    "auth": "--token-file and the kept session",
    "say": "a line",
    "typing": "what stands on the line",
    "read": "what is shown",
}
"""Commands of the chat that are not typed, and what they are."""


def test_each_command_of_the_chat_is_to_be_had() -> None:
    commands = {kind.__struct_config__.tag for kind in RULES}
    assert commands - VERBS.keys() == ELSEWHERE.keys()


async def test_people_and_places(chat: Harness, sit: Sit, autojump_clock: MockClock) -> None:
    async with sit(chat, "ann") as ann, sit(chat, "bob") as bob:
        assert await ann.type("/who")
        await ann.sees("* ann, bob")
        assert await ann.type("/nick Anna")
        await ann.sees("* you are Anna")
        await bob.sees("* ann is now Anna")
        assert await ann.type("/join #garden")
        await ann.sees("* you are in garden: Anna")
        assert await ann.type("/rooms")
        await ann.sees("* garden, 1 here\n  lobby, 2 here")
        assert await ann.type("/who lobby")
        await ann.sees("* Anna, bob")
        assert await ann.type("/leave")
        await ann.sees("* you left garden")
        assert ann.paper.place == "lobby"
        assert await ann.type("/leave")
        assert ann.paper.place == ""
        assert not await ann.type("is anybody there?")
        await ann.sees("! you talk nowhere: /join ROOM")
        assert await ann.type("/join lobby")
        await bob.sees("* Anna joined")


async def test_what_is_typed_behind_a_place_that_cannot_be_entered_is_said_nowhere(
    chat: Harness, sit: Sit, autojump_clock: MockClock
) -> None:
    async with sit(chat, "ann") as ann, sit(chat, "bob") as bob:
        assert not await ann.type("/join @cleo")
        assert not await ann.type("for cleo alone")
        await ann.sees("! you talk nowhere: /join ROOM")
        assert ann.talk.chat.joined == ("lobby",)
        assert await ann.type("/join lobby")
        assert await ann.type("for all")
        await bob.sees("#1 ann: for all")
        assert "#1 ann: for cleo alone" not in bob.paper.shown


async def test_words(chat: Harness, sit: Sit, autojump_clock: MockClock) -> None:
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
        await bob.sees("* found 2")
        assert bob.paper.shown[-3].endswith("#1 ann: cake?")
        assert bob.paper.shown[-2].endswith("#4 bob (to #1): cake, please (edited)")
        assert await bob.type("/search cake of another kind")
        await bob.sees("* found 0")


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
            "* that is where it began",
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


async def test_help_tells_operators_what_is_theirs(sit: Sit, autojump_clock: MockClock) -> None:
    async with by_token() as chat, sit(chat, "ann", token=chat.token("ann")) as ann:
        assert await ann.type("/help")
        for verb in VERBS.values():
            assert f"{verb} " in ann.paper.shown[-1]
        async with sit(chat, "bob") as bob:
            assert await bob.type("/help")
            assert "/kick" not in bob.paper.shown[-1]
            assert "/edit N TEXT" in bob.paper.shown[-1]


async def test_what_operators_do(sit: Sit, autojump_clock: MockClock) -> None:
    async with (
        by_token() as chat,
        sit(chat, "ann", token=chat.token("ann")) as ann,
        sit(chat, "bob") as bob,
    ):
        assert await ann.type("/topic tea and cake")
        await bob.sees("* ann set the topic: tea and cake")
        assert await ann.type("/topic -")
        await bob.sees("* ann took the topic away")
        assert await ann.type("/mute bob 10m calm down")
        assert not await bob.type("but")
        await bob.sees("! you may say nothing there now: calm down (600 s to wait)")
        assert await ann.type("/unmute bob")
        assert await bob.type("thanks")
        await ann.sees("#3 bob: thanks")
        assert await ann.type("/kick bob enough")
        await bob.sees("* bob was put out")
        assert bob.paper.place == ""
        assert await bob.type("/join lobby")
        assert await ann.type("/ban bob 1h spam")
        assert not await bob.type("/join lobby")
        assert await ann.type("/unban bob")
        assert await bob.type("/join lobby")
        assert await ann.type("/slow 30s")
        await ann.sees("* 30 s between two messages")
        assert await ann.type("/slow 0")
        assert await ann.type("/close 1h cleaning")
        await ann.sees("* the room is shut")
        assert not await bob.type("/join lobby")
        assert await ann.type("/close 0")
        await ann.sees("* the room is open")
        assert await bob.type("/join lobby")


@pytest.mark.parametrize("line", ["/kick ann", "/slow 10s", "/close", "/edit 9 x", "/join no room"])
async def test_what_is_refused_is_told(
    line: str, chat: Harness, sit: Sit, autojump_clock: MockClock
) -> None:
    async with sit(chat, "bob") as bob:
        assert not await bob.type(line)
        assert bob.paper.shown[-1].startswith("! ")


async def test_quit_ends_it(chat: Harness, sit: Sit, autojump_clock: MockClock) -> None:
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
