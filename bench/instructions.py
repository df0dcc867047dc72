"""Count the instructions of chatd's operations, by Valgrind's callgrind.

Unlike CPU time, instructions hardly depend on what else the machine does: a change of one percent
is a change of the code. A real daemon with SQLite runs under callgrind with PYTHONHASHSEED=0, and
each operation is done many times, the next when the last is done. Start-up is not counted, nor are
the kernel's instructions.

Callgrind writes its counts and begins anew when the daemon calls a certain function of the C
library, which it does on a signal (counted/sitecustomize.py). Valgrind's own way from outside,
vgdb, hung at times under load.

Valgrind makes the daemon some fifty times slower, so its clock is slowed down by as much.
Otherwise it would index every message by itself and take its disk for slow. What it does once in a
while is therefore not in the figures, but for the idle second's.

    python bench/instructions.py
    python bench/instructions.py --checkout ../old --checkout .  # and ratios to the first
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from members import ANSWERS, PROTOCOLS, Member, WebSocketMember, add_members, exchange
from receivers import BenchError
from servers import BENCH, UNLIMITED, Running, Server, ServerError, running

RECEIVERS = 50  # of a fan-out
SERIES = 10
TIMES = 30  # in each
WARM_UP_TIMES = 50
JOINS = 20  # in a series of connects
PRESENT = 110  # connected before the first of them: more than the list of members has
IDLE_SECONDS = 4.0
START_SECONDS = 300.0
DUMP_SECONDS = 30.0
SLOWER = 50  # is a program under Valgrind
MARK = "getloadavg"  # the function of the C library that has the counts written


def server(checkout: Path, *, slowed: bool = True) -> Server:
    def command(port: int, folder: Path) -> list[str]:
        path = f"PYTHONPATH={checkout}:{BENCH / 'counted'}"
        environment = ["PYTHONHASHSEED=0", path, f"CHATD_BENCH_SLOWER={SLOWER if slowed else 1}"]
        options = [f"--callgrind-out-file={folder}/out", f"--dump-before={MARK}", "--vgdb=no"]
        chatd = [sys.executable, "-m", "chatd", "serve", "--listen", f"127.0.0.1:{port}"]
        for setting in (*UNLIMITED, f'history.path="{folder / "chatd.db"}"'):
            chatd += ["--set", setting]
        return ["env", *environment, "valgrind", "--quiet", "--tool=callgrind", *options, *chatd]

    return Server("chatd", "text", command, checkout=checkout, ready_seconds=START_SECONDS)


class Counter:
    """Callgrind in the daemon's process."""

    def __init__(self, daemon: Running) -> None:
        self._pid = daemon.pid
        self._folder = daemon.log.parent
        self._dumps = 0

    def idle(self) -> float:
        """Return the instructions per second of a daemon that has nothing to do."""
        self._dump()
        lowest = math.inf  # the first seconds after the start are not idle
        for _ in range(4):
            time.sleep(IDLE_SECONDS)
            lowest = min(lowest, self._dump() / IDLE_SECONDS)
        return lowest

    def count(
        self,
        times: int,
        operation: Callable[[int], None],
        *,
        series: int = SERIES,
        warm_up: int = WARM_UP_TIMES,
    ) -> float:
        """Return the instructions of one operation, which takes its number.

        The lowest of several series counts: in the others a timer or a garbage collection ran, or
        the machine was so busy that the daemon woke up more often.
        """
        numbers = iter(range(warm_up + series * times))
        for number in islice(numbers, warm_up):
            operation(number)
        lowest = math.inf
        for _ in range(series):
            self._dump()
            for number in islice(numbers, times):
                operation(number)
            lowest = min(lowest, self._dump() / times)
        return lowest

    def _dump(self) -> int:
        """Return the instructions since the last dump."""
        self._dumps += 1
        file = self._folder / f"out.{self._dumps}"
        os.kill(self._pid, signal.SIGUSR2)
        deadline = time.monotonic() + DUMP_SECONDS
        while time.monotonic() < deadline:
            # The totals are the last line.
            written = file.read_text(encoding="utf-8") if file.exists() else ""
            if found := re.search(r"^totals: (\d+)$", written, re.MULTILINE):
                return int(found[1])
            time.sleep(0.02)
        raise ServerError(f"callgrind wrote no counts within {DUMP_SECONDS:g} s")


