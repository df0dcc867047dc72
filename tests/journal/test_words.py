"""Tokens of texts and of queries, and that an index of SQLite's finds by the same rule."""

# ruff: noqa: RUF001

from __future__ import annotations

import sqlite3
import unicodedata
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.journal import words
from chatd.journal.index import Row, WordIndex, expression
from chatd.journal.words import Phrase, by_nick, matches, parse, tokens


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("Hello, World!", "hello world"),
        ("foo-bar_baz", "foo bar baz"),
        ("don't don’t", "don t don t"),
        ("https://example.com/a_b?x=1", "https example com a b x 1"),
        ("C++ and C#, a+b ## +1", "c + + and c # a + b 1"),
        ("$5 €5", "$ 5 € 5"),
        ("Straße ﬁn ＡＢＣ ½", "strasse fin abc 1 2"),
        ("É e\u0301 ﬂøđł Ȧ", "e e flodl a"),
        ("İstanbul ISPARTA ısparta", "istanbul isparta isparta"),
        ("ΟΔΟΣ οδός ὁδός", "οδοσ οδοσ οδοσ"),
        ("Мой мои ёлка", "мой мои елка"),
        ("مُحَمَّد أحمد مـحمد", "محمد احمد محمد"),
        ("שָׁלוֹם שלום", "שלום שלום"),
        ("हिन्दी में", "हिन्दी में"),
        ("می\u200cخواهم so\u00adft", "میخواهم soft"),
        ("天気", "天気 気"),
        ("天 x天気y 2024年", "天 x 天気 気 y 2024 年"),
        ("ｶﾞﾗｽ カ\u3099ラス", "ガラ ラス ス ガラ ラス ス"),
        ("ภาษา", "ภา าษ ษา า"),
        ("한국어 검색", "한국어 검색"),
        ("👍🏽 👨\u200d👩 🇩🇪 ❤\ufe0f", "👍 🏽 👨 👩 🇩 🇪 ❤"),
        ("x" * 100, "x" * words.TOKEN_CHARACTERS),
        ("\0 \u0301\ud800", "\u0301"),
        ("", ""),
    ],
)
def test_a_text_is_tokens(text: str, made: str) -> None:
    assert " ".join(tokens(text)) == made


def test_a_text_that_grows_when_it_is_normalized_is_cut() -> None:
    assert sum(map(len, tokens("\ufdfa" * 5000))) <= words.NORMALIZED_CHARACTERS


def exact(*made: str) -> Phrase:
    return Phrase(made, prefix=False)


def begin(*made: str) -> Phrase:
    return Phrase(made, prefix=True)


@pytest.mark.parametrize(
    ("query", "phrases"),
    [
        ("one two", (begin("one"), begin("two"))),
        ("dep*", (begin("dep"),)),
        ('"one two" three', (exact("one", "two"), begin("three"))),
        ('one "two three', (begin("one"), exact("two", "three"))),
        ('one"two three"four', (begin("one"), exact("two", "three"), begin("four"))),
        ("“one two”", (exact("one", "two"),)),
        ("foo-bar_baz", (begin("foo", "bar", "baz"),)),
        ("C++", (exact("c", "+", "+"),)),
        ("👍🏽", (exact("👍", "🏽"),)),
        ("気", (begin("気"),)),
        ('"気"', (begin("気"),)),
        ("天気予", (exact("天気", "気予"),)),
        ('"天気 x"', (exact("天気", "気", "x"),)),
        ("天気x", (begin("天気", "気", "x"),)),
        ("the The THE", (begin("the"),)),
        ('! - "" \' _ *', ()),
    ],
)
def test_a_query_is_phrases(query: str, phrases: tuple[Phrase, ...]) -> None:
    assert parse(query) == phrases


