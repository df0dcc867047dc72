"""One daemon on a store of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import trio

from chatd.journal import Journal
from chatd.journal.memory import MemoryJournal
from chatd.journal.sqlite import open_sqlite
from chatd.logs import Log
from chatd.testing.disk import FaultyJournal
from chatd.testing.node import Node
from tests.simulation.actions import Actions
from tests.simulation.checks import Ledger
from tests.simulation.steps import action
from tests.simulation.world import KEPT, KEYS, PIPE_BYTES, SETTINGS

__all__ = ["InMemory", "OnFile"]


class Alone(Actions):
    """A daemon, its disk, and what can happen to them."""

    disk: FaultyJournal

    @asynccontextmanager
    async def opened(self, _log: Log) -> AsyncGenerator[Journal]:
        """Open the store."""
        raise NotImplementedError
        yield

    def build(self, daemons: trio.Nursery, folder: Path) -> None:
        self.folder = folder
        self.nodes = [
            Node(
                SETTINGS,
                self.opened,
                now=self.now,
                keys=KEYS,
                nursery=daemons,
                pipe_bytes=PIPE_BYTES,
            )
        ]

    async def heal(self) -> None:
        self.disk.full = self.disk.loses_confirmation = False
        if not self.nodes[0].running:
            await self.nodes[0].start()

    @action(1)
    async def restart(self) -> None:
        """Drain a daemon and start it again."""
        if self.nodes[0].running:
            await self.nodes[0].drain()
        await self.nodes[0].start()

    @action(1)
    async def kill(self) -> None:
        """Kill a daemon and start it again."""
        if self.nodes[0].running:
            await self.nodes[0].kill()
        await self.nodes[0].start()

    @action(2)
    def fill_disk(self) -> None:
        self.disk.full = True

    @action(3)
    def free_disk(self) -> None:
        self.disk.full = False

    @action(3)
    def lose_confirmation(self) -> None:
        self.disk.loses_confirmation = True


class InMemory(Alone):
    """The store is in memory, and outlives the daemon."""

    def build(self, daemons: trio.Nursery, folder: Path) -> None:
        super().build(daemons, folder)
        memory = self._memory = MemoryJournal(now=self.now, retention=KEPT)
        self.ledger = Ledger(lambda room: memory._rooms[room].seq)

    @asynccontextmanager
    async def opened(self, _log: Log) -> AsyncGenerator[Journal]:
        self.disk = FaultyJournal(self._memory)
        yield cast("Journal", self.disk)


class OnFile(Alone):
    """The store is SQLite's."""

    @asynccontextmanager
    async def opened(self, log: Log) -> AsyncGenerator[Journal]:
        async with open_sqlite(
            self.folder / "chat.db",
            retention=KEPT,
            now=self.now,
            elapsed=trio.current_time,
            runtime_dir=self.folder,
            report=log.emit,
        ) as journal:
            self.disk = FaultyJournal(journal)
            yield cast("Journal", self.disk)
