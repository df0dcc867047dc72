"""New clients come in at the pace at which they can be served."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import trio
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from chatd.chat.arrivals import FEWEST, GREETING_SECONDS, JOIN_SECONDS, MOST, Arrivals
from chatd.journal import Unavailable


class Crowd:
    """Clients that come in and join; the test decides when each join is answered."""

    def __init__(self, arrivals: Arrivals) -> None:
        self.arrivals = arrivals
        self.let_in: list[int] = []
        self.joins: dict[int, trio.Event] = {}

    async def come(self, number: int) -> None:
        if await self.arrivals.admit():
            self.let_in.append(number)
            client: Any = object()
            self.arrivals.connected(client)
            served = self.joins[number] = trio.Event()
            with self.arrivals.joining(client):
                await served.wait()


async def test_as_many_come_in_as_are_served_and_in_their_order(
    autojump_clock: MockClock,
) -> None:
    arrivals = Arrivals()
    async with trio.open_nursery() as nursery:
        crowd = Crowd(arrivals)
        for number in range(3 * MOST):
            nursery.start_soon(crowd.come, number)
            await wait_all_tasks_blocked()
        await trio.sleep(1.5 * GREETING_SECONDS)  # those that are being served still count
        assert crowd.let_in == list(range(MOST))
        assert arrivals.waiting == 2 * MOST
        for number in range(3 * MOST):
            crowd.joins[number].set()
            await wait_all_tasks_blocked()
            assert len(crowd.let_in) == min(3 * MOST, MOST + number + 1)
    assert crowd.let_in == list(range(3 * MOST))
    assert arrivals.waiting == 0


async def test_clients_that_do_nothing_hold_others_back_for_a_moment(
    autojump_clock: MockClock,
) -> None:
    arrivals, began = Arrivals(), trio.current_time()
    clients: list[Any] = [object() for _ in range(MOST // 2)]
    for client in clients:
        arrivals.connected(client)
    for _ in range(MOST // 2):
        assert await arrivals.admit()  # whose handshakes fail
    assert trio.current_time() == began
    for _ in range(MOST + 1):
        assert await arrivals.admit()
    assert trio.current_time() - began == 2 * GREETING_SECONDS


async def test_fewer_come_in_while_joins_take_long(autojump_clock: MockClock) -> None:
    arrivals = Arrivals()

    async def join(seconds: float) -> None:
        await arrivals.admit()
        client: Any = object()
        arrivals.connected(client)
        with arrivals.joining(client):
            await trio.sleep(seconds)

    async def coming_in() -> int:
        """Return how many are let in at once, after the others have come and gone."""
        waited: list[float] = []

        async def come() -> None:
            began = trio.current_time()
            if await arrivals.admit():
                waited.append(trio.current_time() - began)

        async with trio.open_nursery() as nursery:
            for _ in range(MOST):
                nursery.start_soon(come)
        await trio.sleep(GREETING_SECONDS)
        return waited.count(0)

    assert await coming_in() == MOST
    for _ in range(50):
        await join(2 * JOIN_SECONDS)
    assert await coming_in() == FEWEST
    for _ in range(MOST):
        await join(0)
    await trio.sleep(GREETING_SECONDS)
    assert await coming_in() == MOST


async def test_joins_that_fail_do_not_change_the_pace(autojump_clock: MockClock) -> None:
    arrivals = Arrivals()
    client: Any = object()
    for _ in range(50):
        with suppress(Unavailable), arrivals.joining(client):
            await trio.sleep(2 * JOIN_SECONDS)
            raise Unavailable("the store is away")
    for _ in range(MOST):
        with assert_no_checkpoints():
            assert await arrivals.admit()


async def test_while_there_is_room_nobody_waits_for_another_task(mock_clock: MockClock) -> None:
    arrivals = Arrivals()
    for _ in range(MOST):
        with assert_no_checkpoints():
            assert await arrivals.admit()


async def test_a_client_that_goes_makes_room(autojump_clock: MockClock) -> None:
    arrivals, began = Arrivals(), trio.current_time()
    clients: list[Any] = [object() for _ in range(MOST)]
    for client in clients:
        await arrivals.admit()
        arrivals.connected(client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(arrivals.admit)
        await wait_all_tasks_blocked()
        arrivals.gone(clients[3])
    assert trio.current_time() == began


async def test_nobody_waits_for_ever(autojump_clock: MockClock) -> None:
    arrivals = Arrivals()
    clients: list[Any] = [object() for _ in range(MOST)]
    async with trio.open_nursery() as nursery:
        for client in clients:

            async def join(client: Any = client) -> None:
                with arrivals.joining(client):
                    await trio.sleep(100)

            nursery.start_soon(join)
        await wait_all_tasks_blocked()
        assert not await arrivals.admit()
        assert arrivals.waiting == 0
