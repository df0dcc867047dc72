from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from chatd.engineio.inbox import Inbox


async def test_messages_wait_in_order() -> None:
    inbox = Inbox()
    for index in range(10):
        await inbox.received(str(index))
    assert [await inbox.next() for _ in range(10)] == [str(index) for index in range(10)]


@pytest.mark.parametrize(("message", "fit"), [(b"x" * 30_000, 2), ("x", 64)])
async def test_reading_waits_while_it_is_full(message: str | bytes, fit: int) -> None:
    inbox = Inbox()
    taken: list[int] = []

    async def read() -> None:
        for index in range(fit + 2):
            await inbox.received(message)
            taken.append(index)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        assert len(taken) == fit
        await inbox.next()
        await wait_all_tasks_blocked()
        assert len(taken) == fit + 1
        inbox.ended("transport close")
    # What was read before the end is given, and then it ends.
    for _ in range(fit + 1):
        assert await inbox.next() == message
    with pytest.raises(StopAsyncIteration):
        await inbox.next()


async def test_a_wait_ends_with_the_session() -> None:
    inbox = Inbox()

    async def wait() -> None:
        with pytest.raises(StopAsyncIteration):
            await inbox.next()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        inbox.ended("ping timeout")
