from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.logs import open_log
from chatd.testing.recording import Recording
from chatd.timers import Timers, check_due, ping_due


class Callback:
    """Fires ``times`` times, every ``every`` seconds, and notes when."""

    def __init__(self, every: float, times: int = 3) -> None:
        self.every = every
        self.left = times
        self.at: list[float] = []

    def fire(self, now: float) -> float | None:
        self.at.append(now)
        self.left -= 1
        return now + self.every if self.left else None


@pytest.fixture
def recording() -> Recording:
    return Recording()


@pytest.fixture
async def timers(nursery: trio.Nursery, recording: Recording) -> AsyncIterator[Timers]:
    made = Timers(open_log(sink=recording))
    nursery.start_soon(made.run)
    yield made
    nursery.cancel_scope.cancel()


def fail(now: float) -> float | None:
    raise ValueError("boom")


async def test_each_timer_fires_when_it_is_due(timers: Timers, autojump_clock: MockClock) -> None:
    start = trio.current_time()
    callbacks = [Callback(10.0), Callback(3.0)]
    await wait_all_tasks_blocked()
    for callback in callbacks:
        timers.add(start + callback.every, callback.fire)
    assert len(timers) == 2
    await trio.sleep(100)
    assert [round(at - start, 6) for at in callbacks[0].at] == [10, 20, 30]
    assert [round(at - start, 6) for at in callbacks[1].at] == [3, 6, 9]
    assert len(timers) == 0


async def test_a_due_time_that_has_passed_means_at_once(timers: Timers) -> None:
    callback = Callback(1.0, times=1)
    timers.add(trio.current_time() - 5, callback.fire)
    await wait_all_tasks_blocked()
    assert len(callback.at) == 1


async def test_a_timer_that_stays_due_does_not_spin(
    timers: Timers, autojump_clock: MockClock
) -> None:
    at: list[float] = []

    def fire(now: float) -> float:
        at.append(now)
        return now

    timer = timers.add(trio.current_time() + 1, fire)
    await trio.sleep(1.1)
    timer.cancel()
    assert 90 < len(at) < 110


async def test_many_timers_that_are_due_together_all_fire(
    timers: Timers, autojump_clock: MockClock
) -> None:
    callbacks = [Callback(1.0) for _ in range(200)]
    for callback in callbacks:
        timers.add(trio.current_time() + 1, callback.fire)
    await trio.sleep(10)
    assert {len(callback.at) for callback in callbacks} == {3}


class Watch(trio.abc.Instrument):
    """Records when the task of the timers runs."""

    def __init__(self) -> None:
        self.woken: list[float] = []

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if "Timers.run" in task.name:
            self.woken.append(trio.current_time())


async def test_nothing_wakes_the_task_while_nothing_is_due(
    timers: Timers, autojump_clock: MockClock
) -> None:
    await wait_all_tasks_blocked()
    statistics = timers._sleeper.statistics
    timers.add(trio.current_time() + 3600, Callback(1.0, times=1).fire)
    await wait_all_tasks_blocked()
    assert statistics().tasks_waiting == 1
    watch = Watch()
    trio.lowlevel.add_instrument(watch)
    timers.add(trio.current_time() + 7200, Callback(1.0, times=1).fire)
    await trio.sleep(3599)
    trio.lowlevel.remove_instrument(watch)
    assert watch.woken == []


async def test_cancelled_timers_do_not_wake_the_task(
    timers: Timers, autojump_clock: MockClock
) -> None:
    began = trio.current_time()
    timers.add(began + 10, Callback(1.0, times=1).fire)
    for seconds in range(20, 30):
        timers.add(began + seconds, Callback(1.0).fire).cancel()
    timers.add(began + 100, Callback(1.0, times=1).fire)
    await wait_all_tasks_blocked()
    watch = Watch()
    trio.lowlevel.add_instrument(watch)
    await trio.sleep_until(began + 99)
    trio.lowlevel.remove_instrument(watch)
    assert set(watch.woken) == {began + 10}


# Trio's scheduler shuffles: one run proves nothing.
@pytest.mark.parametrize("_turn", range(20))
async def test_after_a_stall_what_clients_sent_is_read_first(
    timers: Timers, nursery: trio.Nursery, mock_clock: MockClock, _turn: int
) -> None:
    order: list[str] = []

    def late(now: float) -> None:
        order.append("fire")

    async def read(due: float) -> None:
        await trio.sleep_until(due + 20)
        for _ in range(200):  # many sockets are read in slices
            await trio.lowlevel.checkpoint()
        order.append("read")

    due = trio.current_time() + 10
    timers.add(due, late)
    nursery.start_soon(read, due)
    await wait_all_tasks_blocked()
    mock_clock.jump(40)
    await wait_all_tasks_blocked()
    assert order == ["read", "fire"]


