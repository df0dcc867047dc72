from __future__ import annotations

import pytest
import trio
from trio.testing import assert_no_checkpoints, wait_all_tasks_blocked

from chatd.mutex import Mutex


async def test_a_free_one_is_taken_without_a_checkpoint() -> None:
    mutex = Mutex()
    for _ in range(2):
        with assert_no_checkpoints():
            async with mutex:
                pass


async def test_one_task_has_it_and_the_others_come_in_order(nursery: trio.Nursery) -> None:
    mutex = Mutex()
    order: list[int] = []
    go_on = trio.Event()

    async def take(number: int) -> None:
        async with mutex:
            order.append(number)
            await go_on.wait()
            order.append(number)

    for number in range(3):
        nursery.start_soon(take, number)
        await wait_all_tasks_blocked()
    assert order == [0]
    go_on.set()
    await wait_all_tasks_blocked()
    assert order == [0, 0, 1, 1, 2, 2]


async def test_an_exception_frees_it() -> None:
    mutex = Mutex()
    with pytest.raises(ValueError, match="mine"):
        async with mutex:
            raise ValueError("mine")
    with assert_no_checkpoints():
        async with mutex:
            pass


async def test_a_task_that_was_cancelled_does_not_take_it(nursery: trio.Nursery) -> None:
    mutex = Mutex()
    taken = False

    async def take(scope: trio.CancelScope) -> None:
        nonlocal taken
        with scope:
            async with mutex:
                taken = True

    scope = trio.CancelScope()
    async with mutex:
        nursery.start_soon(take, scope)
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
    await wait_all_tasks_blocked()
    assert not taken
