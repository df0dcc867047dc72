"""Count the calls of one `say`: how many of chatd's own functions run, and in how many files.

A real daemon with three members in one room and SQLite runs in a process of its own under
`sys.setprofile`; one member says something, and everything is counted from the first byte that
arrives until nothing more is sent. Functions of the standard library, Trio, msgspec and other
packages are left out. A coroutine that resumes after a wait counts as a call, and so does a
comprehension: a reader has to visit both.

    python bench/trace.py                    # every protocol
    python bench/trace.py json --tree        # also prints the calls, indented, with files and lines
    python bench/trace.py --checkout ../old  # another checkout's daemon
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

from members import ANSWERS, PROTOCOLS, Member, add_members, exchange, read_until_quiet
from receivers import BenchError
from servers import BENCH, UNLIMITED, ServerError, environment, free_port

MEMBERS = 3
TIMES = 9  # the fewest calls count: timers, and a busy machine, add some
LIMIT_SECONDS = 20.0
NOT_COUNTED = ("client", "testing")


# The daemon's process.


def serve_traced(root: Path, arguments: Sequence[str]) -> int:
    """Run the daemon; record calls between the lines `on` and `off` of stdin, and write them."""
    package = f"{root / 'chatd'}/"
    calls: list[tuple[str, int, str, int]] = []
    depths: Counter[int] = Counter()  # of each thread
    recording = False

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        if not recording or event not in {"call", "return"}:
            return
        code = frame.f_code
        if not code.co_filename.startswith(package):
            return
        name = code.co_filename.removeprefix(package)
        if name.startswith(tuple(f"{folder}/" for folder in NOT_COUNTED)):
            return
        thread = threading.get_ident()
        if event == "call":
            calls.append((name, code.co_firstlineno, code.co_qualname, depths[thread]))
            depths[thread] += 1
        else:
            depths[thread] -= 1

    def obey() -> None:
        nonlocal recording
        for line in sys.stdin:
            recording = line == "on\n"
            if recording:
                calls.clear()
                depths.clear()
            print(json.dumps(None if recording else calls), flush=True)

    threading.Thread(target=obey, daemon=True).start()
    threading.setprofile(profile)
    sys.setprofile(profile)
    from chatd.__main__ import main  # noqa: PLC0415  after the profile function is set

    return main(["serve", *arguments])


@dataclass(frozen=True, slots=True)
class Call:
    file: str
    line: int
    function: str
    depth: int


class Daemon:
    """The daemon's process, and the switch of its recording."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        self.port = free_port()
        self._log = folder / "log"
        command = [sys.executable, __file__, "--serve", str(checkout)]
        command += ["--listen", f"127.0.0.1:{self.port}"]
        for setting in (*UNLIMITED, f'history.path="{folder / "chatd.db"}"'):
            command += ["--set", setting]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=folder,
                env=environment(checkout, folder),
            )

    def wait_ready(self) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while '"event":"ready"' not in self._log.read_text(encoding="utf-8"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(f"the daemon did not start:\n{self._log.read_text()}")
            time.sleep(0.02)

    def record(self) -> None:
        self._ask("on")

    def recorded(self) -> list[Call]:
        return [Call(*call) for call in self._ask("off")]

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, word: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def trace(protocol: str, checkout: Path) -> list[Call]:
    """Trace one `say` several times; return the shortest trace."""
    traces: list[list[Call]] = []
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(checkout, Path(folder))
        try:
            daemon.wait_ready()
            members: list[Member] = []
            add_members(members, protocol, daemon.port, MEMBERS)
            for number in range(TIMES):
                daemon.record()
                exchange(members, f"text {number}", ANSWERS[protocol])
                read_until_quiet(members)
                traces.append(daemon.recorded())
        finally:
            daemon.close()
    return min(traces, key=len)


def summary(calls: Sequence[Call]) -> dict[str, int]:
    files = [call.file for call in calls]
    return {
        "calls": len(calls),
        "functions": len({(call.file, call.line, call.function) for call in calls}),
        "files": len(set(files)),
        "changes of file": sum(a != b for a, b in pairwise(files)),
    }


def main() -> int:
    if sys.argv[1:2] == ["--serve"]:
        return serve_traced(Path(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(description="Count chatd's own calls of one `say`.")
    parser.add_argument("protocols", nargs="*", metavar="PROTOCOL", help=", ".join(PROTOCOLS))
    parser.add_argument("--tree", action="store_true", help="print the calls too")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--checkout",
        type=Path,
        default=BENCH.parent,
        metavar="FOLDER",
        help="the checkout whose daemon is traced (default: this one)",
    )
    given = parser.parse_args()
    if unknown := set(given.protocols) - set(PROTOCOLS):
        parser.error(f"{', '.join(unknown)}: the protocols are {', '.join(PROTOCOLS)}")
    figures: dict[str, dict[str, int]] = {}
    try:
        for protocol in given.protocols or PROTOCOLS:
            calls = trace(protocol, given.checkout.resolve())
            figures[protocol] = summary(calls)
            if given.tree:
                print(f"\n{protocol}")
                for call in calls:
                    print(f"{'  ' * call.depth}{call.function}  {call.file}:{call.line}")
    except (BenchError, ServerError) as error:
        print(f"trace: {error}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps(figures, indent=2))
        return 0
    names = next(iter(figures.values()))
    print(f"\n{'one say by':12}" + "".join(f"{name:>17}" for name in names))
    for protocol, counts in figures.items():
        print(f"{protocol:12}" + "".join(f"{count:17}" for count in counts.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
