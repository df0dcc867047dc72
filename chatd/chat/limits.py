"""Flood control: how much may be said in a while, over all the connections of somebody."""

from __future__ import annotations

import math
from typing import Literal

import trio

__all__ = ["Bucket"]


class Bucket:
    """A token bucket: ``rate`` tokens a second come in, ``burst`` at most are kept.

    An amount over the burst is allowed when the bucket is full, and then leaves a debt. Asking
    costs nothing, so a refusal does not.
    """

    __slots__ = ("_at", "_tokens")

    def __init__(self) -> None:
        self._tokens = math.inf
        self._at = -math.inf

    def wait(
        self, amount: float, rate: float | Literal["off"], burst: float | Literal["off"]
    ) -> int:
        """Give the milliseconds until ``amount`` may be spent; 0: now."""
        if rate == "off" or burst == "off":
            return 0
        now = trio.current_time()
        self._tokens = min(burst, self._tokens + (now - self._at) * rate)
        self._at = now
        return max(0, math.ceil((min(amount, burst) - self._tokens) / rate * 1000))

    def full(self, rate: float | Literal["off"], burst: float | Literal["off"]) -> bool:
        """Tell whether nothing is remembered by it: a new one would do as well."""
        return burst == "off" or not self.wait(burst, rate, burst)

    def spend(self, amount: float) -> None:
        """Take the amount that ``wait`` allowed."""
        self._tokens -= amount
