"""Checks of options, made when a server is made: an option has its type, its range and one form.

A check takes an option's name and value. It returns the value in the form in which the server uses
it, and accepts other spellings whose meaning is clear, such as those of python-socketio. Otherwise
it raises one line that names the option: TypeError for a type, ValueError for a value.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
import types
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from chatd.logs import Log
from chatd.settings import Settings, wrong_values
from chatd.wire.origins import is_origin

__all__ = [
    "Check",
    "Checked",
    "check_folder",
    "check_function",
    "check_log",
    "check_origins",
    "check_path",
    "check_settings",
    "count",
    "fail",
    "instance",
    "one_of",
    "parse_options",
    "seconds",
]

Check: TypeAlias = Callable[[str, Any], Any]
T = TypeVar("T", bound=Struct)

_ORIGIN_WORDS: Final = ("*", "same", "loopback", "file")

# An hour. Also a guard against milliseconds, in which Node's options are.
_MAX_SECONDS: Final = 3600
_SHOWN_CHARACTERS: Final = 60
# RFC 3986 section 3.3, percent-encoded as requests have it.
_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*")

# What python-socketio calls them.
_RENAMED: Final = {
    "cors_allowed_origins": "cors_origins",
    "max_http_buffer_size": "max_payload",
    "socketio_path": "path",
}


def fail(name: str, wanted: str, value: object, *, kind: type[Exception] = TypeError) -> Exception:
    """Return the exception for an option whose value is wrong."""
    shown = repr(value)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = f"{shown[:_SHOWN_CHARACTERS]}…"
    return kind(f"{name} must be {wanted}, not {shown}.")


def seconds(least: float = 0, most: float = _MAX_SECONDS) -> Check:
    """Return the check of a time."""
    wanted = f"a number of seconds from {least:g} to {most:g}"

    def check(name: str, value: Any) -> float:
        return float(_number(name, value, wanted, least, most))

    return check


def count(least: int = 1) -> Check:
    """Return the check of a size or a number of things."""
    wanted = f"a whole number of at least {least}"

    def check(name: str, value: Any) -> int:
        number = _number(name, value, wanted, least, math.inf)
        if not math.isfinite(number) or number != int(number):
            raise fail(name, wanted, value, kind=ValueError)
        return int(number)

    return check


def _number(name: str, value: Any, wanted: str, least: float, most: float) -> Any:
    number: Any = value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise fail(name, wanted, value)
    if not least <= number <= most:
        raise fail(name, wanted, value, kind=ValueError)
    return number


def instance(kind: type | tuple[type, ...], wanted: str) -> Check:
    """Return the check of a value's type."""

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, kind):
            raise fail(name, wanted, value)
        return value

    return check


def one_of(words: Iterable[str], *, several: bool = False) -> Check:
    """Return the check of a word in a fixed list, or with ``several`` of one or more of them."""
    known = {word.lower(): word for word in words}
    quoted = " or ".join(f'"{word}"' for word in known.values())
    wanted = f"one or more of {quoted}" if several else quoted

    def check(name: str, value: Any) -> Any:
        given = [value] if isinstance(value, str) else value if several else None
        if not isinstance(given, Iterable) or isinstance(given, Mapping):
            raise fail(name, wanted, value)
        found = [known.get(word.lower()) if isinstance(word, str) else None for word in given]
        if not found or None in found:
            raise fail(name, wanted, value, kind=ValueError)
        return tuple(dict.fromkeys(found)) if several else found[0]

    return check


check_flag: Final = instance(bool, "True or False")


def check_function(name: str, value: Any) -> Any:
    """Return a function of one argument, async or plain."""
    wanted = "a function of one argument"
    if not callable(value):
        raise fail(name, wanted, value)
    try:
        inspect.signature(value).bind(None)
    except TypeError as error:
        raise fail(name, wanted, value) from error
    except ValueError:
        pass  # a function of C, whose arguments are not known
    return value


def check_path(name: str, value: Any) -> str:
    """Return the path of a route, with its first and its last slash."""
    wanted = 'a path such as "/socket.io/"'
    if not isinstance(value, str):
        raise fail(name, wanted, value)
    path = value.strip("/")
    path = f"/{path}" if path else ""
    if _PATH.fullmatch(path) is None or {".", ".."} & set(path.split("/")):
        raise fail(name, wanted, value, kind=ValueError)
    return f"{path}/"


def check_folder(name: str, value: str | Path) -> Path:
    """Return a folder that exists."""
    folder = Path(value).resolve()
    if not folder.is_dir():
        raise ValueError(f"{name} must be a folder that exists. There is no folder {folder}.")
    return folder


