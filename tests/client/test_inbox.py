from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from chatd.client.inbox import Inbox


async def test_in_order_and_bounded() -> None:
    inbox: Inbox[int] = Inbox(3)
    for number in range(3):
        assert inbox.fits(1)
        inbox.put(number)
    assert not inbox.fits(1)
    assert [await inbox.take() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(trio.WouldBlock):
        inbox.take_nowait()


async def test_takers_are_served_one_each(nursery: trio.Nursery) -> None:
    inbox: Inbox[int] = Inbox(10)
    taken: list[int] = []

    async def take() -> None:
        taken.append(await inbox.take())

    nursery.start_soon(take)
    nursery.start_soon(take)
    await wait_all_tasks_blocked()
    inbox.put(1)
    await wait_all_tasks_blocked()
    assert taken == [1]
    inbox.put(2)
    await wait_all_tasks_blocked()
    assert taken == [1, 2]


async def test_a_cancelled_taker_takes_nothing() -> None:
    inbox: Inbox[int] = Inbox(10)
    inbox.put(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await inbox.take()
    assert len(inbox) == 1


async def test_the_end_comes_after_the_queued_events() -> None:
    inbox: Inbox[int] = Inbox(10)
    inbox.put(1)
    inbox.end(EOFError("over"))
    assert await inbox.take() == 1
    with pytest.raises(EOFError, match="over"):
        await inbox.take()
    with pytest.raises(EOFError, match="over"):
        inbox.take_nowait()


async def test_half_empty(nursery: trio.Nursery) -> None:
    inbox: Inbox[int] = Inbox(4)
    for number in range(4):
        inbox.put(number)
    roomy = trio.Event()

    async def wait() -> None:
        await inbox.half_empty()
        roomy.set()

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    await inbox.take()
    await wait_all_tasks_blocked()
    assert not roomy.is_set()
    await inbox.take()
    await wait_all_tasks_blocked()
    assert roomy.is_set()
