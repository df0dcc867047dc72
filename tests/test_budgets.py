"""What each thing costs, and how the loop's time is shared."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from chatd import budgets
from chatd.budgets import BURST_SECONDS, SLICE_ITEMS, Bucket, Pace, Slice, json_values
from chatd.settings import Limits
from chatd.socketio.options import Options

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30
)


def count(value: Any) -> int:
    """Return how many values a value has: itself, and those in it with their keys."""
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(count, value.values()))
    return 1 + (sum(map(count, value)) if isinstance(value, list) else 0)


@given(VALUES, st.integers(1, 40))
def test_no_value_is_missed(value: Any, most: int) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert json_values(text, most) >= min(count(value), most + 1)


@given(st.text(',:[{"\\ a'))
def test_text_is_one_value_whatever_it_says(text: str) -> None:
    assert json_values(json.dumps([text]), 3) <= 3


@pytest.mark.parametrize("worst", ["[],", "{},", "1,", '"",', '{"":[', "[", "{", ",", ":", '"":'])
def test_more_than_the_bound_is_found_in_json_that_is_cut(worst: str) -> None:
    assert json_values("[" + worst * 2000, 2000) > 2000
    assert json_values("[" + worst * 400, 2000) <= 2000


async def test_an_address_waits_once_it_has_taken_its_share(autojump_clock: MockClock) -> None:
    pace = Pace()
    for _ in range(20):
        assert pace.debt == pytest.approx(0)
        pace.spend(BURST_SECONDS / 20 * 0.5, 0.5)
    assert pace.debt == pytest.approx(0)
    pace.spend(0.1, 0.5)
    assert pace.debt == pytest.approx(0.2)
    assert not pace.idle
    await trio.sleep(0.2)
    assert pace.debt == 0
    assert not pace.idle
    await trio.sleep(BURST_SECONDS)
    assert pace.idle


async def test_a_share_can_be_off(autojump_clock: MockClock) -> None:
    pace = Pace()
    pace.spend(100, "off")
    assert pace.debt == 0
    assert pace.idle


def test_a_slice_is_over_after_some_items_or_some_bytes() -> None:
    piece = Slice()
    assert [piece.over() for _ in range(2 * SLICE_ITEMS)] == 2 * (
        [False] * (SLICE_ITEMS - 1) + [True]
    )
    assert piece.over(1_000_000)
    assert not piece.over(1000)


def test_the_table_names_what_there_is() -> None:
    keys = {*Limits.__struct_fields__, *Options.__struct_fields__}
    rows = [line for line in (budgets.__doc__ or "").splitlines() if line.startswith("| ")]
    for row in rows[2:]:
        *_, client, address, everybody = (cell.strip() for cell in row.strip("|").split("|"))
        for constant in re.findall(r"`(\w+)`", row):
            assert hasattr(budgets, constant), row
        for key in re.findall(r"[a-z]+_[a-z_]+", f"{client} {address} {everybody}"):
            assert key in keys, row


async def test_a_bucket_that_lacks_something_is_full_no_earlier(mock_clock: MockClock) -> None:
    one, other = Bucket(), Bucket()
    one.take(5, 2, 10)
    other.lack(one.full_in(2, 10), 2, 10)
    assert other.full_in(2, 10) == one.full_in(2, 10) == 2.5
    other.lack(1, 2, 10)
    assert other.full_in(2, 10) == 2.5
    other.lack(3, "off", 10)
    assert other.take(5, 2, 10) == 0
    assert other.take(1, 2, 10) == 500


async def test_a_debt_is_at_most_a_burst(autojump_clock: MockClock) -> None:
    bucket = Bucket()
    for _ in range(100):
        bucket.owe(1, 2, 10)
    assert bucket.full_in(2, 10) == 20 / 2
    for _ in range(100):
        bucket.owe(1, "off", "off")
    assert bucket.take(1, "off", "off") == 0
