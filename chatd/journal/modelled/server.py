"""The server of the modelled engine and its replicas: they serve all nodes, and fail on demand."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import trio

from chatd.changed import Changed
from chatd.journal import StoreError, Unavailable
from chatd.journal.engine import LEASE_SECONDS, Lost
from chatd.journal.modelled.state import State
from chatd.model import Relayed

if TYPE_CHECKING:
    from chatd.journal.modelled.node import ModelEngine

__all__ = ["Link", "ModelStore", "Request", "Server"]

_T = TypeVar("_T")

Request: TypeAlias = Callable[[State, int], _T]
"""A request: does something to the state at a time, and returns the answer."""


class Server:
    """A process that serves nodes.

    Args:
        life: Names this process and its time as the primary.
        log: The requests that changed something before, each with its time.

    Attributes:
        life: See above.
        log: See above; later requests are appended.
        state: What these requests have made.
        running: Whether the process runs and acts as the primary.
        stalled: Whether requests wait.
        waiting: Functions that carry these out.
    """

    def __init__(self, life: str, log: Sequence[tuple[int, Request[object]]]) -> None:
        self.life = life
        self.log = list(log)
        self.state = State()
        self.running = True
        self.stalled = False
        self.waiting: list[Callable[[], None]] = []
        for now, request in self.log:
            with suppress(Unavailable, StoreError):  # it was refused then, too
                self.state.time = now
                request(self.state, now)

    def carry_out(self, request: Request[_T], now: int, *, changes: bool = True) -> _T:
        """Do what a request asks for."""
        if changes:
            self.log.append((now, request))
        self.state.time = now
        return request(self.state, now)

    def go_on(self) -> None:
        """Read the requests that wait."""
        self.stalled = False
        waiting, self.waiting = self.waiting, []
        for do in waiting:
            do()

    def end(self) -> None:
        """End the process, or its time as the primary: every link to it is gone."""
        self.running = self.stalled = False
        self.waiting.clear()


class Link:
    """A node's connection to a server."""

    def __init__(self, server: Server) -> None:
        self.server = server


