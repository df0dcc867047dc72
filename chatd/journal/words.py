"""The words of texts and of searches, made in one way for both journals.

Both a message and a query become a list of *tokens*:

* Text is normalized (NFKC), its case is folded, and the accents of Latin and Greek letters and the
  vowel points of Hebrew and Arabic are dropped. What has no width is ignored.
* A run of letters, digits and their marks is one token.
* In scripts that do not separate words with spaces (Han, Kana, Thai, Khmer ...), a run becomes
  overlapping pairs, and its last character by itself: 天気予報 becomes 天気 気予 予報 報. So
  each part of a run is found; a single character is the beginning of a pair.
* An emoji, a currency sign or another symbol is one token, and so is each ``+`` and ``#`` right
  after a word, as in C++. All other characters only separate.

A query is a list of phrases: the text in quotes, or what stands between two spaces outside of them.
All of a phrase's tokens must follow each other. Without quotes the last one may be the beginning of
a longer one.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from itertools import pairwise
from typing import Final, NamedTuple

from msgspec import Struct

__all__ = ["VERSION", "Phrase", "by_nick", "by_user", "indexable", "matches", "parse", "tokens"]

VERSION: Final = f"1 {unicodedata.unidata_version}"
"""Changes when the same text may have other tokens: an index of another version is useless."""

TOKEN_CHARACTERS: Final = 64
"""Longer words are cut, so that keys, hashes and spam do not fill the index."""

NORMALIZED_CHARACTERS: Final = 16 * 1024
"""A text may become longer when it is normalized, by single characters that stand for a sentence:
what goes beyond this, and beyond twice the text, is not indexed."""

SENDERS: Final = 1024
"""Users and nicks whose tokens are kept: at most 255 characters each."""

QUERY_CHARACTERS: Final = 512
MOST_PHRASES: Final = 16
MOST_TOKENS: Final = 64
"""Bounds of a query; each token costs a walk through its list of messages."""

SHORT: Final = 3
MOST_SHORT: Final = 2
"""So many beginnings of fewer characters than this are looked for; further ones are taken as whole
words. FTS5 first puts together the lists of all words with that beginning, in memory."""


class Phrase(Struct, frozen=True):
    """Tokens that must follow each other. With ``prefix`` the last may be longer in the text."""

    tokens: tuple[str, ...]
    prefix: bool


# A phrase in quotes, of which the last may be missing; or the text between spaces.
_PART: Final = re.compile(r'"([^"]*)"?|([^\s"]+)')
_QUOTES: Final = re.compile("[\u201c\u201d\u201e\u201f\uff02]")

# Scripts that do not separate words with spaces. Korean does, and Tibetan separates syllables.
_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Myanmar, Khmer
    "\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f"  # Tai Le, New Tai Lue, Tai Tham, Balinese
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u303b"  # radicals and marks of Han
    "\u3041-\u312f\u31a0-\u31bf\u31f0-\u31ff"  # Kana, Bopomofo
    "\u3400-\u4dbf\u4e00-\ua4cf\ua980-\ua9ff\uaa60-\uaadf"  # Han, Yi, Javanese, Tai Viet
    "\uf900-\ufaff\U0001aff0-\U0001b16f\U00020000-\U0003ffff"  # Han, Kana, Han
)

_ASCII_WORD: Final = re.compile(r"[a-z0-9]+")
_ASCII: Final = re.compile(r"([a-z0-9]+)([+#]*)|(\$)")
_ACCENTS: Final = re.compile(
    "(?<=[a-z\u00df-\u024f\u0370-\u03ff\u1e00-\u1fff\u0435])[\u0300-\u036f]+"
    # Hebrew points, and Arabic vowels and hamzas.
    "|[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670\u06d6-\u06dc]+"
)
# Letters that have a stroke, or no dot, in place of an accent. The underscore only separates.
_MAPPED: Final = str.maketrans("øđłħŧı_", "odlhti ")

_RUN: Final = re.compile(f"([{_UNSPACED}]+)")


class _Patterns(NamedTuple):
    """The patterns for a text that has other characters than ASCII."""

    ignored: re.Pattern[str]
    token: re.Pattern[str]
    """Its groups: a word; the ``+`` and ``#`` that follow it; a symbol."""


