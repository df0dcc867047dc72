"""A histogram as Prometheus defines it: counts of observations up to each bound, and their sum.

Two readings of it give the quantiles over the time between them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from msgspec import Struct

__all__ = ["SECONDS", "Histogram", "HistogramStatistics"]

SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Bounds from a batch on a fast disk to a noticeable delay, each about 2.5 times the last."""


class HistogramStatistics(Struct, frozen=True):
    """Cumulative counts of observations by bound, of which the last is the total, and the sum."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


class Histogram:
    """Counts observations, at less than half a microsecond each."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        # A bound belongs to its bucket: Prometheus' "le" is "less or equal".
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def statistics(self) -> HistogramStatistics:
        return HistogramStatistics(self._bounds, tuple(accumulate(self._counts)), self._sum)
