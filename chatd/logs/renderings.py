"""How an event is written: as a line for people, as a line of JSON, or as an entry of the journal.

Each rendering is a structlog processor, the last of its chain: it takes the event as a dict
(``event``, ``level``, ``at``, then the fields) and gives bytes. Whatever clients put into a field,
one event is one line: what is not printable (CR, LF, ESC, U+2028, bidirectional overrides, halves
of a surrogate pair) is escaped, and a long value is cut.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, Literal, TypeAlias

import msgspec
from structlog.dev import Column, ConsoleRenderer, KeyValueColumnFormatter, LogLevelColumnFormatter
from structlog.processors import JSONRenderer
from structlog.typing import EventDict, WrappedLogger

from .vocabulary import FIELDS, LEVELS, Level

__all__ = [
    "FREE_WORDS",
    "VALUE_CHARACTERS",
    "Addresses",
    "ConsoleLine",
    "JournalEntry",
    "JsonLine",
    "Rendering",
    "shown_address",
    "shown_value",
]

Rendering: TypeAlias = Callable[[WrappedLogger, str, EventDict], bytes]
"""A structlog processor that ends a chain."""

Addresses: TypeAlias = Literal["full", "prefix", "off"]
"""How much of a peer's address is written: all, its /24 or /64, or nothing."""

VALUE_CHARACTERS: Final = 1000
"""More of a value than this tells an operator nothing and lets a client fill the disk."""

TRACEBACK_CHARACTERS: Final = 8000
"""Some 60 frames: what Trio's nested nurseries give, with room for a group of exceptions."""

PAGES: Final = frozenset({"tasks"})
"""Texts of many lines that are the daemon's own, bounded where they are made: shown as they are."""

# Fields with words that may come from an exception, a header or a peer, and so bring along what
# should not be there. The lookbehind instead of \w* keeps the search linear in the text.
FREE_WORDS: Final = frozenset({"detail", "error", "origin", "path", "reason", "traceback"})
_TOKEN: Final = re.compile(
    r"""(?ix)
    (?<![a-z0-9])
    ( (?:access|refresh)?token | secret | password | (?:set-)?cookie | session | sid )
    ( ['"]?\s{0,3} [=:] \s{0,3}['"]? ) [^\s'"&,}]+
    | (?P<scheme> authorization['"]?\s{0,3}[=:]\s{0,3}['"]?(?:[a-z]+\s)? | bearer\s ) [^\s'",}]+
    | eyJ[a-z0-9_.-]+
    """
)
_BARE: Final = re.compile(r"[^\s\"'=\\]+")


def _hidden(found: re.Match[str]) -> str:
    name, between, scheme = found.group(1, 2, "scheme")
    return f"{name or scheme or ''}{between or ''}[hidden]"


def shown_value(field: str, value: str) -> str:
    """Give ``value`` cut to its field's length, with what looks like a token hidden."""
    if field == "traceback" and len(value) > TRACEBACK_CHARACTERS:
        # The end says what happened. Hidden before it is cut: a token without its name in front
        # is not known for one.
        return f"[{len(value)} characters] … {_TOKEN.sub(_hidden, value)[-TRACEBACK_CHARACTERS:]}"
    if field in PAGES:
        return value
    if field != "traceback" and len(value) > VALUE_CHARACTERS:
        value = f"{value[:VALUE_CHARACTERS]}… [{len(value)} characters]"
    return _TOKEN.sub(_hidden, value) if field in FREE_WORDS else value


@lru_cache(maxsize=4096)  # ipaddress takes 4 µs; a client's address comes back with each line
def _network(address: str) -> str | None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        # "unix" tells nothing about anybody; what has an address' signs may be one.
        return None if "." in address or ":" in address else address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return str(ipaddress.ip_network((int(parsed), 64), strict=False))
        parsed = parsed.ipv4_mapped
    return str(ipaddress.ip_network((int(parsed), 24), strict=False))


def shown_address(address: str, addresses: Addresses) -> str | None:
    """Give as much of ``address`` as ``addresses`` lets be written; None: nothing."""
    if addresses == "full":
        return address
    return None if addresses == "off" else _network(address)


