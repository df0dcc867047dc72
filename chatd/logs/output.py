"""What every logger of one log shares: where its lines go, its level, and its address policy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from .refusals import Refusals
from .sink import Sink
from .vocabulary import LEVELS, VOCABULARY, Level, Name

__all__ = ["AddressPolicy", "LogStatistics", "Output", "now_ms"]

AddressPolicy: TypeAlias = Literal["full", "prefix", "off"]
"""How much of a client's address is logged: all of it, its /24 or /64, or nothing."""

CLOSE_SECONDS: Final = 1.0
"""Enough for a slow reader to read a full queue; shorter than any stop timeout."""


class LogStatistics(Struct, frozen=True):
    """Lines logged so far, how many of those were dropped, and the bytes still waiting."""

    lines: int
    dropped: int
    waiting_bytes: int


def now_ms() -> int:
    """Return the wall clock's Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Output:
    """The shared state of all logs bound from one: the sink, the level, the address policy.

    ``level`` and ``addresses`` may be set at any time. ``now``, in place of the wall clock, returns
    Unix milliseconds.

    Attributes:
        write: Writes rendered lines: the sink's own method.
        lines: How many lines were rendered.
        enabled: Which events are written at the present level.
        refusals: Which ``refused`` lines are written.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        level: Level = "info",
        addresses: AddressPolicy = "full",
        now: Callable[[], int] | None = None,
    ) -> None:
        self._sink: Final = sink
        self._now: Final = now
        self.write: Final = sink.write
        self.lines = 0
        self._stamped_ms = -1
        self._stamp = ""
        self._second = -1
        self._second_text = ""
        self.addresses: AddressPolicy = addresses
        self.refusals: Final = Refusals()
        self.level = level

    @property
    def level(self) -> Level:
        """The lowest level that is written."""
        return self._level

    @level.setter
    def level(self, level: Level) -> None:
        self._level: Level = level
        self.enabled: Mapping[Name, bool] = {
            name: LEVELS[meaning.level] <= LEVELS[level] for name, meaning in VOCABULARY.items()
        }

    def now(self) -> int:
        """Return the time as Unix milliseconds."""
        return time.time_ns() // 1_000_000 if self._now is None else self._now()

    def timestamp(self) -> str:
        """Return the time as RFC 3339 has it, in UTC with milliseconds."""
        now = self.now()
        if now != self._stamped_ms:
            self._stamped_ms = now
            second, millisecond = divmod(now, 1000)
            if second != self._second:  # strftime takes 1.5 µs, a third of a whole line
                self._second = second
                self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._stamp = f"{self._second_text}.{millisecond:03d}Z"
        return self._stamp

    async def run(self) -> None:
        """Write what a slow reader left waiting; a task for as long as the daemon lives."""
        await self._sink.run()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Write the queue, for at most ``seconds``, blocking the loop: the last step."""
        self._sink.close(seconds)

    def statistics(self) -> LogStatistics:
        return LogStatistics(self.lines, self._sink.dropped, self._sink.waiting)
