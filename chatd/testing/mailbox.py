"""How a test takes a client's events: the next of a kind, the others kept for later."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

import trio
from trio.testing import MockClock

from chatd.client import Closed, Deadlines

__all__ = ["DEADLINES", "EVENTS", "Mailbox", "patience"]

EVENTS = 100_000
"""What may wait for a test to take it, for each client."""

# Who reads nothing for an hour, because a test has it so, is not to leave by itself.
DEADLINES = Deadlines(ping=None)


class Named(Protocol):
    @property
    def on(self) -> str: ...


_E = TypeVar("_E", bound=Named)


def patience() -> float:
    """Give the seconds a test waits for what should come: an hour costs a virtual clock nothing."""
    return 3600.0 if isinstance(trio.lowlevel.current_clock(), MockClock) else 10.0


class Mailbox(Generic[_E]):
    """One client's events. ``take_nowait`` raises trio.WouldBlock where there is none."""

    def __init__(self, take: Callable[[], Awaitable[_E]], take_nowait: Callable[[], _E]) -> None:
        self._take = take
        self._take_nowait = take_nowait
        self._kept: deque[_E] = deque()

    async def next(self, owner: str, kind: str | None) -> _E:
        """Take the next event of ``kind``, or the very next. AssertionError: none came."""
        await trio.lowlevel.checkpoint()
        for index, event in enumerate(self._kept):
            if kind in {None, event.on}:
                del self._kept[index]
                return event
        seconds = patience()
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
        raise AssertionError(f"{owner}: no {wanted} within {seconds:g} s; what came is {came}")

    def waiting(self, kind: str | None) -> list[_E]:
        """Give, and leave, what has come and was not taken."""
        while len(self._kept) < EVENTS:
            try:
                self._kept.append(self._take_nowait())
            except (trio.WouldBlock, Closed):
                break
        return [event for event in self._kept if kind in {None, event.on}]
