"""The outbox: what one connection has yet to send, and the only way onto its transport.

The broadcast hands one block of whole frames to each member's outbox. Pongs and the Close frame go
the same way, so that no two writers ever meet inside a frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import trio

from chatd.changed import Changed
from chatd.wire.transport import Block, Transport

__all__ = ["Outbox"]

# What a slow client, of 20 KB/s, reads in a few seconds.
_LONG_BYTES: Final = 65536
# 2**40 messages are a thousand a second for 34 years.
_MESSAGES_BITS: Final = 40
_MESSAGES: Final = (1 << _MESSAGES_BITS) - 1


class _Direct:
    """What a fan-out reads and writes of an outbox.

    The slots of a base class are next to each other, at the start of the object, so a fan-out reads
    few cache lines for each outbox. The kernel's part of each ``send`` uses the whole cache, so
    every line has to be fetched anew. For the same reason both counters are one integer, with the
    messages in its low bits: two would be two objects to fetch and to replace.
    """

    __slots__ = ("_counts", "_direct")


class Outbox(_Direct):
    """A bounded queue of bytes in front of a transport.

    These MUST hold, for ``offer_each()`` as for ``offer()``:

    1. ``offer()`` never blocks, never awaits, never raises. After ``end()`` it does nothing. The
       connection calls ``end()`` before its nursery closes, because starting a writer in a closing
       nursery raises, and that would happen in the fan-out to everybody.
    2. Only whole blocks are sent, in the order in which they were offered. A block of which the
       kernel has taken a part stays at the head of the queue until it has taken the rest. After a
       cancelled writer nothing follows.
    3. If the queue is empty, ``offer()`` writes to the non-blocking socket at once. What the kernel
       does not take is queued, and a writer task exists only while there is a queue.
    4. The queue is counted in bytes. A block that would exceed ``bound`` is refused, unless
       ``exceed`` allows it, and so is every later one, and ``overflowed`` is called once.
       ``send_final()`` may still follow, so that the close code reaches a peer that reads. A block
       that finds the queue empty is always taken: a part of it may have been sent already.
    5. A transport without a plain socket has the same outbox, which always uses the writer.
    6. What the protocol itself sends never ends a connection: ``hasten()`` and ``force()`` are
       not held to the bound. Their callers see to it that few of these frames wait.

    ``lost`` is called once if the transport turns out to be broken.

    Attributes:
        exceed: Called with the size of a block that would exceed the bound; returns whether to
            queue it. None: never.
        waiting: Bytes in the queue.
        sent_bytes: Bytes that the kernel has taken.
        sent_messages: Messages in the blocks that were taken.
        dropped: Droppable blocks that were left out.
    """

    __slots__ = (
        "_bound",
        "_ended",
        "_final",
        "_hastened",
        "_hastened_until",
        "_lost",
        "_nursery",
        "_overflowed",
        "_progress",
        "_queue",
        "_taking",
        "_transport",
        "dropped",
        "exceed",
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
        self._nursery = nursery
        self._bound = bound
        self._overflowed = overflowed
        self._lost = lost
        # Exists while the writer does: an empty one would take 760 bytes of an idle connection.
        self._queue: deque[Block] | None = None
        self._progress = Changed()
        # The plain socket, if there is one, while nothing waits and offers are taken.
        self._direct = transport.plain
        self._taking = True
        self._final = False
        self._ended = False
        # Frames that the writer is to move up, and the value of ``sent_bytes`` at which those
        # that it has put there are sent.
        self._hastened: tuple[bytes, ...] = ()
        self._hastened_until = 0
        self.exceed: Callable[[int], bool] | None = None
        self.dropped = 0
        self.waiting = 0
        self._counts = 0

    @property
    def sent_bytes(self) -> int:
        return self._counts >> _MESSAGES_BITS

    @property
    def sent_messages(self) -> int:
        return self._counts & _MESSAGES

    def offer(self, data: bytes, messages: int = 1) -> None:
        """Send whole frames. ``messages`` is how many messages are in them, for the counters."""
        self.offer_each((self,), data, messages)

    @staticmethod
    def offer_each(outboxes: Sequence[Outbox], data: bytes, messages: int = 1) -> None:
        """Offer the same frames to each of these outboxes."""
        size = len(data)
        counts = (size << _MESSAGES_BITS) + messages
        # Counted beforehand: in a loop without system calls, the processor fetches the memory of
        # several outboxes at a time.
        for outbox in outboxes:
            outbox._counts += counts
        for outbox in outboxes:
            direct = outbox._direct
            if direct is None:
                outbox._counts -= counts
                outbox._offer(data, messages)
                continue
            try:
                sent = direct.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                outbox._counts -= counts
                outbox._break()
                continue
            if sent != size:
                outbox._counts -= (size - sent) << _MESSAGES_BITS
                outbox._enqueue(memoryview(data)[sent:] if sent else data)

    def _offer(self, data: bytes, messages: int) -> None:
        """Queue frames within the bound."""
        if not self._taking or not data:
            return
        waiting = self.waiting
        if waiting and waiting + len(data) > self._bound:
            exceed = self.exceed
            if exceed is None or not exceed(len(data)):
                self._taking = False
                self._overflowed()
                return
        self._counts += messages
        self._enqueue(data)

    def force(self, data: bytes) -> None:
        """Send whole frames in their order, regardless of the bound."""
        if self._direct is not None:
            self.offer(data, 0)
        elif self._taking and data:
            self._enqueue(data)

    def hold(self) -> None:
        """Keep what is offered until `release`, to send it together. Nothing may wait yet."""
        self._direct = None
        self._queue = deque()

    def release(self) -> None:
        """Send what was offered since `hold`."""
        held = b"".join(self._queue or ())
        self._queue = None
        self.waiting = 0
        if self._taking:
            self._direct = self._transport.plain
        if self._direct is not None:
            self.offer(held, 0)
        elif held:
            self._enqueue(held)

    def hasten(self, data: bytes) -> None:
        """Send a control frame regardless of the bound.

        It overtakes a long queue, except for the first block.
        """
        if self.waiting < _LONG_BYTES or self._queue is None:
            self.force(data)
            self._hastened_until = self.sent_bytes + self.waiting
        elif self._taking:
            self._hastened += (data,)
            self.waiting += len(data)

    def offer_droppable(self, data: bytes, messages: int = 1) -> None:
        """Offer a block, or drop it while the queue is more than half full."""
        if self.waiting * 2 > self._bound:
            self.dropped += 1
        else:
            self.offer(data, messages)

    @property
    def hastening(self) -> bool:
        """Whether a control frame that was hastened still waits."""
        return bool(self._hastened) or self.sent_bytes < self._hastened_until

    @property
    def under_way(self) -> int:
        """How many bytes of the first block in the queue are left."""
        return len(self._queue[0]) if self._queue else 0

    def send_final(self, data: bytes) -> None:
        """Send one last block, regardless of the limit. Later offers and calls do nothing."""
        self._direct = None
        self._taking = False
        if data and not (self._final or self._ended):
            self._final = True
            self._enqueue(data)

    def end(self) -> None:
        """Drop the queue, ignore offers from now on, and wake every waiting task."""
        self._direct = None
        self._taking = False
        self._ended = True
        # They belong to the connection, which refers to this outbox: only the garbage collector
        # would free both.
        self._overflowed = self._lost = _nobody
        self.exceed = None
        if self._queue is not None:
            self._queue.clear()
        self._hastened = ()
        self._hastened_until = 0
        self.waiting = 0
        self._progress.notify()

    async def drained(self) -> None:
        """Wait until everything offered so far is sent, or until ``end()``."""
        await trio.lowlevel.checkpoint()
        mark = self.sent_bytes + self.waiting
        while self.sent_bytes < mark and not self._ended:
            await self._progress.wait()

    async def hastened(self) -> None:
        """Wait until no control frame waits, or until ``end()``."""
        await trio.lowlevel.checkpoint()
        while self.hastening:
            await self._progress.wait()

    async def room(self, size: int, bound: int | None = None) -> None:
        """Wait until ``size`` bytes more are within ``bound``, by default the outbox's own.

        Returns at once if nothing waits, and at ``end()``.
        """
        await trio.lowlevel.checkpoint()
        bound = self._bound if bound is None else bound
        while self.waiting and self.waiting + size > bound:
            await self._progress.wait()

    def _enqueue(self, data: Block) -> None:
        self._direct = None
        if self._queue is None:
            self._queue = deque()
            self._nursery.start_soon(self._write, self._queue)
        self._queue.append(data)
        self.waiting += len(data)

    async def _write(self, queue: deque[Block]) -> None:
        try:
            while queue or self._hastened:
                if self._hastened:
                    self._move_up(queue)
                self._sent(queue, await self._transport.send_some(queue))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._break()
            return
        except trio.Cancelled:
            self.end()
            raise
        self._queue = None
        self._direct = self._transport.plain if self._taking else None

    def _move_up(self, queue: deque[Block]) -> None:
        # Behind the first block, of which a part may have been sent.
        end = self.sent_bytes + self.under_way
        for at, frame in enumerate(self._hastened, len(queue) and 1):
            queue.insert(at, frame)
            end += len(frame)
        self._hastened = ()
        self._hastened_until = end

    def _sent(self, queue: deque[Block], count: int) -> None:
        if self._ended:
            return
        self._counts += count << _MESSAGES_BITS
        self.waiting -= count
        while count:
            size = len(queue[0])
            if count < size:
                queue[0] = memoryview(queue[0])[count:]
                break
            queue.popleft()
            count -= size
        self._progress.notify()

    def _break(self) -> None:
        if not self._ended:
            lost = self._lost
            self.end()
            lost()


def _nobody() -> None:
    """Call nobody: the connection has ended."""
