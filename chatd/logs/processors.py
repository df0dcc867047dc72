"""The log's structlog processors: from an event and its fields to the bytes that are written.

The chain is `clean`, `mask_address`, and one of the renderers at its end:
`render_json`, `console_renderer` or `render_journal`. Whatever clients put into a field, one event
is one line: characters that are not printable (CR, LF, ESC, U+2028, bidirectional overrides, halves
of a surrogate pair) are escaped, and long values are cut.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, TypeAlias

import msgspec
from structlog.dev import Column, ConsoleRenderer, KeyValueColumnFormatter, LogLevelColumnFormatter
from structlog.typing import EventDict

from .output import Output
from .vocabulary import FIELDS, LEVELS, Level

__all__ = [
    "FREE_TEXT",
    "VALUE_CHARACTERS",
    "Renderer",
    "clean",
    "console_renderer",
    "mask_address",
    "render_journal",
    "render_json",
]

Renderer: TypeAlias = Callable[[Output, str, EventDict], bytes]
"""The last processor of a chain. structlog passes each processor the output and the level."""

VALUE_CHARACTERS: Final = 1000
"""The rest of a longer value is of no use to an operator and lets a client fill the disk."""

TRACEBACK_CHARACTERS: Final = 8000
"""Some 60 frames: what Trio's nested nurseries give, with room for a group of exceptions."""

MULTILINE: Final = frozenset({"tasks"})
"""Text of many lines that the daemon makes itself, with its own limit: written unchanged."""

# Fields whose text may come from an exception, a header or a peer, and so may contain secrets.
FREE_TEXT: Final = frozenset({"detail", "error", "origin", "path", "reason", "traceback"})
# The lookbehind in place of \w* keeps the search linear in the text.
_SECRET: Final = re.compile(
    r"""(?ix)
    (?<![a-z0-9])
    ( (?:access|refresh)?token | secret | password | (?:set-)?cookie | session | sid )
    ( ['"]?\s{0,3} [=:] \s{0,3}['"]? ) [^\s'"&,}]+
    | (?P<scheme> authorization['"]?\s{0,3}[=:]\s{0,3}['"]?(?:[a-z]+\s)? | bearer\s ) [^\s'",}]+
    | eyJ[a-z0-9_.-]+
    """
)
# Text without spaces, quotes, "=" and backslashes. For ASCII one match decides.
_BARE_ASCII: Final = re.compile(r"[!#-&(-<>-\[\]-~]+")
_BARE: Final = re.compile(r"[^\s\"'=\\]+")


def clean(_output: Output, _level: str, event: EventDict) -> EventDict:
    """Drop fields that are None, cut long values, and hide what looks like a secret."""
    missing = []
    for field, value in event.items():
        if value is None:
            missing.append(field)
        elif type(value) is str and (len(value) > VALUE_CHARACTERS or field in FREE_TEXT):
            event[field] = _cut_and_hidden(field, value)
    for field in missing:
        del event[field]
    return event


def _cut_and_hidden(field: str, value: str) -> str:
    if field in MULTILINE:
        return value
    if field == "traceback" and len(value) > TRACEBACK_CHARACTERS:
        # Its end says what happened. Secrets are hidden before the cut, which could separate one
        # from the name by which it is recognised.
        hidden = _SECRET.sub(_hide, value)
        return f"[{len(value)} characters] … {hidden[-TRACEBACK_CHARACTERS:]}"
    if field != "traceback" and len(value) > VALUE_CHARACTERS:
        value = f"{value[:VALUE_CHARACTERS]}… [{len(value)} characters]"
    return _SECRET.sub(_hide, value) if field in FREE_TEXT else value


def _hide(found: re.Match[str]) -> str:
    name, between, scheme = found.group(1, 2, "scheme")
    return f"{name or scheme or ''}{between or ''}[hidden]"


def mask_address(output: Output, _level: str, event: EventDict) -> EventDict:
    """Leave of the field ``address`` what ``log.addresses`` allows."""
    if output.addresses != "full" and "address" in event:
        address = event.pop("address")
        if output.addresses == "prefix" and (network := _network(address)):
            event["address"] = network
    return event


