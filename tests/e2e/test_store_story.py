"""One daemon, whose store and clock are meddled with in every way, one after another.

Every message that was acknowledged is there afterwards, and each time the log says what is wrong.
"""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from chatd import client
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter
from tests.e2e.clocks import Clocks
from tests.e2e.programs import chatd_says
from tests.e2e.test_store import remove, status_of

DISK_BYTES = 8 * 1024 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a small disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = f"size={DISK_BYTES},mode=0700"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write a file until its disk is full."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


class Story:
    """The daemon, the messages that it acknowledged, and those that it did not confirm."""

    def __init__(self, chatd: ChatdProcess) -> None:
        self.chatd = chatd
        self.acknowledged: list[str] = []
        self.unconfirmed: set[str] = set()

    async def say(self, text: str) -> None:
        """Say a message that is acknowledged."""
        async with client.connect(self.chatd.url, nick="ann") as ann:
            await ann.join("lobby")
            await ann.say(text)
        self.acknowledged.append(text)

    async def say_in_vain(self, text: str) -> None:
        """Say a message that is not confirmed. It may have been said all the same."""
        async with client.connect(self.chatd.url, nick="ann") as ann:
            await ann.join("lobby")
            with pytest.raises(client.Refused, match="unavailable"):
                await ann.say(text)
        self.unconfirmed.add(text)

    async def recovers(self, text: str) -> None:
        """Say a message until it is acknowledged, as a client does."""
        async with client.connect(self.chatd.url, nick="ann") as ann:
            await ann.join("lobby")
            while True:
                with suppress(client.Refused):
                    await ann.say(text, key=text)
                    break
        self.acknowledged.append(text)

    async def reported(self, **fields: Any) -> str:
        """Wait for a line of the log about the store, and return what it says."""
        return str((await self.chatd.line("store", **fields))["detail"])

    async def check(self) -> None:
        """Check that everything that was acknowledged is there, once and in order."""
        async with client.connect(self.chatd.url, nick="eve") as eve:
            events = (await eve.join("lobby", limit=100)).events
        found = [each.text for each in events if isinstance(each, client.Message) and each.text]
        assert [text for text in found if text not in self.unconfirmed] == self.acknowledged
        assert await status_of(self.chatd, "/readyz") == 200


async def test_nothing_acknowledged_is_lost_whatever_happens_to_the_store(
    start_chatd: ChatdStarter, disk: Path, tmp_path: Path
) -> None:
    clocks, store, admin = Clocks(tmp_path), disk / "chatd.db", tmp_path / "admin.sock"
    settings = {"history.path": str(store), "history.keep_days": 100, "admin.socket": str(admin)}
    story = Story(await start_chatd(settings, environ=clocks.environ))
    ctl = ("ctl", "--socket", admin)
    await story.say("at first")
    # Later it has times in the future, which an import refuses.
    export = (await chatd_says("export", "lobby", "--socket", admin))[1]

    clocks.set_ahead(800)
    await story.say("in two years")
    assert "chatd ctl clock confirm" in await story.reported(state="clock_jumped")
    clocks.set_ahead(0)
    await story.say("now again")
    await story.reported(state="clock_trusted")
    await story.check()

    with closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("INSERT INTO words (words) VALUES ('delete-all')")
    async with client.connect(story.chatd.url, nick="bob") as bob:
        await bob.join("lobby")
        said = await bob.say("a word to remove")
        assert said.seq is not None
        await bob.delete("lobby", said.seq)
        assert (await bob.join("lobby")).seq == said.seq + 1
    await story.chatd.line("store", state="reindexed")

    cut = export.replace(b'"lobby"', b'"copy"')[:-20]
    code, _, error = await chatd_says("import", "--socket", admin, stdin=cut)
    assert code == 1
    assert "it was cut" in error
    code, _, error = await chatd_says(
        "import", "--socket", admin, stdin=export.replace(b'"lobby"', b'"copy"')
    )
    assert (code, error) == (0, "")

    filler = disk / "filler"
    fill(filler)
    await story.say_in_vain("x" * 16_000)
    assert "full" in await story.reported(state="failed")
    assert await status_of(story.chatd, "/readyz") == 503
    filler.unlink()
    await story.recovers("room again")
    await story.chatd.line("store", state="recovered")

    aside = disk / "aside.db"
    store.rename(aside)
    await story.say_in_vain("into a file that is elsewhere")
    assert str(store) in await story.reported(state="misplaced")
    assert await status_of(story.chatd, "/readyz") == 503
    aside.rename(store)
    await story.recovers("back in its place")

    remove(store)
    await story.say_in_vain("into a file that is gone")
    assert await status_of(story.chatd, "/readyz") == 503
    saved = tmp_path / "saved.db"
    code, _, error = await chatd_says(*ctl, "backup", saved)
    assert (code, error) == (0, "")
    assert await story.chatd.stop() == 0

    saved.rename(tmp_path / "chatd.db")
    story.chatd = await start_chatd(environ=clocks.environ)
    await story.check()
