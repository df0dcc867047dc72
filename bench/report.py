"""Write the results of one or more runs of everything.py into docs/performance.md.

The first table has the figures that chatd is to reach, with the peer's in the same run; then come
the charts, which go into docs/plots, and a table of everything that was measured. Each figure is
the median of the runs that have it.

    python bench/report.py RESULTS.json RESULTS.json RESULTS.json GROWTH.json
    python bench/report.py --print RESULTS.json
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from charts import Chart, Line, svg
from results import Record, Result
from servers import BENCH

DOCS = BENCH.parent / "docs"
PAGE = DOCS / "performance.md"
PLOTS = DOCS / "plots"


@dataclass(frozen=True, slots=True)
class Goal:
    """A ratio to a peer that chatd is to reach; without a base, a value.

    Attributes:
        shape: The load.
        unit: The unit of the figure.
        server: The server that is to reach it.
        base: The peer.
        most: The goal.
    """

    shape: str
    unit: str
    server: str
    base: str
    most: float


DELIVERY, CONNECT, MEMORY = "µs a delivery", "µs a connect", "KiB a connection"
ONE, MANY = "fan-out to 500, 1 in flight", "fan-out to 500, 64 in flight"
IN_OUT, JOIN = "in and out, 50 connections", "connect and join"
HELD, PINGED = "2000 idle connections, memory", "10000 idle connections, a ping each 25 s"
NODES = "2 nodes, {} clients at each, {} in flight"
GOALS = (
    Goal(ONE, DELIVERY, "chatd-off", "sends", 1.18),
    Goal("offers to 500, the loop alone", DELIVERY, "chatd", "send", 1.05),
    Goal(ONE, DELIVERY, "chatd-off", "node-ws", 0.70),
    Goal(ONE, DELIVERY, "chatd-on", "node-ws", 0.78),
    Goal(ONE, DELIVERY, "chatd-sio-off", "node-socketio", 0.58),
    Goal(ONE, DELIVERY, "chatd-sio-on", "node-socketio", 0.62),
    Goal(MANY, DELIVERY, "chatd-off", "socketify", 0.20),
    Goal(MANY, DELIVERY, "chatd-on", "socketify", 0.20),
    Goal(IN_OUT, DELIVERY, "chatd-off", "node-rooms", 1.3),
    Goal(IN_OUT, DELIVERY, "chatd-on", "node-rooms", 1.8),
    Goal(IN_OUT, "ms, p99", "chatd-off", "node-rooms", 0.5),
    Goal(IN_OUT, "ms, p99", "chatd-on", "node-rooms", 0.5),
    Goal(JOIN, CONNECT, "chatd-on", "node-socketio", 1.0),
    Goal(JOIN, CONNECT, "chatd-on, a room each", "node-socketio", 1.0),
    Goal(JOIN, CONNECT, "chatd-sio-on", "node-socketio", 1.0),
    Goal(JOIN, CONNECT, "chatd-sio-on, a room each", "node-socketio", 1.0),
    Goal(HELD, MEMORY, "chatd-text", "node-socketio", 0.60),
    Goal(HELD, MEMORY, "chatd-socketio", "node-socketio", 0.95),
    Goal(PINGED, "% of a core", "chatd-text", "", 2),
    Goal(PINGED, "% of a core", "chatd-socketio", "", 2),
    Goal("a slow reader among 500", "ms, p99", "with", "without", 1.2),
    Goal(NODES.format(10, 1), "µs a message", "chatd-redis", "node-redis", 0.8),
    Goal(NODES.format(100, 1), "µs a message", "chatd-redis", "node-redis", 0.6),
    Goal(NODES.format(10, 64), "µs a message", "chatd-redis", "node-redis", 0.6),
    Goal("start after a clean end", "s", "over 10000000 messages", "", 0.5),
    Goal("start after kill -9", "s", "over 10000000 messages", "", 0.5),
)


@dataclass(frozen=True, slots=True)
class Plot:
    """A chart of figures whose shapes differ in one number, which is x.

    Attributes:
        file: The name of the file.
        title: The title.
        x: What the number is.
        shape: A pattern of the shapes with a group for the number.
        units: The units of the figures; if there are two, the lines of the first one are dashed.
        lines: The servers, and what the legend calls them.
        log_x: Whether the axis of the number is logarithmic.
        log_y: Whether the axis of the figures is.
        grows_from: The number from which on the figures are to be flat; None if nothing is said.
    """

    file: str
    title: str
    x: str
    shape: str
    units: Sequence[str]
    lines: dict[str, str]
    log_x: bool = True
    log_y: bool = True
    grows_from: int | None = None


OFF, ON = "chatd, nothing stored", "chatd, default"
PLOTTED = (
    Plot(
        "receivers",
        "Cost of a delivery, one message in flight",
        "receivers",
        r"fan-out to (\d+), 1 in flight",
        [DELIVERY],
        {
            "chatd-off": OFF,
            "chatd-on": ON,
            "sends": "only send, in Python",
            "node-ws": "Node ws",
            "socketify": "uWebSockets",
        },
        grows_from=100,
    ),
    Plot(
        "receivers-socketio",
        "Cost of a delivery over Socket.IO, one message in flight",
        "receivers",
        r"fan-out to (\d+), 1 in flight",
        [DELIVERY],
        {"chatd-sio-off": OFF, "chatd-sio-on": ON, "node-socketio": "Node socket.io"},
    ),
    Plot(
        "in-flight",
        "Cost of a delivery to 500 receivers",
        "messages in flight",
        r"fan-out to 500, (\d+) in flight",
        [DELIVERY],
        {
            "chatd-on": ON,
            "chatd-sio-on": "chatd, Socket.IO",
            "node-ws": "Node ws",
            "node-socketio": "Node socket.io",
            "socketify": "uWebSockets",
            "sends": "only send, in Python",
        },
    ),
    Plot(
        "rooms",
        "Cost of a message in and out, ten rooms speaking",
        "rooms",
        r"in and out, (\d+) connections, 10 of them speaking",
        [DELIVERY],
        {"chatd-off": OFF, "chatd-on": ON, "node-rooms": "Node socket.io"},
        grows_from=10,
    ),
    Plot(
        "present",
        "Cost of a connect and a join",
        "clients connected before",
        r"connect beside (\d+)",
        [CONNECT],
        {
            "chatd-on": "chatd, plain text",
            "chatd-sio-on": "chatd, Socket.IO",
            "node-socketio": "Node socket.io",
        },
        grows_from=10,
    ),
    Plot(
        "memory",
        "Memory of an idle connection",
        "connections",
        r"(\d+) idle connections, memory",
        [MEMORY],
        {
            "chatd-text": "chatd, plain text",
            "chatd-socketio": "chatd, Socket.IO",
            "node-socketio": "Node socket.io",
        },
        log_y=False,
        grows_from=500,
    ),
    Plot(
        "latency",
        "Latency of a message to 100 receivers, plain WebSocket",
        "% of the messages that Node ws can take",
        r"(\d+)% of the messages that node-ws can take",
        ["ms, p50", "ms, p99"],
        {"chatd-off": OFF, "chatd-on": ON, "node-ws": "Node ws"},
        log_x=False,
        log_y=False,
    ),
    Plot(
        "latency-socketio",
        "Latency of a message to 100 receivers, Socket.IO",
        "% of the messages that Node socket.io can take",
        r"(\d+)% of the messages that node-socketio can take",
        ["ms, p50", "ms, p99"],
        {"chatd-sio-off": OFF, "chatd-sio-on": ON, "node-socketio": "Node socket.io"},
        log_x=False,
        log_y=False,
    ),
)

Runs = dict[tuple[str, str, str], list[Result]]
"""By shape, unit and server: the result of each run."""


def gathered(records: Iterable[Record]) -> Runs:
    found: Runs = defaultdict(list)
    for record in records:
        for each in record.results:
            found[each.shape, each.unit, each.server].append(each)
    return found


def ratio(runs: Sequence[Result], base: str) -> float | None:
    """Return the median of the runs' ratios to a peer; None if no run has one."""
    found = [each.ratios[base] for each in runs if base in each.ratios]
    return median(found) if found else None


