"""Words of a search: what a query is taken for, and that both journals find by the same rule."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.journal import words
from chatd.journal.words import expression, matches, parse


@pytest.mark.parametrize(
    ("query", "phrases"),
    [
        ("one two", ("one", "two")),
        ('"one two" three', ("one two", "three")),
        ('one "two three', ("one", "two three")),
        ('one"two three"four', ("one", "two three", "four")),
        ("foo-bar_baz", ("foo bar baz",)),
        ("a\0b", ("a b",)),
        ("don't!", ("don t",)),
        ('! - "" \' _', ()),
        ("x\u0301\ud800", ("x\u0301",)),
        ("\u0301", ()),
    ],
)
def test_a_query_is_phrases(query: str, phrases: tuple[str, ...]) -> None:
    assert parse(query) == phrases


def test_what_is_looked_for_is_bounded() -> None:
    assert parse("a " * 1000) == ("a",) * words.MOST_PHRASES
    assert parse("é" * 200 + " " + "é" * 200) == ("é" * 200,)
    assert parse("x" * 10**7) == ()


@given(st.text())
def test_nothing_but_words_is_in_a_phrase(query: str) -> None:
    for phrase in parse(query):
        assert "" not in phrase.split(" ")
        assert all(one == " " or one.isalnum() or "\u0300" <= one <= "\u036f" for one in phrase)


# ASCII and Latin-1, and accents by themselves; FTS5 knows the letters of Unicode 6.1 alone.
_latin = st.text(
    st.characters(min_codepoint=1, max_codepoint=0xFF) | st.sampled_from("\u0301\u0308 aAéÉ"),
    max_size=12,
)


@given(st.lists(_latin, min_size=1, max_size=5), _latin)
def test_both_find_alike(texts: list[str], query: str) -> None:
    phrases = parse(query)
    if not phrases:
        return
    with closing(sqlite3.connect(":memory:")) as store:
        store.execute(
            "CREATE VIRTUAL TABLE w"
            " USING fts5 (text, room_id, tokenize = 'unicode61 remove_diacritics 2')"
        )
        store.executemany(
            "INSERT INTO w (text, room_id) VALUES (?, 1)", [(text,) for text in texts]
        )
        rows = store.execute("SELECT rowid FROM w WHERE w MATCH ?", (expression(1, phrases),))
        found = {row[0] for row in rows}
    assert found == {row for row, text in enumerate(texts, 1) if matches(phrases, text)}