def _quoted(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and _BARE.fullmatch(text) else repr(text)


def _well_formed(value: object) -> object:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    return str(value).encode(errors="backslashreplace").decode()


_encode: Final = msgspec.json.Encoder().encode


def _escaped(found: re.Match[str]) -> str:
    character = found.group()
    return character if character.isprintable() else json.dumps(character)[1:-1]


def _json_line(event: EventDict, **_: object) -> bytes:
    try:
        line = _encode(event)
    except (TypeError, ValueError, OverflowError):  # half a surrogate pair, an integer past 64 bits
        line = _encode({key: _well_formed(value) for key, value in event.items()})
    text = line.decode()
    if text.isprintable():
        return line + b"\n"
    # JSON itself lets U+2028, DEL and the like stand as they are.
    return re.sub(r"[^ -~]", _escaped, text).encode() + b"\n"


class JsonLine:
    """One JSON object a line: ``event``, ``level``, ``at`` (RFC 3339, UTC), then the fields."""

    def __init__(self) -> None:
        self._render: Final = JSONRenderer(serializer=_json_line)

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> bytes:
        """Render ``event``; see `Rendering`."""
        line = self._render(logger, method, event)
        assert isinstance(line, bytes)  # noqa: S101 - _json_line gives no other; for the checker
        return line


class ConsoleLine:
    """A line for people: time, level, name, ``field=value``; coloured for a terminal only."""

    def __init__(self, *, colours: bool) -> None:
        styles = ConsoleRenderer.get_default_column_styles(colours)
        levels = ConsoleRenderer.get_default_level_styles(colours)

        def plain(style: str, width: int = 0) -> KeyValueColumnFormatter:
            return KeyValueColumnFormatter(None, style, styles.reset, value_repr=str, width=width)

        self._render: Final = ConsoleRenderer(
            columns=[
                Column("at", plain(styles.timestamp)),
                Column("level", LogLevelColumnFormatter(levels, reset_style=styles.reset)),
                Column("event", plain(styles.bright, width=10)),
                Column(
                    "",
                    KeyValueColumnFormatter(
                        styles.kv_key, styles.kv_value, styles.reset, value_repr=_quoted
                    ),
                ),
            ],
            sort_keys=False,
        )

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> bytes:
        """Render ``event``; see `Rendering`."""
        return self._render(logger, method, event).encode() + b"\n"


_JOURNAL_KEYS: Final = {name: f"CHATD_{name.upper()}" for name in FIELDS}


def _framed(key: str, value: str) -> bytes:
    data = value.encode(errors="backslashreplace")
    return b"%b\n%b%b\n" % (key.encode(), len(data).to_bytes(8, "little"), data)


class JournalEntry:
    """One entry in the journal's native protocol, https://systemd.io/JOURNAL_NATIVE_PROTOCOL/.

    MESSAGE is a line for people. The fields stand beside it as they are, so that
    ``journalctl CHATD_NICK=ann`` finds what ann did.
    """

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> bytes:
        """Render ``event``; see `Rendering`."""
        name: str = event.pop("event")
        level: Level = event.pop("level")
        del event["at"]  # the journal has its own
        words = [name]
        pages = []
        lines = [f"\nPRIORITY={LEVELS[level]}\nSYSLOG_IDENTIFIER=chatd\nCHATD_EVENT={name}\n"]
        framed = []
        for field, value in event.items():
            if isinstance(value, int | float):
                words.append(f"{field}={value}")
                lines.append(f"{_JOURNAL_KEYS[field]}={value}\n")
                continue
            text = str(value)
            if field in PAGES:
                pages.append(f"\n{text}")
            else:
                words.append(f"{field}={_quoted(text)}")
            if "\n" in text:
                framed.append(_framed(_JOURNAL_KEYS[field], text))
            else:
                lines.append(f"{_JOURNAL_KEYS[field]}={text}\n")
        if pages:
            framed.append(_framed("MESSAGE", " ".join(words) + "".join(pages)))
        else:
            lines.insert(0, f"MESSAGE={' '.join(words)}")
        entry = "".join(lines).lstrip("\n").encode(errors="backslashreplace")
        return b"".join([entry, *framed])
