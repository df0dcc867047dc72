from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from chatd.engineio.inbox import Inbox, MessageInbox


async def test_the_filling_task_waits_for_room() -> None:
    paused: list[bool] = []
    inbox: Inbox[int] = Inbox(100, paused.append)
    # An empty queue has room for anything.
    assert not inbox.full(1000)
    inbox.put(1, 90)
    assert inbox.full(11)
    assert not inbox.full(10)
    inbox.put(2, 10)
    assert inbox.full(1)
    assert len(inbox) == 2
    assert paused == []
    through = trio.Event()

    async def wait() -> None:
        await inbox.room(91)
        through.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert paused == [True]
        assert inbox.take() == 1
        await wait_all_tasks_blocked()
        # There is room for an item, but not for one of that size.
        assert not through.is_set()
        assert inbox.take() == 2
        await through.wait()
        assert paused == [True, False]
    assert inbox.take() is None


async def test_no_task_waits_for_space_in_a_closed_queue() -> None:
    inbox: Inbox[int] = Inbox(1, lambda _: None)
    inbox.put(1, 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inbox.room, 1)
        await wait_all_tasks_blocked()
        inbox.close()
    assert not inbox.full(1)
    assert inbox.take() == 1


async def test_an_inbox_is_idle_while_its_task_waits_and_nothing_is_there() -> None:
    inbox: Inbox[str] = Inbox(100, lambda _: None)
    taken: list[str] = []

    async def take() -> None:
        while True:
            taken.append(await inbox.next())

    assert not inbox.idle
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        assert inbox.idle
        inbox.put("second", 1)
        inbox.put_first("first", 1)
        assert not inbox.idle
        await wait_all_tasks_blocked()
        assert taken == ["first", "second"]
        assert inbox.idle
        nursery.cancel_scope.cancel()
        # A task that is cancelled takes nothing any more.
        assert not inbox.idle


async def put(inbox: MessageInbox, message: str | bytes) -> None:
    if (pending := inbox.received(message)) is not None:
        await pending


async def test_messages_come_in_order() -> None:
    inbox = MessageInbox(10_000, lambda _: None)
    for index in range(10):
        await put(inbox, str(index))
    assert [await inbox.next() for _ in range(10)] == [str(index) for index in range(10)]


@pytest.mark.parametrize(("message", "fit"), [(b"x" * 30_000, 2), ("x", 508)])
async def test_a_full_queue_stops_the_reader(message: str | bytes, fit: int) -> None:
    inbox = MessageInbox(65_536, lambda _: None)
    taken: list[int] = []

    async def read() -> None:
        for index in range(fit + 2):
            await put(inbox, message)
            taken.append(index)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        assert len(taken) == fit
        await inbox.next()
        await wait_all_tasks_blocked()
        assert len(taken) == fit + 1
        inbox.ended("transport close")
    # Messages that were read before the end are still given.
    for _ in range(fit + 1):
        assert await inbox.next() == message
    with pytest.raises(StopAsyncIteration):
        await inbox.next()


async def test_a_wait_for_a_message_ends_with_the_session() -> None:
    inbox = MessageInbox(1000, lambda _: None)

    async def wait() -> None:
        with pytest.raises(StopAsyncIteration):
            await inbox.next()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        inbox.ended("ping timeout")
