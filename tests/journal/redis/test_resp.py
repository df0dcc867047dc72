"""Replies in bytes, in any pieces; bytes that are no replies."""

from __future__ import annotations

import itertools
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.journal.redis.resp import ErrorReply, Prepared, ProtocolError, Push, Replies, pack

STREAM = (
    b"+OK\r\n:12\r\n$3\r\na\0b\r\n_\r\n*2\r\n+a\r\n:1\r\n%1\r\n+k\r\n*0\r\n#f\r\n,1.5\r\n"
    b">2\r\n+message\r\n+late\r\n-LOADING it reads\r\n$0\r\n\r\n"
)


def test_a_command_is_a_list_of_strings() -> None:
    assert pack([("SET", b"\0", "é"), ("GET", 5)]) == (
        b"*3\r\n$3\r\nSET\r\n$1\r\n\0\r\n$2\r\n\xc3\xa9\r\n*2\r\n$3\r\nGET\r\n$1\r\n5\r\n"
    )
    assert pack([]) == b""


def test_a_prepared_command_is_packed_like_any_other() -> None:
    assert Prepared("SET", 5).pack(b"\0") == pack([("SET", 5, b"\0")])


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_replies_are_the_same_in_any_pieces(cuts: list[int]) -> None:
    replies = Replies()
    ends = sorted({0, *cuts, len(STREAM)})
    found = [
        reply
        for begin, end in itertools.pairwise(ends)
        for reply in replies.feed(STREAM[begin:end])
    ]
    *values, push, error, last = found
    assert isinstance(push, Push)
    assert push == [b"message", b"late"]
    assert values == [b"OK", 12, b"a\0b", None, [b"a", 1], {b"k": []}, False, 1.5]
    assert isinstance(error, ErrorReply)
    assert (str(error), error.code) == ("LOADING it reads", "LOADING")
    assert last == b""


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 400 Bad Request\r\n", b"$-5\r\n", b":x\r\n", b"%1\r\n*0\r\n:1\r\n"]
)
def test_what_is_no_reply_is_an_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Replies().feed(data)


@given(st.binary(max_size=40) | st.text("$*%:+-_#,>~=(|!\r\n0123456789a", max_size=40))
def test_any_bytes_are_replies_or_that_error(data: bytes | str) -> None:
    with suppress(ProtocolError):
        Replies().feed(data if isinstance(data, bytes) else data.encode())