async def test_only_cancelled_timers_are_due(timers: Timers, autojump_clock: MockClock) -> None:
    callbacks = [Callback(1.0) for _ in range(100)]
    added = [timers.add(trio.current_time() + 1, callback.fire) for callback in callbacks]
    await wait_all_tasks_blocked()
    for timer in added:
        timer.cancel()
    await trio.sleep(10)
    assert not any(callback.at for callback in callbacks)


async def test_a_cancelled_timer_does_not_fire_and_takes_no_memory(
    timers: Timers, autojump_clock: MockClock
) -> None:
    gone = [Callback(1.0) for _ in range(1000)]
    stays = Callback(1.0, times=1000)
    timers.add(trio.current_time() + 1, stays.fire)
    added = [timers.add(trio.current_time() + 1, callback.fire) for callback in gone]
    for timer in added:
        timer.cancel()
        timer.cancel()
    assert len(timers) == 1
    assert len(timers._heap) < 200
    await trio.sleep(10.5)
    assert not any(callback.at for callback in gone)
    assert len(stays.at) == 10


async def test_a_timer_may_cancel_itself_and_another(
    timers: Timers, autojump_clock: MockClock
) -> None:
    def first(now: float) -> float:
        one.cancel()
        two.cancel()
        return now + 1

    other = Callback(1.0)
    one = timers.add(trio.current_time() + 1, first)
    two = timers.add(trio.current_time() + 1, other.fire)
    await trio.sleep(10)
    assert other.at == []
    assert len(timers) == 0


def faults(recording: Recording) -> list[Any]:
    return [fields["error"] for name, fields in recording.records if name == "fault"]


async def test_an_exception_ends_its_own_timer_alone(
    timers: Timers, recording: Recording, autojump_clock: MockClock
) -> None:
    failed: list[Exception] = []
    other = Callback(1.0)
    timers.add(trio.current_time() + 1, fail, failed.append)
    timers.add(trio.current_time() + 1, other.fire)
    await trio.sleep(10)
    assert [str(error) for error in failed] == ["boom"]
    assert len(other.at) == 3
    assert len(timers) == 0
    assert faults(recording) == []


def fail_again(error: Exception) -> None:
    raise KeyError("again")


@pytest.mark.parametrize(
    ("fault", "logged"),
    [(None, "ValueError('boom')"), (fail_again, "KeyError('again')")],
    ids=["no callback", "failing callback"],
)
async def test_an_unhandled_exception_is_logged(
    timers: Timers,
    recording: Recording,
    autojump_clock: MockClock,
    fault: Callable[[Exception], None] | None,
    logged: str,
) -> None:
    other = Callback(1.0)
    timers.add(trio.current_time() + 1, fail, fault)
    timers.add(trio.current_time() + 1, other.fire)
    await trio.sleep(10)
    assert faults(recording) == [logged]
    assert len(other.at) == 3


@pytest.mark.parametrize(("late", "passed"), [(0.003, 10.0), (0.25, 10.25)])
async def test_a_timer_that_is_a_little_late_does_not_notice(
    timers: Timers, mock_clock: MockClock, late: float, passed: float
) -> None:
    began = trio.current_time()
    callback = Callback(1.0, times=1)
    timers.add(began + 10, callback.fire)
    await wait_all_tasks_blocked()
    mock_clock.jump(10 + late)
    await wait_all_tasks_blocked()
    assert callback.at == [began + passed]


@given(st.floats(0, 1e7), st.floats(0.005, 3600))
def test_a_ping_is_due_at_the_interval_or_shortly_before(heard: float, interval: float) -> None:
    due = ping_due(heard, interval)
    early = min(1.0, interval / 25)
    assert heard + interval - early <= due <= heard + interval


@given(st.floats(0, 1e7), st.floats(0.005, 3600))
def test_a_deadline_is_checked_when_it_is_over_or_shortly_after(
    since: float, timeout: float
) -> None:
    due = check_due(since, timeout)
    late = min(1.0, timeout / 25)
    assert since + timeout <= due <= since + timeout + late


def test_all_pings_of_a_second_and_their_deadlines_are_due_together() -> None:
    heard = [number / 400 for number in range(10_000)]  # of 10,000 clients within 25 seconds
    pings = {ping_due(each, 25.0) for each in heard}
    assert len(pings) == 25
    assert {check_due(due, 20.0) for due in pings} == {due + 20 for due in pings}
