"""Search by reading the texts themselves, for stores that have no index of words."""

from __future__ import annotations

from time import perf_counter
from typing import Final

import trio

from chatd.journal import Sender, Unavailable, words
from chatd.model import Event

__all__ = ["Scan"]

_SECONDS: Final = 2.0
"""How long a search may take, the same as in a SQLite store."""

_SLICE_SECONDS: Final = 0.002
"""How long a search may keep other tasks waiting."""


class Scan:
    """Finds the messages that a search in a SQLite store finds, and lets other tasks run meanwhile.

    Args:
        query: The words that a text must have.
        sender: Whose messages to find; None for everybody's.
    """

    def __init__(self, query: str, sender: Sender | None) -> None:
        self._phrases = words.parse(query)
        self._senders = None if sender is None else set(sender.tokens)
        self._began = self._ran = perf_counter()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to search for."""
        return not (self._phrases or self._senders)

    def finds(self, event: Event) -> bool:
        """Return whether an event is one of the messages."""
        if event.kind != "message" or event.text is None:
            return False
        if self._senders is not None:
            tokens = {words.by_user(event.user), words.by_nick(event.nick)}
            if self._senders.isdisjoint(tokens):
                return False
        return words.matches(self._phrases, event.text)

    async def let_others_run(self) -> None:
        """Let other tasks run if it is their turn.

        Raises:
            Unavailable: The search has taken too long.
        """
        if (now := perf_counter()) - self._ran > _SLICE_SECONDS:
            if now - self._began > _SECONDS:
                raise Unavailable("the search took too long")
            await trio.lowlevel.checkpoint()
            self._ran = perf_counter()
