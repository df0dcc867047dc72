"""chatd export, import and ctl backup: with a daemon, and on the store where none runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import trio

from chatd import client
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter


async def chatd_says(*arguments: object, stdin: bytes = b"") -> tuple[int, bytes, str]:
    """Run the program; return its exit code and output."""
    done = await trio.run_process(
        [sys.executable, "-m", "chatd", *map(str, arguments)],
        stdin=stdin,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert isinstance(done, subprocess.CompletedProcess)
    return done.returncode, done.stdout, done.stderr.decode()


def config(tmp_path: Path, history: Path) -> Path:
    """Write a configuration that names a store and a socket."""
    path = tmp_path / f"{history.name}.toml"
    path.write_text(
        f'[history]\npath = "{history}"\n[admin]\nsocket = "{tmp_path / "admin.sock"}"\n'
    )
    return path


async def talk(chatd: ChatdProcess) -> None:
    async with client.connect(chatd.url, nick="ann") as ann:
        await ann.join("lobby")
        for number in range(1000):
            await ann.say(f"text {number}")


async def test_history_goes_out_and_in_and_out_again(
    start_chatd: ChatdStarter, tmp_path: Path
) -> None:
    settings = {
        "limits.messages_per_second": "off",
        "limits.bytes_per_second": "off",
        "admin.socket": str(tmp_path / "admin.sock"),
        "chat.presence_grace_seconds": 0,
    }
    chatd = await start_chatd(settings)
    await talk(chatd)
    of_it = ("--config", config(tmp_path, chatd.history))
    code, live, _ = await chatd_says("export", "Lobby", *of_it)
    assert (code, live.count(b"\n")) == (0, 1000)
    # A copy of the live store, readable only by its owner, never written over another file.
    copy = tmp_path / "copy.db"
    code, said, _ = await chatd_says("ctl", "backup", copy, *of_it)
    assert (code, said.decode()) == (0, f"{copy.stat().st_size} bytes\n")
    assert copy.stat().st_mode & 0o777 == 0o600
    code, _, error = await chatd_says("ctl", "backup", copy, *of_it)
    assert (code, error) == (1, f"chatd: {copy} exists already. Choose another name.\n")
    # Only the running daemon opens its store, and each error is one line.
    code, _, error = await chatd_says("import", *of_it, stdin=b"nonsense\n")
    assert code == 1
    assert error.startswith("chatd: Line 1: ")
    code, _, error = await chatd_says("export", "nowhere", *of_it)
    assert (code, error) == (1, "chatd: There is no room named nowhere.\n")
    assert await chatd.stop() == 0
    # Now there is no daemon: the stores themselves are opened.
    assert (await chatd_says("export", "lobby", *of_it))[:2] == (0, live)
    of_copy = ("--config", config(tmp_path, copy))
    assert (await chatd_says("export", "lobby", *of_copy))[:2] == (0, live)
    code, said, error = await chatd_says("import", *of_copy, stdin=live)
    assert (code, error) == (
        1,
        "chatd: lobby already has an event 1. 0 lines before it were imported.\n",
    )
    code, _, error = await chatd_says("export", "lobby", "--config", config(tmp_path, Path("/x/y")))
    assert code == 1
    assert error.endswith("There is no store at /x/y either.\n")
    # Into an empty one, by a daemon; and out of it.
    empty = await start_chatd({**settings, "history.path": str(tmp_path / "empty.db")})
    code, said, _ = await chatd_says("import", *of_it, stdin=live)
    assert (code, said) == (0, b"1000 lines were imported.\n")
    assert (await chatd_says("export", "lobby", *of_it))[:2] == (0, live)
    async with client.connect(empty.url, nick="bob") as bob:
        entered = await bob.join("lobby", limit=1)
        assert (entered.seq, [event.text for event in entered.events]) == (1000, ["text 999"])  # type: ignore[union-attr]
