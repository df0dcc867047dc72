"""How often tasks run while nothing happens: the price of virtual time, without a stopwatch."""

from __future__ import annotations

from typing import Literal

import pytest
import trio
from trio.testing import MockClock

from chatd.settings import Settings
from chatd.testing import Harness

DAY = 24 * 60 * 60
HOUR = 60 * 60


class Steps(trio.abc.Instrument):
    """Counts the steps of all tasks."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


async def steps_in(seconds: float) -> int:
    """Return how many steps all tasks make in this number of seconds."""
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    await trio.sleep(seconds)
    trio.lowlevel.remove_instrument(steps)
    return steps.count


async def test_an_empty_chat_sleeps_all_day(chat: Harness, autojump_clock: MockClock) -> None:
    # 144 is once in ten minutes: the daemon wakes only when something is due.
    assert await steps_in(DAY) <= 2 * 144


@pytest.mark.parametrize(
    ("protocol", "most"), [("json", 9), ("text", 9), ("socketio", 12), ("polling", 25)]
)
async def test_a_client_costs_its_pings_alone(
    chat: Harness,
    autojump_clock: MockClock,
    protocol: Literal["json", "text", "socketio", "polling"],
    most: int,
) -> None:
    """Each ping takes a few steps of the timers, the writer, the reader and the client."""
    await chat.client("ann", protocol)
    pings = HOUR / Settings().engineio.ping_interval_seconds
    assert await steps_in(HOUR) <= most * pings + 50
