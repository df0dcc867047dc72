"""Programs that a test runs beside the daemon, and what they print."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio

from tests.e2e.reaper import end_with_us

ROOT: Final = Path(__file__).parents[2]

# A limit of a hang, not of a speed.
SECONDS: Final = 60


def environ(folder: Path, **more: str) -> dict[str, str]:
    path = f"{folder}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(folder), "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT), **more}


async def run(folder: Path, *command: str, **more: str) -> str:
    """Run a program to its end, and return what it printed."""
    with trio.fail_after(SECONDS):
        done = await trio.run_process(
            command,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=folder,
            env=environ(folder, **more),
        )
    assert (done.returncode, done.stderr) == (0, b""), (done.stdout, done.stderr)
    return done.stdout.decode()


async def chatd_says(*arguments: object, stdin: bytes = b"") -> tuple[int, bytes, str]:
    """Run ``python -m chatd``; return its exit code and output."""
    done = await trio.run_process(
        [sys.executable, "-m", "chatd", *map(str, arguments)],
        stdin=stdin,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert isinstance(done, subprocess.CompletedProcess)
    return done.returncode, done.stdout, done.stderr.decode()


class Running:
    """A program that goes on, and its lines."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._rest = b""

    async def line(self) -> str:
        assert self._process.stdout is not None
        with trio.fail_after(SECONDS):
            while b"\n" not in self._rest:
                data = await self._process.stdout.receive_some()
                assert data, f"it ended: {self._rest!r}"
                self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    async def until(self, text: str) -> list[str]:
        """Return the lines up to one that contains a text."""
        lines = [await self.line()]
        while text not in lines[-1]:
            lines.append(await self.line())
        return lines

    async def end(self, number: signal.Signals) -> int:
        """Send it a signal that ends it, and return its exit status."""
        self._process.send_signal(number)
        with trio.fail_after(SECONDS):
            return await self._process.wait()

    async def texts(self, count: int) -> list[Any]:
        """Return the texts of the next messages of an event stream, or of JSON lines."""
        texts: list[Any] = []
        while len(texts) < count:
            line = (await self.line()).removeprefix("data: ")
            if line.startswith("{"):
                texts.append(json.loads(line).get("text"))
        return texts


@asynccontextmanager
async def going_on(folder: Path, *command: str, **more: str) -> AsyncIterator[Running]:
    """Run a program in a group of its own, until the end of the block."""
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=folder,
        env=environ(folder, **more),
        start_new_session=True,
    )
    end_with_us(process.pid)
    try:
        yield Running(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()
