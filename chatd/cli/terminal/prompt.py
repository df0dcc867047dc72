"""A chat on a terminal: the input line stays at the bottom, the chat scrolls above it.

prompt_toolkit has an event loop of its own and runs in a thread. Typed lines come into Trio's loop
through its token; output goes through prompt_toolkit's stdout.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

import trio
from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.patch_stdout import patch_stdout
from rich.console import Console
from rich.text import Text

from chatd.cli.terminal.lines import INDENT

__all__ = ["Terminal"]

_RESTORE_SECONDS: Final = 2.0

# The signal stops all threads, but not at once: this one must not go on before it takes effect.
_STOP_SECONDS: Final = 0.1


class Terminal:
    """A terminal."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._label = ""
        self._status = ""
        self.ready = trio.Event()
        """Set once the input line is there and output can go above it."""
        self._closing = False
        self._restored = threading.Event()
        keys = KeyBindings()
        keys.add("c-z")(_suspend)
        self._session = PromptSession[str](
            lambda: f"[{self._label}] " if self._label else "> ",
            bottom_toolbar=lambda: self._status,
            complete_while_typing=False,
            erase_when_done=True,
            key_bindings=keys,
        )

    def show(self, line: Text) -> None:
        """Show a line, indenting its continuation rows so that they cannot imitate another line."""
        width = max(self._console.width - len(INDENT), 1)
        for number, row in enumerate(line.wrap(self._console, width, overflow="fold")):
            begun = number > 0 and not row.plain.startswith(INDENT)
            self._console.print(Text(INDENT) + row if begun else row, soft_wrap=True)

    def notify(self, line: Text) -> None:
        self.show(line)

    def status(self, label: str, text: str) -> None:
        self._label, self._status = label, text
        self._session.app.invalidate()

    async def writable(self) -> None:
        """Return at once: a terminal takes every line."""

    async def run(
        self,
        typed: Callable[[str], None],
        drafts: Callable[[str], None],
        words: Callable[[], Iterable[str]],
    ) -> None:
        """Call ``typed`` with each line, and ``drafts`` with the unfinished one as it changes.

        ``words`` returns the words that Tab completes. Returns after Ctrl-D, or Ctrl-C on an empty
        line, with the terminal restored.
        """
        token = trio.lowlevel.current_trio_token()

        def drafted(buffer: Buffer) -> None:
            token.run_sync_soon(drafts, buffer.text)

        def ready() -> None:
            token.run_sync_soon(self.ready.set)

        def prompt() -> None:
            try:
                while not self._closing:
                    if (line := self._line(ready)) is not None:
                        # A byte that is not UTF-8 arrives as a lone surrogate.
                        text = line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                        token.run_sync_soon(typed, text)
            except EOFError:
                pass
            finally:
                self._restored.set()

        self._session.default_buffer.on_text_changed += drafted
        self._session.completer = _WordCompleter(words)
        with patch_stdout(raw=True):
            try:
                await trio.to_thread.run_sync(prompt, abandon_on_cancel=True)
            finally:
                self._leave()
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._restored.wait, _RESTORE_SECONDS)

    def _line(self, ready: Callable[[], None]) -> str | None:
        """Read a line; None if Ctrl-C discarded it. Raises EOFError at the end."""
        try:
            return self._session.prompt(handle_sigint=False, pre_run=ready)
        except KeyboardInterrupt:
            if not self._session.default_buffer.text:
                raise EOFError from None
            return None

    def _leave(self) -> None:
        """End the prompt, so that its thread restores the terminal."""
        self._closing = True
        app = self._session.app

        def leave() -> None:
            if app.is_running and not app.is_done:
                app.exit(exception=EOFError)

        if (loop := app.loop) is not None:
            loop.call_soon_threadsafe(leave)


def _suspend(event: KeyPressEvent) -> None:
    """Stop until ``fg``, with the terminal restored for the shell."""

    def stop() -> None:
        os.kill(0, signal.SIGTSTP)
        time.sleep(_STOP_SECONDS)

    run_in_terminal(stop)


class _WordCompleter(Completer):
    """Completes the word before the cursor."""

    def __init__(self, words: Callable[[], Iterable[str]]) -> None:
        self._words = words

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        begun = document.text_before_cursor.rpartition(" ")[2]
        if begun:
            for word in self._words():
                if word.casefold().startswith(begun.casefold()):
                    yield Completion(f"{word} ", start_position=-len(begun))
