"""Every key and value is located, in whichever of TOML's ways it is written."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.toml_locations import KeyPath, Location, line_and_column, locate

WRITTEN = '''\
# a = [
top = 1
"quoted \\u0041" = 2 # [not.a.table]
'li.teral' = 3
dotted . "ke.y" . inner = 4

[ table ]
text = "# not a comment = 5"
array = [ 6, # six ]
  [ 7, "]" ],
  {x = 8, y.z = 9},
]
long = """
fake = 10
"quotes" \\""" and two more"""""
raw = \'\'\'
fake = "11"''\'\'\'
when = 1979-05-27 07:32:00
[table.under]
empty = []
none = {}

[[several]]
x = 12
[[several]]
x = 13
[several.sub]
y = 14
[[several.deep]]
z = 15
'''


def expected(tree: dict[str, object]) -> Iterator[KeyPath]:
    """Yield the paths of a text without headers inside arrays and without dotted keys."""
    for table, entries in tree.items():
        yield (table,)
        assert isinstance(entries, dict)
        for name, value in entries.items():
            yield (table, name)
            if isinstance(value, list):
                yield from ((table, name, index) for index in range(len(value)))


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("top",), "top =", "1\n"),
        (("quoted A",), '"quoted', "2 #"),
        (("li.teral",), "'li", "3\n"),
        (("dotted",), "dotted", "dotted"),
        (("dotted", "ke.y"), '"ke.y"', '"ke.y"'),
        (("dotted", "ke.y", "inner"), "inner", "4\n"),
        (("table",), "table ]", "table ]"),
        (("table", "text"), "text", '"# not'),
        (("table", "array", 0), "6", "6"),
        (("table", "array", 1), "[ 7", "[ 7"),
        (("table", "array", 2), "{x", "{x"),
        (("table", "long"), "long", '"""\nfake'),
        (("table", "raw"), "raw", "'''\nfake"),
        (("table", "when"), "when", "1979"),
        (("table", "under"), "under]", "under]"),
        (("table", "under", "none"), "none", "{}"),
        (("several",), "several]]\nx = 12", "several]]\nx = 12"),
        (("several", "sub", "y"), "y = 14", "14"),
    ],
)
def test_keys_and_values_are_located(path: KeyPath, key: str, value: str) -> None:
    location = locate(WRITTEN)[path]
    assert WRITTEN[location.key :].startswith(key)
    assert WRITTEN[location.value :].startswith(value)


def test_what_only_looks_like_a_key_has_no_location() -> None:
    assert locate("a = '[x]' # b = 1") == {("a",): Location(0, 4)}
    assert locate('a = """\nb = 1\n[c]"""\n') == {("a",): Location(0, 4)}
    assert locate("a = {b = 1, c = [2, 3]}") == {("a",): Location(0, 4)}
    assert locate("a = [\n#b = 1\n]") == {("a",): Location(0, 4)}


names = st.text("ab.#=]\" 'é\\", min_size=1, max_size=4)
blanks = st.sampled_from(["", " ", "\n", ' # ], } = "\n', "\t"])
texts = st.text("ab#]},='\"\\\n\té", max_size=12)


def basic(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


@st.composite
def scalars(draw: st.DrawFn) -> str:
    text = draw(texts)
    ways = [basic(text), f'"""\n{text.replace(chr(92), chr(92) * 2).replace(chr(34) * 3, "")}"""']
    if "'" not in text:
        ways += [f"'''\n{text}'''"]
    if text.isalpha():
        ways += [f"'{text}'"]
    ways += ["7", "-1_0.5e3", "true", "1979-05-27 07:32:00", "inf"]
    return draw(st.sampled_from(ways))


def arrays(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(st.tuples(blanks, values, blanks), max_size=3).map(
        lambda items: "[" + ",".join("".join(item) for item in items) + "]"
    )


def inline_tables(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.dictionaries(names, values, max_size=3).map(
        lambda items: "{ " + ", ".join(f"{basic(k)} = {v}" for k, v in items.items()) + " }"
    )


flat = st.recursive(scalars(), inline_tables, max_leaves=4)
values = st.recursive(flat, arrays, max_leaves=8)


@given(
    st.dictionaries(
        names, st.dictionaries(names, st.tuples(values, blanks), max_size=4), max_size=4
    )
)
def test_a_value_read_from_its_place_is_the_value(
    tables: dict[str, dict[str, tuple[str, str]]],
) -> None:
    text = ""
    for table, entries in tables.items():
        text += f"[{basic(table)}] # ]\n"
        for name, (value, blank) in entries.items():
            text += f"{basic(name)} \t=  {value} {blank}\n"
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return  # cutting quotes out may leave a text that ends in too many
    locations = locate(text)
    assert set(locations) == set(expected(tree))
    for table, entries in tables.items():
        for name, (value, _) in entries.items():
            location = locations[table, name]
            assert text.startswith(basic(name), location.key)
            assert text.startswith(value, location.value)


def test_lines_and_columns_count_from_one() -> None:
    assert line_and_column("ab\nc", 0) == (1, 1)
    assert line_and_column("ab\nc", 2) == (1, 3)
    assert line_and_column("ab\nc", 3) == (2, 1)
