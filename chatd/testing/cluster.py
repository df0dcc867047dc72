"""Several daemons that form one chat, in memory: `open_cluster`.

In place of a Redis server they share a model of one, the engine
(`chatd.journal.modelled.ModelStore`). Everything that can fail in a real cluster fails here on
demand: clients' cables, daemons, their links to the engine, and the engine itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import trio
from trio.testing import wait_all_tasks_blocked

from chatd.chat.tokens import Keys
from chatd.client.errors import unwrapped
from chatd.journal import Journal, Unavailable
from chatd.journal.modelled import ModelEngine, ModelStore
from chatd.journal.retention import retention_of
from chatd.journal.shared import open_shared
from chatd.logs import Log
from chatd.settings import Settings
from chatd.testing.cable import PIPE_BYTES
from chatd.testing.clients import Client
from chatd.testing.harness import token_keys, wall_clock
from chatd.testing.node import Node

__all__ = ["Cluster", "ClusterNode", "open_cluster"]

RETRY_SECONDS: Final = 0.5
"""A daemon that starts without an engine tries again after this time."""


class ClusterNode(Node):
    """One daemon of a `Cluster`.

    Args:
        settings: The configuration.
        store: The engine that all nodes share.
        now: Returns the wall clock's time, in ms since 1970.
        keys: The keys of tokens.
        nursery: Runs the daemon and its clients, which outlive it.
        pipe_bytes: How many bytes a connection holds in each direction.

    Attributes:
        engine: The running daemon's link to the engine. Its methods make more faults.
    """

    def __init__(
        self,
        settings: Settings,
        store: ModelStore,
        *,
        now: Callable[[], int],
        keys: Keys,
        nursery: trio.Nursery,
        pipe_bytes: int = PIPE_BYTES,
    ) -> None:
        super().__init__(
            settings, self._open, now=now, keys=keys, nursery=nursery, pipe_bytes=pipe_bytes
        )
        self._store = store
        self.engine = ModelEngine(store)

    @asynccontextmanager
    async def _open(self, log: Log) -> AsyncGenerator[Journal]:
        """Open the journal on a new link, as soon as the engine is there."""
        async with AsyncExitStack() as stack:
            while True:
                self.engine = ModelEngine(self._store)
                opening = open_shared(
                    self.engine, retention=retention_of(self.settings), report=log.emit
                )
                try:
                    journal = await stack.enter_async_context(opening)
                    break
                except Unavailable:
                    await trio.sleep(RETRY_SECONDS)
            yield journal

    def cut_off(self) -> None:
        """Let nothing through between this daemon and the engine until `heal`. Neither notices."""
        self.engine.cut_off()

    def heal(self) -> None:
        """End `cut_off`."""
        self.engine.heal()

    async def kill(self) -> None:
        """Kill the daemon, as ``kill -9`` does: it sends nothing more to anybody.

        Its clients see broken connections. The other daemons only see that its lease ends.
        """
        self.engine.cut_off()
        self.engine.break_link()
        await super().kill()


class Cluster:
    """Daemons on one engine; made by `open_cluster`.

    Attributes:
        nodes: The daemons.
        store: The engine. Its methods make its faults; `kill_engine` and the like call them.
    """

    def __init__(self, nodes: Sequence[ClusterNode], store: ModelStore) -> None:
        self.nodes = nodes
        self.store = store

    async def move(self, one: Client, node: ClusterNode) -> None:
        """Have a client connect to another daemon, as the same user in the same rooms.

        Args:
            one: The client, connected or not.
            node: The daemon.

        Raises:
            chatd.client.ConnectError: The connection could not be made.
            chatd.client.Closed: The client was closed, or a daemon ended it for good.
        """
        one.plug.redirect(node.dial)
        await one.reconnect()

    # ---- faults of the engine

    def kill_engine(self) -> None:
        """End the engine's process, until `start_engine`."""
        self.store.kill()

    def start_engine(self, *, lose: int = 0) -> None:
        """Start the engine's process again.

        Args:
            lose: How many of the last requests that changed something are lost, as when an older
                copy of the data is used. By default none.
        """
        self.store.restart(lose)

    def stall_engine(self) -> None:
        """Let the engine answer nothing until `resume_engine`, as a stopped process does."""
        self.store.stall()

    def resume_engine(self) -> None:
        """Let the engine answer again, also to requests whose senders have given up."""
        self.store.go_on()

    def fail_over(self, *, lose: int = 0, apart: Iterable[ClusterNode] | None = None) -> None:
        """Make a replica of the engine the primary, as Sentinel does: the one that has the most.

        The engine has one replica more than `open_cluster` was told to wait for.

        Args:
            lose: How many of the last requests that changed something the replica lacks. By default
                none, unless the replicas were cut off. What a daemon has waited for is never lost.
            apart: If given, the former primary goes on until `demote_engine`, without replicas, and
                these daemons still reach it. By default its process ends.
        """
        engines = None if apart is None else [node.engine for node in apart]
        self.store.fail_over(lose=lose, apart=engines)

    def demote_engine(self) -> None:
        """Make the former primary a replica: the changes that it got since `fail_over` are lost."""
        self.store.demote()

    def cut_replicas(self) -> None:
        """Let the engine's replicas get nothing until `heal_replicas`.

        If daemons wait for replicas, they are refused everything; otherwise `fail_over` loses what
        is changed meanwhile.
        """
        self.store.cut_replicas()

    def heal_replicas(self) -> None:
        """Let the engine's replicas get everything again."""
        self.store.heal_replicas()

    def trim_feed(self) -> None:
        """Trim the engine's feed to its last entry: daemons that are behind must read the logs."""
        self.store.trim()

    # ---- observation

    async def wait_idle(self) -> None:
        """Wait until no task has anything left to do now: everything that was sent has arrived."""
        await wait_all_tasks_blocked()

    def logged(self, name: str) -> list[dict[str, Any]]:
        """Return the fields of each line of this name that any daemon logged so far.

        Args:
            name: The name of a log event, such as ``"disconnect"``: see docs/operations.md.
        """
        return [fields for node in self.nodes for fields in node.logged(name)]


@asynccontextmanager
async def open_cluster(
    settings: Settings | None = None, *, nodes: int = 3, replicas: int = 0
) -> AsyncGenerator[Cluster]:
    """Run several daemons that form one chat, in memory, without a port, a file or a thread.

    Args:
        settings: The configuration of all of them. By default all its defaults. If it names no
            ``auth.key_files``, the daemons have one key for tokens.
        nodes: How many daemons.
        replicas: How many replicas of the engine must have what is acknowledged or shown, as
            ``history.replicas``. By default none.

    Yields:
        The cluster, with all daemons running.
    """
    settings = Settings() if settings is None else settings
    now, keys = wall_clock(), token_keys(settings)
    store = ModelStore(now, replicas=replicas)
    with unwrapped():
        async with trio.open_nursery() as nursery:
            made = [
                ClusterNode(settings, store, now=now, keys=keys, nursery=nursery)
                for _ in range(nodes)
            ]
            for node in made:
                await node.start()
            try:
                yield Cluster(made, store)
            finally:
                nursery.cancel_scope.cancel()
