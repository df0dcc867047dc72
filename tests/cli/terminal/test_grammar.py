"""Parsing typed lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.cli.terminal.grammar import Invalid, Say, Verb, read
from chatd.cli.terminal.verbs import VERBS


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("hello", "hello"),
        ("  two  words ", "  two  words "),
        ("//quit", "/quit"),
        ("a /me", "a /me"),
    ],
)
def test_a_line_is_a_message(line: str, text: str) -> None:
    assert read(line, VERBS) == Say(text)


@pytest.mark.parametrize("line", ["", "  ", "\t"])
def test_a_blank_line_is_ignored(line: str) -> None:
    assert read(line, VERBS) is None


@pytest.mark.parametrize(
    ("line", "name", "values"),
    [
        ("/who", "who", [None]),
        ("/WHO  lobby ", "who", ["lobby"]),
        ("/msg bob a b  c", "msg", ["bob", "a b  c"]),
        ("/edit #12 new text", "edit", [12, "new text"]),
        ("/delete 3", "delete", [3]),
        ("/history", "history", [None]),
        ("/history 50", "history", [50]),
        ("/kick bob", "kick", ["bob", None]),
        ("/kick bob for spam", "kick", ["bob", "for spam"]),
        ("/ban bob", "ban", ["bob", None, None]),
        ("/ban bob 2h", "ban", ["bob", 7200, None]),
        ("/ban bob 2h that is enough", "ban", ["bob", 7200, "that is enough"]),
        ("/ban bob spam", "ban", ["bob", None, "spam"]),
        ("/slow 10s", "slow", [10]),
        ("/slow 0", "slow", [0]),
        ("/close", "close", [None, None]),
        ("/close 0", "close", [0, None]),
    ],
)
def test_commands(line: str, name: str, values: list[object]) -> None:
    assert read(line, VERBS) == (VERBS[name], values)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("/edit", "/edit N TEXT"),
        ("/edit five text", "/edit N TEXT"),
        ("/edit 5", "/edit N TEXT"),
        ("/msg bob", "/msg NICK TEXT"),
        ("/join a b", "/join ROOM"),
        ("/history many", "/history [N]"),
        ("/slow 10", "/slow TIME"),
        ("/nope", "/help"),
        ("/", "/help"),
    ],
)
def test_an_invalid_line_is_answered_with_the_usage(line: str, hint: str) -> None:
    invalid = read(line, VERBS)
    assert isinstance(invalid, Invalid)
    assert hint in invalid.message


@given(st.text())
def test_any_line_can_be_parsed(line: str) -> None:
    match read(line, VERBS):
        case Say(text):
            assert line.endswith(text)
        case (Verb() as verb, list(values)):
            assert len(values) == len(verb.parameters)
        case Invalid(message):
            assert message
        case None:
            assert not line.strip()
