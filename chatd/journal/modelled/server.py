"""The server of the modelled engine: it serves all nodes, and fails on demand."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import trio

from chatd.changed import Changed
from chatd.journal import StoreError, Unavailable
from chatd.journal.engine import LEASE_SECONDS, Fed
from chatd.journal.modelled.state import State
from chatd.model import Relayed

if TYPE_CHECKING:
    from chatd.journal.modelled.node import ModelEngine

__all__ = ["ModelStore", "Request"]

_T = TypeVar("_T")

Request: TypeAlias = Callable[[State, int], _T]
"""A request: does something to the state at a time, and returns the answer."""


class _Pending:
    """A request that the server has not read yet."""

    def __init__(self, do: Callable[[], object]) -> None:
        self.do = do
        self.read = trio.Event()


class ModelStore:
    """The server: one for all nodes. Its faults are methods.

    Args:
        now: Returns the server's time in ms since 1970.
        replicas: How many replicas must have a batch before it is acknowledged and in the feed.
        lease_seconds: How long a node's lease lasts.
        random: Returns 32 random bytes.

    Attributes:
        jump_ms: By how much the server's clock is ahead.
        life: Names the life of the server's process; None while there is none.
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
        self.life: str | None = random().hex()
        self.stalled = False
        self.unfit: str | None = None
        self.memory = 0
        self.memory_limit = math.inf
        self._now = now
        self._replicas = replicas
        self._state = State()
        self._log: list[tuple[int, Request[object]]] = []
        self._replicated: tuple[int, int] | None = None
        """While the replicas are away: how many requests they have got, and up to which position.
        """
        self._pending: list[_Pending] = []
        self._engines: set[ModelEngine] = set()

    # ---- faults

    def kill(self) -> None:
        """End the server's process: every link is gone."""
        self.life = None
        self.stalled = False
        for one in self._pending:
            one.read.set()
        self._pending.clear()
        self.changed.notify()

    def restart(self, lose: int = 0) -> None:
        """Start another process, without the last ``lose`` requests that changed something."""
        self.kill()
        self._log = self._log[: len(self._log) - lose]
        self._state = State()
        for now, request in self._log:
            with suppress(Unavailable, StoreError):  # it was refused then, too
                self._state.time = now
                request(self._state, now)
        self.life = self.random().hex()
        self.changed.notify()

    def cut_replicas(self) -> None:
        """Let the replicas get nothing more. With ``replicas``, nothing is acknowledged then."""
        self._replicated = (len(self._log), self._state.position)

    def heal_replicas(self) -> None:
        """Let the replicas get everything again."""
        self._replicated = None
        self.changed.notify()

    def fail_over(self) -> None:
        """Replace the server by a replica, which lacks what it could not get."""
        lose = 0 if self._replicated is None else len(self._log) - self._replicated[0]
        self._replicated = None
        self.restart(lose)

    def stall(self) -> None:
        """Let requests wait, as a stopped process does."""
        self.stalled = True

    def go_on(self) -> None:
        """Read the requests that wait, also those whose senders have given up."""
        self.stalled = False
        pending, self._pending = self._pending, []
        for one in pending:
            one.do()
            one.read.set()
        self.changed.notify()

    def trim(self) -> None:
        """Remove all of the feed but its last entry."""
        del self._state.feed[:-1]

    # ---- serving

    def check(self) -> None:
        """Raise StoreError if the server cannot hold the store as promised."""
        if self.unfit is not None:
            raise StoreError(self.unfit)

    @property
    def replicas(self) -> int:
        """How many replicas are connected."""
        return self._replicas if self._replicated is None else 0

    def connect(self, engine: ModelEngine) -> None:
        self._engines.add(engine)

    def disconnect(self, engine: ModelEngine) -> None:
        self._engines.discard(engine)

    async def serve(
        self,
        engine: ModelEngine,
        request: Request[_T],
        *,
        changes: bool = False,
        replicated: bool = False,
    ) -> _T:
        """Return the answer to a node's request; wait for ever if there is none.

        Args:
            engine: The node's engine.
            request: The request.
            changes: Whether it changes something.
            replicated: Whether the answer must wait until the replicas have the change.
        """
        answer: list[_T | Unavailable | StoreError] = []

        def do() -> None:
            now = self._now() + self.jump_ms
            if changes:
                self._log.append((now, request))
            self._state.time = now
            try:
                answer.append(request(self._state, now))
            except (Unavailable, StoreError) as refusal:
                answer.append(refusal)
            self.changed.notify()

        link = engine.link
        while engine.cut:
            await self.changed.wait()
        engine.check(link)
        if engine.late is not None:
            engine.late.append(do)
            while link is engine.link:
                await self.changed.wait()
            engine.check(link)
        if self.stalled:
            pending = _Pending(do)
            self._pending.append(pending)
            await pending.read.wait()
        else:
            do()
        while engine.deaf or (replicated and self._replicas and self._replicated):
            await self.changed.wait()
        engine.check(link)
        [outcome] = answer
        if isinstance(outcome, Unavailable | StoreError):
            raise outcome
        return outcome

    def entries(self, after: int, node: str, wanted: Callable[[str], bool]) -> list[Fed]:
        """Return what follows a position in the feed, and has reached the replicas."""
        upto = None
        if self._replicas and self._replicated:
            upto = self._replicated[1]
        return self._state.entries_after(after, upto, node, wanted)

    def publish(self, sender: ModelEngine, kind: str, body: bytes) -> None:
        for engine in self._engines:
            if engine is not sender and not engine.cut:
                engine.published.append(Relayed(0, kind, body))
        self.changed.notify()
