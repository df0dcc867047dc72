"""The token bucket."""

from __future__ import annotations

import pytest
import trio

from chatd.chat.limits import Bucket


async def test_a_burst_then_a_rate(autojump_clock: trio.testing.MockClock) -> None:
    bucket = Bucket()
    assert [bucket.take(1, rate=2, burst=3) for _ in range(4)] == [0, 0, 0, 500]
    await trio.sleep(0.5)
    assert [bucket.take(1, rate=2, burst=3) for _ in range(2)] == [0, 500]
    await trio.sleep(100)
    assert [bucket.take(1, rate=2, burst=3) for _ in range(4)] == [0, 0, 0, 500]


async def test_an_amount_over_the_burst_needs_a_full_bucket_and_leaves_a_debt(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bucket = Bucket()
    assert bucket.take(50, rate=10, burst=20) == 0
    assert bucket.take(1, rate=10, burst=20) == pytest.approx(3100, abs=1)


async def test_what_is_put_back_can_be_taken_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bucket = Bucket()
    assert bucket.take(3, rate=1, burst=3) == 0
    bucket.put_back(1)
    assert [bucket.take(1, rate=1, burst=3) for _ in range(2)] == [0, 1000]


async def test_a_bucket_tells_when_it_is_full(autojump_clock: trio.testing.MockClock) -> None:
    bucket = Bucket()
    assert bucket.full_in(rate=2, burst=10) == 0
    bucket.take(5, rate=2, burst=10)
    assert bucket.full_in(rate=2, burst=10) == 2.5
    await trio.sleep(1)
    assert bucket.full_in(rate=2, burst=10) == 1.5
    await trio.sleep(1.5)
    assert bucket.full_in(rate=2, burst=10) == 0


async def test_off_is_off(autojump_clock: trio.testing.MockClock) -> None:
    bucket = Bucket()
    assert bucket.take(1000, rate="off", burst=1) == 0
    assert bucket.take(1000, rate=1, burst="off") == 0
    assert bucket.full_in(rate="off", burst=1) == bucket.full_in(rate=1, burst="off") == 0
