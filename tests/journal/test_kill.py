"""kill -9 at any moment: what was acknowledged is there, and a key gives its first number."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chatd.journal.retention import Retention
from chatd.journal.sqlite import open_sqlite
from chatd.model import Event, Post, Receipt

_CHILD = """
import sys
from pathlib import Path
import trio
from chatd.journal.retention import Retention
from chatd.journal.sqlite import open_sqlite
from chatd.model import Post, Receipt

def post(number):
    return Post(f"r{number % 3}", "R", "u", "n", "x" * (number % 7 * 500), key=str(number))

async def main(path, runtime, durability):
    number = 0
    retention = Retention(keep_days="off", keep_events="off", max_bytes="off")
    opened = open_sqlite(
        path, now=lambda: 1, runtime_dir=runtime, durability=durability, retention=retention
    )
    async with opened as journal:
        print(journal.epoch, flush=True)
        while True:
            batch = [post(number + one) for one in range(number % 5 + 1)]
            number += len(batch)
            for outcome in await journal.commit(batch):
                event = outcome.event
                print(event.text and len(event.text), event.room, event.seq, event.position)
            sys.stdout.flush()
            await trio.lowlevel.checkpoint()

trio.run(main, Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
"""


def _killed(path: Path, runtime: Path, durability: str, seconds: float) -> list[str]:
    """Let a child commit for that long after its first line, kill it; give its whole lines."""
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


@pytest.mark.parametrize("seed", range(20))
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
            _, room, seq, position = line.split(" ")
            there = events[int(position)]
            assert (there.room, str(there.seq)) == (room, seq)
            again = Post(room, "R", "u", "n", "again", key=str(number))
            assert await journal.commit([again]) == [Receipt(there, duplicate=True)]
        new = (await journal.commit([Post("r0", "R", "u", "n", "new")]))[0]
        assert isinstance(new, Receipt)
        assert new.event.position == len(events) + 1
