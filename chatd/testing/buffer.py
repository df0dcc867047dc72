"""The events that a test has not taken yet: the next one of a kind is taken, others stay."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Generic, Protocol, TypeVar

import trio
from trio.testing import MockClock

from chatd.client import Closed, Deadlines

__all__ = ["DEADLINES", "EVENTS", "EventBuffer", "wait_limit"]

EVENTS: Final = 100_000
"""How many events of one client may wait to be taken."""

# A client that a test has stalled for an hour must not time itself out by its own pings.
DEADLINES: Final = Deadlines(ping=None)


class Named(Protocol):
    @property
    def on(self) -> str: ...


_E = TypeVar("_E", bound=Named)


def wait_limit() -> float:
    """Return for how many seconds a test waits: an hour of a virtual clock, 10 of a real one."""
    return 3600.0 if isinstance(trio.lowlevel.current_clock(), MockClock) else 10.0


class EventBuffer(Generic[_E]):
    """One client's events. ``take_nowait`` raises trio.WouldBlock if there is none."""

    def __init__(self, take: Callable[[], Awaitable[_E]], take_nowait: Callable[[], _E]) -> None:
        self._take = take
        self._take_nowait = take_nowait
        self._kept: deque[_E] = deque()

    async def next(self, owner: str, kind: str | None) -> _E:
        """Return the next event of ``kind``, or of any; AssertionError if none comes in time."""
        await trio.lowlevel.checkpoint()
        for index, event in enumerate(self._kept):
            if kind in {None, event.on}:
                del self._kept[index]
                return event
        seconds = wait_limit()
        with trio.move_on_after(seconds):
            while True:
                event = await self._take()
                if kind in {None, event.on}:
                    return event
                if len(self._kept) == EVENTS:
                    raise AssertionError(f"{owner}: {EVENTS} events came that no test took")
                self._kept.append(event)
        wanted = "event" if kind is None else kind
        came = ", ".join(one.on for one in self._kept) or "nothing"
        raise AssertionError(f"{owner}: no {wanted} came within {seconds:g} s, only: {came}")

    def waiting(self, kind: str | None) -> list[_E]:
        """Return the events of ``kind``, or all, that came and were not taken. They stay."""
        while len(self._kept) < EVENTS:
            try:
                self._kept.append(self._take_nowait())
            except (trio.WouldBlock, Closed):
                break
        return [event for event in self._kept if kind in {None, event.on}]
