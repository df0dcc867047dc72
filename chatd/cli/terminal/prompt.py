"""A chat on a terminal: the line being typed stays at the bottom, the conversation scrolls above.

prompt_toolkit, which does that, has an event loop of its own. It runs in a thread; what is typed
comes into Trio's loop by its token, what is shown goes out through prompt_toolkit's stdout.
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

# The signal stops all threads at once, but this one may be some way on by then.
_STOP_SECONDS: Final = 0.1


class Terminal:
    """A terminal."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._place = ""
        self._status = ""
        self.up = trio.Event()
        """Set when there is a line to type on, above which the conversation goes."""
        self._over = False
        self._restored = threading.Event()
        keys = KeyBindings()
        keys.add("c-z")(_suspend)
        self._session = PromptSession[str](
            lambda: f"[{self._place}] " if self._place else "> ",
            bottom_toolbar=lambda: self._status,
            complete_while_typing=False,
            erase_when_done=True,
            key_bindings=keys,
        )

    def show(self, line: Text) -> None:
        """Show a line; where it goes on below, that is indented, so that it looks like no other."""
        width = max(self._console.width - len(INDENT), 1)
        for number, row in enumerate(line.wrap(self._console, width, overflow="fold")):
            begun = number > 0 and not row.plain.startswith(INDENT)
            self._console.print(Text(INDENT) + row if begun else row, soft_wrap=True)

    def tell(self, line: Text) -> None:
        self.show(line)

    def status(self, place: str, text: str) -> None:
        self._place, self._status = place, text
        self._session.app.invalidate()

    async def room(self) -> None:
        """Go on: it has room at all times."""

    async def run(
        self,
        typed: Callable[[str], None],
        drafts: Callable[[str], None],
        words: Callable[[], Iterable[str]],
    ) -> None:
        """Hand on each line that is ``typed``, and before that what it ``drafts``.

        ``words`` are what Tab completes. Ends at Ctrl-D, and at Ctrl-C on an empty line; then the
        terminal is as it was.
        """
        token = trio.lowlevel.current_trio_token()

        def drafted(buffer: Buffer) -> None:
            token.run_sync_soon(drafts, buffer.text)

        def up() -> None:
            token.run_sync_soon(self.up.set)

        def prompt() -> None:
            try:
                while not self._over:
                    if (line := self._line(up)) is not None:
                        # A byte that is no UTF-8 comes as half a character.
                        text = line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                        token.run_sync_soon(typed, text)
            except EOFError:
                pass
            finally:
                self._restored.set()

        self._session.default_buffer.on_text_changed += drafted
        self._session.completer = _Words(words)
        with patch_stdout(raw=True):
            try:
                await trio.to_thread.run_sync(prompt, abandon_on_cancel=True)
            finally:
                self._leave()
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._restored.wait, _RESTORE_SECONDS)

    def _line(self, up: Callable[[], None]) -> str | None:
        """Have a line typed; None where it was thrown away. Raises EOFError at the end."""
        try:
            return self._session.prompt(handle_sigint=False, pre_run=up)
        except KeyboardInterrupt:
            if not self._session.default_buffer.text:
                raise EOFError from None
            return None

    def _leave(self) -> None:
        """End a prompt that there is, whose thread gives the terminal back as it was."""
        self._over = True
        app = self._session.app

        def leave() -> None:
            if app.is_running and not app.is_done:
                app.exit(exception=EOFError)

        if (loop := app.loop) is not None:
            loop.call_soon_threadsafe(leave)


def _suspend(event: KeyPressEvent) -> None:
    """Stop until ``fg``, and leave the terminal to the shell as it was."""

    def stop() -> None:
        os.kill(0, signal.SIGTSTP)
        time.sleep(_STOP_SECONDS)

    run_in_terminal(stop)


class _Words(Completer):
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