def check_settings(value: Settings | None) -> Settings:
    """Return the settings of a server's listeners, by default those of a new `Settings`."""
    settings = Settings() if value is None else value
    instance(Settings, "a chatd.settings.Settings")("settings", settings)
    for what in wrong_values(settings):
        raise ValueError(f"settings: {what}")
    return settings


def check_log(value: Log | None) -> Log | None:
    """Return a log; raise TypeError for anything else, such as the logger of another library."""
    if value is not None:
        instance(Log, "a chatd.logs.Log")("log", value)
    return value


def check_origins(name: str, value: Any) -> Any:
    """Return origins without a final slash, as a tuple, or the function that decides."""
    if callable(value):
        return check_function(name, value)
    given = [value] if isinstance(value, str) else value
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        wanted = 'a list of origins such as "https://app.example.org", or a function'
        raise fail(name, wanted, value)
    return tuple(_origin(name, origin) for origin in given)


def _origin(name: str, value: Any) -> str:
    wanted = 'whole origins such as "https://app.example.org", "*", "same", "loopback" or "file"'
    if not isinstance(value, str):
        raise fail(name, wanted, value)
    origin = value.strip().removesuffix("/")
    if origin not in _ORIGIN_WORDS and not is_origin(origin):
        if "*" in origin:
            wanted += " (a function of the request can accept a pattern)"
        raise fail(name, wanted, value, kind=ValueError)
    return origin


class Checked(Struct, frozen=True, kw_only=True):
    """The base of options: every field is checked when they are made.

    A field is checked by its entry in `checks`, else by its type.
    """

    def __post_init__(self) -> None:
        for name, check in _checks(type(self)).items():
            msgspec.structs.force_setattr(self, name, check(name, getattr(self, name)))

    @classmethod
    def checks(cls) -> dict[str, Check]:
        """Return the checks of fields for which their type is not enough."""
        return {}


@cache
def _checks(kind: type[Checked]) -> dict[str, Check]:
    special, hints = kind.checks(), get_type_hints(kind)
    return {
        name: _optional(special.get(name) or _by_type(hints[name]), hints[name])
        for name in kind.__struct_fields__
    }


def _optional(check: Check, hint: Any) -> Check:
    if type(None) not in get_args(hint):
        return check
    return lambda name, value: None if value is None else check(name, value)


def _by_type(hint: Any) -> Check:
    if get_origin(hint) in (Union, types.UnionType):
        # Of a union only the first kind counts: the second one is None.
        hint = get_args(hint)[0]
    if get_origin(hint) is not None:
        return check_function
    by_type: dict[Any, Check] = {
        bool: check_flag,
        int: count(),
        float: seconds(),
        str: instance(str, "a text"),
    }
    return by_type[hint]


def parse_options(
    kind: type[T], given: Mapping[str, Any], *, owner: str, others: Iterable[str]
) -> T:
    """Return the options of these keyword arguments.

    Args:
        kind: The class of the options.
        given: The arguments. Names of python-socketio's are accepted where they mean the same.
        owner: The name of the server's class.
        others: Its further arguments, to be named for a misspelled one.

    Raises:
        TypeError: An argument is unknown, given twice, or its value has the wrong type.
        ValueError: The value of an argument is wrong.
    """
    named: dict[str, Any] = {}
    for name, value in given.items():
        known = _RENAMED.get(name, name)
        if name == "cors_allowed_origins":
            _check_meaning(value)
        if name == "http_compression":
            known = "compression_threshold"
            if check_flag(name, value):
                continue
            value = None  # noqa: PLW2901  off
        if known not in kind.__struct_fields__:
            raise TypeError(_unknown(name, owner, (*kind.__struct_fields__, *others)))
        if known in named:
            raise TypeError(f"{owner} has {known} twice, once as another name for it.")
        named[known] = value
    return kind(**named)


def _check_meaning(allowed_origins: Any) -> None:
    """Raise ValueError for origins that mean something else in python-socketio."""
    if callable(allowed_origins):
        raise ValueError(
            "cors_allowed_origins calls a function with the origin. Write cors_origins, which "
            'calls it with the request: request.header("origin") is the origin.'
        )
    if isinstance(allowed_origins, list | tuple) and not allowed_origins:
        raise ValueError(
            "cors_allowed_origins=[] accepts every origin in python-socketio. Write "
            'cors_origins="*" for that, or None for the pages of this server only.'
        )


def _unknown(name: str, owner: str, known: Iterable[str]) -> str:
    # Node's names are in camelCase.
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    near = difflib.get_close_matches(snake, list(known), 1)
    hint = f"Did you mean {near[0]}?" if near else f"help(chatd.{owner}) lists all of them."
    return f"{owner} has no option {name}. {hint}"
