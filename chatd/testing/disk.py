"""A journal whose disk may be full, or may not confirm a commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chatd.journal import Journal, Unavailable
from chatd.model import Event, Operation, Outcome, Receipt

__all__ = ["FaultyJournal"]


class FaultyJournal:
    """Stands in front of another journal; what is not here is that one's.

    While ``full`` is set, nothing is committed. With ``loses_confirmation`` the next commit is done
    and raises `Unavailable` all the same; `recover` returns its events.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._unconfirmed: list[Event] = []
        self.full = False
        self.loses_confirmation = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

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

    async def recover(self) -> list[Event]:
        found = await self._journal.recover() + self._unconfirmed
        self._unconfirmed = []
        return found
