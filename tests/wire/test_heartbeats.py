from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.wire.heartbeats import Heartbeats


class Beat:
    def __init__(self, every: float, times: int = 3) -> None:
        self.every = every
        self.left = times
        self.at: list[float] = []

    def beat(self, now: float) -> float | None:
        self.at.append(now)
        self.left -= 1
        return now + self.every if self.left else None


async def test_each_is_called_when_it_is_due(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    beats = [Beat(10.0), Beat(3.0)]
    heartbeats = Heartbeats()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heartbeats.run)
        await wait_all_tasks_blocked()
        for beat in beats:
            heartbeats.add(beat, start + beat.every)
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert [round(at - start, 6) for at in beats[0].at] == [10, 20, 30]
    assert [round(at - start, 6) for at in beats[1].at] == [3, 6, 9]


async def test_who_is_due_with_many_others_is_called_too(autojump_clock: MockClock) -> None:
    heartbeats = Heartbeats()
    beats = [Beat(1.0) for _ in range(200)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heartbeats.run)
        for beat in beats:
            heartbeats.add(beat, trio.current_time() + 1)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert {len(beat.at) for beat in beats} == {3}


# Trio's scheduler shuffles: once says nothing.
@pytest.mark.parametrize("_turn", range(20))
async def test_after_a_stall_what_came_is_read_first(mock_clock: MockClock, _turn: int) -> None:
    order: list[str] = []

    class Late(Beat):
        def beat(self, now: float) -> float | None:
            order.append("beat")
            return None

    async def read(due: float) -> None:
        await trio.sleep_until(due + 20)
        await trio.lowlevel.checkpoint()
        order.append("read")

    heartbeats = Heartbeats()
    async with trio.open_nursery() as nursery:
        due = trio.current_time() + 10
        heartbeats.add(Late(1.0), due)
        nursery.start_soon(heartbeats.run)
        nursery.start_soon(read, due)
        await wait_all_tasks_blocked()
        mock_clock.jump(40)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert order == ["read", "beat"]


async def test_a_heap_of_the_dead_alone_is_nothing(autojump_clock: MockClock) -> None:
    heartbeats = Heartbeats()
    beats = [Beat(1.0) for _ in range(100)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heartbeats.run)
        for beat in beats:
            heartbeats.add(beat, trio.current_time() + 1)
        await wait_all_tasks_blocked()
        for beat in beats:
            heartbeats.discard(beat)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert not any(beat.at for beat in beats)


async def test_who_is_discarded_is_not_called(autojump_clock: MockClock) -> None:
    heartbeats = Heartbeats()
    gone = [Beat(1.0) for _ in range(1000)]
    stays = Beat(1.0, times=1000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heartbeats.run)
        heartbeats.add(stays, trio.current_time() + 1)
        for beat in gone:
            heartbeats.add(beat, trio.current_time() + 1)
        for beat in gone:
            heartbeats.discard(beat)
            heartbeats.discard(beat)
        assert len(heartbeats) == 1
        assert len(heartbeats._due) < 200
        await trio.sleep(10.5)
        nursery.cancel_scope.cancel()
    assert not any(beat.at for beat in gone)
    assert len(stays.at) == 10
