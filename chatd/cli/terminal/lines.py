"""Format events as lines of text for a terminal.

A message is ``12:01 #5 ann: hello``, any other event ``12:01 * ann joined``. A line from a room
other than the current one has that room's label in brackets. Later lines of a message are indented,
so that no message can imitate another, and control characters never reach the terminal.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final
from zlib import crc32

from rich.text import Text

from chatd.cli.output import visible
from chatd.client import (
    Delete,
    Edit,
    Joined,
    Left,
    Message,
    NickChange,
    Presence,
    RoomInfo,
    SanctionInfo,
    Topic,
)

__all__ = ["INDENT", "Activity", "activity", "day", "message", "notice", "room", "warning"]

Activity = Edit | Delete | Topic | Joined | Left | NickChange | Presence

# Of the sixteen standard colours, those that are legible on black and on white.
_COLOURS: Final = ("green", "cyan", "magenta", "blue", "red", "bright_magenta")

INDENT: Final = "  "
"""Precedes the later lines of a message."""

_LEFT: Final = {
    "leave": "left",
    "lost": "disconnected",
    "kicked": "was kicked",
    "banned": "was banned",
}


def message(one: Message, label: str = "", *, me: str | None = None, again: bool = False) -> Text:
    """Format a message. Mentions of the nick ``me`` are highlighted.

    ``again`` marks a message from the history, which says whether it was edited.
    """
    line = _start(one.at, label)
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


def activity(event: Activity, label: str = "", *, at: datetime | None = None) -> Text:
    """Format another event; ``at`` is its time if the event itself has none."""
    line = _start(at if (own := getattr(event, "at", None)) is None else own, label)
    line.append("* ", "dim")
    line.append_text(Text(_describe(event), "dim" if at is not None else ""))
    return line


def _describe(event: Activity) -> str:
    match event:
        case Edit():
            return f"{visible(event.nick)} changed #{event.of}: {_indented(event.text or '')}"
        case Delete():
            return f"{visible(event.nick)} deleted #{event.of}"
        case Topic(text=""):
            return f"{visible(event.nick)} removed the topic"
        case Topic():
            return f"{visible(event.nick)} set the topic: {_indented(event.text)}"
        case Joined():
            return f"{visible(event.nick)} joined"
        case Left():
            return f"{visible(event.nick)} {_LEFT.get(event.reason, 'left')}"
        case NickChange():
            return f"{visible(event.before)} is now {visible(event.nick)}"
        case Presence():
            return f"{event.total} members"


def notice(text: str) -> Text:
    """Format a notice of the client or the server."""
    return Text(f"* {_indented(text)}", "cyan")


def warning(text: str) -> Text:
    """Format an error."""
    return Text(f"! {_indented(text)}", "bold red")


def day(at: datetime) -> Text:
    """Format the line before the first message of a day."""
    return Text(f"--- {at.astimezone():%A, %-d %B %Y} ---", "dim")


def room(info: RoomInfo) -> str:
    """Format an entry of the list of rooms."""
    name = f"{info.room}, {info.members} here" if info.nick is None else f"@{info.nick}"
    unread = f", {info.unread} unread" if info.unread else ""
    return visible(f"{name}{unread}{f': {info.topic}' if info.topic else ''}")


def sanction(one: SanctionInfo) -> str:
    """Format a ban, a mute, slow mode or a closed room."""
    target = one.nick or one.user or one.network
    place = "everywhere" if one.room is None else f"in {one.room}"
    end = "" if one.until is None else f" until {one.until.astimezone():%Y-%m-%d %H:%M}"
    seconds = "" if one.seconds is None else f" ({one.seconds:g} s)"
    reason = "" if one.reason is None else f": {one.reason}"
    return " ".join(filter(None, (one.kind, target, place))) + f"{seconds}{end}{reason}"


def _start(at: datetime | None, label: str) -> Text:
    line = Text()
    line.append(f"{at.astimezone():%H:%M} " if at is not None else "", "dim")
    if label:
        line.append(f"[{visible(label)}] ", "yellow")
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
