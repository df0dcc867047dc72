"""A node's client of the modelled engine, whose link fails on demand."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import trio

from chatd.histogram import Histogram
from chatd.journal import Unavailable
from chatd.journal.engine import FEED_SECONDS, Condition, Fed, Holder, Life, Lost, Node, Sweep
from chatd.journal.modelled.server import Link, ModelStore, Request
from chatd.journal.modelled.state import State, result
from chatd.journal.retention import Retention
from chatd.model import (
    Entered,
    Event,
    Head,
    LogEntry,
    Operation,
    Outcome,
    Record,
    Relayed,
    UserRecord,
)

__all__ = ["ModelEngine"]

_T = TypeVar("_T")

TIMEOUT_SECONDS: Final = 2.0
"""How long a node waits for an answer, by default."""


class ModelEngine:
    """An `Engine` on a `ModelStore`. The faults of its link are methods.

    Args:
        store: The server.
        timeout_seconds: How long to wait for an answer.

    Attributes:
        node: The node's id; empty before `enter`.
        cut: Whether nothing gets through, after `cut_off`.
        deaf: Whether no answers get through, after `lose_answers`.
        late: The requests of this link that `hold_back` keeps; None if it keeps none.
        published: What other nodes have published and `feed` has not returned yet.
        link: The link to the server; None if there is none.
        format: The newest format of the store that this node can read.
        on_damage: See `Engine`; nothing is ever damaged here.
        proof_seconds: See `Engine`; the model does not measure them.
    """

    format = 1

    def __init__(self, store: ModelStore, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self.node = ""
        self.cut = False
        self.deaf = False
        self.late: list[Callable[[], None]] | None = None
        self.published: list[Relayed] = []
        self._store = store
        self._timeout = timeout_seconds
        self.link: Link | None = None
        self.proof_seconds = Histogram()
        self.on_damage: Callable[[str], None] = lambda _: None
        self._entered: str | None = None
        """The life that the node entered last."""
        self._parked: list[Callable[[], None]] = []

    # ---- faults

    def cut_off(self) -> None:
        """Let nothing through, without notice, until `heal`."""
        self.cut = True

    def lose_answers(self) -> None:
        """Let requests through but no answers, until `heal`."""
        self.deaf = True

    def heal(self) -> None:
        """End `cut_off` and `lose_answers`."""
        self.cut = self.deaf = False
        self._store.changed.notify()

    def break_link(self) -> None:
        """Close the link, with notice."""
        self.link = None
        self._store.changed.notify()

    def hold_back(self) -> None:
        """Keep what is sent on this link in a buffer, from where `deliver` brings it, too late."""
        self.late = self._parked

    def deliver(self) -> None:
        """Bring what `hold_back` has kept."""
        parked, self._parked = self._parked, []
        for do in parked:
            do()

    # ---- the link

    @property
    def hears(self) -> bool:
        """Whether answers come through."""
        return not self.cut and not self.deaf

    async def until(self, link: Link, condition: Callable[[], bool]) -> None:
        """Wait on a link until a condition holds. Raise `Lost` once it is known to be gone."""
        while True:
            if link is not self.link or (self.hears and not link.server.running):
                raise Lost("the link to the engine is closed")
            if condition():
                return
            await self._store.changed.wait()

    def shares(self, other: ModelEngine) -> bool:
        """Return whether this node and another one have links to the same server."""
        mine, others = self.link, other.link
        return mine is not None and others is not None and mine.server is others.server

    # ---- Engine

    @property
    def lease_seconds(self) -> float:
        return self._store.lease_seconds

    async def _ask(self, request: Request[_T], *, changes: bool = False) -> _T:
        with trio.move_on_after(self._timeout):
            await trio.lowlevel.checkpoint()
            return await self._store.serve(self, request, changes=changes)
        self.break_link()
        raise Lost("the engine did not answer in time")

    async def enter(self, last: tuple[int, str] | None, confirmed: int, facts: bytes) -> Life:
        store, node, fresh = self._store, self.node, self._store.random()
        self.late, self.link = None, store.connect(self)
        if self.link is None:
            await trio.lowlevel.checkpoint()
            raise Lost("nothing listens at the engine's address")
        store.check()
        life = self.link.server.life
        if life == self._entered:
            last, confirmed = None, 0
        lease_ms = round(store.lease_seconds * 1000)
        entered = await self._ask(
            lambda state, now: state.enter(
                now, life, fresh, node, last, confirmed, lease_ms, facts, self.format
            ),
            changes=True,
        )
        self.node, self._entered = entered.node, life
        return entered

    async def commit(self, number: int, batch: Sequence[Operation]) -> list[Outcome]:
        node, fresh = self.node, self._store.random()
        return await self._write(
            lambda state, now: state.commit_of(now, fresh, node, number, batch)
        )

    async def void(self, node: str, number: int) -> list[Outcome] | None:
        return await self._write(lambda state, _now: state.void(node, number))

    async def _write(self, request: Request[_T]) -> _T:
        await trio.lowlevel.checkpoint()
        return await self._store.serve(self, request, changes=True)

    async def feed(self, after: int, wanted: Callable[[str], bool]) -> Sequence[Fed | Relayed]:
        store, link = self._store, self.link
        if link is None:
            raise Lost("there is no link to the engine")
        server = link.server
        with trio.move_on_after(FEED_SECONDS + self._timeout):
            quiet = trio.current_time() + FEED_SECONDS
            await trio.lowlevel.checkpoint()
            while True:
                await self.until(link, lambda: self.hears and not server.stalled)
                if self.published:
                    published, self.published = self.published, []
                    return published
                if found := server.state.entries_after(after, self.node, wanted):
                    await store.prove(self, link)
                    return found
                with trio.move_on_at(quiet) as waiting:
                    await store.changed.wait()
                if waiting.cancelled_caught:
                    return []
        self.break_link()
        raise Lost("the engine's feed gave no sign of life")

    def publish(self, kind: str, body: bytes) -> None:
        if not self.cut:
            self._store.publish(self, kind, body)

    async def beat(self, facts: bytes) -> tuple[int, int]:
        node, lease_ms = self.node, round(self._store.lease_seconds * 1000)
        return await self._ask(
            lambda state, now: state.beat(now, node, lease_ms, facts), changes=True
        )

    async def inspect(self) -> Condition:
        store = self._store
        condition = await self._ask(
            lambda _state, now: Condition(now, store.memory, store.memory_limit, store.replicas)
        )
        store.check()
        return condition

    async def bury(self, hold_ms: int) -> bool:
        return await self._ask(lambda state, now: state.bury(now, hold_ms), changes=True)

    async def leave(self, linger_ms: int) -> None:
        node = self.node
        with suppress(Unavailable):
            await self._ask(lambda state, now: state.leave(now, node, linger_ms), changes=True)

    async def sweep(self, retention: Retention) -> Sweep:
        return await self._ask(lambda state, now: state.swept(now, retention), changes=True)

    def close(self) -> None:
        self._store.disconnect(self)
        self.break_link()

    # ---- reading

    async def _read(self, read: Callable[[State], Coroutine[Any, Any, _T]]) -> _T:
        return await self._ask(lambda state, _now: result(read(state)))

    async def position(self) -> int:
        return await self._ask(lambda state, _now: state.position)

    async def members(self, room: str) -> list[Entered]:
        return await self._read(lambda state: state.members(room))

    async def occupied(self) -> dict[str, tuple[str, int]]:
        return await self._read(lambda state: state.occupied())

    async def holder(self, look: str) -> Holder | None:
        return await self._read(lambda state: state.holder(look))

    async def nodes(self) -> list[Node]:
        return await self._ask(
            lambda state, now: [
                Node(node, one.lease_until, one.facts)
                for node, one in sorted(state.nodes.items())
                if one.lease_until > now
            ]
        )

    async def read(self, room: str, after: int, upto: int, limit: int) -> list[Event]:
        return await self._read(lambda state: state.read(room, after, upto, limit))

    async def read_back(self, room: str, before: int, limit: int) -> list[Event]:
        return await self._read(lambda state: state.read_back(room, before, limit))

    async def read_rooms(self, rooms: Mapping[str, int], upto: int, limit: int) -> list[Event]:
        return await self._read(lambda state: state.read_rooms(rooms, upto, limit))

    async def head(self, room: str) -> Head | None:
        return await self._read(lambda state: state.head(room))

    async def rooms(self) -> list[Head]:
        return await self._read(lambda state: state.rooms())

    async def seq_at(self, room: str, position: int) -> int:
        return await self._read(lambda state: state.seq_at(room, position))

    async def unread(self, room: str, user: str, after: int, most: int) -> int:
        return await self._read(lambda state: state.unread(room, user, after, most))

    async def records(self, kind: str, prefix: str = "", limit: int = -1) -> list[Record]:
        return await self._read(lambda state: state.records(kind, prefix, limit))

    async def user(self, user: str) -> UserRecord | None:
        return await self._read(lambda state: state.user(user))

    async def present(self, since: int) -> list[UserRecord]:
        return await self._read(lambda state: state.present(since))

    async def subjects(self) -> list[UserRecord]:
        return await self._read(lambda state: state.subjects())

    async def entries(self, room: str, after: int, limit: int) -> list[LogEntry]:
        return await self._read(lambda state: state.entries(room, after, limit))

    async def entries_of(self, user: str, after: int) -> tuple[list[LogEntry], int | None]:
        return await self._read(lambda state: state.entries_of(user, after))
