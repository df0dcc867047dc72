"""Measure how long a start takes over a large store, beside an empty one, in seconds.

The store has 10 million messages in 100 rooms, with its index of words. It is made once, in some
minutes, and kept in the folder of the peers (about 2 GiB). The time runs from the start of the
process until a client has its greeting:

- after a clean end,
- after ``kill -9``, with new messages in the write-ahead log,
- and after ``kill -9`` with no byte of the store in the page cache, as after a crash of the
  machine.

    python bench/startup.py
    python bench/startup.py --messages 100000 --rounds 5
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from members import Member, add_members, exchange
from receivers import BenchError, connect
from results import Figures
from servers import (
    Running,
    Server,
    ServerError,
    cache_folder,
    chatd,
    fresh_folder,
    running_in,
)

from chatd.journal import schema
from chatd.journal.index import Row, WordIndex
from chatd.journal.places import file

MESSAGES = 10_000_000
ROOMS = 100
USERS = 1000
TEXTS = 10_000  # different ones
CHUNK = 100_000  # messages added in one transaction
ROUNDS = 3
SAID = 500  # messages before a kill
GREETING_SECONDS = 60.0

SERVER = Server("chatd-on", "text", chatd('history.max_bytes="off"', "log.messages=false"))
STORE = "chatd.db"


def texts() -> list[str]:
    """Return texts of some 50 letters, the same ones each time."""
    source = random.Random(1)
    words = ["".join(source.choices("abcdefghijklmnoprstuvw", k=6)) for _ in range(5000)]
    return [" ".join(source.choices(words, k=8)) for _ in range(TEXTS)]


def rows(first: int, upto: int, now: int, said: list[str]) -> Iterator[tuple[object, ...]]:
    """Yield events, ten a second up to now, in all rooms in turn."""
    for position in range(first, upto):
        number = position - 1
        user = number * 7 % USERS
        yield (
            *(position, number % ROOMS + 1, number // ROOMS + 1, now + position * 100, "message"),
            *(f"user-{user}", f"user-{user}", said[number % TEXTS], 0),
        )


def fill(path: Path, messages: int) -> None:
    """Put messages, with their words, into a new store that is not open."""
    said = texts()
    now = time.time_ns() // 1_000_000 - messages * 100
    connection = schema.connect(path, sqlite3.Connection, busy_ms=1000)
    try:
        cursor = connection.cursor()
        cursor.execute("PRAGMA cache_size = -500000")
        cursor.execute("BEGIN IMMEDIATE")
        cursor.execute("DELETE FROM rooms")
        cursor.executemany(
            "INSERT INTO rooms (id, fold, name, oldest) VALUES (?, ?, ?, ?)",
            [(room, f"room-{room}", f"room-{room}", now) for room in range(1, ROOMS + 1)],
        )
        cursor.executemany(
            "INSERT INTO users (user, nick, seen) VALUES (?, ?, ?)",
            [(f"user-{user}", f"user-{user}", now + messages * 100) for user in range(USERS)],
        )
        cursor.execute("COMMIT")
        words = WordIndex()
        words.reload(connection)
        for first in range(1, messages + 1, CHUNK):
            upto = min(first + CHUNK, messages + 1)
            cursor.execute("BEGIN IMMEDIATE")
            cursor.executemany(
                "INSERT INTO events (position, room_id, seq, at, kind, user, nick, text, deleted)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows(first, upto, now, said),
            )
            new = "SELECT position, text, room_id, user, nick FROM events WHERE position >= ?"
            words.add(cursor, [Row(*row) for row in cursor.execute(new, (first,)).fetchall()])
            cursor.execute("UPDATE meta SET value = ? WHERE name = 'indexed'", (upto - 1,))
            file(cursor)
            cursor.execute("COMMIT")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            print(f"\r{upto - 1:,} of {messages:,} messages are stored", end="", file=sys.stderr)
        print(file=sys.stderr)
    finally:
        connection.close()


def store(messages: int) -> Path:
    """Return the folder with the store, which is made if there is none of the present schema."""
    folder = cache_folder() / f"startup-{messages}-{len(schema.STEPS)}"
    if folder.is_dir():
        return folder
    cache_folder().mkdir(parents=True, exist_ok=True)
    # Renamed when complete, so that an interrupted one is never used.
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="install-") as fresh:
        with running_in(Path(fresh), SERVER, None):
            pass  # makes an empty one
        fill(Path(fresh) / STORE, messages)
        Path(fresh).rename(folder)
        Path(fresh).mkdir()  # for the context manager to remove
    return folder


def start(folder: Path, *, kill: bool) -> float:
    """Return how many seconds a start took; end it cleanly, or kill it after some messages."""
    began = time.perf_counter()
    with running_in(folder, SERVER, None) as daemon:
        greeted(daemon)
        seconds = time.perf_counter() - began
        if kill:
            members: list[Member] = []
            add_members(members, "text", daemon.port, 1)
            for number in range(SAID):
                exchange(members, f"said {number}", answers=0)
            os.kill(daemon.pid, signal.SIGKILL)
            members[0].close()
    return seconds


def greeted(daemon: Running) -> None:
    connection, rest = connect(daemon.port, "/")
    with connection:
        connection.settimeout(GREETING_SECONDS)
        while b"Hello" not in rest:
            data = connection.recv(4096)
            if not data:
                raise BenchError("the server closed the connection before its greeting")
            rest += data


def forget_pages(folder: Path) -> None:
    """Drop a store's files from the page cache."""
    for path in folder.glob(f"{STORE}*"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the time of a start.")
    parser.add_argument("--messages", type=int, default=MESSAGES, help="in the large store")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    figures = Figures()
    large = f"over {given.messages} messages"
    try:
        with fresh_folder() as empty:
            folders = {"over an empty store": empty, large: store(given.messages)}
            for folder in folders.values():
                start(folder, kill=False)
            for _ in range(given.rounds):
                for shape, kill, forget in (
                    ("start after a clean end", True, False),
                    ("start after kill -9", True, False),
                    ("start after kill -9, nothing cached", False, True),
                ):
                    for name, folder in folders.items():
                        if forget:
                            forget_pages(folder)
                        figures.add(shape, "s", name, start(folder, kill=kill))
    except (BenchError, ServerError, OSError, sqlite3.Error) as error:
        print(f"startup: {error}", file=sys.stderr)
        return 1
    figures.print(["over an empty store"], json=given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
