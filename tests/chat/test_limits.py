"""The token bucket."""

from __future__ import annotations

import pytest
import trio

from chatd.chat.limits import Bucket


async def test_a_burst_then_a_rate(autojump_clock: trio.testing.MockClock) -> None:
    bucket = Bucket()
    for _ in range(3):
        assert bucket.wait(1, rate=2, burst=3) == 0
        bucket.spend(1)
    assert bucket.wait(1, rate=2, burst=3) == 500
    await trio.sleep(0.5)
    assert bucket.wait(1, rate=2, burst=3) == 0
    bucket.spend(1)
    await trio.sleep(100)
    waits = []
    for _ in range(4):
        waits.append(bucket.wait(1, rate=2, burst=3))
        bucket.spend(1)
    assert waits == [0, 0, 0, 500]


async def test_what_is_bigger_than_the_burst_goes_when_full_and_leaves_a_debt(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bucket = Bucket()
    assert bucket.wait(50, rate=10, burst=20) == 0
    bucket.spend(50)
    assert bucket.wait(1, rate=10, burst=20) == pytest.approx(3100, abs=1)


async def test_off_is_off(autojump_clock: trio.testing.MockClock) -> None:
    bucket = Bucket()
    bucket.spend(1000)
    assert bucket.wait(1, rate="off", burst=1) == 0
    assert bucket.wait(1, rate=1, burst="off") == 0
