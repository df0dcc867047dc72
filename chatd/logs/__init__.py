"""The log: one line an event, in one closed vocabulary, never in the way of the event loop.

`open_log` gives the daemon's `Log`. What there is to say stands in `VOCABULARY` and `Fields`
(``logs.vocabulary``), how it is written in ``logs.renderings``, where it goes and what happens when
nobody reads it in ``logs.sink``. A log belongs to the thread of the event loop.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, TypeAlias, Unpack

from msgspec import Struct
from structlog.typing import EventDict

from .renderings import (
    FREE_WORDS,
    VALUE_CHARACTERS,
    Addresses,
    ConsoleLine,
    JournalEntry,
    JsonLine,
    Rendering,
    shown_address,
    shown_value,
)
from .sink import JOURNAL_SOCKET, Journald, LineStream, Recording, Sink
from .vocabulary import FIELDS, LEVELS, VOCABULARY, Fields, Level, Meaning, Name, Who

__all__ = [
    "LEVELS",
    "VOCABULARY",
    "Addresses",
    "Fields",
    "Format",
    "Level",
    "Log",
    "LogError",
    "LogStatistics",
    "Meaning",
    "Name",
    "Recording",
    "Sink",
    "Who",
    "open_log",
]

Format: TypeAlias = Literal["auto", "console", "json", "journal"]
"""How lines are written. ``auto``: to the journal under systemd, for people on a terminal, else
JSON."""

CLOSE_SECONDS: Final = 1.0
"""What a reader that is merely slow needs for a full queue; less than anybody waits at an end."""


class LogError(Exception):
    """The log cannot be opened as it was asked for; the message is one line for the operator."""


class LogStatistics(Struct, frozen=True):
    """What became of the log so far: lines said, those of them dropped, bytes that wait."""

    lines: int
    dropped: int
    waiting_bytes: int


def _now() -> int:
    return time.time_ns() // 1_000_000


class Stamps:
    """The time as RFC 3339 has it, in UTC with milliseconds. ``now`` gives Unix milliseconds."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now: Final = now
        self._second = -1
        self._written = ""

    def __call__(self) -> str:
        """Give the time of this moment."""
        second, millisecond = divmod(self._now(), 1000)
        if second != self._second:  # strftime takes 1.5 µs, a third of a whole line
            self._second = second
            self._written = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._written}.{millisecond:03d}Z"


class Log:
    """Events by name and fields, rendered and handed to a sink.

    ``level`` and ``addresses`` may be set while the log is in use.
    """

    def __init__(
        self,
        rendering: Rendering,
        sink: Sink,
        *,
        level: Level = "info",
        addresses: Addresses = "full",
        now: Callable[[], int] = _now,
    ) -> None:
        self._rendering: Final = rendering
        self._sink: Final = sink
        self._stamp: Final = Stamps(now)
        self._written = 0
        self.addresses: Addresses = addresses
        self.level = level

    @property
    def level(self) -> Level:
        """The least level that is written."""
        return self._level

    @level.setter
    def level(self, level: Level) -> None:
        self._level: Level = level
        self._enabled: dict[str, bool] = {
            name: LEVELS[meaning.level] <= LEVELS[level] for name, meaning in VOCABULARY.items()
        }

    def enabled(self, name: Name) -> bool:
        """Tell whether an event of this name is written. Raises KeyError for an unknown name."""
        return self._enabled[name]

    def emit(self, name: Name, **fields: Unpack[Fields]) -> None:
        """Write one event. Raises KeyError for a name or a field that is in no list of ours."""
        if self._enabled[name]:
            self._sink.write((self._entry(name, self._stamp(), fields),))
            self._written += 1

    def many(self, name: Name, rows: Sequence[Fields]) -> None:
        """Write one event for each of ``rows``, in one write. Raises as `emit` does."""
        if self._enabled[name] and rows:
            at = self._stamp()
            self._sink.write([self._entry(name, at, fields) for fields in rows])
            self._written += len(rows)

    def _entry(self, name: Name, at: str, fields: Fields) -> bytes:
        return rendered(self._rendering, name, at, fields, self.addresses)

    async def run(self) -> None:
        """Write what a slow reader left waiting; a task for as long as the daemon lives."""
        await self._sink.run()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Write what waits, for at most ``seconds``. The last thing done: the loop stands still."""
        self._sink.close(seconds)

    def statistics(self) -> LogStatistics:
        """Give the log's counts."""
        return LogStatistics(self._written, self._sink.dropped, self._sink.waiting)


def rendered(
    rendering: Rendering, name: Name, at: str, fields: Fields, addresses: Addresses
) -> bytes:
    """Give the entry for an event, with values cut and the address shown as ``addresses`` says."""
    if not fields.keys() <= FIELDS:
        raise KeyError(*sorted(fields.keys() - FIELDS))
    level = VOCABULARY[name].level
    event: EventDict = {"event": name, "level": level, "at": at, **fields}
    for field, value in fields.items():
        if value is None:
            del event[field]
        elif type(value) is str and (len(value) > VALUE_CHARACTERS or field in FREE_WORDS):
            event[field] = shown_value(field, value)
    if addresses != "full" and "address" in event:
        address = shown_address(event.pop("address"), addresses)
        if address is not None:
            event["address"] = address
    return rendering(None, level, event)


def open_log(
    *,
    level: Level = "info",
    format: Format = "auto",  # noqa: A002 - the configuration's word for it
    addresses: Addresses = "full",
    fd: int = 2,
    environ: Mapping[str, str] = os.environ,
    sink: Sink | None = None,
    now: Callable[[], int] = _now,
) -> Log:
    """Open the log on ``fd``, or on the journal, or on ``sink`` (then ``auto`` means JSON).

    Raises `LogError` if ``fd`` is not open, or if the journal is asked for where there is none.
    """
    stamp = Stamps(now)
    if format == "auto":
        format = "json" if sink is not None else _detected(fd, environ)  # noqa: A001 - as above
    rendering: Rendering
    if format == "journal":
        rendering = JournalEntry()
    elif format == "console":
        colours = sink is None and os.isatty(fd) and "NO_COLOR" not in environ
        rendering = ConsoleLine(colours=colours)
    else:
        rendering = JsonLine()

    def tell(lines: int, total: int) -> bytes:
        return rendered(rendering, "dropped", stamp(), {"lines": lines, "total": total}, "full")

    if sink is None and format == "journal":
        if not JOURNAL_SOCKET.exists():
            raise LogError(f'log.format is "journal", but there is no {JOURNAL_SOCKET}')
        sink = Journald(tell)
    elif sink is None:
        try:
            sink = LineStream(fd, tell)
        except OSError as error:
            raise LogError(f"cannot log to descriptor {fd}: {error.strerror}") from error
    return Log(rendering, sink, level=level, addresses=addresses, now=now)


def _detected(fd: int, environ: Mapping[str, str]) -> Format:
    try:
        status = os.fstat(fd)
    except OSError:
        return "json"
    # systemd.exec(5): so a program tells that this very descriptor leads to the journal.
    if environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}":
        return "journal" if JOURNAL_SOCKET.exists() else "json"
    return "console" if os.isatty(fd) else "json"
