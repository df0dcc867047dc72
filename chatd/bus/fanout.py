"""The fan-out loop of rooms, announcements and Socket.IO's broadcasts.

The caller takes a snapshot of the receivers. They are offered the block in slices, between which
other tasks run; receivers that have left meanwhile are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from time import perf_counter
from typing import Final, Protocol, TypeAlias, TypeVar

import trio

from chatd.bus.codec import Block

__all__ = ["Group", "Recipient", "fan_out"]

SLICE_SECONDS: Final = 0.002
"""How long a fan-out may hold the loop: well under the 5 ms that become noticeable."""

SLICE_RECEIVERS: Final = 128
"""Offers between two looks at the clock: some 0.3 ms."""


class Recipient(Protocol):
    """Takes blocks. ``offer`` never blocks, never awaits and never raises."""

    @property
    def offer(self) -> Callable[[Block, int], None]: ...


R = TypeVar("R", bound=Recipient)

Group: TypeAlias = tuple[Block, Sequence[R], Callable[[], Container[R]]]
"""A block, its receivers, and a function that returns those still there, called after a pause."""


async def fan_out(groups: Iterable[Group[R]], messages: int) -> None:
    """Offer each group's block to its receivers; skip empty blocks.

    Checkpoints only if it takes longer than `SLICE_SECONDS`. A cancellation does not interrupt it.

    Args:
        groups: See `Group`.
        messages: The number of messages in each block.
    """
    slice_ends = perf_counter() + SLICE_SECONDS
    paused = False
    for block, receivers, still_there in groups:
        if not block:
            continue
        there = still_there() if paused else None
        for start in range(0, len(receivers), SLICE_RECEIVERS):
            part = receivers[start : start + SLICE_RECEIVERS]
            if there is not None:
                part = [receiver for receiver in part if receiver in there]
            for receiver in part:
                receiver.offer(block, messages)
            if perf_counter() > slice_ends:
                await trio.lowlevel.cancel_shielded_checkpoint()
                paused = True
                there = still_there()
                slice_ends = perf_counter() + SLICE_SECONDS
