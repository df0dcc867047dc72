"""``chatd client`` on a real terminal and through real pipes, beside the page."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import pytest
import trio

from chatd import client
from chatd.cli.admin_client import request
from tests.e2e.chat_page import open_page
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter
from tests.e2e.chromium import Chromium
from tests.e2e.test_page_words import act, find, message
from tests.e2e.test_tokens import run
from tests.e2e.tmux import Pane, find_tmux

COMMAND: Final = [sys.executable, "-W", "error", "-m", "chatd", "client"]

ENDED: Final = "[ended with "

Terminal: TypeAlias = Callable[..., Awaitable[Pane]]


def environ(home: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "USER": "somebody"}


@pytest.fixture
async def terminal(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Terminal]:
    """Return a function that opens a terminal with the client in it."""
    if find_tmux() is None:
        pytest.skip("there is no tmux: on Debian, apt install tmux")
    panes: list[Pane] = []

    async def open_terminal(chatd: ChatdProcess, *words: str, **variables: str) -> Pane:
        home = tmp_path / f"home{len(panes)}"
        home.mkdir()
        command = [*COMMAND, chatd.url, *words]
        pane = await Pane.open(nursery, home / "tmux", command, {**environ(home), **variables})
        panes.append(pane)
        return pane

    yield open_terminal
    for pane in panes:
        await pane.aclose()


async def test_two_on_the_page_and_two_at_terminals_hold_a_conversation(
    start_chatd: ChatdStarter, chromium: Chromium, terminal: Terminal
) -> None:
    chatd = await start_chatd({"chat.topics": "members"})
    ann = await open_page(chromium, chatd, nick="ann")
    bob = await open_page(chromium, chatd, nick="bob", host="127.0.0.1")
    cleo = await terminal(chatd, "--nick", "cleo")
    await cleo.until("You are in lobby: ann, bob, cleo.")
    dan = await terminal(chatd, "--nick", "dan")
    await cleo.until("* dan joined")
    for page in (ann, bob):
        await page.members("ann", "bob", "cleo", "dan")

    # Each sends, all receive.
    await ann.say("who has cake?")
    await cleo.type("I have")
    await ann.shows("who has cake?", "I have")
    await bob.say("me too")
    await cleo.until("#3 bob: me too")
    await dan.type("/reply 1 not I")
    await ann.tab.until(
        f"{message(4)}?.querySelector('.quote .words').textContent === 'who has cake?'"
    )
    await cleo.until("#4 dan (to #1): not I")

    # Edited and deleted.
    await cleo.type("/edit 2 I have apple cake")
    for page in (ann, bob):
        await page.shows("who has cake?", "I have apple cake", "me too", "not I")
    await dan.until("* cleo changed #2: I have apple cake")
    await act(bob, 3, "Delete")
    await bob.tab.until("document.querySelector('#question').open")
    await bob.tab.press("Enter")
    await cleo.until("* bob deleted #3")
    await dan.type("/delete 4")
    await ann.tab.until(f"{message(4)}.textContent.includes('Message deleted')")

    # The topic.
    await cleo.type("/topic cake")
    await ann.tab.until_text("cake", within="#room-topic")
    await dan.until("* cleo set the topic: cake")

    # Typing.
    await ann.type("hm")
    await cleo.until("ann is typing")
    await ann.send("!")
    await cleo.until("ann is typing", gone=True)
    await dan.begin("let me th")
    await ann.tab.until_text("dan is typing", within="#writers")
    await dan.press("C-c")
    await ann.tab.until("!document.querySelector('#writers').textContent")

    # Search.
    await dan.type("/search apple")
    await dan.until("* Found 1 message.")
    await find(ann, "apple")
    found = "[...document.querySelectorAll('#search-list .text')].map(n => n.textContent)"
    assert await ann.tab.evaluate(found) == ["I have apple cake"]
    await ann.tab.press("Escape")

    # Direct messages.
    await cleo.type("/msg ann shall I bring it?")
    await ann.tab.until("document.querySelector('#direct-list .badge')")
    await ann.tab.click("#direct-list button")
    await ann.shows("shall I bring it?")
    await ann.send("please do")
    await cleo.until("[@ann] ann: please do")
    assert "please do" not in await dan.screen()
    await ann.switch("lobby")

    # Nicks and members.
    await dan.type("/nick Daniel")
    await dan.until("* You are now Daniel.")
    await bob.members("ann", "bob", "cleo", "Daniel")
    await bob.rename("Robert")
    await cleo.until("* bob is now Robert")
    await cleo.type("/who")
    await cleo.until("* ann, cleo, Daniel, Robert")

    # Another room: messages from elsewhere have their room's name.
    await cleo.type("/join garden")
    await cleo.until("* You are in garden: cleo.")
    await dan.type("still here")
    await cleo.until("[lobby] #10 Daniel: still here")
    await cleo.type("/rooms")
    await cleo.until("lobby, 4 here")
    await cleo.type("/join lobby")
    await cleo.until("* You are now in lobby.")

    # The server restarts: everyone reconnects and misses nothing.
    await chatd.stop()
    for pane in (cleo, dan):
        await pane.until("Connection lost")
    await cleo.type("said while nobody listened")
    chatd = await start_chatd({"chat.topics": "members"}, port=chatd.port)
    for pane in (cleo, dan):
        await pane.until("* Connected again as")
    for page in (ann, bob):
        await page.come_back()
        await page.shows("said while nobody listened")
    await dan.until("cleo: said while nobody listened")

    # Leaving, and the history for a newcomer.
    await dan.type("/quit")
    await dan.until(f"{ENDED}0]")
    await bob.members("ann", "cleo", "Robert", "Daniel")  # who may return in time
    eve = await terminal(chatd, "--nick", "eve", "--history", "1")
    screen = await eve.until("* You are in lobby (cake)")
    assert "who has cake?" not in screen
    await eve.type("/history 20")
    screen = await eve.until("#1 ann: who has cake?")
    assert "#2 cleo: I have apple cake (edited)" in screen
    assert "#3 bob: (deleted)" in screen
    assert ann.faults == bob.faults == []


async def test_an_operator_at_a_terminal_and_a_guest_on_the_page(
    start_chatd: ChatdStarter, chromium: Chromium, terminal: Terminal, tmp_path: Path
) -> None:
    key, config, token = (tmp_path / name for name in ("key", "chatd.toml", "token"))
    key.write_text(await run("-m", "chatd", "token", "--new-key"))
    config.write_text(
        f'[auth]\nmode = "token"\nguests = true\nkey_files = ["{key}"]\n'
        '[chat]\noperators = ["olga"]\n'
    )
    token.write_text(await run("-m", "chatd", "token", "--user", "olga", "--config", str(config)))
    chatd = await start_chatd(config=config)
    bob = await open_page(chromium, chatd, nick="bob")
    olga = await terminal(chatd, "--token-file", str(token))
    await olga.until("* You are in lobby: bob, olga.")
    await olga.type("/mute bob 10m calm down")
    await olga.until("* bob is muted.")
    await bob.line("notice", "You are muted in lobby by olga for 10 minutes: calm down")
    await olga.type("/unmute bob")
    await olga.until("* bob is no longer muted.")
    await olga.type("/topic peace")
    await bob.tab.until_text("peace", within="#room-topic")
    await bob.say("sorry")
    await olga.until("#2 bob: sorry")
    await olga.type("/kick bob that is enough")
    await bob.tab.until("document.body.textContent.includes('that is enough')")
    await olga.until("* bob was kicked")
    assert bob.faults == []


async def test_colours_and_no_color(chatd: ChatdProcess, terminal: Terminal) -> None:
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        await program.say("hello [bold]cleo[/]")
        cleo = await terminal(chatd, "--nick", "cleo")
        await cleo.until("json: hello [bold]cleo[/]")
        assert "\x1b[" in await cleo.screen("-e")
        dan = await terminal(chatd, "--nick", "dan", NO_COLOR="1")
        await dan.until("* You are in lobby")
        conversation, _, _ = (await dan.screen("-e")).rpartition("[lobby]")
        for colour in range(30, 38):
            assert f"\x1b[{colour}m" not in conversation


async def test_a_wrapped_line_cannot_imitate_another_message(
    start_chatd: ChatdStarter, terminal: Terminal
) -> None:
    chatd = await start_chatd({"limits.messages_per_second": "off", "limits.messages_burst": "off"})
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        cleo = await terminal(chatd, "--nick", "cleo")
        await cleo.until("* You are in lobby")
        for padding in range(70, 100):
            await program.say("x" * padding + "12:01 #9 ann: I resign", key=str(padding))
            await cleo.until(f"#{padding - 69} json:")
        for row in (await cleo.screen()).splitlines():
            assert not row.startswith(("x", "12:01 #9", "I resign", "ann"))


@pytest.mark.parametrize("key", ["C-d", "C-c"])
async def test_leaving_restores_the_terminal(
    key: str, chatd: ChatdProcess, terminal: Terminal
) -> None:
    cleo = await terminal(chatd, "--nick", "cleo")
    await cleo.until("* You are in lobby")
    await cleo.begin("half a thought")
    await cleo.until("half a thought")
    await cleo.press("C-c")
    await cleo.until("half a thought", gone=True)
    await cleo.type("a whole one")
    await cleo.until("cleo: a whole one")
    await cleo.press(key)
    await cleo.until(f"{ENDED}0]")
    # Typed text is echoed again: the terminal is no longer raw.
    await cleo.type("echoed")
    await cleo.until("echoed\nechoed")
    assert (await chatd.line("disconnect"))["code"] == 1000


async def test_a_byte_that_is_not_utf8_is_replaced(chatd: ChatdProcess, terminal: Terminal) -> None:
    cleo = await terminal(chatd, "--nick", "cleo")
    await cleo.until("* You are in lobby")
    await cleo.send(b"caf\xe9!\r")
    await cleo.until("#1 cleo: caf\N{REPLACEMENT CHARACTER}!")


async def test_stopping_it_gives_the_terminal_to_the_shell(
    chatd: ChatdProcess, tmp_path: Path, nursery: trio.Nursery
) -> None:
    if find_tmux() is None:
        pytest.skip("there is no tmux: on Debian, apt install tmux")
    # A shell that does not restore the terminal by itself, as bash does.
    shell = await Pane.open(nursery, tmp_path / "tmux", ["dash", "-i"], environ(tmp_path))
    try:
        await shell.type(shlex.join([*COMMAND, chatd.url, "--nick", "cleo"]))
        await shell.until("* You are in lobby")
        await shell.begin("half a thought")
        await shell.until("half a thought")
        await shell.press("C-z")
        await shell.until("Stopped")
        await shell.type("echo $((40 + 2))")
        await shell.until("\n42")
        await shell.type("fg")
        await shell.until("[lobby] half a thought")
        await shell.type(" and the rest")
        await shell.until("#1 cleo: half a thought and the rest")
    finally:
        await shell.aclose()


async def test_tab_completes_commands_and_names(chatd: ChatdProcess, terminal: Terminal) -> None:
    async with client.connect(chatd.url, nick="Josephine") as program:
        await program.join("lobby")
        cleo = await terminal(chatd, "--nick", "cleo")
        await cleo.until("* You are in lobby")
        await cleo.begin("/ms")
        await cleo.press("Tab")
        await cleo.until("[lobby] /msg")
        await cleo.begin("jos")
        await cleo.press("Tab")
        await cleo.until("[lobby] /msg Josephine")
        await cleo.type("psst")
        while not isinstance(event := await program.next_event(), client.Message):
            pass
        assert (event.text, event.nick) == ("psst", "cleo")


class Piped:
    """What the client wrote, and its exit code."""

    def __init__(self, done: subprocess.CompletedProcess[bytes]) -> None:
        self.code = done.returncode
        lines = done.stdout.decode().splitlines()
        self.out = [line for line in lines if not line.startswith("---")]
        """Its output without the lines that name the day."""
        self.err = done.stderr.decode().splitlines()


async def piped(home: Path, chatd: ChatdProcess, lines: bytes, *words: str, **env: str) -> Piped:
    with trio.fail_after(60):
        return Piped(
            await trio.run_process(
                [*COMMAND, chatd.url, *words],
                stdin=lines,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env={**environ(home), **env},
            )
        )


async def test_lines_of_a_pipe_are_sent(chatd: ChatdProcess, tmp_path: Path) -> None:
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        await program.say("before")
        cron = await piped(tmp_path, chatd, b"one\ntwo \xff\nthree", "--nick", "cron")
        assert (cron.code, cron.err) == (0, [])
        assert [line[6:] for line in cron.out] == [
            "#2 cron: one",
            "#3 cron: two \N{REPLACEMENT CHARACTER}",
            "#4 cron: three",
        ]
        # The next run is the same guest, though its nick is reserved; this one asks for history.
        asking = ("--nick", "cron", "--history", "2", "--commands")
        cron = await piped(tmp_path, chatd, b"/who\n", *asking)
        assert (cron.code, cron.err) == (0, [])
        assert [line[6:] for line in cron.out[:2]] == [
            "#3 cron: two \N{REPLACEMENT CHARACTER}",
            "#4 cron: three",
        ]
        assert cron.out[2:] == ["* cron, json"]
    nobody = await piped(tmp_path, chatd, b"", "--nick", "cron")
    assert (nobody.code, nobody.out, nobody.err) == (0, [], [])


async def test_missing_streams(chatd: ChatdProcess, tmp_path: Path) -> None:
    for redirected, code, told in (
        ("<&-", 0, b""),
        (">/dev/full", 1, b"chatd: The output cannot be written: no space left on device.\n"),
    ):
        with trio.fail_after(60):
            done = await trio.run_process(
                ["sh", "-c", f'"$@" {redirected}', "sh", *COMMAND, chatd.url],
                stdin=b"one\n",
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=environ(tmp_path),
            )
        assert (done.returncode, done.stderr) == (code, told)


async def test_lines_over_the_rate_limit_are_all_sent(
    start_chatd: ChatdStarter, tmp_path: Path
) -> None:
    chatd = await start_chatd({"limits.messages_per_second": 20, "limits.messages_burst": 5})
    lines = [f"line {number}" for number in range(1, 31)]
    cron = await piped(tmp_path, chatd, "\n".join(lines).encode(), "--nick", "cron")
    assert cron.code == 0
    assert [line.partition(": ")[2] for line in cron.out] == lines


async def test_each_line_of_a_pipe_is_said_as_it_is(chatd: ChatdProcess, tmp_path: Path) -> None:
    log = (
        b"\xef\xbb\xbf/nick root\n"
        b"/quit\r\n"
        b"//two\n"
        b"\n"
        b" \t\n"
        b"\tat main.py  \n"
        b"\x1b[31mred\x1b[0m \x1b]8;;http://x\x1b\\link\x1b]8;;\x07\n"
        b"\x1b[0m\n"
        b"10%\r20%\r\n"
        b"bell\x07 and \x9b \xff\n"
        b"/usr/bin/true"
    )
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        cron = await piped(tmp_path, chatd, log, "--nick", "cron")
        page = await program.history("lobby")
    assert (cron.code, cron.err) == (0, [])
    texts = [event.text for event in page.events if isinstance(event, client.Message)]
    assert texts == [
        "/nick root",
        "/quit",
        "//two",
        "\tat main.py  ",
        "red link",
        "10%\n20%",
        "bell and \N{REPLACEMENT CHARACTER} \N{REPLACEMENT CHARACTER}",
        "/usr/bin/true",
    ]
    assert {event.nick for event in page.events if isinstance(event, client.Message)} == {"cron"}


async def test_a_line_that_is_too_long_is_sent_in_pieces(
    start_chatd: ChatdStarter, tmp_path: Path
) -> None:
    off = ("messages_per_second", "messages_burst", "bytes_per_second")
    chatd = await start_chatd({f"limits.{key}": "off" for key in off})
    words = " ".join(f"wörd{number}" for number in range(5000))
    lines = f"one\n{words}\n{'x' * 1_500_000}\nlast\n"
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby", limit=0)
        cron = await piped(tmp_path, chatd, lines.encode(), "--nick", "cron")
        texts: list[str | None] = []
        while texts[-1:] != ["last"]:
            if isinstance(event := await program.next_event(), client.Message):
                texts.append(event.text)
    assert cron.code == 0
    assert cron.err[0] == (
        f"* Line 2 has more than 16384 bytes and was sent as {texts.index(texts[3])} messages."
    )
    whole = "".join(text or "" for text in texts)
    assert whole == lines.replace("\n", "")
    assert all(len((text or "").encode()) <= 16384 for text in texts)


async def test_a_pipe_that_is_out_of_its_room_ends(
    start_chatd: ChatdStarter, tmp_path: Path
) -> None:
    admin = tmp_path / "admin.sock"
    chatd = await start_chatd({"admin.socket": str(admin)})
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        process = await trio.lowlevel.open_process(
            [*COMMAND, chatd.url, "--nick", "cron"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environ(tmp_path),
        )
        assert process.stdin is not None
        assert process.stderr is not None
        await process.stdin.send_all(b"one\n")
        with trio.fail_after(60):
            while not isinstance(event := await program.next_event(), client.Message):
                pass
            kick = {"nick": event.nick, "room": "lobby"}
            await trio.to_thread.run_sync(request, admin, "POST", "/kick", kick)
            # It does not wait for a line that it could not send.
            assert await process.wait() == 1
            told = b"".join([data async for data in process.stderr])
        assert told.splitlines()[0] == b"* You are not in a room."


async def test_failures_are_reported_and_counted(chatd: ChatdProcess, tmp_path: Path) -> None:
    lines = b"/nope\n" + b"a" * 20_000 + b"\nfine\n"
    cron = await piped(tmp_path, chatd, lines, "--nick", "cron", "--commands")
    assert cron.code == 1
    assert cron.out[-1].endswith("#1 cron: fine")
    assert cron.err == [
        "! Unknown command /nope. Type /help for the list, or // to begin a message with a slash.",
        "! Messages can have at most 16384 bytes.",
    ]
    token = await piped(tmp_path, chatd, b"hello\n", CHATD_TOKEN="nonsense")
    assert (token.code, token.out) == (1, [])
    assert token.err == ["chatd: This server does not take tokens. Everyone is a guest."]


async def test_a_closed_stdout(chatd: ChatdProcess, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with trio.fail_after(60):
            done = await trio.run_process(
                [*COMMAND, chatd.url],
                stdin=b"one\ntwo\n",
                stdout=writer,
                capture_stderr=True,
                check=False,
                env=environ(tmp_path),
            )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@asynccontextmanager
async def unread(
    home: Path, chatd: ChatdProcess, program: client.Chat
) -> AsyncGenerator[tuple[trio.Process, trio.lowlevel.FdStream]]:
    """Start a client whose reader stops amid the first line, which ``program`` sends."""
    await program.join("lobby")
    await program.say("1 ".ljust(16_000, "."))
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    process = await trio.lowlevel.open_process(
        [*COMMAND, chatd.url, "--nick", "cron", "--history", "1"],
        stdin=subprocess.PIPE,
        stdout=writer,
        env=environ(home),
    )
    os.close(writer)
    async with trio.lowlevel.FdStream(reader) as out:
        with trio.fail_after(60):
            try:
                await trio.lowlevel.wait_readable(reader)
                yield process, out
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_stopped_reader_delays_no_signal(
    number: signal.Signals, chatd: ChatdProcess, tmp_path: Path
) -> None:
    async with (
        client.connect(chatd.url, nick="json") as program,
        unread(tmp_path, chatd, program) as (process, _),
    ):
        process.send_signal(number)
        assert await process.wait() == 128 + number


async def test_a_stopped_reader_misses_nothing(start_chatd: ChatdStarter, tmp_path: Path) -> None:
    chatd = await start_chatd({"limits.messages_burst": "off", "limits.bytes_per_second": "off"})
    async with (
        client.connect(chatd.url, nick="json") as program,
        unread(tmp_path, chatd, program) as (process, out),
    ):
        say = partial(program.say, room="lobby")
        # More than fits into the pipe, the waiting lines and the waiting events together.
        for first in range(2, 2001, 100):
            async with trio.open_nursery() as nursery:
                for number in range(first, min(first + 100, 2001)):
                    nursery.start_soon(say, f"{number} ".ljust(4000, "."))
        assert process.stdin is not None
        await process.stdin.send_all(b"2001 mine\n")
        await process.stdin.aclose()
        said = b"".join([data async for data in out]).decode()
        assert await process.wait() == 0
    words = [line.split() for line in said.splitlines() if not line.startswith("---")]
    assert [word[1] for word in words] == [f"#{number}" for number in range(1, 2002)]
    assert sorted(int(word[3]) for word in words) == list(range(1, 2002))
    assert words[-1][3:] == ["2001", "mine"]


async def test_what_is_typed_while_the_server_is_away_is_seen_and_sent_later(
    start_chatd: ChatdStarter, terminal: Terminal
) -> None:
    chatd = await start_chatd()
    cleo = await terminal(chatd, "--nick", "cleo")
    await cleo.until("* You are in lobby")
    await chatd.stop()
    await cleo.until("Connection lost")
    await cleo.type("is anybody there?")
    await cleo.until("* Waiting to be sent: is anybody there?")
    await start_chatd(port=chatd.port)
    await cleo.until("#1 cleo: is anybody there?")