def test_a_query_is_bounded() -> None:
    assert len(parse(" ".join(map(str, range(100))))) == words.MOST_PHRASES
    assert parse(f'x "{"a " * 100}"') == (begin("x"),)
    assert parse("x" * 10**7) == (begin("x" * words.TOKEN_CHARACTERS),)
    short = [phrase for phrase in parse("a b c d e f") if phrase.prefix]
    assert len(short) == words.MOST_SHORT


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("天気", "今日は良い天気ですね"),
        ("気", "天気"),
        ("天", "天気"),
        ("今日 天気", "今日は良い天気ですね"),
        ('"良い天気"', "今日は良い天気ですね"),
        ("ไทย", "ภาษาไทยไม่มีช่องว่าง"),
        ("strasse", "Straße"),
        ("STRASSE", "straße"),
        ("Straße", "STRASSE"),
        ("deploy", "the deployment"),
        ("istanbul", "İSTANBUL"),
        ("οδος", "ΟΔΌΣ"),
        ("ガラス", "ｶﾞﾗｽ"),
        ("cafe", "Cafe\u0301s"),
        ("café", "cafe"),
        ("c++", "I like C++17"),
        ("example.com", "see https://www.example.com/path"),
        ("well-known", "a well known fact"),
        ("snake_ca", "my snake_case"),
        ("🎉", "done🎉"),
        ("👍", "👍🏽"),
        ("don't", "I don’t know"),
        ("שלום", "שָׁלוֹם"),
    ],
)
def test_what_is_found(query: str, text: str) -> None:
    assert matches(parse(query), text)
    assert _indexed([text], query) == {1}


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ('"deploy"', "deployment"),
        ('"one two"', "one and two"),
        ("ployment", "deployment"),
        ("天氣", "天気"),
        ("気天", "天気"),
        ("気持", "天気 持つ"),
        ("c++", "C and cats"),
        ("мои", "мой"),
        ("👍🏽", "👍🏿"),
    ],
)
def test_what_is_not_found(query: str, text: str) -> None:
    assert not matches(parse(query), text)
    assert _indexed([text], query) == set()


def test_nicks_are_the_same_in_any_case() -> None:
    assert by_nick("Ann") == by_nick("ann") == by_nick("ａｎｎ")
    assert by_nick("ann") != by_nick("anna")


def _indexed(texts: list[str], query: str) -> set[int]:
    """Return the numbers of the texts that an index of SQLite's finds."""
    with closing(sqlite3.connect(":memory:")) as store:
        store.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY)")
        index, cursor = WordIndex(), store.cursor()
        index.renew(cursor, 0)
        index.add(cursor, [Row(number, text, 1, "u", "n") for number, text in enumerate(texts, 1)])
        find = "SELECT rowid FROM words WHERE words MATCH ?"
        return {row[0] for row in store.execute(find, (expression([1], parse(query)),))}


_LETTERS = [
    "a",
    "b",
    "ab",
    "abc",
    "A",
    "É",
    "é",
    "e\u0301",
    "ß",
    "ss",
    "İ",
    "i",
    "ς",
    "Σ",
    "ё",
    "е",
]
_UNSPACED = ["天", "気", "天気", "ガ", "ｶﾞ", "カ", "ไ", "ท", "ัน", "\u3099"]
_OTHERS = ["한", "م", "\u0640", "1", "½", "👍", "🏽", "\u200d", "\u0301"]
_SIGNS = ["+", "#", "$", "-", "_", "'", '"', "*", " ", " "]
_pieces = st.sampled_from([*_LETTERS, *_UNSPACED, *_OTHERS, *_SIGNS])
_written = st.lists(_pieces, max_size=8).map("".join) | st.text(max_size=8)


@given(st.lists(_written, min_size=1, max_size=5), _written)
def test_both_find_alike(texts: list[str], query: str) -> None:
    phrases = parse(query)
    if phrases:
        texts = [text.replace("\ud800", "") for text in texts]
        found = {number for number, text in enumerate(texts, 1) if matches(phrases, text)}
        assert _indexed(texts, query) == found


@given(_written)
def test_what_was_written_is_found_by_each_part_and_as_a_whole(text: str) -> None:
    for query in (text.replace('"', " "), f'"{text}"'):
        assert matches(parse(query), text.replace('"', " ") if query != text else text)


@given(_written)
def test_tokens_do_not_depend_on_the_form_of_the_text(text: str) -> None:
    for form in ("NFC", "NFD"):
        assert tokens(unicodedata.normalize(form, text)) == tokens(text)


@given(_written | st.text(st.characters(max_codepoint=127)))
def test_sqlite_makes_the_same_tokens(text: str) -> None:
    with closing(sqlite3.connect(":memory:")) as store:
        store.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY)")
        index, cursor = WordIndex(), store.cursor()
        index.renew(cursor, 0)
        index.add(cursor, [Row(1, text.replace("\ud800", ""), 1, "u", "n")])
        cursor.execute("CREATE VIRTUAL TABLE made USING fts5vocab (words, instance)")
        made = "SELECT term FROM made WHERE col = 'text' ORDER BY offset"
        assert [row[0] for row in cursor.execute(made)] == tokens(text.replace("\ud800", ""))


@given(_written)
def test_no_token_has_syntax_of_the_index(text: str) -> None:
    for token in tokens(text):
        assert token
        assert not set(token) & set(' "*():^-\0')
