"""The bots of README.md and docs/client.md, run as they are except for the daemon's address."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from chatd.settings import Limits, Settings
from chatd.testing import Harness, open_chat

ROOT = Path(__file__).parents[2]


def examples(page: str) -> list[str]:
    return re.findall(
        r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE
    )


BOT, SCRIBE, SAY_UNTIL_ACCEPTED = examples("docs/client.md")
[README_BOT] = [each for each in examples("README.md") if "client.connect" in each]


def names_of(example: str, chat: Harness) -> dict[str, Any]:
    """Return what an example defines, without running it."""
    program = example.replace('"ws://localhost:3000"', "daemon")
    source, _, _ = program.partition("try:\n    trio.run")
    names: dict[str, Any] = {"daemon": chat.dial}
    exec(source, names)
    return names


@pytest.mark.parametrize("bot", [BOT, README_BOT])
async def test_the_bot_answers_and_has_its_name_again(
    chat: Harness,
    autojump_clock: MockClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bot: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    ann = await chat.client("ann")
    for _ in range(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(names_of(bot, chat)["main"])
            assert (await ann.next("joined")).nick == "echo"
            await ann.say("hello")
            assert await ann.texts(2) == ["hello", "you said hello"]
            nursery.cancel_scope.cancel()
        assert (await ann.next("left")).nick == "echo"
        await trio.sleep(60)


@pytest.mark.parametrize("bot", [BOT, README_BOT])
async def test_two_bots_do_not_answer_each_other(
    chat: Harness,
    autojump_clock: MockClock,
    nursery: trio.Nursery,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bot: str,
) -> None:
    ann = await chat.client("ann")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        nursery.start_soon(names_of(bot, chat)["main"])
        await ann.next("joined")
    await ann.say("hello")
    assert (await ann.texts(3)) == ["hello", "you said hello", "you said hello"]
    # Nor itself, where nothing is numbered, as between guests.
    await ann.say("psst", room="@echo")
    assert await ann.texts(2) == ["psst", "you said psst"]
    await trio.sleep(600)
    assert ann.waiting("message") == []
    nursery.cancel_scope.cancel()


async def test_ctrl_c_ends_the_bot_without_a_word(tmp_path: Path) -> None:
    async with open_chat(listen="127.0.0.1:0") as chat:
        ann = await chat.client("ann")
        address = chat.listeners[0].address
        source = README_BOT.replace("localhost:3000", str(address))
        bot = await trio.lowlevel.open_process(
            [sys.executable, "-W", "error", "-c", source],
            cwd=tmp_path,
            stderr=-1,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        try:
            await ann.next("joined")
            bot.send_signal(signal.SIGINT)
            assert bot.stderr is not None
            assert await bot.stderr.receive_some() == b""
            assert await bot.wait() == 0
        finally:
            bot.kill()


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
    assert json.loads((tmp_path / "scribe.json").read_text())["seq"] == 3


async def test_it_is_said_once_the_limit_lets_it(autojump_clock: MockClock) -> None:
    limits = Limits(messages_per_second=1, messages_burst=1)
    async with open_chat(Settings(limits=limits)) as chat:
        ann = await chat.client("ann")
        say = names_of(SAY_UNTIL_ACCEPTED, chat)
        for number in range(3):
            await say["say_until_accepted"](ann.chat, "lobby", str(number), f"key-{number}")
        assert await ann.texts(3) == ["0", "1", "2"]
