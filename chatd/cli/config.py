"""``chatd config``: prints the whole configuration, each key explained where it stands."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from chatd.settings import Key, Settings, expects, sections

if TYPE_CHECKING:
    from chatd.cli.check import Verbs

__all__ = ["add_parser", "render", "run"]

_COLUMNS: Final = 96

_HEAD: Final = """\
# The configuration of chatd: every key there is, with its default.
#
# A file needs only what it changes. Most change little more than these:
#   listen.addresses    who can reach the chat at all
#   http.hosts          the names that browsers know it by
#   chat.greeting       its first words
#   history.keep_days   how long words are kept
#
# Units stand in the names. No number means "no limit": where a limit can be off, it is "off".
# `chatd check FILE` tells every fault of a file. `chatd serve --set limits.rooms=5` sets a key
# for one run. `chatd ctl reload` (systemctl reload chatd) puts a changed file in force without
# sending anybody away; what a reload cannot change says so.
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "config",
        help="print the whole configuration, explained",
        description="Print the whole configuration with its defaults, each key explained.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the configuration; give the exit code."""
    try:
        sys.stdout.write(render(Settings()))
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has enough, as `head` has; nor is anything left to fail when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def render(settings: Settings) -> str:
    """Write ``settings`` as a file that loads as the same, with all that is known of each key."""
    return "\n".join([_HEAD, *_sections(settings)])


def _sections(settings: Settings) -> Iterator[str]:
    for name, section in sections().items():
        values = getattr(settings, name)
        blocks = [
            f"{_comment(key.description)}\n{_comment(_taken(key))}\n"
            f"{key_name} = {_toml(getattr(values, key_name))}\n"
            for key_name, key in section.keys.items()
        ]
        yield f"{_comment(section.description)}\n[{name}]\n" + "\n".join(blocks)


def _taken(key: Key) -> str:
    words = expects(key.kind)
    restart = " A change needs a restart." if key.restart else ""
    return f"{words[:1].upper()}{words[1:]}.{restart}"


def _comment(text: str) -> str:
    return textwrap.fill(
        text, _COLUMNS, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )


def _toml(value: Any) -> str:  # what a key holds
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return f"{value:_}" if value >= 10_000 else str(value)
        case float():
            return repr(value).removesuffix(".0")
        case str():
            # JSON's escapes are TOML's too; TOML wants one for DEL also.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case _:
            return "[" + ", ".join(_toml(item) for item in value) + "]"