@contextlib.contextmanager
def connected(protocol: str, port: int, count: int, room: str = "lobby") -> Iterator[list[Member]]:
    members: list[Member] = []
    try:
        add_members(members, protocol, port, count, room)
        yield members
    finally:
        for member in members:
            member.close()


def measure(checkout: Path, times: int) -> dict[str, float]:
    """Return the instructions of each operation."""
    figures: dict[str, float] = {}
    with running(server(checkout, slowed=False), None) as daemon:
        figures["a second without clients"] = Counter(daemon).idle()
    for protocol in ("json", "socketio"):
        with running(server(checkout), None) as daemon:
            counter = Counter(daemon)
            with connected(protocol, daemon.port, 1) as members:
                figures[f"{protocol}: in and out"] = counter.count(
                    times, saying(members, protocol, "alone")
                )
                (member,) = members
                if isinstance(member, WebSocketMember) and protocol == "json":
                    figures["json: join and leave"] = counter.count(times, joining(member))
                add_members(members, protocol, daemon.port, RECEIVERS - 1)
                figures[f"{protocol}: fan-out to {RECEIVERS}"] = counter.count(
                    times // 2, saying(members, protocol, "many")
                )
    for protocol in ("text", "socketio"):
        with running(server(checkout), None) as daemon:
            counter = Counter(daemon)
            for room in ("lobby", "room-{}"):
                with connected(protocol, daemon.port, 0) as members:
                    name = "one room" if room == "lobby" else "a room each"
                    figures[f"{protocol}: connect, {name}"] = counter.count(
                        JOINS, connecting(members, protocol, daemon.port, room), warm_up=PRESENT
                    )
    return figures


def saying(members: list[Member], protocol: str, room: str) -> Callable[[int], None]:
    answers = ANSWERS[protocol]
    return lambda number: exchange(members, f"{room} {number}", answers)


def connecting(members: list[Member], protocol: str, port: int, room: str) -> Callable[[int], None]:
    """Return an operation that connects and joins the room, in whose name {} is its number."""

    def connect(number: int) -> None:
        member = PROTOCOLS[protocol](port, room.format(number))
        members.append(member)
        while protocol == "text" and not member.texts:  # a greeting when it is in the room
            member.read(member.readable[0])

    return connect


def joining(member: WebSocketMember) -> Callable[[int], None]:
    def join(number: int) -> None:
        for verb in ("join", "leave"):
            member.texts.clear()
            member.send(f'{{"do":"{verb}","id":9,"room":"room-{number}"}}')
            while not any(b'"re":9' in text for text in member.texts):
                member.read(member.readable[0])

    return join


def main() -> int:
    parser = argparse.ArgumentParser(description="Count the instructions of chatd's operations.")
    parser.add_argument("--times", type=int, default=TIMES, help="of each operation in a series")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--checkout",
        type=Path,
        action="append",
        metavar="FOLDER",
        help="a checkout whose daemon is measured (default: this one); repeat it to compare",
    )
    given = parser.parse_args()
    if shutil.which("valgrind") is None:
        print(
            "instructions: Valgrind is not installed (Debian: apt install valgrind).",
            file=sys.stderr,
        )
        return 1
    checkouts = [each.resolve() for each in given.checkout or [BENCH.parent]]
    try:
        measured = [measure(checkout, given.times) for checkout in checkouts]
    except (BenchError, ServerError) as error:
        print(f"instructions: {error}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps([{k: round(v) for k, v in each.items()} for each in measured], indent=2))
        return 0
    print(f"{'instructions':26}" + "".join(f"{each.name[-20:]:>24}" for each in checkouts))
    for name in measured[0]:
        base = measured[0][name]
        cells = [f"{each[name]:16,.0f} {each[name] / base:7.3f}" for each in measured]
        print(f"{name:26}" + "".join(cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
