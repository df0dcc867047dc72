"""The outbox: what one connection has yet to send, and the only way onto its transport.

The broadcast hands one block of whole frames to each member's outbox; trio-websocket's own
control frames go the same way, so that no two writers ever meet inside a frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio
from msgspec import Struct

from chatd.wire.transport import Block, Transport

__all__ = ["Outbox", "OutboxStatistics"]


class OutboxStatistics(Struct, frozen=True):
    """What became of what was offered.

    ``waiting`` and ``sent`` in bytes (sent: taken by the kernel), ``messages`` as taken from
    offers, ``dropped`` in blocks left out above half the bound.
    """

    waiting: int
    sent: int
    messages: int
    dropped: int


class Outbox:
    """A bounded queue of bytes in front of a transport.

    What MUST hold:

    1. ``offer()`` never blocks, never awaits, never raises. After ``end()`` it does nothing; the
       connection calls ``end()`` before its nursery closes, because starting a writer in a closing
       nursery raises, and that would be in everybody's fan-out.
    2. Only whole blocks go out, in the order in which they came. What the kernel has taken half of
       stays at the head of the queue until the rest is taken; no cancelled caller takes anything
       back, and once a writer was cancelled nothing follows.
    3. If nothing waits, ``offer()`` gives the bytes to the non-blocking socket at once. What the
       kernel does not take waits, and only while something waits is there a writer task.
    4. What waits is counted in bytes. An offer that would pass ``bound`` is not taken, nor any
       after it, and ``overflowed`` is called, once. ``last_words()`` and control frames may still
       follow, so that the close code reaches a peer that reads. A block offered while nothing
       waits is always taken: half of it may be on the wire already.
    5. On a transport without a plain socket it is the same object, and the writer is always used.

    ``lost`` is called, once, when the transport turns out to be broken.
    """

    __slots__ = (
        "_bound",
        "_direct",
        "_dropped",
        "_ended",
        "_lost",
        "_nursery",
        "_overflowed",
        "_progress",
        "_queue",
        "_send",
        "_spoken",
        "_taking",
        "_transport",
        "_writing",
        "sent_bytes",
        "sent_messages",
        "waiting",
    )

    def __init__(
        self,
        transport: Transport,
        nursery: trio.Nursery,
        bound: int,
        *,
        overflowed: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._send = transport.send_now
        self._nursery = nursery
        self._bound = bound
        self._overflowed = overflowed
        self._lost = lost
        self._queue: deque[Block] = deque()
        self._progress: trio.Event | None = None
        # One test in the hot path: nothing waits, offers are taken, and there is a plain socket.
        self._direct = transport.writes_directly
        self._taking = True
        self._spoken = False
        self._ended = False
        self._writing = False
        self._dropped = 0
        self.waiting = 0
        self.sent_bytes = 0
        self.sent_messages = 0

    def offer(self, data: bytes, messages: int = 1) -> None:
        """Take whole frames; ``messages`` is how many messages they carry, for the counters."""
        if self._direct:
            try:
                sent = self._send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._break()
                return
            self.sent_bytes += sent
            self.sent_messages += messages
            if sent != len(data):
                self._enqueue(memoryview(data)[sent:] if sent else data)
            return
        if not self._taking or not data:
            return
        waiting = self.waiting
        if waiting and waiting + len(data) > self._bound:
            self._taking = False
            self._overflowed()
            return
        self.sent_messages += messages
        self._enqueue(data)

    def offer_droppable(self, data: bytes, messages: int = 1) -> None:
        """Do as ``offer`` does, but leave it out while more than half the bound waits."""
        if self.waiting * 2 > self._bound:
            self._dropped += 1
        else:
            self.offer(data, messages)

    def last_words(self, data: bytes) -> None:
        """Take one last block, past the bound; no offer after it, and no second last word."""
        self._direct = False
        self._taking = False
        if not self._spoken and not self._ended:
            self._spoken = True
            self._push(data)

    def end(self) -> None:
        """Be dead from now on: what waits is dropped, offers do nothing, who waits is let go."""
        self._direct = False
        self._taking = False
        self._ended = True
        self._queue.clear()
        self.waiting = 0
        self._tell()

    async def send_all(self, data: bytes) -> None:
        """Send behind what waits, past the bound; returns when the kernel has taken it all.

        Raises trio.ClosedResourceError after ``end()``, trio.BrokenResourceError where the
        transport broke meanwhile. Cancelled, the block still goes out whole.
        """
        if self._ended:
            raise trio.ClosedResourceError
        self._push(data)
        mark = self.sent_bytes + self.waiting
        while self.sent_bytes < mark and not self._ended:
            await self._progressed()
        if self._ended:
            raise trio.BrokenResourceError
        await trio.lowlevel.checkpoint()

    async def drained(self) -> None:
        """Return when nothing waits any more, or after ``end()``."""
        await trio.lowlevel.checkpoint()
        while self.waiting:
            await self._progressed()

    async def room(self, size: int) -> None:
        """Return when an offer of ``size`` bytes would be taken, or after ``end()``."""
        await trio.lowlevel.checkpoint()
        while self.waiting and self.waiting + size > self._bound:
            await self._progressed()

    def statistics(self) -> OutboxStatistics:
        return OutboxStatistics(
            waiting=self.waiting,
            sent=self.sent_bytes,
            messages=self.sent_messages,
            dropped=self._dropped,
        )

    def _push(self, data: bytes) -> None:
        """Take a block that the bound does not concern."""
        sent = 0
        if not self.waiting and self._transport.writes_directly:
            try:
                sent = self._send(data)
            except BlockingIOError:
                pass
            except OSError:
                self._break()
                return
            self.sent_bytes += sent
        if sent != len(data):
            self._enqueue(memoryview(data)[sent:] if sent else data)

    def _enqueue(self, data: Block) -> None:
        self._direct = False
        self._queue.append(data)
        self.waiting += len(data)
        if not self._writing:
            self._writing = True
            self._nursery.start_soon(self._write)

    async def _write(self) -> None:
        queue = self._queue
        try:
            while queue:
                self._took(await self._transport.send_some(queue))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._break()
            return
        except trio.Cancelled:
            self.end()
            raise
        self._writing = False
        self._direct = self._taking and self._transport.writes_directly

    def _took(self, count: int) -> None:
        if self._ended:
            return
        self.sent_bytes += count
        self.waiting -= count
        queue = self._queue
        while count:
            size = len(queue[0])
            if count < size:
                queue[0] = memoryview(queue[0])[count:]
                break
            queue.popleft()
            count -= size
        self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None

    async def _progressed(self) -> None:
        if self._progress is None:
            self._progress = trio.Event()
        await self._progress.wait()

    def _break(self) -> None:
        if not self._ended:
            self.end()
            self._lost()
