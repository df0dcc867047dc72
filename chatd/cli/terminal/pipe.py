"""A chat through a pipe: lines in, lines out, no colours."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Final, TextIO

import trio
from rich.console import Console
from rich.text import Text

__all__ = ["Pipe", "open_pipe"]

_MOST_CHARACTERS: Final = 1_000_000
"""A line has at most so many; the daemon takes fewer."""

_MOST_WAITING: Final = 100
"""So many lines may wait to be written before no more are made."""

_LAST_SECONDS: Final = 0.5
"""So long what waits may take, once a signal ends it."""


@asynccontextmanager
async def open_pipe(
    reader: TextIO | None, out: TextIO | None, err: TextIO | None
) -> AsyncGenerator[Pipe]:
    """Open a pipe; what was shown is written before it is left. Raises OSError.

    Writing has a task and a thread of its own: who reads slowly, or not at all, holds up what is
    shown, and neither the connection nor a signal.
    """
    pipe = Pipe(reader, out, err)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipe.write)
        async with aclosing(pipe):
            yield pipe
        nursery.cancel_scope.cancel()


class Pipe:
    """Lines in, none without a ``reader``; lines out. What is for the reader goes to ``err``."""

    def __init__(self, reader: TextIO | None, out: TextIO | None, err: TextIO | None) -> None:
        self._reader = reader
        self._out = _console(out)
        self._err = _console(err)
        self._waiting: list[tuple[int, bytes]] = []
        self._writes = False
        self._changed = trio.Event()

    def show(self, line: Text) -> None:
        self._put(self._out, line)

    def tell(self, line: Text) -> None:
        self._put(self._err, line)

    def status(self, place: str, text: str) -> None:
        """Nobody looks."""

    async def room(self) -> None:
        """Wait while many lines wait to be written."""
        while len(self._waiting) >= _MOST_WAITING:
            await self._changed.wait()

    async def written(self) -> None:
        """Wait until what was shown is written, as far as that can be done."""
        while self._waiting or self._writes:
            await self._changed.wait()

    async def aclose(self) -> None:
        """Wait until all is written; cancelled, only for a moment more."""
        try:
            await self.written()
        finally:
            with trio.move_on_after(_LAST_SECONDS, shield=True):
                await self.written()

    async def write(self) -> None:
        """Write what is shown, until cancelled. Raises OSError."""
        try:
            while True:
                while not self._waiting:
                    await self._changed.wait()
                lines, self._waiting = self._waiting, []
                self._writes = True
                self._change()
                await trio.to_thread.run_sync(_write, lines, abandon_on_cancel=True)
                self._writes = False
                self._change()
        finally:
            self._waiting.clear()
            self._writes = False
            self._change()

    def _put(self, console: Console | None, line: Text) -> None:
        if console is None:
            return
        with console.capture() as rendered:
            console.print(line, soft_wrap=True)
        text = rendered.get().encode(console.encoding, "backslashreplace")
        self._waiting.append((console.file.fileno(), text))
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def line(self) -> str | None:
        """Read the next line; None at the end. Raises ValueError for one that is too long."""
        if self._reader is None:
            return None
        line = await self._read(self._reader)
        if len(line) < _MOST_CHARACTERS or line.endswith("\n"):
            return line.rstrip("\r\n") if line else None
        while line and not line.endswith("\n"):
            line = await self._read(self._reader)
        raise ValueError(f"a line of over {_MOST_CHARACTERS:,} characters cannot be said")

    async def _read(self, reader: TextIO) -> str:
        # A pipe that says nothing holds its thread until the process ends.
        return await trio.to_thread.run_sync(
            reader.readline, _MOST_CHARACTERS, abandon_on_cancel=True
        )


def _console(file: TextIO | None) -> Console | None:
    if file is None:
        return None
    return Console(file=file, highlight=False, markup=False, emoji=False)


def _write(lines: list[tuple[int, bytes]]) -> None:
    # Not by the stream: one that waits for its reader would hold up the end of the process.
    for descriptor, line in lines:
        left = memoryview(line)
        while left:
            left = left[os.write(descriptor, left) :]
