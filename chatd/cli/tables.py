"""Answers for people: tables, with colours on a terminal and as aligned plain text elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from chatd.cli.output import is_terminal, visible, write

__all__ = [
    "Show",
    "counted",
    "show_announced",
    "show_bans",
    "show_clock",
    "show_connections",
    "show_done",
    "show_draining",
    "show_level",
    "show_members",
    "show_nodes",
    "show_reloaded",
    "show_rooms",
    "show_status",
]

Show: TypeAlias = Callable[[Any], None]
"""Writes an answer to standard output."""

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def show_status(status: Any) -> None:
    store, log, reload = status["store"], status["log"], status["reload"]
    kinds = [
        f"{kind['connections']} {kind['protocol']} by {kind['transport']}"
        for kind in status["by_kind"]
    ]
    batches, failed = status["bus"]["batches"], status["bus"]["failed_commits"]
    rows = [
        ("chatd", f"{status['version']}, process {status['pid']}"),
        ("state", f"{status['state']}, up {_duration(status['uptime_seconds'])}"),
        ("clients", ": ".join([str(status["clients"]), ", ".join(kinds)]).rstrip(": ")),
        ("users", str(status["users"])),
        ("rooms", str(status["rooms"])),
        (
            "queues",
            f"{_size(status['queue_bytes'])} for clients, {status['bus']['waiting']} events",
        ),
        ("messages", f"{status['bus']['events']} sent, {status['bus']['deliveries']} delivered"),
        ("commits", f"{batches} batches, {failed} failed"),
        ("store", f"{_size(store['bytes'])}, epoch {status['epoch']}"),
        *_troubles(store),
        ("log", f"{log['level']}: {log['lines']} lines, {log['dropped']} dropped"),
    ]
    if (expires := status["certificate_expires"]) is not None:
        ended = datetime.fromisoformat(expires) <= datetime.now(UTC)
        rows.append(("tls", f"certificate {'EXPIRED on' if ended else 'valid until'} {expires}"))
    if reload is not None:
        faults = reload["refused"]
        result = "applied" if not faults else f"refused, errors: {len(faults)}"
        rows.append(("reload", f"{reload['at']}: {result}"))
        rows += [("", _fault(fault)) for fault in faults]
        if reload["restart"]:
            rows.append(("", f"{', '.join(reload['restart'])} need a restart"))
    _listing(rows)


def _troubles(store: Any) -> list[tuple[str, str]]:
    """Return a row for what keeps the store from working, or from keeping its bounds."""
    rows: list[tuple[str, str]] = []
    if problem := store["problem"]:
        rows.append(("", problem))
    if held := store["log_held_seconds"]:
        size, since = _size(store["log_bytes"]), _duration(held)
        rows.append(("", f"a reader has held {size} of write-ahead log for {since}"))
    if jump := store["clock_jump_seconds"]:
        rows.append(("", f"the wall clock jumped by {_jump(jump)}: see chatd ctl clock"))
    return rows


def _jump(seconds: float) -> str:
    return f"{_duration(abs(seconds))} {'ahead' if seconds > 0 else 'back'}"


def show_rooms(answer: Any) -> None:
    _table(
        ("ROOM", "MEMBERS", "MESSAGES", "TOPIC"),
        [(room["room"], room["members"], room["seq"], room["topic"]) for room in answer["rooms"]],
    )


def show_members(answer: Any) -> None:
    _table(
        ("NICK", "USER", "OP"),
        [
            (member["nick"], member["user"], "op" if member["op"] else "")
            for member in answer["members"]
        ],
    )


def show_connections(answer: Any) -> None:
    _table(
        ("ID", "NICK", "USER", "ADDRESS", "PROTOCOL", "TRANSPORT", "SINCE", "QUEUE", "ROOMS"),
        [
            (
                *(
                    one[name] or "-"
                    for name in ("id", "nick", "user", "address", "protocol", "transport")
                ),
                one["since"],
                _size(one["queue_bytes"]),
                " ".join(one["rooms"]),
            )
            for one in answer["connections"]
        ],
    )


def show_nodes(answer: Any) -> None:
    _table(
        ("NODE", "HOST", "VERSION", "CLIENTS", "LEASE", "LAG", "EPOCH", "LOST", "CLOCK", "PROOF"),
        [
            (
                f"{one['node']} (this one)" if one["here"] else one["node"],
                *_known(one, "host", "version", "clients"),
                f"{one['lease_seconds']:g} s",
                *_known(one, "lag", "epoch", "lost_positions"),
                "-" if one["clock_seconds"] is None else f"{one['clock_seconds']:+.3f} s",
                "-" if one["proof_seconds"] is None else f"{1000 * one['proof_seconds']:g} ms",
            )
            for one in answer["nodes"]
        ],
    )


def _known(one: Any, *names: str) -> list[str]:
    return ["-" if one[name] is None else str(one[name]) for name in names]


def show_bans(answer: Any) -> None:
    _table(
        ("KIND", "NICK", "USER", "NETWORK", "ROOM", "SINCE", "UNTIL", "BY", "REASON"),
        [
            (
                f"{one['kind']} {one['seconds']:g} s" if one["seconds"] else one["kind"],
                *(one[name] or "-" for name in ("nick", "user", "network", "room")),
                one["at"],
                *(one[name] or "-" for name in ("until", "by", "reason")),
            )
            for one in answer["bans"]
        ],
    )


def show_done(answer: Any) -> None:
    networks = answer.get("networks")
    with_networks = f", including {', '.join(networks)}" if networks else ""
    until = answer.get("until")
    evades = " No address of this guest is known, so they may come back as another guest."
    found_none = networks is not None and not networks
    done = f"Done{with_networks}{f', until {until}' if until else ''}."
    _line(f"{done}{evades if found_none else ''}")


def show_announced(answer: Any) -> None:
    _line(f"Sent to {counted(answer['receivers'], 'connection')}.")


def show_level(answer: Any) -> None:
    _line(answer["level"])


def show_clock(answer: Any) -> None:
    rows = [("clock", answer["wall"])]
    if answer["jump_seconds"]:
        rows += [
            ("trusted", f"no: it jumped by {_jump(answer['jump_seconds'])}"),
            ("ends by", f"{answer['ends_by']}: bans, sessions and retention go by this time"),
        ]
    else:
        rows.append(("trusted", "yes"))
    _listing(rows)


def show_reloaded(answer: Any) -> None:
    changed, restart = answer["changed"], answer["restart"]
    _line(f"Reloaded. Changed: {', '.join(changed) if changed else 'nothing'}.")
    if restart:
        _line(f"Changed, but a restart is needed: {', '.join(restart)}.")
    if credentials := answer["credentials"]:
        _line(f"Credentials, which only a restart reads again: {', '.join(credentials)}.")
    for warning in answer["warnings"]:
        _line(f"Warning: {warning}")


def show_draining(answer: Any) -> None:
    clients = counted(answer["clients"], "client")
    _line(f"Disconnecting {clients}. The daemon stops within {answer['seconds']:g} s.")


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    cells = [[visible(str(cell)) for cell in row] for row in rows]
    if is_terminal(sys.stdout):
        # Imported late: the import takes a quarter of the time of a command.
        from rich.console import Console  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in cells:
            table.add_row(*map(Text, row))
        console = Console()
        with console.capture() as rendered:
            console.print(table)
        write(rendered.get(), sys.stdout)
        return
    lines = [list(columns), *cells]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    for line in lines:
        _line("  ".join(map(str.ljust, line, widths)).rstrip())


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 client", "2 clients"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _listing(rows: Iterable[tuple[str, str]]) -> None:
    for name, value in rows:
        _line(f"{name:<10}{visible(value)}")


def _line(text: str) -> None:
    write(f"{text}\n", sys.stdout)


def _fault(fault: Any) -> str:
    place = f":{fault['line']}:{fault['column']}" if fault["line"] else ""
    return f"{fault['origin']}{place}: {fault['message']}"


def _size(count: int) -> str:
    size, unit = float(count), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if size >= 10 or not unit else f"{size:.1f} {_UNITS[unit]}"


def _duration(seconds: float) -> str:
    minutes, _ = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"
