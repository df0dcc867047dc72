"""Valid names, and names that are equal."""

from __future__ import annotations

import re
import tracemalloc
from contextlib import suppress
from string import ascii_letters, digits

import pytest
from hypothesis import given
from hypothesis import strategies as st
from precis_i18n import get_profile

from chatd.chat.names import Name, nick_name, room_name, room_pattern
from chatd.model import Refused
from tests.chat.room import refusal


@pytest.mark.parametrize(
    ("given_name", "shown", "fold"),
    [
        ("ann", "ann", "ann"),
        ("Ann", "Ann", "ann"),
        ("ÄNN", "ÄNN", "änn"),
        ("ｆｏｏ", "foo", "foo"),  # noqa: RUF001  full-width letters are mapped
        ("e\u0301", "é", "é"),
        ("guest-1_x.y", "guest-1_x.y", "guest-1_x.y"),
        ("日本", "日本", "日本"),
    ],
)
def test_names_are_displayed_as_given_and_compared_folded(
    given_name: str, shown: str, fold: str
) -> None:
    assert nick_name(given_name) == Name(shown, fold)
    assert room_name(given_name) == Name(shown, fold)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        " ",
        "a b",
        "*",
        "a:b",
        "@ann",
        "#lobby",
        "a,b",
        "＠ann",  # noqa: RUF001  becomes @ by its width mapping
        "/join",
        "x\u200by",
        "\u202eevil",
        "\ud800",
        "a\nb",
        "1א",
    ],
)
def test_what_no_name_may_be(bad: str) -> None:
    for make in (nick_name, room_name):
        refused = refusal(make, bad)
        assert refused is not None
        assert refused.code == "bad_request"


@pytest.mark.parametrize(
    ("given_name", "message"),
    [
        ("Ann Smith", "Nicks cannot contain spaces. Try Ann-Smith."),
        ("  ann\tb\u3000c ", "Nicks cannot contain spaces. Try ann-b-c."),
        ("#a b", "Nicks cannot contain spaces. Try ann-smith."),
        (" ", "Nicks cannot contain spaces. Try ann-smith."),
        ("ann\U0001f600", "Nicks cannot contain \U0001f600. Try ann-smith."),
        ("a\u200bb", "Nicks cannot contain the invisible character U+200B. Try ann-smith."),
    ],
)
def test_a_refusal_says_what_to_try(given_name: str, message: str) -> None:
    refused = refusal(nick_name, given_name)
    assert refused is not None
    assert refused.message == message


def test_nicks_and_rooms_differ_in_length_and_in_the_slash() -> None:
    assert not refusal(nick_name, "n" * 32)
    assert refusal(nick_name, "n" * 33)
    assert not refusal(room_name, "r" * 64)
    assert refusal(room_name, "r" * 65)
    assert not refusal(room_name, "a/b")
    assert refusal(nick_name, "a/b")


@given(st.text(ascii_letters + digits + "_.-", min_size=1, max_size=32))
def test_plain_names_are_what_precis_makes_of_them(text: str) -> None:
    shown = get_profile("UsernameCasePreserved").enforce(text)
    key = get_profile("UsernameCaseMapped").enforce(text)
    assert nick_name(text) == room_name(text) == Name(shown, key)


@given(st.text(max_size=70))
def test_any_text_is_a_name_or_refused_and_a_name_names_itself(text: str) -> None:
    for make in (nick_name, room_name):
        with suppress(Refused):
            name = make(text)
            assert make(name.display) == name


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        ("lobby", ["lobby"], ["lobby2", "a", "@a,b"]),
        ("*", ["lobby", "a/b", "@a,b"], []),
        ("Team-*", ["team-", "team-a"], ["team", "a-team-a"]),
        ("*-ops", ["a-ops", "-ops"], ["ops", "a-opsx"]),
        ("a*b*c", ["abc", "axxbxxc"], ["ab", "acb", "abcd"]),
        ("aa*aa", ["aaaa", "aaxaa"], ["aa", "aaa"]),
        ("@*", ["@a,b"], ["a"]),
    ],
)
def test_patterns_of_rooms(pattern: str, fits: list[str], fits_not: list[str]) -> None:
    read = room_pattern(pattern)
    assert [fold for fold in fits + fits_not if read.matches(fold)] == fits


@pytest.mark.parametrize("bad", ["", "a b", "@a", "@a*", "#x", "/x*", "a" * 65])
def test_what_is_no_pattern(bad: str) -> None:
    assert refusal(room_pattern, bad)


@given(st.text("ab*", min_size=1, max_size=12), st.text("ab", max_size=12))
def test_patterns_are_what_regular_expressions_say(pattern: str, fold: str) -> None:
    read = room_pattern(pattern)
    same = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), fold)
    assert read.matches(fold) == bool(same)


def test_text_that_is_too_long_is_not_kept() -> None:
    for make in (nick_name, room_name):
        refusal(make, "warm up" * 100)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(50):
            for make in (nick_name, room_name):
                assert refusal(make, f"{number}" * 500_000) is not None
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 100_000


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("1א", "mix letters written from the right"),
        ("aא", "mix letters written from the right"),
        ("אa", "mix letters written from the right"),
    ],
)
def test_the_reason_is_the_rule_that_was_broken(name: str, reason: str) -> None:
    refused = refusal(nick_name, name)
    assert refused is not None
    assert refused.message.startswith(f"Nicks cannot {reason}")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("admin", "аdmin"),  # noqa: RUF001  a Cyrillic a
        ("Admin", "аdmin"),  # noqa: RUF001
        ("scope", "ѕсоре"),  # noqa: RUF001
        ("Ill", "lll"),
        ("ann1", "annl"),
        ("rnary", "mary"),
        ("Ann", "ann"),
        ("o\u0308l", "öl"),
    ],
)
def test_names_that_look_alike_share_a_look(one: str, other: str) -> None:
    assert nick_name(one).looks & nick_name(other).looks


@pytest.mark.parametrize(("one", "other"), [("ann", "anna"), ("öl", "ol"), ("日本", "日木")])
def test_other_names_share_none(one: str, other: str) -> None:
    assert not nick_name(one).looks & nick_name(other).looks
