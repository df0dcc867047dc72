"""Nothing that a client sends holds the event loop for long: instructions are counted, not time."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import pytest

from tests.e2e.decoders import CASES

LIMIT: Final = 25_000_000
"""5 ms of a core that does five instructions a nanosecond. Decoders are loops in C, of which one at
3 GHz does two or three in a cycle."""

ROOT: Final = Path(__file__).resolve().parents[2]


class Counter:
    """The decoders in a process under Valgrind's callgrind."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin: IO[str] = process.stdin
        self._stdout: IO[str] = process.stdout
        self._pid = process.pid
        self._folder = folder
        self._dumps = 0
        assert self._stdout.readline() == "ready\n"
        self._command("instrumentation on")
        self._dump()

    def run(self, name: str) -> int:
        """Run a case; return its instructions."""
        self._stdin.write(f"{name}\n")
        self._stdin.flush()
        assert self._stdout.readline() == "done\n"
        return self._dump()

    def _dump(self) -> int:
        self._dumps += 1
        self._command("dump")
        written = (self._folder / f"out.{self._dumps}").read_text(encoding="utf-8")
        found = re.search(r"^totals: (\d+)", written, re.MULTILINE)
        assert found is not None
        return int(found[1])

    def _command(self, words: str) -> None:
        command = ["vgdb", f"--vgdb-prefix={self._folder}/vgdb", f"--pid={self._pid}"]
        subprocess.run([*command, *words.split()], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counter]:
    if not (shutil.which("valgrind") and shutil.which("vgdb")):
        pytest.skip("Valgrind is not installed (Debian: apt install valgrind)")
    folder = tmp_path_factory.mktemp("callgrind")
    command = ["valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no"]
    command += [f"--callgrind-out-file={folder}/out", f"--vgdb-prefix={folder}/vgdb"]
    command += [sys.executable, "-m", "tests.e2e.decoders"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0"},
    )
    try:
        yield Counter(process, folder)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", CASES)
def test_the_worst_input_takes_few_instructions(counter: Counter, name: str) -> None:
    assert counter.run(name) < LIMIT
