"""What the chat looks like in a terminal: events as lines of text.

A message is ``12:01 #5 ann: hello``, whatever else happened ``12:01 * ann joined``. What is not of
the place one talks in has its name in brackets. Later lines of a message are indented, so that none
looks like somebody else's, and nothing anybody wrote can command the terminal.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final
from zlib import crc32

from rich.text import Text

from chatd.cli.check import visible
from chatd.client import (
    Delete,
    Edit,
    Joined,
    Left,
    Message,
    NickChange,
    Presence,
    RoomInfo,
    Topic,
)

__all__ = ["INDENT", "Happening", "day", "happened", "message", "note", "room", "warning"]

Happening = Edit | Delete | Topic | Joined | Left | NickChange | Presence

# Of the sixteen every terminal has, those that can be read on black and on white.
_COLOURS: Final = ("green", "cyan", "magenta", "blue", "red", "bright_magenta")

INDENT: Final = "  "
"""What begins the later lines of a message."""

_GONE: Final = {
    "leave": "left",
    "lost": "is gone",
    "kicked": "was put out",
    "banned": "was banned",
}


def message(one: Message, place: str = "", *, me: str | None = None, again: bool = False) -> Text:
    """Write a message. Where ``me`` is named in it, that stands out.

    ``again``: it is one that was said before, and may have been changed since.
    """
    line = _begun(one.at, place)
    if one.seq is not None:
        line.append(f"#{one.seq} ", "dim")
    line.append(visible(one.nick), f"bold {_colour(one.user)}")
    if one.reply_to is not None:
        line.append(f" (to #{one.reply_to})", "dim")
    line.append(": ")
    if one.text is None:
        line.append("(deleted)", "dim italic")
    else:
        line.append_text(_words(one.text, me))
        if again and one.edited is not None:
            line.append(" (edited)", "dim")
    return line


def happened(event: Happening, place: str = "", *, at: datetime | None = None) -> Text:
    """Write what else an event tells; ``at`` is when, where it does not say so itself."""
    line = _begun(at if (own := getattr(event, "at", None)) is None else own, place)
    line.append("* ", "dim")
    line.append_text(Text(_told(event), "dim" if at is not None else ""))
    return line


def _told(event: Happening) -> str:
    match event:
        case Edit():
            return f"{visible(event.nick)} changed #{event.of}: {_indented(event.text or '')}"
        case Delete():
            return f"{visible(event.nick)} deleted #{event.of}"
        case Topic(text=""):
            return f"{visible(event.nick)} took the topic away"
        case Topic():
            return f"{visible(event.nick)} set the topic: {_indented(event.text)}"
        case Joined():
            return f"{visible(event.nick)} joined"
        case Left():
            return f"{visible(event.nick)} {_GONE.get(event.reason, 'left')}"
        case NickChange():
            return f"{visible(event.before)} is now {visible(event.nick)}"
        case Presence():
            return f"{event.total} are here"


def note(text: str) -> Text:
    """Write what the client or the daemon has to say."""
    return Text(f"* {_indented(text)}", "cyan")


def warning(text: str) -> Text:
    """Write what did not work."""
    return Text(f"! {_indented(text)}", "bold red")


def day(at: datetime) -> Text:
    """Write the line before the first message of a day."""
    return Text(f"--- {at.astimezone():%A, %-d %B %Y} ---", "dim")


def room(info: RoomInfo) -> str:
    """Write one of the rooms there are."""
    name = f"{info.room}, {info.members} here" if info.nick is None else f"@{info.nick}"
    unread = f", {info.unread} unread" if info.unread else ""
    return f"{name}{unread}{f': {info.topic}' if info.topic else ''}"


def _begun(at: datetime | None, place: str) -> Text:
    line = Text()
    line.append(f"{at.astimezone():%H:%M} " if at is not None else "", "dim")
    if place:
        line.append(f"[{visible(place)}] ", "yellow")
    return line


def _words(text: str, me: str | None) -> Text:
    words = Text(_indented(text))
    if me:
        words.highlight_regex(rf"(?i)(?<!\w){re.escape(me)}(?!\w)", "bold reverse")
    return words


def _indented(text: str) -> str:
    return f"\n{INDENT}".join(visible(line) for line in text.splitlines())


def _colour(user: str) -> str:
    return _COLOURS[crc32(user.encode()) % len(_COLOURS)]
