"""The reads of a store that several daemons share. Those of pages of logs take turns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

import trio

from chatd.journal import Hits, Sender
from chatd.journal.engine import Engine, Holder, Node
from chatd.journal.scan import Scan, search
from chatd.model import Entered, Event, Head, LogEntry, Record, UserRecord

__all__ = ["SharedReads"]

_T = TypeVar("_T")

PAGES: Final = 16
"""How many pages of logs are read at once. The others wait, so that clients who all come back at
the same time keep neither the engine nor this daemon's event loop from other work."""

SCAN_EVENTS: Final = 500
"""How many events a search reads at a time."""


class SharedReads(ABC):
    """The reads of `chatd.journal.shared.SharedJournal`. Each raises `Unavailable` if it fails.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pages = trio.Semaphore(PAGES)

    @abstractmethod
    async def _ask(self, asking: Callable[[], Awaitable[_T]]) -> _T:
        """Return what the engine answers. Note if the link to it is lost."""

    async def _ask_page(self, asking: Callable[[], Awaitable[_T]]) -> _T:
        async with self._pages:
            return await self._ask(asking)

    async def search(
        self,
        query: str,
        rooms: Mapping[str, int],
        limit: int,
        *,
        sender: Sender | None = None,
        before: int | None = None,
    ) -> Hits:
        return await search(self._newest, query, rooms, limit, sender, before)

    async def _newest(
        self, scan: Scan, room: str, below: int, before: int | None, most: int
    ) -> list[Event]:
        """Return the newest of a room's messages, before a number and a time."""
        found: list[Event] = []
        while page := await self.read_back(room, below, SCAN_EVENTS):
            below = page[0].seq
            for event in reversed(page):
                if (before is None or event.at < before) and scan.finds(event):
                    found.append(event)
                    if len(found) == most:
                        return found
                await scan.let_others_run()
        return found

    async def members(self, room: str) -> list[Entered]:
        """See `Engine.members`. Raise Unavailable if the engine is out of reach."""
        return await self._ask(lambda: self._engine.members(room))

    async def occupied(self) -> dict[str, tuple[str, int]]:
        """See `Engine.occupied`. Raise Unavailable if the engine is out of reach."""
        return await self._ask(self._engine.occupied)

    async def holder(self, look: str) -> Holder | None:
        """See `Engine.holder`. Raise Unavailable if the engine is out of reach."""
        return await self._ask(lambda: self._engine.holder(look))

    async def nodes(self) -> list[Node]:
        """See `Engine.nodes`. Raise Unavailable if the engine is out of reach."""
        return await self._ask(self._engine.nodes)

    async def read(self, room: str, after: int, upto: int, limit: int) -> list[Event]:
        return await self._ask_page(lambda: self._engine.read(room, after, upto, limit))

    async def read_back(self, room: str, before: int, limit: int) -> list[Event]:
        return await self._ask_page(lambda: self._engine.read_back(room, before, limit))

    async def read_rooms(self, rooms: Mapping[str, int], upto: int, limit: int) -> list[Event]:
        return await self._ask_page(lambda: self._engine.read_rooms(rooms, upto, limit))

    async def head(self, room: str) -> Head | None:
        return await self._ask(lambda: self._engine.head(room))

    async def rooms(self) -> list[Head]:
        return await self._ask(self._engine.rooms)

    async def seq_at(self, room: str, position: int) -> int:
        return await self._ask(lambda: self._engine.seq_at(room, position))

    async def unread(self, room: str, user: str, after: int, most: int) -> int:
        return await self._ask_page(lambda: self._engine.unread(room, user, after, most))

    async def records(self, kind: str, prefix: str = "", limit: int = -1) -> list[Record]:
        return await self._ask(lambda: self._engine.records(kind, prefix, limit))

    async def user(self, user: str) -> UserRecord | None:
        return await self._ask(lambda: self._engine.user(user))

    async def present(self, since: int) -> list[UserRecord]:
        return await self._ask(lambda: self._engine.present(since))

    async def subjects(self) -> list[UserRecord]:
        return await self._ask(self._engine.subjects)

    async def entries(self, room: str, after: int, limit: int) -> list[LogEntry]:
        return await self._ask(lambda: self._engine.entries(room, after, limit))

    async def entries_of(self, user: str, after: int) -> tuple[list[LogEntry], int | None]:
        return await self._ask(lambda: self._engine.entries_of(user, after))

    async def newest(self) -> int:
        return await self._ask(self._engine.position)
