"""Streams between a client and the daemon that can be cut or stalled.

`pipe` is a bounded stream in memory. `Cable` is the client's end of any stream. `Plug` has all the
cables of one client's connection.
"""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Final

import trio

__all__ = ["PIPE_BYTES", "Cable", "PipeEnd", "Plug", "pipe"]

PIPE_BYTES: Final = 64 << 10
"""How many bytes a stream holds in each direction: about as many as a socket."""


def pipe(size: int = PIPE_BYTES) -> tuple[PipeEnd, PipeEnd]:
    """Return the two ends of a stream in memory that holds ``size`` bytes in each direction."""
    there, back = _Way(size), _Way(size)
    return PipeEnd(there, back), PipeEnd(back, there)


class _Way:
    """One direction of a pipe: a writer, a reader, and the bytes between them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.bytes = bytearray()
        self.writer_closed = False
        self.reader_closed = False
        # At most a reader and a writer wait here; both look again after any change.
        self.changed = trio.lowlevel.ParkingLot()

    @property
    def readable(self) -> bool:
        """Whether a reader has no need to wait."""
        return bool(self.bytes) or self.writer_closed or self.reader_closed

    @property
    def full(self) -> bool:
        return len(self.bytes) >= self.size


class PipeEnd(trio.abc.Stream):
    """One end of a `pipe`. The peer gets what was sent before ``aclose``, and then the end."""

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
            if incoming.readable:
                await trio.lowlevel.checkpoint()
            while not incoming.readable:  # parking is a checkpoint too
                await incoming.changed.park()
        finally:
            self._receiving = False
        if incoming.reader_closed:
            raise trio.ClosedResourceError("this end is closed")
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
    """The client's end of ``stream``.

    After `cut` the client's side is broken, as when a network card goes down, and the peer gets no
    sign of it: what it sends fills the stream, and only its own clock ends the connection. Closing
    a cut cable does not close the stream either; `discard` does.

    While it is stalled, nothing is read, so that what the peer sends fills the stream. Sending
    works.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._scopes: set[trio.CancelScope] = set()
        self._flows = trio.Event()
        self._flows.set()
        self.is_cut = False

    def cut(self) -> None:
        """Break the client's side for good."""
        self.is_cut = True
        for scope in self._scopes:
            scope.cancel()

    def stall(self) -> None:
        """Read nothing until `flow`."""
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
            # It may have been stalled while it waited; then the data waits too.
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
    """All cables of one client's connection, which are cut and stalled together."""

    def __init__(self, dial: Callable[[], Awaitable[Cable]]) -> None:
        self._dial = dial
        self._cables: list[Cable] = []
        self._is_cut = False
        self._is_stalled = False

    async def __call__(self) -> Cable:
        """Open the only cable of a new connection."""
        self.renew()
        return await self.another()

    def renew(self) -> None:
        """Start a new connection, which is neither cut nor stalled."""
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

    def redirect(self, dial: Callable[[], Awaitable[Cable]]) -> None:
        """Open later cables in another way."""
        self._dial = dial

    def cut(self) -> None:
        """Cut all cables of this connection, and those that it opens later."""
        self._is_cut = True
        for cable in self._cables:
            cable.cut()

    def stall(self) -> None:
        """Stall all cables of this connection until `flow`."""
        self._is_stalled = True
        for cable in self._cables:
            cable.stall()

    def flow(self) -> None:
        """Read again on all cables."""
        self._is_stalled = False
        for cable in self._cables:
            cable.flow()
