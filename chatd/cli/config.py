"""``chatd config``: prints the whole configuration, with an explanation of each key."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from chatd.cli.output import write
from chatd.key_values import Key, expects, sections
from chatd.settings import Settings

if TYPE_CHECKING:
    from chatd.cli import Verbs

__all__ = ["add_parser", "render", "run"]

_COLUMNS: Final = 96

_HEAD: Final = """\
# The configuration of chatd: every key with its default.
#
# A file needs only the keys that it changes. Most files change little more than these:
#   listen.addresses    who can connect to the chat at all
#   http.hosts          the names by which browsers reach the server
#   chat.greeting       the first line that clients see
#   history.keep_days   how long messages are kept
#
# Units are part of the names. No number means "no limit": limits that can be off take "off".
# `chatd check FILE` reports all faults of a file. `chatd serve --set limits.rooms=5` sets a key
# for one run. `chatd ctl reload` (systemctl reload chatd) applies a changed file without
# disconnecting anybody, except for keys that say that a change needs a restart.
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "config",
        help="Print the whole configuration with explanations.",
        description="Print the whole configuration: every key with its default and an explanation.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the configuration and return the exit code."""
    write(render(Settings()), sys.stdout)
    return 0


def render(settings: Settings) -> str:
    """Return ``settings`` as a file that loads as the same settings, with each key explained."""
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
