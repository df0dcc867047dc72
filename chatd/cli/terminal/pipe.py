"""A chat through a pipe: lines in, lines out, no colours."""

from __future__ import annotations

from typing import Final, TextIO

import trio
from rich.console import Console
from rich.text import Text

__all__ = ["Pipe"]

_MOST_CHARACTERS: Final = 1_000_000
"""A line has at most so many; the daemon takes fewer."""


class Pipe:
    """Lines in, none without a ``reader``; lines out. What is for the reader goes to ``err``."""

    def __init__(self, reader: TextIO | None, out: TextIO, err: TextIO) -> None:
        self._reader = reader
        self._out = _console(out)
        self._err = _console(err)

    def show(self, line: Text) -> None:
        self._out.print(line, soft_wrap=True)

    def tell(self, line: Text) -> None:
        self._err.print(line, soft_wrap=True)

    def status(self, place: str, text: str) -> None:
        """Nobody looks."""

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


def _console(file: TextIO) -> Console:
    return Console(file=file, highlight=False, markup=False, emoji=False)