def number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def goals(found: Runs) -> list[str]:
    lines = [
        "| load | unit | chatd | | peer | | ratio | goal | |",
        "| --- | --- | --- | ---: | --- | ---: | ---: | ---: | --- |",
    ]
    for goal in GOALS:
        own = found.get((goal.shape, goal.unit, goal.server))
        if not own:
            lines.append(f"| {goal.shape} | {goal.unit} | {goal.server} | not measured | | | | | |")
            continue
        value = median(each.median for each in own)
        reached, peer, times, wanted = value <= goal.most, "", "", f"{goal.most:g} {goal.unit}"
        if goal.base:
            peers = found.get((goal.shape, goal.unit, goal.base), [])
            peer = number(median(each.median for each in peers)) if peers else "?"
            measured = ratio(own, goal.base)
            reached = measured is not None and measured <= goal.most
            times, wanted = f"{measured or 0:.2f}", f"{goal.most:.2f}"
        lines.append(
            f"| {goal.shape} | {goal.unit} | {goal.server} | {number(value)} | {goal.base} "
            f"| {peer} | {times} | {wanted} | {'reached' if reached else 'not reached'} |"
        )
    return lines


def everything(found: Runs) -> list[str]:
    lines = ["| load | unit | server | median | lowest | highest | ratios | load busy |"]
    lines.append("| --- | --- | --- | ---: | ---: | ---: | --- | ---: |")
    for (shape, unit, server), runs in found.items():
        values = [value for each in runs for value in each.values]
        bases = dict.fromkeys(base for each in runs for base in each.ratios)
        ratios = ", ".join(f"{ratio(runs, base):.2f} of {base}" for base in bases)
        busy = [each.busy for each in runs if each.busy is not None]
        lines.append(
            f"| {shape} | {unit} | {server} | {number(median(values))} | {number(min(values))} "
            f"| {number(max(values))} | {ratios} | {f'{median(busy):.0%}' if busy else ''} |"
        )
    return lines


