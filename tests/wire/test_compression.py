from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.wire.compression import compressed, preferred
from chatd.wire.request import Response

BODY = b"hello " * 500


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (None, None),
        ("", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br, zstd", "gzip"),
        ("deflate, gzip", "gzip"),
        ("GZIP;q=0.5, deflate;q=0.8", "deflate"),
        ("gzip;q=0", None),
        ("*", "gzip"),
        ("gzip;q=0, *;q=0.1", "deflate"),
        ("br", None),
        ("gzip;q=0.2, identity", None),
        ("gzip;q=nonsense", None),
    ],
)
def test_the_client_s_choice(accepted: str | None, coding: str | None) -> None:
    assert preferred(accepted) == coding


def test_an_answer_is_compressed() -> None:
    answer = compressed(Response(200, BODY, headers=[("X", "1")]), "gzip", 1024)
    assert gzip.decompress(answer.body) == BODY
    assert list(answer.headers) == [
        ("X", "1"),
        ("Vary", "Accept-Encoding"),
        ("Content-Encoding", "gzip"),
    ]
    assert zlib.decompress(compressed(Response(200, BODY), "deflate", 1).body) == BODY


def test_what_is_not_compressed_still_varies() -> None:
    answer = compressed(Response(200, BODY), None, 1024)
    assert answer.body == BODY
    assert list(answer.headers) == [("Vary", "Accept-Encoding")]


def test_what_is_small_is_left_alone() -> None:
    response = Response(200, b"small")
    assert compressed(response, "gzip", 1024) is response


@given(st.text())
def test_any_header_gives_one_of_those_offered_or_none(accepted: str) -> None:
    assert preferred(accepted) in ("gzip", "deflate", None)
