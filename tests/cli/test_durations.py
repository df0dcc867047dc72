"""Times as people write them."""

from __future__ import annotations

import argparse

import pytest

from chatd.cli.durations import duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("12h", 43200), ("30d", 2592000)]
)
def test_a_time(text: str, seconds: int) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "12", "h", "0s", "-1s", "1.5h", "12 h", "1w", "1" * 10 + "s"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="90s"):
        duration(text)
