"""The fan-out loop of rooms, announcements and Socket.IO's broadcasts.

The caller takes a snapshot of the receivers. They are offered the block in slices, between which
other tasks run; receivers that have left meanwhile are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from time import perf_counter
from typing import Final, Generic, TypeVar

import trio
from msgspec import Struct

from chatd.bus.codec import Block, Outbox

__all__ = ["SLICES", "Group", "Slices", "fan_out"]


class Slices(Struct, frozen=True):
    """How a fan-out is divided.

    Attributes:
        seconds: How long it may hold the loop: well under the 5 ms that become noticeable.
        recipients: Offers between two looks at the clock: some 0.3 ms.
    """

    seconds: float = 0.002
    recipients: int = 128


SLICES: Final = Slices()


R = TypeVar("R")


class Group(Struct, Generic[R], frozen=True):
    """A block and its receivers.

    Attributes:
        block: What they get; not empty.
        messages: The number of messages in the block.
        receivers: The receivers.
        outboxes: Theirs, in the same order; all of one class.
        still_there: Returns the receivers that are still there. Called after a pause.
    """

    block: Block
    messages: int
    receivers: Sequence[R]
    outboxes: Sequence[Outbox]
    still_there: Callable[[], Container[R]]


async def fan_out(groups: Iterable[Group[R]], slices: Slices = SLICES) -> None:
    """Offer each group's block to its receivers.

    Checkpoints only if it takes longer than a slice. A cancellation does not interrupt it.

    Args:
        groups: See `Group`.
        slices: When to let other tasks run.
    """
    slice_ends = perf_counter() + slices.seconds
    paused = False
    unlooked = 0  # offers since the last look at the clock
    for group in groups:
        there = group.still_there() if paused else None
        for start in range(0, len(group.outboxes), slices.recipients):
            end = start + slices.recipients
            part = group.outboxes[start:end]
            unlooked += len(part)
            if there is not None:
                pairs = zip(group.receivers[start:end], part, strict=True)
                part = [outbox for receiver, outbox in pairs if receiver in there]
            if part:
                part[0].offer_each(part, group.block, group.messages)
            if unlooked < slices.recipients:
                continue
            unlooked = 0
            if perf_counter() > slice_ends:
                await trio.lowlevel.cancel_shielded_checkpoint()
                paused = True
                there = group.still_there()
                slice_ends = perf_counter() + slices.seconds
