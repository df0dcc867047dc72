"""A chat through a pipe: plain lines in, plain lines out."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Final, NamedTuple, TextIO

import trio
from rich.console import Console
from rich.text import Text

from chatd.cli.terminal.plain import plain

__all__ = ["Line", "Pipe", "PipeError", "open_pipe"]

_MAX_CHARACTERS: Final = 1_000_000
"""How much of a line is read at a time. The rest of it follows as another part of the line."""

_SEQUENCE_CHARACTERS: Final = 32
"""The longest control sequence that is not torn between two parts of a line; usual ones have 20."""

_MAX_WAITING: Final = 100
"""With this many lines waiting to be written, events are no longer taken."""

_FLUSH_SECONDS: Final = 0.5
"""How long the waiting lines may take to be written after a signal."""


@asynccontextmanager
async def open_pipe(
    reader: TextIO | None, out: TextIO | None, err: TextIO | None
) -> AsyncGenerator[Pipe]:
    """Open a pipe, and write all that was shown before closing it. Raises PipeError.

    Writing has its own task and thread, so that a slow or stopped reader delays neither the
    connection nor a signal.
    """
    pipe = Pipe(reader, out, err)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipe.write)
        async with aclosing(pipe):
            yield pipe
        nursery.cancel_scope.cancel()


class PipeError(Exception):
    """A standard stream cannot be used. The message, for the user, is "" if the reader is gone."""


class Line(NamedTuple):
    """A line, or a part of a very long one, without control sequences, and its number from 1."""

    number: int
    text: str


class Pipe:
    """Lines from ``reader``, if any; the chat to ``out``, notices and errors to ``err``."""

    def __init__(self, reader: TextIO | None, out: TextIO | None, err: TextIO | None) -> None:
        self._reader = reader
        self._out = _console(out)
        self._err = _console(err)
        self._waiting: list[tuple[int, bytes]] = []
        self._writing = False
        self._changed = trio.Event()
        self._number = 1
        self._rest = ""

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
        """Write the lines that are shown, until cancelled. Raises PipeError."""
        try:
            while True:
                while not self._waiting:
                    await self._changed.wait()
                lines, self._waiting = self._waiting, []
                self._writing = True
                self._change()
                try:
                    await trio.to_thread.run_sync(_write, lines, abandon_on_cancel=True)
                except BrokenPipeError as error:
                    raise PipeError("") from error
                except OSError as error:
                    raise PipeError(f"The output cannot be written: {_why(error)}.") from error
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

    async def line(self) -> Line | None:
        """Read the next line; None at the end. Raises PipeError."""
        if self._reader is None:
            return None
        # Reading a silent pipe blocks its thread until the process ends.
        try:
            read = await trio.to_thread.run_sync(
                self._reader.readline, _MAX_CHARACTERS, abandon_on_cancel=True
            )
        except OSError as error:
            raise PipeError(f"Standard input cannot be read: {_why(error)}.") from error
        text, self._rest = self._rest + read, ""
        if not text:
            return None
        number = self._number
        if number == 1:
            text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")  # a byte order mark
        if text.endswith("\n"):
            self._number += 1
        elif read:
            begun = text.rfind("\x1b", -_SEQUENCE_CHARACTERS)
            if begun > 0:
                text, self._rest = text[:begun], text[begun:]
        return Line(number, plain(text.rstrip("\r\n")))


def _console(file: TextIO | None) -> Console | None:
    if file is None:
        return None
    return Console(file=file, highlight=False, markup=False, emoji=False)


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _write(lines: list[tuple[int, bytes]]) -> None:
    # Not through the stream: Python would wait for a stopped reader when it flushes at exit.
    for descriptor, line in lines:
        left = memoryview(line)
        while left:
            left = left[os.write(descriptor, left) :]
