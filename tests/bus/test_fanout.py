"""The fan-out loop: slices, and subscribers that are skipped after a pause."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any

import trio

from chatd.bus import Group, Slices, fan_out


class Receiver:
    """A receiver that is its own outbox."""

    def __init__(self, on_offer: Callable[[], None] = lambda: None) -> None:
        self.got: list[tuple[Any, int]] = []
        self._on_offer = on_offer

    def offer(self, block: Any, messages: int = 1, /) -> None:
        self.got.append((block, messages))
        self._on_offer()

    @staticmethod
    def offer_each(outboxes: Iterable[Receiver], block: Any, messages: int = 1, /) -> None:
        for outbox in outboxes:
            outbox.offer(block, messages)

    def offer_droppable(self, block: Any, messages: int = 1, /) -> None:
        raise AssertionError("a fan-out drops nothing")


def group(
    block: bytes, receivers: list[Receiver], there: Container[Receiver] | None = None
) -> Group[Receiver]:
    return Group(block, 7, receivers, receivers, lambda: receivers if there is None else there)


SLICES_OF_TWO = Slices(seconds=-1.0, recipients=2)


async def test_each_group_gets_its_block() -> None:
    groups = [[Receiver(), Receiver()] for _ in range(2)]
    await fan_out(map(group, [b"a", b"b"], groups))
    assert [[one.got for one in each] for each in groups] == [[[(b"a", 7)]] * 2, [[(b"b", 7)]] * 2]


async def test_a_short_fan_out_does_not_checkpoint() -> None:
    receiver = Receiver()
    with trio.CancelScope() as scope:
        scope.cancel()
        await fan_out([group(b"a", [receiver])])
    assert receiver.got == [(b"a", 7)]
    assert not scope.cancelled_caught


async def test_a_subscriber_that_left_during_a_pause_is_skipped_later() -> None:
    def leave() -> None:
        there.discard(rest[0])
        there.discard(others[1])

    first = [Receiver(leave), Receiver()]
    rest = [Receiver(), Receiver()]
    others = [Receiver(), Receiver()]
    there = {*first, *rest, *others}
    await fan_out(
        [group(b"a", [*first, *rest], there), group(b"b", others, there)],
        SLICES_OF_TWO,
    )
    assert [len(one.got) for one in (*first, *rest, *others)] == [1, 1, 0, 1, 1, 0]


async def test_others_run_between_slices() -> None:
    rounds = 0

    async def count() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await trio.lowlevel.checkpoint()

    receivers = [Receiver() for _ in range(20)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await fan_out([group(b"a", receivers)], SLICES_OF_TWO)
        nursery.cancel_scope.cancel()
    assert rounds >= 9


async def test_a_cancellation_withholds_it_from_no_subscriber() -> None:
    receivers = [Receiver() for _ in range(5)]
    with trio.CancelScope() as scope:
        scope.cancel()
        await fan_out([group(b"a", receivers)], SLICES_OF_TWO)
    assert [len(one.got) for one in receivers] == [1] * 5
