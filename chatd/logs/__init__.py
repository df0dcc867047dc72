"""The log: one line for each event, from a closed vocabulary, never blocking the event loop.

`open_log` returns the daemon's `Log`, a structlog logger: `bind` it to the common fields of a
connection's lines. ``logs.vocabulary`` lists the events and fields, ``logs.processors``
(structlog's) turns them into bytes, and ``logs.sink`` writes these. A log belongs to the thread of
the event loop.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, Unpack

from structlog import BoundLoggerBase
from structlog.typing import Processor

from .output import AddressPolicy, LogStatistics, Output, now_ms
from .processors import (
    Renderer,
    clean,
    console_renderer,
    mask_address,
    render_journal,
    render_json,
)
from .sink import JOURNAL_SOCKET, Journald, LineStream, Sink
from .vocabulary import FIELDS, LEVELS, VOCABULARY, Fields, Level, Meaning, Name

__all__ = [
    "LEVELS",
    "VOCABULARY",
    "AddressPolicy",
    "Fields",
    "Format",
    "Level",
    "Log",
    "LogError",
    "LogStatistics",
    "Meaning",
    "Name",
    "Output",
    "Sink",
    "now_ms",
    "open_log",
]

Format: TypeAlias = Literal["auto", "console", "json", "journal"]
"""How lines are written. ``auto``: journal under systemd, console on a terminal, else JSON."""


class LogError(Exception):
    """The log cannot be opened as configured. The message is one line for the operator."""


class Log(BoundLoggerBase):
    """A structlog logger that takes its events from `VOCABULARY` and its fields from `Fields`."""

    def __init__(
        self, output: Output, processors: Sequence[Processor], context: dict[str, Any]
    ) -> None:
        super().__init__(output, processors, context)
        self.output: Final = output

    # Only fields of the vocabulary can be bound, where structlog's takes any.
    def bind(self, **fields: Unpack[Fields]) -> Log:  # type: ignore[override]
        """Return a log whose lines have these fields too. Raises KeyError as `emit` does."""
        _check(fields)
        return super().bind(**fields)

    def emit(self, name: Name, **fields: Unpack[Fields]) -> None:
        """Write one event. Raises KeyError for a name or a field outside the vocabulary."""
        output = self.output
        if output.enabled[name]:
            if name == "refused":
                address = fields.get("address") or self._context.get("address") or ""
                omitted = output.refusals.take(address, output.now())
                if omitted is None:
                    return
                fields["omitted"] = omitted or None
            output.write((self.line(name, **fields),))

    def fault(self, error: BaseException, /, **fields: Unpack[Fields]) -> None:
        """Write a ``fault``, an internal error, with its traceback."""
        fields["error"] = repr(error)
        fields["traceback"] = "".join(traceback.format_exception(error))
        self.emit("fault", **fields)

    def line(self, name: Name, **fields: Unpack[Fields]) -> bytes:
        """Return the line of an event without writing it, for a batch in one `Output.write`."""
        output, level = self.output, VOCABULARY[name].level
        if not fields.keys() <= FIELDS:
            _check(fields)
        output.lines += 1
        # BoundLoggerBase's own helper makes four dicts where this makes one, and takes 1.5 µs more.
        event: Any = {
            "event": name,
            "level": level,
            "at": output.timestamp(),
            **self._context,
            **fields,
        }
        for processor in self._processors:
            event = processor(output, level, event)
        line: bytes = event
        return line


def _check(fields: Fields) -> None:
    if unknown := fields.keys() - FIELDS:
        raise KeyError(*sorted(unknown))


def open_log(
    *,
    level: Level = "info",
    format: Format = "auto",  # noqa: A002 - the configuration's word for it
    addresses: AddressPolicy = "full",
    fd: int = 2,
    environ: Mapping[str, str] = os.environ,
    sink: Sink | None = None,
    journal: Path = JOURNAL_SOCKET,
    now: Callable[[], int] | None = None,
) -> Log:
    """Open the log on ``fd``, the journal, or ``sink`` (where ``auto`` means JSON).

    Raises:
        LogError: ``fd`` is not open, or ``format`` is "journal" and there is no journal.
    """
    if format == "auto":
        format = "json" if sink is not None else _detected(fd, environ, journal)  # noqa: A001 - as above

    def dropped(lines: int, total: int) -> bytes:
        return log.line("dropped", lines=lines, total=total)

    render: Renderer
    if format == "journal":
        render = render_journal
    elif format == "console":
        colours = sink is None and os.isatty(fd) and "NO_COLOR" not in environ
        render = console_renderer(colours=colours)
    else:
        render = render_json
    if sink is None and format == "journal":
        if not journal.exists():
            raise LogError(
                f'log.format is "journal", but {journal} does not exist. Set another format.'
            )
        sink = Journald(dropped, path=journal)
    elif sink is None:
        try:
            sink = LineStream(fd, dropped)
        except OSError as error:
            raise LogError(f"Cannot log to file descriptor {fd}: {error.strerror}.") from error
    output = Output(sink, level=level, addresses=addresses, now=now)
    log = Log(output, [clean, mask_address, render], {})
    return log


def _detected(fd: int, environ: Mapping[str, str], journal: Path) -> Format:
    try:
        status = os.fstat(fd)
    except OSError:
        return "json"
    # The device and inode of the stream to the journal, where stderr is one: systemd.exec(5).
    if environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}":
        return "journal" if journal.exists() else "json"
    return "console" if os.isatty(fd) else "json"
