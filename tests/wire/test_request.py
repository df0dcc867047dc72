"""The query of a request, against urllib's parser."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.wire.request import Request
from tests.wire.served import MEMORY


def parsed(query: str) -> dict[str, str]:
    return Request("GET", f"/?{query}", [], MEMORY).query


@given(st.text("aé=&%+;20", max_size=30) | st.text(max_size=30))
def test_a_query_is_parsed_as_urllib_parses_it(query: str) -> None:
    assert parsed(query) == dict(parse_qsl(query, keep_blank_values=True))


@pytest.mark.parametrize("field", ["a{}=b", "a{}=%62"])
def test_a_query_of_too_many_fields_counts_as_empty(field: str) -> None:
    assert len(parsed("&".join(field.format(number) for number in range(64)))) == 64
    assert parsed("&".join(field.format(number) for number in range(65))) == {}
