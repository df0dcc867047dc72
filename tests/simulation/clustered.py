"""Three daemons on one engine, all of which fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import trio

from chatd.journal.modelled import ModelStore
from chatd.journal.modelled.server import Server
from chatd.journal.modelled.state import State, result
from chatd.testing.cluster import ClusterNode
from tests.simulation.actions import Actions
from tests.simulation.checks import Fields, Ledger, RoomView, expect
from tests.simulation.steps import action
from tests.simulation.world import KEYS, PIPE_BYTES, SETTINGS

if TYPE_CHECKING:
    from tests.simulation.people import Link

__all__ = ["NODES", "Clustered", "Forgetful"]

NODES: Final = 3

EXCUSED_SECONDS: Final = 10.0
"""After a fault all daemons know everything again within this time."""


class Clustered(Actions):
    """Daemons that share an engine, and what can happen to them.

    They wait until a replica has what they acknowledge and show, so nothing of that is ever lost.
    """

    replicas: ClassVar[int] = 1

    def __init__(self) -> None:
        super().__init__()
        self.exact = False
        self.deadline = 2.0
        # The lease of a dead daemon, the next look for such ones, the grace of those who left.
        self.rest_seconds = 15 + 5 + 10 + 2.0
        self._faults: set[str] = set()
        self._healed = -math.inf
        self._kept: dict[str, Mapping[str, int]] = {}
        """Former epochs, each with the rooms' numbers up to which the primary has the same log."""
        self._kept_by_former: dict[str, Mapping[str, int]] = {}
        """The same for the former primary, while there is one."""
        self._parted: Mapping[str, int] = {}
        """The rooms' numbers up to which the former primary and the present one are the same."""

    def build(self, daemons: trio.Nursery, folder: Path) -> None:
        store = self.store = ModelStore(self.true_now, replicas=self.replicas)
        self.ledger = Ledger(
            lambda room: max(_heads(server).get(room, 0) for server in self._servers)
        )
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
        if what in self._faults:
            self._faults.remove(what)
            self.mended_at = trio.current_time()
        self._healed = trio.current_time()

    @property
    def _servers(self) -> list[Server]:
        """The servers that take themselves for the primary."""
        former = self.store.former
        return [self.store.primary] if former is None else [self.store.primary, former]

    def entered(self, link: Link, view: RoomView, since: Fields | None, *, recovered: bool) -> None:
        """Check the answer to a join: what is kept must be recovered, and nothing else may be."""
        if since is None or view.epoch is None:
            return
        right = self._resumes(since, view)
        expect(
            recovered == right or right is None or not (recovered or self.keeps_all),
            f"a known position is recovered, another not: {link} in {view.room} from {since} to "
            f"{view.epoch}: {recovered}",
        )

    def _resumes(self, since: Fields, view: RoomView) -> bool | None:
        """Return whether a position can be resumed in a view's epoch; None if that is over."""
        if since["epoch"] == view.epoch:
            return True
        for server in self._servers:
            state = server.state
            if state.epoch == view.epoch and state.life == server.life:
                if since["epoch"] not in state.ended:
                    return False
                if server is self.store.former:
                    return None
                return self._is_kept(since, view.room, state.epoch)
        return None

    def _is_kept(self, since: Fields, room: str, epoch: str) -> bool:
        """Return whether the server of an epoch has what was shown up to a position."""
        former = self.store.former
        at_former = former is not None and former.state.epoch == epoch
        kept = (self._kept_by_former if at_former else self._kept).get(since["epoch"])
        if kept is None:
            return True  # it is the server's own epoch
        seq: int = since["seq"]
        return seq <= kept.get(room, 0)

    def continued(self, link: Link, room: str, since: Fields | None, epoch: str) -> None:
        """Check that a client goes on only if nothing is lost of what it was shown."""
        if all(server.state.epoch != epoch for server in self._servers):
            return  # it is over already: the client reads late
        expect(
            since is None or since["epoch"] == epoch or self._is_kept(since, room, epoch),
            f"a client that was sent lost events is closed: {link} in {room}, {since} to {epoch}",
        )

    def _replace(self, fault: Callable[[], None]) -> None:
        """Replace the primary, or end the former one; record what is lost by that."""
        before, former = self._servers, self.store.former
        fault()
        primary, heads = self.store.primary, _heads(self.store.primary)
        if former is not None:
            self._kept.setdefault(former.state.epoch, self._parted)
        if self.store.former not in {None, former}:
            self._kept_by_former = dict(self._kept)
            self._parted = heads
        for one in before:
            if one not in {former, primary}:
                self._kept.setdefault(one.state.epoch, _heads(one))
        for epoch, kept in self._kept.items():
            self._kept[epoch] = _least(kept, heads)
        self._parted = _least(self._parted, heads)
        if not self.replicas:
            for one in before:
                if one not in self._servers:
                    self._lose(one.state)

    def _lose(self, state: State) -> None:
        """Record what the primary does not have of another server's logs."""
        kept = self._kept[state.epoch]
        for key, room in state._rooms.items():
            seq = kept.get(key, 0)
            self.ledger.lose(result(state.entries(key, seq, 100_000)))
            self.ledger.lose_removed(key, range(seq + 1, room.first))
        self.bans.clear()
        self.mutes.clear()

    async def heal(self) -> None:
        self.resume_engine()
        self.demote()
        self.heal_replicas()
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

    @action(2)
    async def kill(self, node: str) -> None:
        if self.nodes[int(node)].running:
            await self.nodes[int(node)].kill()
            self._healthy("killed")

    @action(2)
    def drain(self, node: str) -> None:
        if self.nodes[int(node)].running:
            self.people_tasks.start_soon(self.nodes[int(node)].drain)
            self._healthy("drained")

    @action(20)
    async def start(self, node: str) -> None:
        """Start a daemon that is not running, where there is an engine."""
        one = self.nodes[int(node)]
        if not one.running and self.store.running and not self.store.primary.stalled:
            with trio.move_on_after(5):
                await one.start()

    # ---- links to the engine

    @action(2)
    def cut_off(self, node: str) -> None:
        self.cluster[int(node)].cut_off()
        self._fails(f"link {node}")

    @action(1)
    def lose_answers(self, node: str) -> None:
        self.cluster[int(node)].engine.lose_answers()
        self._fails(f"link {node}")

    @action(1)
    def hold_back(self, node: str) -> None:
        self.cluster[int(node)].engine.hold_back()
        self._healthy(f"link {node}")

    @action(3)
    def deliver(self, node: str) -> None:
        self.cluster[int(node)].engine.deliver()
        self._healthy(f"link {node}")

    @action(2)
    def break_link(self, node: str) -> None:
        self.cluster[int(node)].engine.break_link()
        self._healthy(f"link {node}")

    @action(20)
    def mend(self, node: str) -> None:
        self.cluster[int(node)].heal()
        self._healthy(f"link {node}")

    # ---- the engine

    @action(1)
    def kill_engine(self) -> None:
        self.store.kill()
        self._fails("engine")

    @action(15)
    def start_engine(self) -> None:
        if not self.store.running:
            self._replace(self.store.restart)
        if not self.store.primary.stalled:
            self._healthy("engine")

    @action(1)
    def stall_engine(self) -> None:
        if self.store.running:
            self.store.stall()
            self._fails("engine")

    @action(15)
    def resume_engine(self) -> None:
        if self.store.running:
            self.store.go_on()
            self._healthy("engine")

    @action(1)
    def jump_engine(self, back: str) -> None:
        """Set the engine's clock a little."""
        self.store.jump_ms += 1000 * (int(back) - 2)

    @action(1)
    def trim(self) -> None:
        self.store.trim()

    # ---- its replicas

    @action(2)
    def cut_replicas(self) -> None:
        self.store.cut_replicas()
        if self.replicas:
            self._fails("replicas")

    @action(8)
    def heal_replicas(self) -> None:
        self.store.heal_replicas()
        self._healthy("replicas")

    @action(3)
    def fail_over(self, back: str) -> None:
        """Make a replica the primary, which may lack what need not be replicated."""
        self._replace(lambda: self.store.fail_over(lose=int(back) - 1))
        self._healthy("engine")

    @action(2)
    def split(self, node: str, target: str) -> None:
        """Make a replica the primary, which not every daemon reaches."""
        apart = {int(node), int(target) % NODES}
        engines = [self.cluster[number].engine for number in apart]
        self._replace(lambda: self.store.fail_over(apart=engines))
        self._fails("former")
        self._healthy("engine")

    @action(6)
    def demote(self) -> None:
        self._replace(self.store.demote)
        self._healthy("former")


class Forgetful(Clustered):
    """The same, but the daemons do not wait for replicas: what they showed may be lost."""

    replicas = 0

    @property
    def forgetful(self) -> bool:
        return self.excused

    @property
    def divided(self) -> bool:
        return self.store.former is not None

    @action(2)
    def lose_tail(self, back: str) -> None:
        """Kill the engine and start it again without its last changes."""
        self._replace(lambda: self.store.restart(lose=int(back)))
        self._healthy("engine")


def _heads(server: Server) -> dict[str, int]:
    """Return the last number of each room's log."""
    return {room: one.seq for room, one in server.state._rooms.items()}


def _least(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """Return each room's lesser number."""
    return {room: min(seq, one.get(room, 0)) for room, seq in other.items()}
