"""The steady clock does not follow a jump of the wall clock until it was confirmed."""

from __future__ import annotations

import pytest

from chatd.clock import ClockState, SteadyClock, boot_seconds

SECOND, HOUR = 1000, 3_600_000
DAY = 24 * HOUR


class Time:
    """A machine's time: it passes, and its wall clock is set."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000_000
        self.seconds = 1000.0

    def passes(self, ms: int) -> None:
        self.wall += ms
        self.seconds += ms / 1000

    def clock(self) -> SteadyClock:
        return SteadyClock(lambda: self.wall, lambda: self.seconds)


@pytest.fixture
def time() -> Time:
    return Time()


def test_it_goes_with_the_wall_clock(time: Time) -> None:
    clock = time.clock()
    for step in (1, SECOND, HOUR, 400 * DAY):
        time.passes(step)
        assert clock() == time.wall
    for correction in (59 * SECOND, -59 * SECOND, 1):
        time.wall += correction
        assert clock() == time.wall
    assert clock.jump == 0


@pytest.mark.parametrize("jump", [800 * DAY, 2 * HOUR, 61 * SECOND, -61 * SECOND, -20_000 * DAY])
def test_it_does_not_follow_a_jump(time: Time, jump: int) -> None:
    clock = time.clock()
    time.passes(SECOND)
    right = time.wall
    time.wall += jump
    assert clock() == right
    assert clock.jump == jump
    time.passes(HOUR)
    assert clock() == right + HOUR
    time.wall -= jump
    assert clock() == time.wall
    assert clock.jump == 0
    # The way back is none that must be confirmed.
    time.passes(10 * DAY)
    assert clock() == time.wall


def test_a_jump_is_confirmed_by_a_day(time: Time) -> None:
    clock = time.clock()
    time.wall += 800 * DAY
    clock()
    time.passes(DAY - SECOND)
    assert clock() == time.wall - 800 * DAY
    time.passes(SECOND)
    assert clock() == time.wall
    assert clock.jump == 0


def test_another_jump_begins_the_day_again(time: Time) -> None:
    clock = time.clock()
    time.wall += DAY
    clock()
    time.passes(23 * HOUR)
    time.wall += DAY
    assert clock() == time.wall - 2 * DAY
    time.passes(23 * HOUR)
    assert clock() == time.wall - 2 * DAY
    time.passes(HOUR)
    assert clock() == time.wall


def test_a_jump_is_confirmed_by_hand(time: Time) -> None:
    clock = time.clock()
    time.wall += 800 * DAY
    clock()
    clock.confirm()
    assert clock() == time.wall


def restarted(time: Time, clock: SteadyClock, away: int = 0) -> SteadyClock:
    state = clock.state()
    time.passes(away)
    another = time.clock()
    another.resume(state)
    return another


@pytest.mark.parametrize("away", [0, HOUR, DAY])
def test_a_restart_changes_nothing(time: Time, away: int) -> None:
    clock = restarted(time, time.clock(), away)
    assert clock() == time.wall
    assert clock.jump == 0


def test_a_restart_in_doubt_goes_on_in_doubt(time: Time) -> None:
    clock = time.clock()
    time.wall += 800 * DAY
    clock()
    time.passes(HOUR)
    clock = restarted(time, clock, HOUR)
    assert clock() == time.wall - 800 * DAY
    time.passes(21 * HOUR)
    assert clock() == time.wall - 800 * DAY
    clock = restarted(time, clock, HOUR)
    assert clock() == time.wall


def test_a_clock_that_is_right_again_after_a_restart_is_trusted(time: Time) -> None:
    clock = time.clock()
    time.wall += 800 * DAY
    clock()
    time.wall -= 800 * DAY
    clock = restarted(time, clock, HOUR)
    assert clock() == time.wall


@pytest.mark.parametrize("jump", [2 * DAY, -2 * DAY, 800 * DAY])
def test_a_clock_that_jumped_between_two_processes_is_in_doubt(time: Time, jump: int) -> None:
    state = time.clock().state()
    right = time.wall
    time.wall += jump
    clock = time.clock()
    clock.resume(state)
    assert clock() == right
    time.passes(DAY)
    assert clock() == time.wall


def test_a_jump_to_elsewhere_after_a_doubt_is_another_doubt(time: Time) -> None:
    clock = time.clock()
    time.wall += 800 * DAY
    right = clock()
    state = clock.state()
    time.wall -= 850 * DAY
    clock = time.clock()
    clock.resume(state)
    assert clock() == right


def test_a_state_is_what_was_seen(time: Time) -> None:
    clock = time.clock()
    assert clock.state() == ClockState(time.wall)
    time.wall += DAY
    clock()
    time.passes(SECOND)
    assert clock.state() == ClockState(time.wall - DAY, DAY, SECOND)


def test_the_seconds_since_the_boot_grow() -> None:
    assert 0 < boot_seconds() <= boot_seconds()
