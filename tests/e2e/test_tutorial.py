"""The README's program in ten lines and the page of Socket.IO's tutorial, in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import trio

from chatd.cli.fetch_client import PACKAGE, FetchError, fetch
from tests.e2e.chatd_process import free_port
from tests.e2e.chromium import Chromium, Tab
from tests.e2e.sandbox import ROOT, cache_folder

# These only end a hang.
LINE_SECONDS: Final = 60
END_SECONDS: Final = 60

# The page of https://socket.io/docs/v4/tutorial/, without its colours. The empty icon avoids a
# request that would fail.
PAGE: Final = """<!DOCTYPE html>
<html>
  <head>
    <meta name="viewport" content="width=device-width,initial-scale=1.0">
    <title>Socket.IO chat</title>
    <link rel="icon" href="data:,">
  </head>
  <body>
    <ul id="messages"></ul>
    <form id="form" action="">
      <input id="input" autocomplete="off" /><button>Send</button>
    </form>
    <script src="/socket.io/socket.io.js"></script>
    <script>
      const socket = io();

      const form = document.getElementById('form');
      const input = document.getElementById('input');
      const messages = document.getElementById('messages');

      form.addEventListener('submit', (e) => {
        e.preventDefault();
        if (input.value) {
          socket.emit('chat message', input.value);
          input.value = '';
        }
      });

      socket.on('chat message', (msg) => {
        const item = document.createElement('li');
        item.textContent = msg;
        messages.appendChild(item);
        window.scrollTo(0, document.body.scrollHeight);
      });
    </script>
  </body>
</html>
"""

# The program prints nothing until a client connects. Python runs this module before it, which
# prints when the program listens.
TELLTALE: Final = """import socket


class Telling(socket.socket):
    def listen(self, *args):
        super().listen(*args)
        print("listening", flush=True)


socket.socket = Telling
"""

LINES: Final = "[...document.querySelectorAll('#messages li')].map(line => line.textContent)"


@pytest.fixture(scope="session")
def browser_client() -> Path:
    """Fetch npm's package of the client, once for all runs; or skip the test."""
    file = cache_folder() / "chatd-tests" / f"{PACKAGE}.tgz"
    if not file.exists():
        try:
            package = fetch()
        except FetchError as error:
            pytest.skip(str(error))
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(package)
        fresh.replace(file)
    return file


def program_of_the_readme() -> str:
    blocks = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE
    )
    (program,) = [block for block in blocks if "socketio.Server" in block]
    return str(program)


class Program:
    """A running Python program and its output so far."""

    def __init__(self, process: trio.Process, nursery: trio.Nursery) -> None:
        self.lines: Final[list[str]] = []
        self.noise = ""
        self._process: Final = process
        self._news = trio.Event()
        self._reading = 2
        nursery.start_soon(self._read_lines)
        nursery.start_soon(self._read_noise)

    async def line(self, text: str, times: int = 1) -> None:
        """Wait until it has written this number of lines with this text."""
        with trio.move_on_after(LINE_SECONDS):
            while sum(text in line for line in self.lines) < times and self._reading:
                await self._news.wait()
        count = sum(text in line for line in self.lines)
        assert count == times, f"{text!r}: {count} of {times} in\n{self.lines}\n{self.noise}"

    async def interrupt(self) -> int:
        """Press Ctrl-C and return its exit status."""
        self._process.send_signal(signal.SIGINT)
        with trio.move_on_after(END_SECONDS):
            while self._reading:
                await self._news.wait()
            return await self._process.wait()
        raise AssertionError(f"Ctrl-C did not end it:\n{self.lines}\n{self.noise}")

    async def aclose(self) -> None:
        """End it, if it has not ended."""
        with trio.CancelScope(shield=True):
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()

    async def _read_lines(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        async for data in self._process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            self.lines.extend(line.decode() for line in lines)
            self._wake()
        self._end()

    async def _read_noise(self) -> None:
        assert self._process.stderr is not None
        async for data in self._process.stderr:
            self.noise += data.decode(errors="backslashreplace")
        self._end()

    def _end(self) -> None:
        self._reading -= 1
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()


@pytest.fixture
async def folder(tmp_path: Path, browser_client: Path) -> Path:
    """Make the folder that the README describes.

    chatd itself is copied into it, because the client's files are kept within chatd: ``chatd
    fetch-client`` of the copy leaves the project as it is.
    """

    def make() -> None:
        shutil.copytree(
            ROOT / "chatd",
            tmp_path / "chatd",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        (tmp_path / "public").mkdir()
        (tmp_path / "public/index.html").write_text(PAGE)
        (tmp_path / "sitecustomize.py").write_text(TELLTALE)

    await trio.to_thread.run_sync(make)
    fetching = [sys.executable, "-m", "chatd", "fetch-client", "--from", str(browser_client)]
    await trio.run_process(fetching, cwd=tmp_path, capture_stdout=True)
    assert (tmp_path / "chatd/socketio/client/socket.io.js").exists()
    return tmp_path


async def start(program: str, folder: Path, nursery: trio.Nursery) -> Program:
    await trio.Path(folder / "server.py").write_text(program)
    process = await trio.lowlevel.open_process(
        [sys.executable, "-u", "-W", "error", "server.py"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(folder),
        },
    )
    return Program(process, nursery)


async def said_in(tab: Tab, count: int) -> list[str]:
    """Wait until a page shows this number of messages; return them."""
    await tab.until(f"document.querySelectorAll('#messages li').length >= {count}")
    lines: list[str] = await tab.evaluate(LINES)
    return lines


def test_it_is_ten_lines() -> None:
    lines = [line.partition("#")[0].strip() for line in program_of_the_readme().splitlines()]
    assert len(list(filter(None, lines))) == 10


async def test_the_tutorial(folder: Path, chromium: Chromium, nursery: trio.Nursery) -> None:
    program = program_of_the_readme()
    port = free_port()
    assert program.count("127.0.0.1:3000") == 1
    server = await start(program.replace("127.0.0.1:3000", f"127.0.0.1:{port}"), folder, nursery)
    try:
        await server.line("listening")
        first, second = await chromium.open_tab(), await chromium.open_tab()
        for number, tab in enumerate((first, second), 1):
            await tab.navigate(f"http://127.0.0.1:{port}/")
            await server.line("a user connected", number)

        await first.click("#input")
        await first.type("hello from the first")
        await first.press("Enter")
        assert await said_in(second, 1) == ["hello from the first"]
        await second.click("#input")
        await second.type("hello, <b>first</b>")
        await second.click("button")
        both = ["hello from the first", "hello, <b>first</b>"]
        assert await said_in(first, 2) == await said_in(second, 2) == both

        await second.close()
        await server.line("user disconnected transport close")
        await first.click("#input")
        await first.type("and nobody hears")
        await first.press("Enter")
        assert await said_in(first, 3) == [*both, "and nobody hears"]
        assert first.faults == second.faults == []

        (listening,) = server.noise.splitlines()
        assert json.loads(listening)["event"] == "listening"
        await server.interrupt()
        await server.line("user disconnected", 2)
        assert server.lines[-1] == "user disconnected server shutting down"
        assert server.noise.endswith("\nKeyboardInterrupt\n")
        assert "Group" not in server.noise
    finally:
        await server.aclose()
