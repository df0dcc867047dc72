"""What keys the configuration has, and which values each of them takes.

`chatd.keys` declares them as fields with annotations. This module reads these annotations.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_type_hints

import msgspec
from msgspec import Struct, inspect

from chatd.keys import RESTART, Settings

__all__ = [
    "Key",
    "Section",
    "did_you_mean",
    "did_you_mean_key",
    "expects",
    "invalid",
    "keys",
    "sections",
    "value_of",
]


class Key(NamedTuple):
    """A key: its type, as annotated and as msgspec sees it, and its description.

    ``restart``: a change takes effect at the next start, not on a reload.
    """

    annotation: Any
    kind: inspect.Type
    description: str
    restart: bool


class Section(NamedTuple):
    """A section: its description, and its keys by name."""

    description: str
    keys: Mapping[str, Key]


def value_of(settings: Settings, name: str) -> Any:
    """Return the value of a key, by its full name."""
    section, _, key = name.partition(".")
    return getattr(getattr(settings, section), key)


@functools.cache
def keys() -> Mapping[str, Key]:
    """Return every key by its full name, ``section.key``, in the order of the documentation."""
    return {
        f"{name}.{key}": section.keys[key]
        for name, section in sections().items()
        for key in section.keys
    }


@functools.cache
def sections() -> Mapping[str, Section]:
    """Return every section by its name, in the order of the documentation."""
    hints = get_type_hints(Settings, include_extras=True)
    return {
        name: Section(annotation.__metadata__[0], _keys(annotation.__origin__))
        for name, annotation in hints.items()
    }


def _keys(section: type[Struct]) -> dict[str, Key]:
    hints = get_type_hints(section, include_extras=True)
    found = {}
    for name, annotation in hints.items():
        description = next(each for each in annotation.__metadata__ if isinstance(each, str))
        restart = RESTART in annotation.__metadata__
        found[name] = Key(annotation, inspect.type_info(annotation), description, restart)
    return found


def expects(kind: inspect.Type) -> str:
    """Return what a key of this type takes, in words."""
    match kind:
        case inspect.Metadata(type=inner, extra_json_schema=schema):
            return str(schema["title"]) if schema else expects(inner)
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType(ge=low, le=high):
            return f"an integer from {low:_} to {high:_}"
        case inspect.FloatType(ge=low, le=high):
            return f"a number from {low:g} to {high:_g}"
        case inspect.LiteralType(values=values):
            return _choice([f'"{value}"' for value in values])
        case inspect.UnionType(types=kinds):
            return _choice([expects(kind) for kind in kinds])
        case inspect.VarTupleType(item_type=item, min_length=least):
            return f"a list of {'one or more of ' if least else ''}{expects(item)}"
        case _:
            raise TypeError(f"no words for {kind}")  # a key of a new type: every test fails


def _choice(words: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def invalid(key: Key, value: Any) -> Iterator[tuple[tuple[int, ...], str]]:  # TOML's
    """Yield what is wrong with a value, or with an array's elements, and where."""
    kind = key.kind.type if isinstance(key.kind, inspect.Metadata) else key.kind
    if isinstance(kind, inspect.VarTupleType) and isinstance(value, list) and value:
        item = kind.item_type
        for index, element in enumerate(value):
            if not _accepts(key.annotation, item, [element], element):
                yield (index,), _expected(item, element)
    elif not _accepts(key.annotation, key.kind, value, value):
        yield (), _expected(key.kind, value)


def _accepts(annotation: Any, kind: inspect.Type, whole: Any, value: Any) -> bool:  # TOML's
    try:
        msgspec.convert(whole, annotation)
    except msgspec.ValidationError:
        return False
    check = _extra(kind).get("check")
    return check is None or bool(check(value))


def _expected(kind: inspect.Type, value: Any) -> str:  # TOML's
    hint = did_you_mean(value.lower(), _words(kind)) if isinstance(value, str) else ""
    return f"Expected {expects(kind)}, not {_printed(value)}.{hint}"


def _printed(value: Any) -> str:  # TOML's
    match value:
        case bool():
            return "true" if value else "false"
        case int() if value.bit_length() > 64:
            return "a number this large"
        case int() | float():
            return str(value)
        case str():
            return json.dumps(value if len(value) <= 60 else value[:59] + "…", ensure_ascii=False)
        case []:
            return "an empty list"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def _extra(kind: inspect.Type) -> Mapping[str, Any]:
    return (kind.extra or {}) if isinstance(kind, inspect.Metadata) else {}


def _words(kind: inspect.Type) -> Iterable[str]:
    match kind:
        case inspect.Metadata(type=inner):
            return _extra(kind).get("words") or _words(inner)
        case inspect.LiteralType(values=values):
            return [str(value) for value in values]
        case inspect.UnionType(types=kinds):
            return [word for kind in kinds for word in _words(kind)]
        case _:
            return ()


def did_you_mean(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f' Did you mean "{near[0]}"?' if near else ""


def did_you_mean_key(name: str) -> str:
    """Suggest a key of any section, whether its name was given with its section or without."""
    by_last = {full.partition(".")[2]: full for full in sorted(keys())}
    near = difflib.get_close_matches(name, [*sorted(keys()), *by_last], 1)
    return f' Did you mean "{by_last.get(near[0], near[0])}"?' if near else ""
