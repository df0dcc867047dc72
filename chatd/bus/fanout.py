"""The fan-out loop of rooms, announcements and Socket.IO's broadcasts.

The caller takes a snapshot of the receivers. They are offered the block in slices, between which
other tasks run; receivers that have left meanwhile are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from time import perf_counter
from typing import Final, Protocol, TypeAlias, TypeVar

import trio
from msgspec import Struct

from chatd.bus.codec import Block, Outbox

__all__ = ["SLICES", "Group", "Recipient", "Slices", "fan_out"]


class Slices(Struct, frozen=True):
    """How a fan-out is divided.

    Attributes:
        seconds: How long it may hold the loop: well under the 5 ms that become noticeable.
        recipients: Offers between two looks at the clock: some 0.3 ms.
    """

    seconds: float = 0.002
    recipients: int = 128


SLICES: Final = Slices()


class Recipient(Protocol):
    """Has an outbox, to which the blocks are offered."""

    @property
    def outbox(self) -> Outbox: ...


R = TypeVar("R", bound=Recipient)

Group: TypeAlias = tuple[Block, Sequence[R], Callable[[], Container[R]]]
"""A block, its receivers, and a function that returns those still there, called after a pause."""


async def fan_out(groups: Iterable[Group[R]], messages: int, slices: Slices = SLICES) -> None:
    """Offer each group's block to its receivers; skip empty blocks.

    Checkpoints only if it takes longer than a slice. A cancellation does not interrupt it.

    Args:
        groups: See `Group`.
        messages: The number of messages in each block.
        slices: When to let other tasks run.
    """
    slice_ends = perf_counter() + slices.seconds
    paused = False
    for block, receivers, still_there in groups:
        if not block:
            continue
        there = still_there() if paused else None
        for start in range(0, len(receivers), slices.recipients):
            part = receivers[start : start + slices.recipients]
            if there is not None:
                part = [receiver for receiver in part if receiver in there]
            for receiver in part:
                receiver.outbox.offer(block, messages)
            if perf_counter() > slice_ends:
                await trio.lowlevel.cancel_shielded_checkpoint()
                paused = True
                there = still_there()
                slice_ends = perf_counter() + slices.seconds
