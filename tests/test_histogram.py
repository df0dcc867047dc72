from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.histogram import SECONDS, Histogram


def test_a_value_at_a_bound_is_within_it() -> None:
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 2, 3):
        histogram.observe(value)
    told = histogram.statistics()
    assert (told.bounds, told.counts, told.sum) == ((1, 2), (2, 4, 5), 8)


@given(st.lists(st.floats(0, 10)))
def test_counts_are_cumulative_and_of_all(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    told = histogram.statistics()
    for bound, count in zip(SECONDS, told.counts, strict=False):
        assert count == sum(value <= bound for value in values)
    assert told.counts[-1] == len(values)
    assert told.sum == pytest.approx(sum(values))
