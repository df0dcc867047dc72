"""chatd export, import and ctl backup: with a daemon, and on the store where none runs."""

from __future__ import annotations

import fcntl
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import trio

from chatd import client
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter
from tests.e2e.programs import chatd_says


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
    assert (code, error) == (0, "")
    assert said == b"0 lines were imported. 1000 lines were there already.\n"
    code, _, error = await chatd_says("export", "lobby", "--config", config(tmp_path, Path("/x/y")))
    assert code == 1
    assert error.endswith("There is no store at /x/y either.\n")
    # Into an empty one, by a daemon; and out of it.
    empty = await start_chatd({**settings, "history.path": str(tmp_path / "empty.db")})
    code, said, _ = await chatd_says("import", *of_it, stdin=live)
    assert (code, said) == (0, b"1000 lines were imported.\n")
    assert (await chatd_says("export", "lobby", *of_it))[:2] == (0, live)
    # A file that was cut changes nothing, with a daemon or without one.
    den = live.replace(b'"room":"lobby"', b'"room":"den"')
    code, _, error = await chatd_says("import", *of_it, stdin=den[:-20])
    cut = "chatd: Line 1000: the file ends in the middle of it: it was cut. Nothing was imported.\n"
    assert (code, error) == (1, cut)
    assert (await chatd_says("import", *of_copy, stdin=den[:-20]))[::2] == (1, cut)
    code, _, error = await chatd_says("export", "den", *of_it)
    assert (code, error) == (1, "chatd: There is no room named den.\n")
    code, said, _ = await chatd_says("import", *of_it, stdin=b"\xef\xbb\xbf" + den)
    assert (code, said) == (0, b"1000 lines were imported.\n")
    old = re.sub(rb'"at":"\d{4}', b'"at":"2016', den.replace(b'"room":"den"', b'"room":"old"'))
    code, said, _ = await chatd_says("import", *of_it, stdin=old)
    assert said == (
        b"1000 lines were imported. Retention will remove 1000 for history.keep_days.\n"
    )
    async with client.connect(empty.url, nick="bob") as bob:
        entered = await bob.join("lobby", limit=1)
        assert (entered.seq, [event.text for event in entered.events]) == (1000, ["text 999"])  # type: ignore[union-attr]


async def shell(how: str, *arguments: object) -> tuple[int, str]:
    """Run the program, as "$@" of a shell's command; return its exit code and stderr."""
    done = await trio.run_process(
        ["sh", "-c", how, "sh", sys.executable, "-m", "chatd", *map(str, arguments)],
        capture_stderr=True,
        check=False,
    )
    return done.returncode, done.stderr.decode()


async def test_a_full_disk_and_a_closed_pipe_are_not_blamed_on_the_daemon(
    start_chatd: ChatdStarter, tmp_path: Path
) -> None:
    admin = tmp_path / "admin.sock"
    off = ("messages_per_second", "messages_burst", "bytes_per_second")
    chatd = await start_chatd({"admin.socket": str(admin)} | {f"limits.{k}": "off" for k in off})
    async with client.connect(chatd.url, nick="ann") as ann:
        await ann.join("lobby")
        for number in range(200):
            await ann.say(f"{number} ".ljust(4000, "."))
    at = ("--socket", admin)
    full = "chatd: Standard output cannot be written: no space left on device.\n"
    for exporting in (("export", "lobby"), ("export", "--user", ann.identity.user)):
        assert await shell('"$@" >/dev/full', *exporting, *at) == (1, full)
        assert await shell('{ "$@"; echo $? >&2; } | head -c 1 >/dev/null', *exporting, *at) == (
            *(0, "1\n"),
        )
    closed = "chatd: Standard output cannot be written: bad file descriptor.\n"
    for asking in ("who", "status", "rooms", "connections", "bans", "loglevel"):
        assert await shell('"$@" >/dev/full', "ctl", asking, *at) == (1, full)
        assert await shell('"$@" >&-', "ctl", asking, *at) == (1, closed)
    # A run that was killed left a file, which another one may be writing.
    copy, partial = tmp_path / "copy.db", tmp_path / ".copy.db.part"
    partial.write_bytes(b"left" * 1000)
    with partial.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, told = await shell('"$@"', "ctl", "backup", copy, *at)
        assert (code, told) == (1, f"chatd: Another backup is being written to {partial}.\n")
    # The limit of a file's size stands for a disk that is full.
    code, told = await shell('ulimit -f 1; "$@"', "ctl", "backup", copy, *at)
    assert (code, told) == (1, f"chatd: {copy} cannot be written: file too large.\n")
    assert not copy.exists()
    assert not partial.exists()
    partial.write_bytes(b"left" * 1000)
    assert await shell('"$@" >/dev/null', "ctl", "backup", copy, *at) == (0, "")
    assert not partial.exists()
    assert copy.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(copy)) as store:
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    code, told = await shell('"$@"', "ctl", "backup", tmp_path / "absent" / "copy.db", *at)
    assert (code, told.count("\n")) == (1, 1)
    assert "cannot be written: no such file or directory." in told
    # Nor is an input that cannot be read.
    code, told = await shell('"$@"', "import", tmp_path, *at)
    assert (code, told) == (1, f"chatd: {tmp_path} cannot be read: is a directory.\n")


async def test_backup_and_forget_work_on_the_store_where_no_daemon_runs(
    start_chatd: ChatdStarter, tmp_path: Path
) -> None:
    chatd = await start_chatd()
    async with client.connect(chatd.url, nick="ann") as ann:
        await ann.join("lobby")
        await ann.say("mine")
    assert await chatd.stop() == 0
    of_it = ("--config", config(tmp_path, chatd.history))
    copy = tmp_path / "copy.db"
    code, said, error = await chatd_says("ctl", "backup", copy, *of_it)
    assert (code, said.decode(), error) == (0, f"{copy.stat().st_size} bytes\n", "")
    assert copy.stat().st_mode & 0o777 == 0o600
    user = ann.identity.user
    assert user is not None
    assert await chatd_says("ctl", "forget", user, *of_it) == (0, b"Done.\n", "")
    assert (await chatd_says("export", "--user", user, *of_it))[1] == b""
    assert b"mine" not in (await chatd_says("export", "lobby", *of_it))[1]
    assert (await chatd_says("ctl", "forget", "nobody", *of_it))[::2] == (
        *(1, "chatd: There is no user nobody.\n"),
    )
    # The copy has everything; other commands need a daemon.
    of_copy = ("--config", config(tmp_path, copy))
    assert b"mine" in (await chatd_says("export", "lobby", *of_copy))[1]
    code, _, error = await chatd_says("ctl", "who", *of_it)
    assert code == 1
    assert error.startswith("chatd: No daemon was found: ")
    for words in (("backup", tmp_path / "none.db"), ("forget", user)):
        nowhere = ("--config", config(tmp_path, Path("/x/y")))
        code, _, error = await chatd_says("ctl", *words, *nowhere)
        assert code == 1
        assert error.endswith("There is no store at /x/y either.\n")
    assert not (tmp_path / "none.db").exists()


async def test_a_store_that_is_in_use_without_an_admin_socket_says_where_that_was_looked_for(
    start_chatd: ChatdStarter, tmp_path: Path
) -> None:
    chatd = await start_chatd({"admin.socket": "off"})
    of_it = ("--config", config(tmp_path, chatd.history))
    for words in (("export", "lobby"), ("import",)):
        code, _, told = await chatd_says(*words, *of_it)
        assert code == 1
        assert f"there is no {tmp_path}/admin.sock" in told
        assert "is in use by process" in told
        assert told.count("\n") == 1
