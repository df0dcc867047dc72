"""Search by reading the texts themselves, for stores that have no index of words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Final, TypeAlias

import trio

from chatd.journal import MOST_HITS, Hits, Sender, Unavailable, first_hits, words
from chatd.model import Event

__all__ = ["Scan", "search"]

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


_Newest: TypeAlias = Callable[[Scan, str, int, int | None, int], Awaitable[list[Event]]]


async def search(
    newest: _Newest,
    query: str,
    rooms: Mapping[str, int],
    limit: int,
    sender: Sender | None,
    before: int | None,
) -> Hits:
    """Return the hits of `Journal.search`, whose other arguments these are.

    Args:
        newest: Returns the newest messages that a scan finds in a room, before a number and a time
            (None for any time), and at most so many.
        query: The words.
        rooms: The number below which to search, for each room.
        limit: How many messages to return.
        sender: Whose messages to find.
        before: The time before which the messages were sent.

    Raises:
        Unavailable: The search has taken too long, or the store cannot be read.
    """
    scan = Scan(query, sender)
    if scan.empty:
        return Hits([], more=False)
    by_time = before is not None
    most = MOST_HITS if by_time else max(0, limit)
    found: list[Event] = []
    for room, below in rooms.items():
        found += await newest(scan, room, below, before, most + 1)
    if by_time:
        found.sort(key=lambda event: (event.at, event.position), reverse=True)
    return first_hits(iter(found), max(0, limit), by_time=by_time)
