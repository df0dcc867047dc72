"""The examples of docs/client.md, run as they are written except for the daemon's address."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from chatd import client
from chatd.settings import Limits, Settings
from chatd.testing import Harness, open_chat

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
BOT, SCRIBE, SAY_UNTIL_ACCEPTED = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def names_of(example: str, chat: Harness) -> dict[str, Any]:
    """Return what an example defines."""
    names: dict[str, Any] = {"client": client, "trio": trio, "daemon": chat.dial}
    source = example.replace('"ws://localhost:3000"', "daemon").replace("trio.run(main)\n", "")
    exec(source, names)
    return names


async def test_the_bot_answers(
    chat: Harness, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    ann = await chat.client("ann")
    nursery.start_soon(names_of(BOT, chat)["main"])
    assert (await ann.next("joined")).nick == "echo"
    await ann.say("hello")
    assert await ann.texts(2) == ["hello", "you said hello"]
    nursery.cancel_scope.cancel()


async def test_the_scribe_misses_nothing(
    chat: Harness,
    autojump_clock: MockClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    ann = await chat.client("ann")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(names_of(SCRIBE, chat)["main"])
        assert (await ann.next("joined")).nick == "scribe"
        await ann.say("one")
        await chat.wait_idle()
        nursery.cancel_scope.cancel()
    await ann.say("two")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(names_of(SCRIBE, chat)["main"])
        await chat.wait_idle()
        await ann.say("three")
        await chat.wait_idle()
        nursery.cancel_scope.cancel()
    assert capsys.readouterr().out == "1 ann one\n2 ann two\n3 ann three\n"
    assert json.loads((tmp_path / "bot.json").read_text())["seq"] == 3


async def test_it_is_said_once_the_limit_lets_it(autojump_clock: MockClock) -> None:
    limits = Limits(messages_per_second=1, messages_burst=1)
    async with open_chat(Settings(limits=limits)) as chat:
        ann = await chat.client("ann")
        say = names_of("from __future__ import annotations\n" + SAY_UNTIL_ACCEPTED, chat)
        for number in range(3):
            await say["say_until_accepted"](ann.chat, "lobby", str(number), f"key-{number}")
        assert await ann.texts(3) == ["0", "1", "2"]
