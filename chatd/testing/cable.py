"""The wire between a client and the daemon in one process, and what can happen to it.

`pipe` is a bounded stream in memory. `Cable` is the client's end of any stream: it can be cut, and
reading from it can stall. `Plug` has all the cables of one client's connection.
"""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Final

import trio

__all__ = ["PIPE_BYTES", "Cable", "PipeEnd", "Plug", "pipe"]

PIPE_BYTES: Final = 64 << 10
"""What waits on its way, each way, before a sender has to wait: about what a socket holds."""


def pipe(size: int = PIPE_BYTES) -> tuple[PipeEnd, PipeEnd]:
    """Make a stream in memory, of which each way holds ``size`` bytes; gives its two ends."""
    there, back = _Way(size), _Way(size)
    return PipeEnd(there, back), PipeEnd(back, there)


class _Way:
    """One direction: a writer, a reader, and the bytes between."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.bytes = bytearray()
        self.writer_closed = False
        self.reader_closed = False
        # Whatever changes, the few who wait (a reader, a writer) look again.
        self.changed = trio.lowlevel.ParkingLot()

    @property
    def full(self) -> bool:
        return len(self.bytes) >= self.size


class PipeEnd(trio.abc.Stream):
    """One end of a `pipe`. ``aclose`` is seen by the peer after what was sent before."""

    def __init__(self, outgoing: _Way, incoming: _Way) -> None:
        self._outgoing = outgoing
        self._incoming = incoming
        self._sending = False
        self._receiving = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            rest = memoryview(data)
            while True:
                self._writable()
                taken = rest[: self._outgoing.size - len(self._outgoing.bytes)]
                if taken:
                    self._outgoing.bytes += taken
                    self._outgoing.changed.unpark_all()
                    rest = rest[len(taken) :]
                if not rest:
                    return
                await self._outgoing.changed.park()
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            self._writable()
            while self._outgoing.full:
                await self._outgoing.changed.park()
                self._writable()
        finally:
            self._sending = False

    def _begin_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this pipe")
        self._sending = True

    def _writable(self) -> None:
        if self._outgoing.writer_closed:
            raise trio.ClosedResourceError("this end is closed")
        if self._outgoing.reader_closed:
            raise trio.BrokenResourceError("the other end is closed")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this pipe")
        self._receiving = True
        incoming = self._incoming
        try:
            await trio.lowlevel.checkpoint()
            while True:
                if incoming.reader_closed:
                    raise trio.ClosedResourceError("this end is closed")
                if incoming.bytes or incoming.writer_closed:
                    break
                await incoming.changed.park()
        finally:
            self._receiving = False
        data = bytes(incoming.bytes[:max_bytes])
        del incoming.bytes[:max_bytes]
        incoming.changed.unpark_all()
        return data

    def close(self) -> None:
        self._outgoing.writer_closed = True
        self._incoming.reader_closed = True
        self._incoming.bytes.clear()
        self._outgoing.changed.unpark_all()
        self._incoming.changed.unpark_all()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


class Cable(trio.abc.Stream):
    """The client's plug in ``stream``.

    `cut` is the cable pulled out: the client's side breaks at once, as where the network card goes
    down, and the peer is told nothing. What it sends fills the stream, then waits; what it waits
    for never comes; only its own clock tells it. That lasts until `discard`: closing the client
    tells the peer nothing over a cable that is not there.

    While it is stalled, nothing is read: what the peer sends fills the stream. Sending works.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._scopes: set[trio.CancelScope] = set()
        self._flows = trio.Event()
        self._flows.set()
        self.is_cut = False

    def cut(self) -> None:
        """Pull it out, for good."""
        self.is_cut = True
        for scope in self._scopes:
            scope.cancel()

    def stall(self) -> None:
        """Read nothing more until `flow`."""
        if self._flows.is_set():
            self._flows = trio.Event()

    def flow(self) -> None:
        """Read again."""
        self._flows.set()

    async def discard(self) -> None:
        """Close the stream behind a cut cable."""
        await trio.aclose_forcefully(self._stream)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._breaking():
            await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        with self._breaking():
            await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data: bytes | bytearray = b""
        with self._breaking():
            await self._flow()
            data = await self._stream.receive_some(max_bytes)
            # Stalled while it waited: what came then is not handed on before it flows.
            await self._flow()
        return data

    async def _flow(self) -> None:
        while not self._flows.is_set():
            await self._flows.wait()

    @contextmanager
    def _breaking(self) -> Generator[None]:
        scope = trio.CancelScope()
        self._scopes.add(scope)
        if self.is_cut:
            scope.cancel()
        try:
            with scope:
                yield
        finally:
            self._scopes.discard(scope)
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the cable is cut")

    async def aclose(self) -> None:
        if self.is_cut:
            await trio.lowlevel.checkpoint()
        else:
            await self._stream.aclose()


class Plug:
    """Where a client is plugged in. What befalls its connection befalls each of its cables."""

    def __init__(self, dial: Callable[[], Awaitable[Cable]]) -> None:
        self._dial = dial
        self._cables: list[Cable] = []
        self._is_cut = False
        self._is_stalled = False

    async def __call__(self) -> Cable:
        """Open the one cable of a new connection."""
        self.renew()
        return await self.another()

    def renew(self) -> None:
        """Begin a new connection: what befell the last one is over."""
        self._cables = []
        self._is_cut = False
        self._is_stalled = False

    async def another(self) -> Cable:
        """Open one more cable of this connection."""
        cable = await self._dial()
        if self._is_cut:
            cable.cut()
        if self._is_stalled:
            cable.stall()
        self._cables.append(cable)
        return cable

    def cut(self) -> None:
        """Pull the cables of this connection out, and those that it may open yet."""
        self._is_cut = True
        for cable in self._cables:
            cable.cut()

    def stall(self) -> None:
        """Have nothing more read on this connection until `flow`."""
        self._is_stalled = True
        for cable in self._cables:
            cable.stall()

    def flow(self) -> None:
        self._is_stalled = False
        for cable in self._cables:
            cable.flow()
