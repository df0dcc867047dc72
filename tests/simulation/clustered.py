"""Three daemons on one engine, all of which fail."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import trio

from chatd.journal.modelled import ModelStore
from chatd.testing.cluster import ClusterNode
from tests.simulation.actions import Actions
from tests.simulation.checks import Ledger
from tests.simulation.steps import action
from tests.simulation.world import KEYS, PIPE_BYTES, SETTINGS

__all__ = ["NODES", "Clustered"]

NODES: Final = 3

EXCUSED_SECONDS: Final = 10.0
"""After a fault all daemons know everything again within this time."""


class Clustered(Actions):
    """Daemons that share an engine, and what can happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.exact = False
        self.deadline = 2.0
        # The lease of a dead daemon, the next look for such ones, the grace of those who left.
        self.rest_seconds = 15 + 5 + 10 + 2.0
        self._faults: set[str] = set()
        self._healed = -math.inf

    def build(self, daemons: trio.Nursery, folder: Path) -> None:
        store = self.store = ModelStore(self.true_now)
        self.ledger = Ledger(lambda room: store._state._rooms[room].seq)
        self.cluster = [
            ClusterNode(
                SETTINGS, store, now=self.now, keys=KEYS, nursery=daemons, pipe_bytes=PIPE_BYTES
            )
            for _ in range(NODES)
        ]
        self.nodes = list(self.cluster)

    @property
    def excused(self) -> bool:
        return bool(self._faults) or trio.current_time() < self._healed + EXCUSED_SECONDS

    def _fails(self, what: str) -> None:
        self._faults.add(what)

    def _healthy(self, what: str) -> None:
        self._faults.discard(what)
        self._healed = trio.current_time()

    async def heal(self) -> None:
        self.resume_engine()
        self.start_engine()
        for number, node in enumerate(self.cluster):
            self.mend(str(number))
            node.engine.deliver()
        await trio.sleep(SETTINGS.drain.seconds + 1)  # some still drain
        for one in self.nodes:
            if not one.running:
                await one.start()
        await trio.sleep(20)
        self._faults.clear()

    # ---- daemons

    @action(5)
    async def kill(self, node: str) -> None:
        if self.nodes[int(node)].running:
            await self.nodes[int(node)].kill()
            self._healthy("killed")

    @action(4)
    def drain(self, node: str) -> None:
        if self.nodes[int(node)].running:
            self.people_tasks.start_soon(self.nodes[int(node)].drain)
            self._healthy("drained")

    @action(12)
    async def start(self, node: str) -> None:
        """Start a daemon that is not running, where there is an engine."""
        one = self.nodes[int(node)]
        if not one.running and self.store.life is not None and not self.store.stalled:
            with trio.move_on_after(5):
                await one.start()

    # ---- links to the engine

    @action(4)
    def cut_off(self, node: str) -> None:
        self.cluster[int(node)].cut_off()
        self._fails(f"link {node}")

    @action(3)
    def lose_answers(self, node: str) -> None:
        self.cluster[int(node)].engine.lose_answers()
        self._fails(f"link {node}")

    @action(3)
    def hold_back(self, node: str) -> None:
        self.cluster[int(node)].engine.hold_back()
        self._healthy(f"link {node}")

    @action(3)
    def deliver(self, node: str) -> None:
        self.cluster[int(node)].engine.deliver()
        self._healthy(f"link {node}")

    @action(3)
    def break_link(self, node: str) -> None:
        self.cluster[int(node)].engine.break_link()
        self._healthy(f"link {node}")

    @action(12)
    def mend(self, node: str) -> None:
        self.cluster[int(node)].heal()
        self._healthy(f"link {node}")

    # ---- the engine

    @action(3)
    def kill_engine(self) -> None:
        self.store.kill()
        self._fails("engine")

    @action(8)
    def start_engine(self) -> None:
        if self.store.life is None:
            self.store.restart()
        if not self.store.stalled:
            self._healthy("engine")

    @action(3)
    def stall_engine(self) -> None:
        if self.store.life is not None:
            self.store.stall()
            self._fails("engine")

    @action(8)
    def resume_engine(self) -> None:
        if self.store.stalled:
            self.store.go_on()
            self._healthy("engine")

    @action(2)
    def jump_engine(self, back: str) -> None:
        """Set the engine's clock a little."""
        self.store.jump_ms += 1000 * (int(back) - 2)

    @action(3)
    def trim(self) -> None:
        self.store.trim()
