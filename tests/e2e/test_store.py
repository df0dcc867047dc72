"""The daemon keeps its promises while somebody meddles with its store."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import trio

from chatd import client
from chatd.journal.sqlite import open_sqlite
from chatd.logs import now_ms
from chatd.model import LogEntry, Remember, UserRecord
from chatd.protocol.export import write_lines
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter
from tests.e2e.clocks import Clocks
from tests.e2e.programs import chatd_says


async def status_of(chatd: ChatdProcess, path: str) -> int:
    """Return the status of a GET request."""
    stream = await trio.open_tcp_stream("localhost", chatd.port)
    async with stream:
        request = (
            f"GET {path} HTTP/1.1\r\nHost: localhost:{chatd.port}\r\nConnection: close\r\n\r\n"
        )
        await stream.send_all(request.encode())
        answer = b"".join([part async for part in stream])
    return int(answer.split(b" ", 2)[1])


async def says(chatd: ChatdProcess, text: str) -> int:
    """Say a message once and return its number. Raise Refused if the store did not confirm it."""
    async with client.connect(chatd.url, nick="ann") as ann:
        await ann.join("lobby")
        with trio.fail_after(60):
            return (await ann.say(text)).seq or 0


async def texts(chatd: ChatdProcess) -> list[str | None]:
    async with client.connect(chatd.url, nick="bob") as bob:
        entered = await bob.join("lobby", limit=100)
        return [event.text for event in entered.events if isinstance(event, client.Message)]


def remove(history: Path) -> None:
    for path in history.parent.glob("chatd.db*"):
        path.unlink()


async def test_a_removed_store_is_told_at_once_and_at_the_next_start(
    start_chatd: ChatdStarter, tmp_path: Path
) -> None:
    admin = tmp_path / "admin.sock"
    chatd = await start_chatd({"admin.socket": str(admin)})
    assert await says(chatd, "before") == 1
    remove(chatd.history)
    assert await status_of(chatd, "/readyz") == 503
    with pytest.raises(client.Refused) as refused:
        await says(chatd, "never acknowledged")
    assert refused.value.code == "unavailable"
    told = await chatd.line("store", state="misplaced")
    assert str(chatd.history) in told["detail"]
    # What was acknowledged can still be saved.
    code, _, error = await chatd_says("ctl", "--socket", admin, "backup", tmp_path / "saved.db")
    assert (code, error) == (0, "")
    assert await chatd.stop() == 0
    assert len([line for line in chatd.lines if line.get("state") == "misplaced"]) == 1
    chatd = await start_chatd()
    told = await chatd.line("store", state="missing")
    assert str(chatd.history) in told["detail"]
    assert await texts(chatd) == []
    assert await status_of(chatd, "/readyz") == 200
    assert await chatd.stop() == 0
    remove(chatd.history)
    (tmp_path / "saved.db").rename(chatd.history)
    chatd = await start_chatd()
    assert "before" in await texts(chatd)


async def test_a_backup_that_replaces_the_open_store_gives_no_number_twice(
    start_chatd: ChatdStarter, tmp_path: Path
) -> None:
    chatd = await start_chatd({"history.durability": "fsync"})
    assert await says(chatd, "kept") == 1
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(chatd.history)) as live:
        live.execute("VACUUM INTO ?", (str(copy),))
    assert await says(chatd, "after the backup") == 2
    async with client.connect(chatd.url, nick="eve") as eve:
        epoch = (await eve.join("lobby")).epoch
    copy.rename(chatd.history)
    with pytest.raises(client.Refused):
        await says(chatd, "not the second number 2")
    assert await status_of(chatd, "/readyz") == 503
    await chatd.kill()
    chatd = await start_chatd({"history.durability": "fsync"})
    await chatd.line("store", state="renewed")
    assert await texts(chatd) == ["kept"]
    assert await says(chatd, "the second number 2") == 2
    async with client.connect(chatd.url, nick="eve") as eve:
        assert (await eve.join("lobby")).epoch != epoch


async def test_a_backup_copied_over_a_killed_store_is_what_is_there(
    start_chatd: ChatdStarter, tmp_path: Path
) -> None:
    admin, copy = tmp_path / "admin.sock", tmp_path / "copy.db"
    chatd = await start_chatd({"admin.socket": str(admin)})
    assert await says(chatd, "kept") == 1
    assert (await chatd_says("ctl", "--socket", admin, "backup", copy))[0] == 0
    assert await says(chatd, "after the backup") == 2
    await chatd.kill()
    # As `cp` does: the file is the same one, and the log beside it is the killed daemon's.
    chatd.history.write_bytes(copy.read_bytes())
    chatd = await start_chatd()
    await chatd.line("store", state="renewed")
    assert await texts(chatd) == ["kept"]
    assert await says(chatd, "the second number 2") == 2
    assert chatd.history.with_name("chatd.db-wal.former").exists()


async def test_a_clock_800_days_ahead_deletes_nothing(
    start_chatd: ChatdStarter, tmp_path: Path
) -> None:
    clocks = Clocks(tmp_path)
    admin = ("ctl", "--socket", tmp_path / "admin.sock")
    settings = {"history.keep_days": 100, "admin.socket": str(tmp_path / "admin.sock")}

    async def banned(chatd: ChatdProcess) -> bool:
        try:
            async with client.connect(chatd.url, session=eve.session, reconnect=False) as again:
                await again.join("lobby")
                return False
        except client.ChatError as error:
            return "banned" in str(error)

    chatd = await start_chatd(settings, environ=clocks.environ)
    assert await says(chatd, "before") == 1
    async with client.connect(chatd.url, nick="eve") as chat:
        eve = chat.identity
    assert (await chatd_says(*admin, "ban", "--user", eve.user, "--seconds", "3600"))[0] == 0
    assert await banned(chatd)
    clocks.set_ahead(800)
    assert await says(chatd, "meanwhile") == 2
    told = await chatd.line("store", state="clock_jumped")
    assert "chatd ctl clock confirm" in told["detail"]
    assert b"no: it jumped by" in (await chatd_says(*admin, "clock"))[1]
    assert await banned(chatd)
    assert await chatd.stop() == 0
    # It starts with the wrong clock, too.
    chatd = await start_chatd(settings, environ=clocks.environ)
    await chatd.line("store", state="clock_jumped")
    assert await texts(chatd) == ["before", "meanwhile"]
    assert await banned(chatd)
    clocks.set_ahead(0)
    assert await says(chatd, "after") == 3
    await chatd.line("store", state="clock_trusted")
    assert await texts(chatd) == ["before", "meanwhile", "after"]
    assert await banned(chatd)
    assert b"trusted   yes" in (await chatd_says(*admin, "clock"))[1]
    # An operator who says that the clock is right is believed.
    clocks.set_ahead(101)
    assert (await chatd_says(*admin, "clock", "confirm"))[0] == 0
    await chatd.line("retention", events=3)
    assert await texts(chatd) == []


async def test_a_reader_that_stays_is_told_and_made_good(
    start_chatd: ChatdStarter, tmp_path: Path
) -> None:
    settings = {"history.purge_seconds": 60}
    chatd = await start_chatd(settings, environ=Clocks(tmp_path).environ)
    async with client.connect(chatd.url, nick="ann") as ann:
        await ann.join("lobby")
        said = await ann.say("a secret")
        assert said.seq is not None
        await ann.delete("lobby", said.seq)
        log = chatd.history.with_name("chatd.db-wal")
        with closing(sqlite3.connect(chatd.history, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM events").fetchall()
            told = await chatd.line("store", state="held")
            assert str(chatd.history) in told["detail"]
            assert b"a secret" in log.read_bytes()
            # The chat goes on meanwhile.
            await ann.say("not a word")
        await chatd.line("store", state="recovered", detail="reader")
        for file in (chatd.history, log):
            assert b"a secret" not in file.read_bytes()


async def test_a_crowd_of_guests_pushes_no_message_out(
    start_chatd: ChatdStarter, tmp_path: Path
) -> None:
    settings = {"history.max_bytes": 1 << 20}
    chatd = await start_chatd(settings)
    said = [f"message {number}" for number in range(10)]
    for text in said:
        await says(chatd, text)
    assert await chatd.stop() == 0
    gone = now_ms() - 3_600_000
    async with open_sqlite(chatd.history, now=now_ms) as journal:
        for number in range(10_400):
            guest = UserRecord(f"g{number:016}", f"guest-with-a-long-nick-{number}", gone + number)
            await journal.commit([Remember(guest)])
        assert journal._writer.size() > 1 << 20
    chatd = await start_chatd(settings, environ=Clocks(tmp_path).environ)
    assert await says(chatd, "acknowledged") == 11
    await chatd.line("store", state="crowded")
    assert await texts(chatd) == [*said, "acknowledged"]
    assert await chatd.stop() == 0
    assert [line for line in chatd.lines if line["event"] == "retention"] == []
    async with open_sqlite(chatd.history, now=now_ms) as journal:
        assert len(await journal.read("lobby", 0, 99, 99)) == 11


async def test_an_old_history_goes_first_and_leaves_the_others(
    start_chatd: ChatdStarter, tmp_path: Path
) -> None:
    admin = tmp_path / "admin.sock"
    settings = {"admin.socket": str(admin), "history.keep_days": 100}
    chatd = await start_chatd(settings, environ=Clocks(tmp_path).environ)
    await says(chatd, "today")
    at = now_ms() - 300 * 24 * 3_600_000
    old = [LogEntry("old", seq, at, "message", "u", "n", "x") for seq in range(1, 101)]
    code, said, _ = await chatd_says("import", "--socket", admin, stdin=write_lines(old))
    assert (code, said.decode()) == (
        0,
        "100 lines were imported. Retention will remove 100 for history.keep_days.\n",
    )
    assert (await chatd.line("retention"))["events"] == 100
    assert await texts(chatd) == ["today"]
    assert await says(chatd, "still here") == 2


def found_in(found: client.Found) -> list[str | None]:
    return [one.text for one in found.events if isinstance(one, client.Message)]


async def test_a_damaged_index_keeps_nothing_from_being_changed(
    start_chatd: ChatdStarter, tmp_path: Path
) -> None:
    admin = tmp_path / "admin.sock"
    chatd = await start_chatd({"admin.socket": str(admin)})
    async with client.connect(chatd.url, nick="ann") as ann:
        await ann.join("lobby")
        for text in ("first words", "今日は良い天気ですね", "Straße", "last words"):
            await ann.say(text)
        assert found_in(await ann.search("lobby", "天気")) == ["今日は良い天気ですね"]
        with closing(sqlite3.connect(chatd.history)) as store:
            store.execute("INSERT INTO words (words) VALUES ('delete-all')")
            store.commit()
        await ann.edit("lobby", 1, "new words")
        await ann.delete("lobby", 4)
        assert await status_of(chatd, "/readyz") == 200
        await chatd.line("store", state="reindexed")
        found = await ann.search(None, "words")
        assert (found_in(found), found.incomplete) == (["new words"], False)
        assert found_in(await ann.search(None, "strasse")) == ["Straße"]
        with closing(sqlite3.connect(chatd.history)) as store:
            store.execute("DROP TABLE words_config")
            store.commit()
        user = ann.identity.user
        assert user is not None
    assert await chatd_says("ctl", "--socket", admin, "forget", user) == (0, b"Done.\n", "")
    assert await status_of(chatd, "/readyz") == 200
    assert await chatd_says("ctl", "--socket", admin, "reindex") == (0, b"Done.\n", "")
    assert await texts(chatd) == [None, None, None, None]
    assert await chatd.stop() == 0
    told = [line["state"] for line in chatd.lines if line["event"] == "store"]
    assert told.count("reindexing") <= 3
    assert "failed" not in told


async def test_a_room_is_removed_with_a_daemon_and_without(
    start_chatd: ChatdStarter, tmp_path: Path
) -> None:
    admin = tmp_path / "admin.sock"
    chatd = await start_chatd({"admin.socket": str(admin)})
    assert await says(chatd, "one") == 1
    assert await chatd_says("ctl", "--socket", admin, "remove", "lobby") == (0, b"Done.\n", "")
    assert await says(chatd, "two") == 2
    assert await texts(chatd) == ["two"]
    assert (await chatd.line("remove", room="lobby"))["by"] == "console"
    assert await chatd.stop() == 0
    configuration = tmp_path / "chatd.toml"
    configuration.write_text(f'history.path = "{chatd.history}"\n')
    of_it = ("--config", configuration)
    assert await chatd_says("ctl", "remove", "lobby", *of_it) == (0, b"Done.\n", "")
    assert await chatd_says("ctl", "reindex", *of_it) == (0, b"Done.\n", "")
    assert (await chatd_says("ctl", "remove", "lobby", *of_it))[::2] == (
        *(1, "chatd: There is no room named lobby.\n"),
    )
    chatd = await start_chatd()
    assert await says(chatd, "three") == 3
    assert await texts(chatd) == ["three"]
    assert await chatd.stop() == 0
