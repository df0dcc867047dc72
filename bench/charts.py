"""Line charts as SVG, in the colors of the reader's light or dark screen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 70, 230, 44, 54  # around the chart; the legend is to the right
TICK, LINE_HEIGHT = 5, 20

# Okabe and Ito's colors, which color-blind readers can tell apart, for a light and a dark screen.
COLORS = (
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#ff8c42"),
    ("#009e73", "#2fd3a5"),
    ("#a3527e", "#e79cc4"),
    ("#7a6a00", "#f0e442"),
    ("#57606a", "#9aa4ae"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """One server's points.

    Attributes:
        name: What the legend says.
        points: x and y, in the order of x.
        color: The index of its color.
        dashed: Whether the line is dashed, with hollow points.
    """

    name: str
    points: Sequence[tuple[float, float]]
    color: int
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart; on a logarithmic axis all values are above 0."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    log_x: bool = True
    log_y: bool = True


def svg(chart: Chart) -> str:
    """Return the chart as an SVG document, always the same one for the same chart."""
    xs = sorted({x for line in chart.lines for x, _ in line.points})
    ys = [y for line in chart.lines for _, y in line.points]
    x_ticks = xs
    y_ticks = _log_ticks(min(ys), max(ys)) if chart.log_y else _ticks(max(ys))
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    across = _scale(x_ticks, LEFT, right, log=chart.log_x)
    up = _scale(y_ticks, bottom, TOP, log=chart.log_y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(chart.title)}</title>",
        f"<style>{_style()}</style>",
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        f'<text class="title" x="{LEFT}" y="26">{escape(chart.title)}</text>',
    ]
    for y in y_ticks:
        at = up(y)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{right}"/>')
        parts.append(f'<text class="end" x="{LEFT - 8}" y="{at + 4:.1f}">{y:,g}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
    for x in x_ticks:
        at = across(x)
        parts.append(f'<path class="axis" d="M{at:.1f} {bottom}v{TICK}"/>')
        parts.append(f'<text class="middle" x="{at:.1f}" y="{bottom + 20}">{x:,g}</text>')
    middle = (LEFT + right) / 2
    parts.append(f'<text class="middle" x="{middle}" y="{HEIGHT - 12}">{escape(chart.x)}</text>')
    height = (TOP + bottom) / 2
    turned = f'x="18" y="{height}" transform="rotate(-90 18 {height})"'
    parts.append(f'<text class="middle" {turned}>{escape(chart.y)}</text>')
    for index, line in enumerate(chart.lines):
        kind = f"c{line.color}{' dashed' if line.dashed else ''}"
        places = [(across(x), up(y)) for x, y in line.points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path class="line {kind}" d="M{path}"/>')
        at = TOP + 10 + index * LINE_HEIGHT
        parts.append(f'<path class="line {kind}" d="M{right + 16} {at}h28"/>')
        places.append((right + 30, at))
        parts += [f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places]
        parts.append(f'<text x="{right + 52}" y="{at + 4}">{escape(line.name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _style() -> str:
    shades = ("#ffffff", "#1f2328", "#e1e4e8"), ("#15191f", "#e6edf3", "#30363d")
    light, dark = (
        f".page{{fill:{page}}}text{{fill:{ink}}}.axis{{stroke:{ink}}}.grid{{stroke:{grid}}}"
        + "".join(
            f".c{number}{{stroke:{colors[shade]}}}circle.c{number}{{fill:{colors[shade]}}}"
            for number, colors in enumerate(COLORS)
        )
        + f"circle.dashed{{fill:{page}}}"
        for shade, (page, ink, grid) in enumerate(shades)
    )
    return (
        "text{font:13px sans-serif}.title{font-weight:bold}.middle{text-anchor:middle}"
        ".end{text-anchor:end}path{fill:none}.line{stroke-width:2}"
        ".line.dashed{stroke-dasharray:5 4}circle{stroke-width:1.5}"
        f"{light}@media (prefers-color-scheme:dark){{{dark}}}"
    )


def _scale(
    ticks: Sequence[float], low: float, high: float, *, log: bool
) -> Callable[[float], float]:
    """Return what puts the first tick at ``low`` and the last one at ``high``."""
    position = math.log if log else float
    first, last = position(ticks[0]), position(ticks[-1])
    span = (last - first) or 1.0
    return lambda value: low + (position(value) - first) / span * (high - low)


def _ticks(most: float) -> list[float]:
    """Return some five round numbers from 0 to the first that is not below ``most``."""
    step = 10.0 ** math.floor(math.log10(most / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if most / (step * factor) <= 6)
    return [step * number for number in range(math.ceil(most / step) + 1)]


def _log_ticks(least: float, most: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten around both numbers."""
    decades = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    found = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
    first = max(number for number, tick in enumerate(found) if tick <= least)
    last = min(number for number, tick in enumerate(found) if tick >= most)
    return found[first : last + 1]
