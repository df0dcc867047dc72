"""kill -9 at any moment: every acknowledged event is stored, and a key gives its first number.

After edits and deletions too: a message, its edits and the search index agree.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from chatd.journal import Journal
from chatd.journal.retention import Retention
from chatd.journal.sqlite import open_sqlite
from chatd.model import Event, Post, Receipt
from tests.journal.store import index, search

_CHILD = """
import sys
from pathlib import Path
import trio
from chatd.journal.retention import Retention
from chatd.journal.sqlite import open_sqlite
from chatd.model import Post, Receipt

def post(number):
    text = f"said{number} " + "x" * (number % 7 * 500)
    return Post(f"r{number % 3}", "R", "u", "n", text, key=str(number))

def change(number, event):
    edit = number % 3
    kind, text = ("edit", f"edit{number}") if edit else ("delete", None)
    return Post(event.room, "R", "u", "n", text, kind, key=str(number), of=event.seq)

async def main(path, runtime, durability):
    number, said = 0, []
    retention = Retention(keep_days="off", keep_events="off", max_bytes="off")
    opened = open_sqlite(
        path, now=lambda: 1, runtime_dir=runtime, durability=durability, retention=retention
    )
    async with opened as journal:
        print(journal.epoch, flush=True)
        while True:
            batch = [post(number + one) for one in range(number % 5 + 1)]
            batch += [change(number + len(batch) + one, event) for one, event in enumerate(said)]
            number += len(batch)
            made = [outcome.event for outcome in await journal.commit(batch)]
            for event in made:
                print(event.room, event.seq, event.position, event.text and event.text.split()[0])
            sys.stdout.flush()
            # The next batch changes these.
            said = [event for event in made if event.kind == "message"][-2:]
            if number % 2:
                await journal.index()
            await trio.lowlevel.checkpoint()

trio.run(main, Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
"""


def _killed(path: Path, runtime: Path, durability: str, seconds: float) -> list[str]:
    """Kill a child process that long after its first commit; return its complete lines."""
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(path), str(runtime), durability],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    with child:
        first = child.stdout.readline()
        # The moment of the kill is what is drawn; nothing can be waited for here.
        time.sleep(seconds)
        child.kill()
        rest = child.stdout.read()
    return (first + rest).split("\n")[:-1]


async def _have_their_words(journal: Journal, events: Collection[Event]) -> None:
    await index(journal)
    changed = {(event.room, event.of): event for event in events if event.of is not None}
    for event in events:
        change = changed.get((event.room, event.seq))
        if event.kind != "message":
            continue
        if change is None:
            assert event.text is not None
            assert event.edited is None
        else:
            assert event.deleted is (change.kind == "delete")
            assert event.text == change.text
        first, present = f"said{event.position - 1}", (event.text or "").split(" ")[0]
        for word in (first, present):
            hits = await search(journal, f'"{word}"', event.room)
            stands = [event.seq] if word and word == present else []
            assert [one.seq for one in hits] == stands


# `python bench/attack.py kill` runs a thousand.
KILLS = int(os.environ.get("CHATD_KILLS", "20"))


@pytest.mark.parametrize("seed", range(KILLS))
async def test_what_was_acknowledged_is_there(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    path, runtime = tmp_path / "chat.db", tmp_path / "run"
    durability = draw.choice(["commit", "commit", "fsync"])
    epoch, *receipts = _killed(path, runtime, durability, draw.uniform(0.0, 0.1))
    retention = Retention(keep_days="off", keep_events="off", max_bytes="off")
    opened = open_sqlite(path, now=lambda: 2, runtime_dir=runtime, retention=retention)
    async with opened as journal:
        assert journal.epoch == epoch
        events: dict[int, Event] = {}
        for head in await journal.rooms():
            log = await journal.read(head.room, 0, 10**9, 10**9)
            assert [event.seq for event in log] == list(range(1, head.seq + 1))
            events.update({event.position: event for event in log})
        assert sorted(events) == list(range(1, len(events) + 1))
        for number, line in enumerate(receipts):
            room, seq, position, word = line.split(" ")
            there = events[int(position)]
            assert (there.room, str(there.seq)) == (room, seq)
            again = Post(room, "R", "u", "n", "again", key=str(number))
            assert await journal.commit([again]) == [Receipt(there, duplicate=True)]
            if there.kind == "edit":
                assert there.text == word
        await _have_their_words(journal, events.values())
        new = (await journal.commit([Post("r0", "R", "u", "n", "new")]))[0]
        assert isinstance(new, Receipt)
        assert new.event.position == len(events) + 1
