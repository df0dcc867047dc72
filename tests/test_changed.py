from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from chatd.changed import Changed


async def test_every_waiting_task_is_woken_each_time(nursery: trio.Nursery) -> None:
    changed = Changed()
    count = 0
    seen: list[int] = []

    async def wait_for(wanted: int) -> None:
        while count < wanted:
            await changed.wait()
        seen.append(wanted)

    for wanted in (1, 2, 2):
        nursery.start_soon(wait_for, wanted)
    await wait_all_tasks_blocked()
    for count in (1, 2):
        changed.notify()
        await wait_all_tasks_blocked()
        assert seen == [1, 2, 2][: 1 if count == 1 else 3]


async def test_a_task_that_was_cancelled_is_not_woken(nursery: trio.Nursery) -> None:
    changed = Changed()
    woken: list[str] = []

    async def wait_for(name: str, scope: trio.CancelScope) -> None:
        with scope:
            await changed.wait()
            woken.append(name)

    before, after, never = (trio.CancelScope() for _ in range(3))
    for name, scope in (("before", before), ("after", after), ("never", never)):
        nursery.start_soon(wait_for, name, scope)
    await wait_all_tasks_blocked()
    before.cancel()
    changed.notify()
    after.cancel()
    await wait_all_tasks_blocked()
    assert sorted(woken) == ["after", "never"]


async def test_a_change_without_waiting_tasks_is_not_remembered() -> None:
    changed = Changed()
    changed.notify()
    with trio.move_on_after(0) as scope:
        await changed.wait()
    assert scope.cancelled_caught
    with pytest.raises(trio.TooSlowError), trio.fail_after(0):
        await changed.wait()