class ModelStore:
    """The server and its replicas: one for all nodes. Their faults are methods.

    The *primary* is the server that nodes find. It has one replica more than ``replicas``, so that
    one may be away; a failover makes a replica the primary. The former primary may go on meanwhile,
    until it is demoted to a replica, and have nodes that still reach it.

    Args:
        now: Returns the servers' time in ms since 1970.
        replicas: How many replicas must have the state from which an answer or an entry of the feed
            was taken, before a node gets it.
        lease_seconds: How long a node's lease lasts.
        random: Returns 32 random bytes.

    Attributes:
        jump_ms: By how much the servers' clock is ahead.
        primary: The present primary; the last one if its process has ended.
        former: The former primary, until it is demoted; None if there is none.
        unfit: Why the server cannot hold the store as promised; None if it can.
        memory, memory_limit: What `Condition` says.
    """

    def __init__(
        self,
        now: Callable[[], int],
        *,
        replicas: int = 0,
        lease_seconds: float = LEASE_SECONDS,
        random: Callable[[], bytes] = lambda: secrets.token_bytes(32),
    ) -> None:
        self.jump_ms = 0
        self.lease_seconds = lease_seconds
        self.changed = Changed()
        self.random = random
        self.primary = Server(random().hex(), ())
        self.former: Server | None = None
        self.unfit: str | None = None
        self.memory = 0
        self.memory_limit = math.inf
        self._now = now
        self._replicas = replicas
        self._copies: list[int | None] = [None] * (replicas + 1)
        """How many of the primary's requests each replica has; None for all, as they come."""
        self._apart: set[ModelEngine] = set()
        """The nodes that reach the former primary instead of the present one."""
        self._engines: set[ModelEngine] = set()

    @property
    def running(self) -> bool:
        """Whether there is a primary."""
        return self.primary.running

    # ---- faults

    def kill(self) -> None:
        """End the primary's process: every link to it is gone."""
        self.primary.end()
        self.changed.notify()

    def restart(self, lose: int = 0) -> None:
        """Start another process, without the last ``lose`` requests that changed something."""
        self.primary.end()
        self._replace(self.primary.log[: max(0, len(self.primary.log) - lose)])

    def stall(self) -> None:
        """Let requests wait, as a stopped process does."""
        self.primary.stalled = self.primary.running

    def go_on(self) -> None:
        """Read the requests that wait, also those whose senders have given up."""
        for server in (self.primary, self.former):
            if server is not None:
                server.go_on()
        self.changed.notify()

    def trim(self) -> None:
        """Remove all of the feed but its last entry, also from the replicas."""
        self.primary.carry_out(lambda state, _now: state.trim(), self._now() + self.jump_ms)

    def cut_replica(self, number: int) -> None:
        """Let a replica get nothing more, until `heal_replicas`."""
        if self._copies[number] is None:
            self._copies[number] = len(self.primary.log)

    def cut_replicas(self) -> None:
        """Let no replica get anything more. With ``replicas``, nothing is answered then."""
        for number in range(len(self._copies)):
            self.cut_replica(number)

    def heal_replicas(self) -> None:
        """Let the replicas get everything again."""
        self._copies = [None] * len(self._copies)
        self.changed.notify()

    def fail_over(self, *, lose: int = 0, apart: Iterable[ModelEngine] | None = None) -> None:
        """Make the replica that has the most the primary. The former one becomes a replica.

        Args:
            lose: How many of the last requests that replica lacks besides, but never one that
                ``replicas`` replicas have.
            apart: If given, the former primary goes on until `demote`, without replicas, and these
                nodes reach it instead of the new one. The links of the others to it are closed.
        """
        self.demote()
        copies = sorted((self._has(copy) for copy in self._copies), reverse=True)
        safe = copies[self._replicas - 1] if self._replicas else 0
        if apart is None:
            self.primary.end()
        else:
            self.former, self._apart = self.primary, set(apart)
            for engine in self._engines - self._apart:
                engine.break_link()
        self._replace(self.primary.log[: max(copies[0] - lose, safe)])

    def demote(self) -> None:
        """Make the former primary a replica: what it got meanwhile is gone."""
        if self.former is not None:
            self.former.end()
            self.former = None
            self._apart.clear()
            self.changed.notify()

    def _has(self, copy: int | None) -> int:
        return len(self.primary.log) if copy is None else copy

    def _replace(self, log: Sequence[tuple[int, Request[object]]]) -> None:
        """Begin another primary's time."""
        self.primary = Server(self.random().hex(), log)
        self._copies = [None if copy is None else min(copy, len(log)) for copy in self._copies]
        self.changed.notify()

    # ---- serving

    def check(self) -> None:
        """Raise StoreError if the server cannot hold the store as promised."""
        if self.unfit is not None:
            raise StoreError(self.unfit)

    @property
    def replicas(self) -> int:
        """How many replicas are connected."""
        return self._copies.count(None)

    def connect(self, engine: ModelEngine) -> Link | None:
        """Return a link to the server that a node reaches; None if nothing listens there."""
        former = self.former if engine in self._apart else None
        server = self.primary if former is None else former
        self._engines.add(engine)
        return Link(server) if server.running else None

    def disconnect(self, engine: ModelEngine) -> None:
        self._engines.discard(engine)

    async def serve(
        self, engine: ModelEngine, request: Request[_T], *, changes: bool = False
    ) -> _T:
        """Return the answer to a node's request; wait for ever if there is none.

        Args:
            engine: The node's engine.
            request: The request.
            changes: Whether it changes something.
        """
        link = engine.link
        if link is None:
            raise Lost("there is no link to the engine")
        await engine.until(link, lambda: not engine.cut)
        server, done = link.server, trio.Event()
        answer: list[_T | Unavailable | StoreError] = []

        def do() -> None:
            if not server.running:
                return
            now, position = self._now() + self.jump_ms, server.state.position
            try:
                answer.append(server.carry_out(request, now, changes=changes))
            except (Unavailable, StoreError) as refusal:
                answer.append(refusal)
            done.set()
            if server.state.position != position:  # something is in the feed
                self.changed.notify()

        if engine.late is not None:
            engine.late.append(do)
            await engine.until(link, lambda: False)
        elif server.stalled:
            server.waiting.append(do)
        else:
            do()
        await engine.until(link, done.is_set)
        await self.prove(engine, link)
        [outcome] = answer
        if isinstance(outcome, Unavailable | StoreError):
            raise outcome
        return outcome

    async def prove(self, engine: ModelEngine, link: Link) -> None:
        """Wait until enough replicas have what a server holds now, and answers reach the node.

        Raises:
            Lost: The link is gone.
        """
        server, length = link.server, len(link.server.log)
        await engine.until(link, lambda: engine.hears and self._is_proven(server, length))

    def _is_proven(self, server: Server, length: int) -> bool:
        if not self._replicas:
            return True
        copies = sum(self._has(copy) >= length for copy in self._copies)
        return server is self.primary and copies >= self._replicas

    def publish(self, sender: ModelEngine, kind: str, body: bytes) -> None:
        """Send something to the nodes at the same server."""
        for engine in self._engines:
            if engine is not sender and not engine.cut and engine.shares(sender):
                engine.published.append(Relayed(0, kind, body))
        self.changed.notify()
