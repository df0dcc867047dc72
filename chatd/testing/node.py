"""One daemon in memory that a test can kill, drain and start again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import trio

from chatd.chat.tokens import Keys
from chatd.daemon import Daemon, open_daemon
from chatd.journal import Journal
from chatd.logs import Log, open_log
from chatd.settings import Settings
from chatd.testing.cable import PIPE_BYTES, Cable, pipe
from chatd.testing.reachable import MEMORY, Reachable
from chatd.testing.recording import Recording
from chatd.wire.transport import Peer, StreamTransport

__all__ = ["Node"]


class Node(Reachable):
    """A daemon that a test can kill, drain and start again. Call `start` first.

    Args:
        settings: The configuration at each start; `Daemon.apply` changes it until the next one.
        open_journal: Opens the store for one run of the daemon. Called with the log.
        now: Returns the wall clock's time, in ms since 1970.
        keys: The keys of tokens.
        nursery: Runs the daemon and its clients, which outlive it.
        pipe_bytes: How many bytes a connection holds in each direction.

    Attributes:
        log: The lines of all runs.
    """

    def __init__(
        self,
        settings: Settings,
        open_journal: Callable[[Log], AbstractAsyncContextManager[Journal]],
        *,
        now: Callable[[], int],
        keys: Keys,
        nursery: trio.Nursery,
        pipe_bytes: int = PIPE_BYTES,
    ) -> None:
        super().__init__(settings, Recording(), nursery)
        self._open_journal = open_journal
        self._now = now
        self._keys = keys
        self._pipe_bytes = pipe_bytes
        self._daemon: Daemon | None = None
        self._cables: list[Cable] = []
        self._scope = trio.CancelScope()
        self._draining = trio.Event()
        self._ended = trio.Event()

    @property
    def running(self) -> bool:
        """Whether clients can connect, although a daemon that drains refuses them."""
        return self._daemon is not None

    @property
    def daemon(self) -> Daemon:
        """The running daemon.

        Raises:
            RuntimeError: None is running.
        """
        if self._daemon is None:
            raise RuntimeError("This daemon is not running. Start it first.")
        return self._daemon

    async def start(self) -> None:
        """Start the daemon on its store.

        Raises:
            RuntimeError: It is running.
        """
        if self.running:
            raise RuntimeError("This daemon is running already.")
        self._scope = trio.CancelScope()
        self._draining = trio.Event()
        self._ended = trio.Event()
        await self._nursery.start(self._run)

    async def kill(self) -> None:
        """Stop the daemon at once. Its clients see broken connections."""
        self._scope.cancel()
        await self._ended.wait()

    async def drain(self) -> None:
        """Stop the daemon as SIGTERM does, and wait for its end."""
        self._draining.set()
        await self._ended.wait()

    async def dial(self, peer: Peer = MEMORY) -> Cable:
        """Open a stream to the daemon, for a test that sends bytes.

        Args:
            peer: Who the client is to the daemon. By default a client on the same machine.

        Returns:
            The client's end of the stream.

        Raises:
            ConnectionRefusedError: The daemon is not running, or draining.
        """
        if self._daemon is None or self._daemon.draining or self._scope.cancel_called:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        near, far = pipe(self._pipe_bytes)
        self._daemon.attach(StreamTransport(far, peer, listener_loopback=peer.loopback))
        cable = Cable(near)
        self._cables.append(cable)
        await trio.lowlevel.checkpoint()
        return cable

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            with self._scope:
                log = open_log(
                    level=self.settings.log.level,
                    addresses=self.settings.log.addresses,
                    sink=self.log,
                    now=self._now,
                )
                async with (
                    self._open_journal(log) as journal,
                    open_daemon(
                        self.settings, journal=journal, log=log, now=self._now, keys=self._keys
                    ) as self._daemon,
                ):
                    task_status.started()
                    await self._draining.wait()
        finally:
            self._daemon = None
            cables, self._cables = self._cables, []
            with trio.CancelScope(shield=True):  # closing forcefully does not wait
                for cable in cables:
                    await cable.discard()
            self._ended.set()
