from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from msgspec import Struct
from trio.testing import MockClock

from chatd.wire.sweeper import Sweeper


class Rhythm(Struct, frozen=True):
    ping_interval_seconds: float = 25.0
    ping_timeout_seconds: float = 20.0


class Pulse:
    """A peer that may answer pings, after ``answers`` seconds."""

    def __init__(self, answers: float | None = None) -> None:
        self.answers = answers
        self.last_heard = trio.current_time()
        self.holds_peer = False
        self.asked: list[float] = []
        self.over = trio.Event()
        self.died_at = 0.0

    def ask(self) -> None:
        self.asked.append(trio.current_time())
        if self.answers is not None:
            self.last_heard = trio.current_time() + self.answers

    def silent(self) -> None:
        self.died_at = trio.current_time()
        self.over.set()


@pytest.fixture
async def sweeper(nursery: trio.Nursery) -> AsyncIterator[Sweeper]:
    made = Sweeper(Rhythm())
    nursery.start_soon(made.run)
    yield made
    nursery.cancel_scope.cancel()


async def test_who_stays_silent_is_asked_and_then_ended(
    autojump_clock: MockClock, sweeper: Sweeper
) -> None:
    began = trio.current_time()
    pulse = Pulse()
    sweeper.add(pulse)
    await pulse.over.wait()
    assert [at - began for at in pulse.asked] == [25]
    assert pulse.died_at - began == 45
    assert len(sweeper) == 0


@pytest.mark.parametrize("delay", [0.0, 5.0])
async def test_who_answers_lives(autojump_clock: MockClock, sweeper: Sweeper, delay: float) -> None:
    pulse = Pulse(answers=delay)
    sweeper.add(pulse)
    await trio.sleep(3600)
    assert not pulse.over.is_set()
    assert len(pulse.asked) == pytest.approx(3600 / (25 + delay), abs=1)


async def test_who_speaks_is_not_asked(autojump_clock: MockClock, sweeper: Sweeper) -> None:
    pulse = Pulse()
    sweeper.add(pulse)
    for _ in range(100):
        await trio.sleep(20)
        pulse.last_heard = trio.current_time()
    assert pulse.asked == []


async def test_whom_we_do_not_read_is_not_silent(
    autojump_clock: MockClock, sweeper: Sweeper
) -> None:
    pulse = Pulse()
    pulse.holds_peer = True
    sweeper.add(pulse)
    await trio.sleep(1000)
    assert not pulse.over.is_set()
    pulse.holds_peer = False
    await pulse.over.wait()


async def test_who_is_gone_is_left_alone_and_forgotten(
    autojump_clock: MockClock, sweeper: Sweeper
) -> None:
    pulses = [Pulse() for _ in range(1000)]
    for pulse in pulses:
        sweeper.add(pulse)
    for pulse in pulses:
        sweeper.discard(pulse)
        sweeper.discard(pulse)
    assert len(sweeper) == 0
    assert len(sweeper._heartbeats._due) < 200
    await trio.sleep(100)
    assert not any(pulse.asked for pulse in pulses)


async def test_many_at_once_and_one_in_between(autojump_clock: MockClock, sweeper: Sweeper) -> None:
    pulses = [Pulse() for _ in range(300)]
    for pulse in pulses:
        sweeper.add(pulse)
    await trio.sleep(10)
    late = Pulse()
    sweeper.add(late)
    for pulse in pulses:
        await pulse.over.wait()
    assert not late.over.is_set()
    await late.over.wait()
    assert late.died_at - pulses[0].died_at == pytest.approx(10)


async def test_another_rhythm_counts_from_the_next_visit(
    autojump_clock: MockClock, sweeper: Sweeper
) -> None:
    began = trio.current_time()
    pulse = Pulse()
    sweeper.add(pulse)
    sweeper.rhythm = Rhythm(ping_interval_seconds=5, ping_timeout_seconds=2)
    await pulse.over.wait()
    assert pulse.died_at - began == 27
    second = Pulse()
    sweeper.add(second)
    await second.over.wait()
    assert second.died_at - pulse.died_at == pytest.approx(7)
