"""A terminal for programs that need one: tmux, driven through its control mode.

tmux reports each output of the program (``%output``); the screen's content is then read from it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import trio

from tests.e2e.reaper import end_with_us

__all__ = ["Pane", "find_tmux"]

# Ends a hang; no measure of speed.
SECONDS: Final = 60


def find_tmux() -> str | None:
    return shutil.which("tmux")


# The terminal outlives the program, so that its last output can be read.
_AND_ITS_END: Final = '"$@"; echo "[ended with $?]"; exec cat'


class Pane:
    """A terminal that runs one program."""

    def __init__(self, tmux: str, socket: Path, process: trio.Process) -> None:
        self._tmux = [tmux, "-S", str(socket)]
        self._process = process
        self._news = trio.Event()
        self._ended = False

    @classmethod
    async def open(
        cls,
        nursery: trio.Nursery,
        socket: Path,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        columns: int = 100,
        rows: int = 30,
    ) -> Self:
        """Start a program in a terminal; ``socket`` is the path of tmux's socket."""
        tmux = find_tmux()
        assert tmux is not None
        env = {"TERM": "xterm-256color", **environ}
        size = ["-x", str(columns), "-y", str(rows)]
        started = ["new-session", "-d", *size, "sh", "-c", _AND_ITS_END, "sh", *command]
        await trio.run_process([tmux, "-S", str(socket), "-f", "/dev/null", *started], env=env)
        # The terminal's own process left the session of the command that started it.
        asking = [tmux, "-S", str(socket), "display-message", "-p", "#{pid}"]
        server = await trio.run_process(asking, capture_stdout=True, env=env)
        end_with_us(int(server.stdout))
        # Control mode, by a client whose own size does not matter to the terminal.
        process = await trio.lowlevel.open_process(
            [tmux, "-S", str(socket), "-C", "attach-session", "-f", "ignore-size"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
        )
        pane = cls(tmux, socket, process)
        nursery.start_soon(pane._listen)
        return pane

    async def type(self, text: str) -> None:
        """Type ``text`` and press Enter."""
        await self.begin(text)
        await self.press("Enter")

    async def begin(self, text: str) -> None:
        """Type ``text`` without pressing Enter."""
        await self._call("send-keys", "-l", text)

    async def press(self, key: str) -> None:
        """Press a key, by tmux's name for it."""
        await self._call("send-keys", key)

    async def send(self, data: bytes) -> None:
        """Type bytes that need not be text."""
        await self._call("send-keys", "-H", *(f"{byte:x}" for byte in data))

    async def screen(self, *options: str) -> str:
        """Return the content of the screen, including lines that have scrolled away."""
        shown = await self._call("capture-pane", "-p", "-S", "-", *options)
        return shown.rstrip("\n")

    async def until(self, text: str, *, gone: bool = False) -> str:
        """Wait until ``text`` is on the screen, or no longer is; return the screen's content."""
        shown = ""
        with trio.move_on_after(SECONDS):
            while True:
                news = self._news
                shown = await self.screen()
                if (text in shown) is not gone:
                    return shown
                assert not self._ended, f"tmux has ended, without {text!r}:\n{shown}"
                await news.wait()
        raise AssertionError(f"{text!r} {'stays' if gone else 'does not come'}:\n{shown}")

    async def aclose(self) -> None:
        """End the program and its terminal."""
        with trio.CancelScope(shield=True):
            await trio.run_process(
                [*self._tmux, "kill-server"], check=False, capture_stdout=True, capture_stderr=True
            )
            await self._process.wait()

    async def _call(self, *command: str) -> str:
        done = await trio.run_process([*self._tmux, *command], capture_stdout=True)
        return done.stdout.decode()

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for _ in self._process.stdout:
            self._wake()
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()
