"""Nodes on one modelled engine, each with its journal, and what its feed has brought."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from chatd.journal import Unavailable
from chatd.journal.engine import Engine
from chatd.journal.modelled import ModelEngine, ModelStore
from chatd.journal.shared import SharedJournal, open_shared
from chatd.model import Event, FeedEntry, Operation, Outcome, Passed, Post, Renewed

NOW = 1_700_000_000_000


def trio_now() -> int:
    """Return Trio's time as the time of day, in ms."""
    return NOW + round(trio.current_time() * 1000)


def post(text: str, room: str = "r", *, key: str | None = None) -> Post:
    return Post(room, room, "u", "n", text, key=key)


@asynccontextmanager
async def closed_after(seconds: float, engine: Engine) -> AsyncIterator[None]:
    """Close an engine's links after some time, as the journal does when a batch is overdue."""

    async def close() -> None:
        await trio.sleep(seconds)
        engine.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close)
        yield
        nursery.cancel_scope.cancel()


class Reports(list[tuple[str | None, str | None]]):
    """The states of a store and their details, as an operator's log gets them."""

    def __call__(self, _event: str, /, **fields: object) -> None:
        self.append((str(fields.get("state")), str(fields.get("detail"))))

    @property
    def states(self) -> list[str | None]:
        return [state for state, _ in self]


class TestNode:
    """A node: its engine, its journal, and the entries that came by the feed."""

    __test__ = False

    def __init__(self, engine: ModelEngine, journal: SharedJournal, reports: Reports) -> None:
        self.engine = engine
        self.journal = journal
        self.reports = reports
        self.entries: list[FeedEntry] = []

    async def say(self, *batch: Operation) -> list[Outcome]:
        """Commit a batch as the bus does: its senders are answered whatever comes of it."""
        outcomes: list[Outcome] | Unavailable
        try:
            outcomes = await self.journal.commit(batch)
        except Unavailable as error:
            outcomes = error
        await self.journal.answered([])
        if isinstance(outcomes, Unavailable):
            raise outcomes
        return outcomes

    @property
    def texts(self) -> list[str | None]:
        return [entry.text for entry in self.entries if isinstance(entry, Event)]

    def items(self) -> list[FeedEntry]:
        """Return the items, without those that only pass entries over."""
        return [one for one in self.entries if not isinstance(one, Event | Passed)]

    async def read(self, committed: trio.MemoryReceiveChannel[Sequence[FeedEntry]]) -> None:
        async for block in committed:
            self.entries += block
            if any(isinstance(entry, Renewed) and entry.lost for entry in block):
                self.journal.begin_anew()


@asynccontextmanager
async def open_node(
    store: ModelStore, wanted: Callable[[str], bool] = lambda _room: True
) -> AsyncIterator[TestNode]:
    """Open a node for the duration of the block."""
    engine, reports = ModelEngine(store), Reports()
    async with open_shared(engine, report=reports, hold_ms=lambda: 60_000) as journal:
        node = TestNode(engine, journal, reports)
        sending, committed = trio.open_memory_channel[Sequence[FeedEntry]](1)
        journal.start(sending.send, wanted)
        async with trio.open_nursery() as nursery, sending:
            nursery.start_soon(node.read, committed)
            yield node
            await journal.aclose()
