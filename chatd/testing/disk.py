"""A journal whose disk may be full, or fall silent at the wrong moment."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence

import trio

from chatd.journal import Journal, Retention, Statistics, Unavailable
from chatd.model import Event, Head, Line, Operation, Outcome, Receipt, Record, UserRecord

__all__ = ["FaultyJournal"]


class FaultyJournal:
    """`Journal` in front of another one.

    While ``full``, nothing is committed. With ``loses_confirmation`` the next commit is done and
    not confirmed: `settle` tells of it.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._unconfirmed: list[Event] = []
        self.full = False
        self.loses_confirmation = False

    @property
    def epoch(self) -> str:
        return self._journal.epoch

    @property
    def key(self) -> bytes:
        return self._journal.key

    @property
    def position(self) -> int:
        return self._journal.position

    @property
    def feed(self) -> trio.MemoryReceiveChannel[list[Event]]:
        return self._journal.feed

    @property
    def occupied(self) -> bool:
        return self._journal.occupied

    async def commit(self, batch: Sequence[Operation]) -> list[Outcome]:
        if self.full:
            raise Unavailable("the disk is full")
        outcomes = await self._journal.commit(batch)
        if self.loses_confirmation:
            self.loses_confirmation = False
            self._unconfirmed += [
                outcome.event
                for outcome in outcomes
                if isinstance(outcome, Receipt) and not outcome.duplicate
            ]
            raise Unavailable("the commit was not confirmed")
        return outcomes

    async def settle(self) -> list[Event]:
        found = await self._journal.settle() + self._unconfirmed
        self._unconfirmed = []
        return found

    async def hand_on(self, events: list[Event]) -> None:
        await self._journal.hand_on(events)

    async def read(self, room: str, after: int, upto: int, limit: int) -> list[Event]:
        return await self._journal.read(room, after, upto, limit)

    async def read_back(self, room: str, before: int, limit: int) -> list[Event]:
        return await self._journal.read_back(room, before, limit)

    async def head(self, room: str) -> Head | None:
        return await self._journal.head(room)

    async def rooms(self) -> list[Head]:
        return await self._journal.rooms()

    async def missed(self, rooms: Mapping[str, int], upto: int, limit: int) -> list[Event]:
        return await self._journal.missed(rooms, upto, limit)

    async def seq_at(self, room: str, position: int) -> int:
        return await self._journal.seq_at(room, position)

    async def unread(self, room: str, user: str, after: int, most: int) -> int:
        return await self._journal.unread(room, user, after, most)

    async def search(self, room: str, query: str, before: int, limit: int) -> list[Event]:
        return await self._journal.search(room, query, before, limit)

    async def records(self, shelf: str, prefix: str = "", limit: int = -1) -> list[Record]:
        return await self._journal.records(shelf, prefix, limit)

    async def lines(self, room: str, after: int, limit: int) -> list[Line]:
        return await self._journal.lines(room, after, limit)

    async def lines_of(self, user: str, after: int) -> tuple[list[Line], int | None]:
        return await self._journal.lines_of(user, after)

    def backup(self) -> AsyncGenerator[bytes]:
        return self._journal.backup()

    async def user(self, user: str) -> UserRecord | None:
        return await self._journal.user(user)

    async def present(self, since: int) -> list[UserRecord]:
        return await self._journal.present(since)

    async def index(self) -> bool:
        return await self._journal.index()

    async def subjects(self) -> list[UserRecord]:
        return await self._journal.subjects()

    async def sweep(self) -> bool:
        return await self._journal.sweep()

    def due_in(self) -> float | None:
        return self._journal.due_in()

    def retain(self, retention: Retention) -> None:
        self._journal.retain(retention)

    async def aclose(self) -> None:
        await self._journal.aclose()

    def statistics(self) -> Statistics:
        return self._journal.statistics()