@lru_cache(maxsize=4096)  # ipaddress takes 4 µs; a client's address comes back with each line
def _network(address: str) -> str | None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        # "unix" identifies no person; anything with the punctuation of an address may be one.
        return None if "." in address or ":" in address else address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return str(ipaddress.ip_network((int(parsed), 64), strict=False))
        parsed = parsed.ipv4_mapped
    return str(ipaddress.ip_network((int(parsed), 24), strict=False))


# ---- renderers

_encode: Final = msgspec.json.Encoder().encode


def render_json(_output: Output, _level: str, event: EventDict) -> bytes:
    """Return one JSON object: ``event``, ``level``, ``at`` (RFC 3339, UTC), then the fields."""
    try:
        line = _encode(event)
    except (TypeError, ValueError, OverflowError):  # half a surrogate pair, an integer past 64 bits
        line = _encode({key: _encodable(value) for key, value in event.items()})
    if line.isascii() and b"\x7f" not in line:  # the other controls are escaped by JSON itself
        return line + b"\n"
    text = line.decode()
    if text.isprintable():
        return line + b"\n"
    # JSON leaves U+2028, DEL and others as they are.
    return re.sub(r"[^ -~]", _escaped, text).encode() + b"\n"


def _encodable(value: object) -> object:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    return str(value).encode(errors="backslashreplace").decode()


def _escaped(found: re.Match[str]) -> str:
    character = found.group()
    return character if character.isprintable() else json.dumps(character)[1:-1]


def console_renderer(*, colours: bool) -> Renderer:
    """Return a renderer for people: time, level, name, ``field=value``."""
    styles = ConsoleRenderer.get_default_column_styles(colours)
    levels = ConsoleRenderer.get_default_level_styles(colours)

    def plain(style: str, width: int = 0) -> KeyValueColumnFormatter:
        return KeyValueColumnFormatter(None, style, styles.reset, value_repr=str, width=width)

    fields = KeyValueColumnFormatter(
        styles.kv_key, styles.kv_value, styles.reset, value_repr=_quoted
    )
    renderer = ConsoleRenderer(
        columns=[
            Column("at", plain(styles.timestamp)),
            Column("level", LogLevelColumnFormatter(levels, reset_style=styles.reset)),
            Column("event", plain(styles.bright, width=10)),
            Column("", fields),
        ],
        sort_keys=False,
    )

    def render(output: Output, level: str, event: EventDict) -> bytes:
        return renderer(output, level, event).encode() + b"\n"

    return render


def _quoted(value: object) -> str:
    text = str(value)
    if _BARE_ASCII.fullmatch(text) or (text.isprintable() and _BARE.fullmatch(text)):
        return text
    return repr(text)


_JOURNAL_KEYS: Final = {name: f"CHATD_{name.upper()}" for name in FIELDS}


def render_journal(_output: Output, _level: str, event: EventDict) -> bytes:
    """Return an entry in the journal's native protocol.

    MESSAGE is a line for people. Each field is beside it unchanged, so that ``journalctl
    CHATD_NICK=ann`` finds ann's lines. https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
    """
    name: str = event.pop("event")
    level: Level = event.pop("level")
    del event["at"]  # the journal has its own
    words = [name]
    pages = []
    lines = [f"\nPRIORITY={LEVELS[level]}\nSYSLOG_IDENTIFIER=chatd\nCHATD_EVENT={name}\n"]
    framed = []
    for field, value in event.items():
        if type(value) is str:
            text = value
        elif isinstance(value, (int, float)):  # `int | float` takes 0.1 µs
            words.append(f"{field}={value}")
            lines.append(f"{_JOURNAL_KEYS[field]}={value}\n")
            continue
        else:
            text = str(value)
        if field in MULTILINE:
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


def _framed(key: str, value: str) -> bytes:
    data = value.encode(errors="backslashreplace")
    return b"%b\n%b%b\n" % (key.encode(), len(data).to_bytes(8, "little"), data)
