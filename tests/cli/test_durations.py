"""Times as people write them."""

from __future__ import annotations

import argparse

import pytest

from chatd.cli.durations import duration, seconds


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("12h", 43200), ("30d", 2592000)]
)
def test_a_time(text: str, seconds: int) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "12", "h", "0s", "-1s", "1.5h", "12 h", "1w", "1" * 10 + "s"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="90s"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("90", 90), ("2.5", 2.5), ("2h", 7200), ("30d", 2592000)]
)
def test_a_time_or_a_number_of_seconds(text: str, number: float) -> None:
    assert seconds(text) == number


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "1e3", "2 h", "h", ".5", "9" * 11])
def test_what_is_neither(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="90s"):
        seconds(text)
