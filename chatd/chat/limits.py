"""Rate limits: a token bucket."""

from __future__ import annotations

import math
from typing import Literal

import trio

__all__ = ["Bucket"]


class Bucket:
    """A token bucket: ``rate`` tokens a second come in, and at most ``burst`` are kept.

    Either may be "off": then nothing is limited. A full bucket allows an amount over the burst, and
    is then in debt.
    """

    __slots__ = ("_at", "_tokens")

    def __init__(self) -> None:
        self._tokens = math.inf
        self._at = -math.inf

    def take(
        self, amount: float, rate: float | Literal["off"], burst: float | Literal["off"]
    ) -> int:
        """Spend an amount and return 0, or spend nothing and return the milliseconds to wait."""
        if rate == "off" or burst == "off":
            return 0
        now = trio.current_time()
        tokens = min(burst, self._tokens + (now - self._at) * rate)
        self._tokens, self._at = tokens, now
        missing = min(amount, burst) - tokens
        if missing > 0:
            return math.ceil(missing / rate * 1000)
        self._tokens -= amount
        return 0

    def put_back(self, amount: float) -> None:
        """Undo a `take`."""
        self._tokens += amount

    def full_in(self, rate: float | Literal["off"], burst: float | Literal["off"]) -> float:
        """Return the seconds until nothing is remembered by it; 0: a new one would do as well."""
        if rate == "off" or burst == "off":
            return 0
        seconds = (burst - self._tokens) / rate - (trio.current_time() - self._at)
        # Whole milliseconds: a timer that is due within the clock's rounding would fire forever.
        return math.ceil(seconds * 1000) / 1000 if seconds > 0 else 0