def points(plot: Plot, found: Runs, unit: str, server: str) -> list[tuple[float, float]]:
    """Return a server's figures in one unit, each with its number, in the order of the numbers."""
    return sorted(
        (float(match[1]), median(each.median for each in runs))
        for (shape, its_unit, its_server), runs in found.items()
        if (its_unit, its_server) == (unit, server)
        and (match := re.fullmatch(plot.shape, shape)) is not None
    )


def growth(found: Runs) -> list[str]:
    """Return the table of what is to be flat, from the smallest to the largest number."""
    lines = [
        "| | by | server | from | to | | ratio |",
        "| --- | --- | --- | ---: | ---: | --- | ---: |",
    ]
    for plot in PLOTTED:
        unit = plot.units[0]
        for server, name in plot.lines.items():
            flat = [
                each
                for each in points(plot, found, unit, server)
                if each[0] >= (plot.grows_from or math.inf)
            ]
            if len(flat) > 1:
                (least, before), (most, after) = flat[0], flat[-1]
                lines.append(
                    f"| {plot.title} | {least:,g} to {most:,g} {plot.x} | {name} "
                    f"| {number(before)} | {number(after)} | {unit} | {after / before:.2f} |"
                )
    return lines


def chart(plot: Plot, found: Runs) -> Chart | None:
    """Return the chart of what was measured; None if that is less than two points."""
    lines = []
    for index, unit in enumerate(plot.units):
        suffix = f", {unit.rpartition(' ')[2]}" if len(plot.units) > 1 else ""
        dashed = index == 0 and len(plot.units) > 1
        for color, (server, name) in enumerate(plot.lines.items()):
            drawn = points(plot, found, unit, server)
            if len(drawn) > 1:
                lines.append(Line(name + suffix, drawn, color, dashed))
    if not lines:
        return None
    y = plot.units[0].partition(",")[0]
    return Chart(plot.title, plot.x, y, lines, log_x=plot.log_x, log_y=plot.log_y)


def plots(found: Runs) -> list[str]:
    """Write the charts; return the lines that show them."""
    lines = []
    PLOTS.mkdir(exist_ok=True)
    for plot in PLOTTED:
        if (drawn := chart(plot, found)) is not None:
            (PLOTS / f"{plot.file}.svg").write_text(svg(drawn), encoding="utf-8")
            lines.append(f"![{plot.title}, by {plot.x}](plots/{plot.file}.svg)\n")
    return lines


def put(page: str, part: str, lines: Sequence[str]) -> str:
    """Return the page with the lines in one of its parts."""
    begin, end = f"<!-- {part}: bench/report.py -->", "<!-- end -->"
    before, begins, rest = page.partition(begin)
    _, ends, after = rest.partition(end)
    if not (begins and ends):
        raise ValueError(f"{PAGE} has no lines {begin!r} and {end!r}")
    return "\n".join([f"{before}{begin}", "", *lines, "", f"{end}{after}"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write results into docs/performance.md.")
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS.json")
    parser.add_argument("--print", action="store_true", help="print the tables, write nothing")
    given = parser.parse_args(arguments)
    try:
        records = [Record.from_json(each.read_text(encoding="utf-8")) for each in given.results]
    except (OSError, ValueError, TypeError, KeyError) as error:
        print(f"report: these are no results of everything.py: {error}", file=sys.stderr)
        return 1
    found = gathered(records)
    settings = "\n".join(dict.fromkeys(f"{record.setting}." for record in records))
    runs = f"Each figure is the median of those of {len(records)} runs that have it."
    reached = [runs, settings, "", *goals(found)]
    if given.print:
        print("\n".join([*reached, "", *everything(found)]))
        return 0
    try:
        page = PAGE.read_text(encoding="utf-8")
        page = put(page, "goals", reached)
        page = put(page, "charts", plots(found))
        page = put(page, "growth", growth(found))
        page = put(page, "everything", everything(found))
        PAGE.write_text(page, encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