@cache
def _patterns() -> _Patterns:
    category = unicodedata.category
    ignored, marks, symbols = [], [], []
    # The blocks of emoji are given below. `\w` has the letters and digits of all planes.
    for character in map(chr, range(0x80, 0x10000)):
        kind = category(character)
        if kind == "Cf" or "\ufe00" <= character <= "\ufe0f" or character in "\u034f\u0640":
            ignored.append(character)
        elif kind[0] == "M":
            marks.append(character)
        elif kind in {"So", "Sc"}:
            symbols.append(character)
    return _Patterns(
        re.compile(f"[{''.join(ignored)}\U000e0000-\U000e0fff]+"),
        re.compile(rf"([\w{''.join(marks)}]+)([+#]*)|([${''.join(symbols)}\U0001f000-\U0001faff])"),
    )


# ---- texts


def indexable(text: str) -> str:
    """Return a text of which the tokenizer of SQLite's index makes the same `tokens`."""
    short = len(text) <= TOKEN_CHARACTERS and text.isascii()
    if short and not ("+" in text or "#" in text or "$" in text):
        return text  # as most messages are
    return " ".join(tokens(text))


def tokens(text: str) -> list[str]:
    """Return the tokens of a text."""
    folded = _folded(text)
    plain = folded.isascii()
    if plain and not ("+" in folded or "#" in folded or "$" in folded):
        return [word[:TOKEN_CHARACTERS] for word in _ASCII_WORD.findall(folded)]
    found: list[str] = []
    for word, marks, symbol in (_ASCII if plain else _patterns().token).findall(folded):
        if symbol:
            found.append(symbol)
        elif word.isascii() or not _RUN.search(word):
            found.append(word[:TOKEN_CHARACTERS])
            found += marks
        else:
            found += _split(word)
            found += marks
    return found


def _split(word: str) -> Iterator[str]:
    """Yield the tokens of letters of which some are of a script without spaces."""
    for number, part in enumerate(_RUN.split(word)):
        if number % 2:
            yield from map("".join, pairwise(part))
            yield part[-1]
        elif part:
            yield part[:TOKEN_CHARACTERS]


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    shown = unicodedata.normalize("NFKC", text)[: max(NORMALIZED_CHARACTERS, 2 * len(text))]
    folded = _patterns().ignored.sub("", shown).casefold()
    bare = _ACCENTS.sub("", unicodedata.normalize("NFD", folded))
    return unicodedata.normalize("NFC", bare).translate(_MAPPED)


@lru_cache(SENDERS)
def by_user(user: str) -> str:
    """Return a token that stands for the user with this id."""
    return f"u{_digest(user)}"


@lru_cache(SENDERS)
def by_nick(nick: str) -> str:
    """Return a token that stands for all who had this nick, in whatever case."""
    shown = unicodedata.normalize("NFKC", nick)
    return f"n{_digest(unicodedata.normalize('NFKC', shown.casefold()))}"


def _digest(name: str) -> str:
    return hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=6).hexdigest()


# ---- queries


def parse(query: str) -> tuple[Phrase, ...]:
    """Return the phrases of a query, each once; empty if it has no word.

    What exceeds the bounds is ignored.
    """
    phrases: dict[Phrase, None] = {}
    size = short = 0
    for quoted, bare in _PART.findall(_QUOTES.sub('"', query[:QUERY_CHARACTERS])):
        phrase = _phrase(tokens(quoted or bare), exact=bool(quoted))
        if phrase is None or phrase in phrases:
            continue
        if phrase.prefix and len(phrase.tokens[-1]) < SHORT and not _RUN.match(phrase.tokens[-1]):
            short += 1
            if short > MOST_SHORT:
                phrase = Phrase(phrase.tokens, prefix=False)
        size += len(phrase.tokens)
        if size > MOST_TOKENS or len(phrases) == MOST_PHRASES:
            break
        phrases[phrase] = None
    return tuple(phrases)


def _phrase(of: list[str], *, exact: bool) -> Phrase | None:
    if not of:
        return None
    last = of[-1]
    if len(last) == 1 and _RUN.match(last):
        # The text's run may go on: its pair begins with this character, as the pair before says.
        paired = len(of) > 1 and len(of[-2]) == 2 and of[-2].endswith(last)
        return Phrase(tuple(of[:-1]), prefix=False) if paired else Phrase(tuple(of), prefix=True)
    return Phrase(tuple(of), prefix=not exact and unicodedata.category(last[0])[0] in "LNM")


def matches(phrases: Sequence[Phrase], text: str) -> bool:
    """Return whether the text has all the phrases."""
    have = f" {' '.join(tokens(text))} "
    return all(
        f" {' '.join(phrase.tokens)}{'' if phrase.prefix else ' '}" in have for phrase in phrases
    )
