"""Sessions in files: kept from one run to the next, and readable by their owner alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chatd import client
from chatd.client.sessions import load_session, save_session
from chatd.settings import Auth, Settings
from chatd.testing import Harness, open_chat


def names_in(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


async def test_the_next_run_has_the_same_name(
    chat: Harness, autojump_clock: MockClock, tmp_path: Path
) -> None:
    file = tmp_path / "bot.session"
    users = set()
    for _ in range(3):
        async with client.connect(chat.dial, nick="echo", session_file=file) as bot:
            assert bot.identity.nick == "echo"
            users.add(bot.identity.user)
        await trio.sleep(300)
    assert len(users) == 1
    # After the time in which its nick is held, too.
    await trio.sleep(7000)
    async with client.connect(chat.dial, nick="echo", session_file=str(file)) as bot:
        assert (bot.identity.nick, {bot.identity.user}) == ("echo", users)


async def test_only_its_owner_can_read_it_and_it_is_replaced_in_one_step(
    chat: Harness, autojump_clock: MockClock, tmp_path: Path
) -> None:
    file = tmp_path / "bot.session"
    umask = os.umask(0)
    try:
        async with client.connect(chat.dial, session_file=file) as bot:
            assert load_session(file) == bot.identity.session
            before = file.stat().st_ino
            await bot.auth(bot.identity.session)
            assert load_session(file) == bot.identity.session
            assert file.stat().st_ino != before
    finally:
        os.umask(umask)
    assert file.stat().st_mode & 0o777 == 0o600
    assert names_in(tmp_path) == [file.name]


async def test_a_session_that_is_no_longer_valid_is_replaced(
    chat: Harness, autojump_clock: MockClock, tmp_path: Path
) -> None:
    file = tmp_path / "bot.session"
    save_session(file, "gaaaaaaaaaaaaaaaa.1.x")
    async with client.connect(chat.dial, nick="echo", session_file=file) as bot:
        event = await bot.next_event()
        assert isinstance(event, client.Reconnected)
        assert not event.same_user
        assert bot.identity.nick == "echo"
        assert load_session(file) == bot.identity.session


async def test_a_token_has_no_session(autojump_clock: MockClock, tmp_path: Path) -> None:
    file = tmp_path / "bot.session"
    async with open_chat(Settings(auth=Auth(mode="token", guests=True))) as chat:
        token = chat.token("ann")
        async with client.connect(chat.dial, token=token, session_file=file) as bot:
            assert bot.identity.user == "ann"
    assert not file.exists()


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"session": 1}', b"\xff", b'{"a": "b"}'])
async def test_a_file_of_something_else_is_left_alone(
    chat: Harness, autojump_clock: MockClock, content: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "notes"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is not a session file"):
        async with client.connect(chat.dial, session_file=file):
            raise AssertionError("it connected")
    assert file.read_bytes() == content


async def test_an_empty_file_has_none(
    chat: Harness, autojump_clock: MockClock, tmp_path: Path
) -> None:
    file = tmp_path / "bot.session"
    file.touch()
    async with client.connect(chat.dial, session_file=file) as bot:
        assert load_session(file) == bot.identity.session


async def test_a_file_that_cannot_be_written_is_told_at_once(
    chat: Harness, autojump_clock: MockClock, tmp_path: Path
) -> None:
    file = tmp_path / "none" / "bot.session"
    with pytest.raises(FileNotFoundError):
        async with client.connect(chat.dial, session_file=file):
            raise AssertionError("it connected")
    # Later, the program goes on.
    file.parent.mkdir()
    async with client.connect(chat.dial, session_file=file) as bot:
        file.unlink()
        file.parent.rmdir()
        await bot.reconnect()
        await bot.join("lobby")


def test_a_failed_save_leaves_the_old_session(tmp_path: Path) -> None:
    file = tmp_path / "session"
    save_session(file, "old")
    with pytest.raises(TypeError):
        save_session(file, object())  # type: ignore[arg-type]  # nothing that JSON has
    assert load_session(file) == "old"
    assert names_in(tmp_path) == [file.name]
