"""What programs write for a terminal becomes plain text, and long text becomes pieces."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.cli.terminal.plain import plain, split


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("plain /text", "plain /text"),
        ("\x1b[1;31mred\x1b[m", "red"),
        ("\x1b[38:2::255:0:0mred\x1b[0K", "red"),
        ("\x9b31mred\x9bm", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;https://x.example\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPdevice\x1b\\\x1b_application\x9ctext", "text"),
        ("\x1b(B\x1b7\x1b=text\x1bc", "text"),
        ("\x1b[31", ""),
        ("\x1b", ""),
        # An open string ends nowhere: its text is not lost.
        ("\x1b]0;text", "0;text"),
        ("10 %\r20 %\r\r100 %", "10 %\n20 %\n100 %"),
        ("\rdone\r", "done"),
        ("page\x0cline\x0b next\x85last", "page\nline\n next\nlast"),
        ("a\x00b\x07c\x08d\x7fe\x81f", "abcdef"),
        ("\ttab  ", "\ttab  "),
        ("日本 é 👩‍🚀", "日本 é 👩‍🚀"),
    ],
)
def test_control_sequences_are_taken_out(line: str, text: str) -> None:
    assert plain(line) == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_line_becomes_what_a_message_may_have(line: str) -> None:
    text = plain(line)
    assert not {char for char in text if unicodedata.category(char) == "Cc"} - {"\t", "\n"}
    # What is visible outside of sequences stays.
    if not {"\x1b", *map(chr, range(0x80, 0xA0))} & set(line):
        seen = [char for char in line if unicodedata.category(char) != "Cc"]
        assert [char for char in text if unicodedata.category(char) != "Cc"] == seen


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(4, 40))
def test_pieces_are_the_text(text: str, most: int) -> None:
    pieces = list(split(text, most))
    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= most for piece in pieces)


def test_pieces_end_behind_words() -> None:
    assert list(split("one two three four", 9)) == ["one two ", "three ", "four"]
    assert list(split("unbreakable", 4)) == ["unbr", "eaka", "ble"]
    assert list(split("äöü", 4)) == ["äö", "ü"]
