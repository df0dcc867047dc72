from __future__ import annotations

import trio

from chatd.socketio.inbox import Inbox
from tests.socketio.client import settled


async def test_who_fills_it_waits_for_room() -> None:
    inbox: Inbox[int] = Inbox(2, 100)
    # What is in memory already has room where nothing waits.
    assert not inbox.full(1000)
    inbox.put(1, 90)
    assert inbox.full(11)
    assert not inbox.full(10)
    inbox.put(2)
    assert inbox.full(0)
    assert len(inbox) == 2
    through = trio.Event()

    async def wait() -> None:
        await inbox.room(101)
        through.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await settled()
        assert inbox.take() == 1
        await settled()
        # Room for an item, but not for one of that size.
        assert not through.is_set()
        assert inbox.take() == 2
        await through.wait()


async def test_a_closed_one_keeps_nobody_waiting() -> None:
    inbox: Inbox[int] = Inbox(1, 1)
    inbox.put(1, 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inbox.room, 1)
        await settled()
        inbox.close()
    assert not inbox.full(1)
    assert inbox.take() == 1
