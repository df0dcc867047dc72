"""A chat through a pipe: plain lines in, plain lines out."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Final, TextIO

import trio
from rich.console import Console
from rich.text import Text

__all__ = ["Pipe", "open_pipe"]

_MAX_CHARACTERS: Final = 1_000_000
"""The longest line that is read; the server's own limit is lower."""

_MAX_WAITING: Final = 100
"""With this many lines waiting to be written, events are no longer taken."""

_FLUSH_SECONDS: Final = 0.5
"""How long the waiting lines may take to be written after a signal."""


@asynccontextmanager
async def open_pipe(
    reader: TextIO | None, out: TextIO | None, err: TextIO | None
) -> AsyncGenerator[Pipe]:
    """Open a pipe, and write all that was shown before closing it. Raises OSError.

    Writing has its own task and thread, so that a slow or stopped reader delays neither the
    connection nor a signal.
    """
    pipe = Pipe(reader, out, err)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipe.write)
        async with aclosing(pipe):
            yield pipe
        nursery.cancel_scope.cancel()


class Pipe:
    """Lines from ``reader``, if any; the chat to ``out``, notices and errors to ``err``."""

    def __init__(self, reader: TextIO | None, out: TextIO | None, err: TextIO | None) -> None:
        self._reader = reader
        self._out = _console(out)
        self._err = _console(err)
        self._waiting: list[tuple[int, bytes]] = []
        self._writing = False
        self._changed = trio.Event()

    def show(self, line: Text) -> None:
        self._put(self._out, line)

    def notify(self, line: Text) -> None:
        self._put(self._err, line)

    def status(self, label: str, text: str) -> None:
        """Do nothing: a pipe has no status line."""

    async def writable(self) -> None:
        """Wait while too many lines wait to be written."""
        while len(self._waiting) >= _MAX_WAITING:
            await self._changed.wait()

    async def flushed(self) -> None:
        """Wait until all lines are written, or writing has failed."""
        while self._waiting or self._writing:
            await self._changed.wait()

    async def aclose(self) -> None:
        """Wait until all lines are written; after a cancellation, only for a moment."""
        try:
            await self.flushed()
        finally:
            with trio.move_on_after(_FLUSH_SECONDS, shield=True):
                await self.flushed()

    async def write(self) -> None:
        """Write the lines that are shown, until cancelled. Raises OSError."""
        try:
            while True:
                while not self._waiting:
                    await self._changed.wait()
                lines, self._waiting = self._waiting, []
                self._writing = True
                self._change()
                await trio.to_thread.run_sync(_write, lines, abandon_on_cancel=True)
                self._writing = False
                self._change()
        finally:
            self._waiting.clear()
            self._writing = False
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
        """Read the next line; None at the end. Raises ValueError if it is too long."""
        if self._reader is None:
            return None
        line = await self._read(self._reader)
        if len(line) < _MAX_CHARACTERS or line.endswith("\n"):
            return line.rstrip("\r\n") if line else None
        while line and not line.endswith("\n"):
            line = await self._read(self._reader)
        raise ValueError(f"Lines of {_MAX_CHARACTERS:,} or more characters cannot be sent.")

    async def _read(self, reader: TextIO) -> str:
        # Reading a silent pipe blocks its thread until the process ends.
        return await trio.to_thread.run_sync(
            reader.readline, _MAX_CHARACTERS, abandon_on_cancel=True
        )


def _console(file: TextIO | None) -> Console | None:
    if file is None:
        return None
    return Console(file=file, highlight=False, markup=False, emoji=False)


def _write(lines: list[tuple[int, bytes]]) -> None:
    # Not through the stream: Python would wait for a stopped reader when it flushes at exit.
    for descriptor, line in lines:
        left = memoryview(line)
        while left:
            left = left[os.write(descriptor, left) :]
