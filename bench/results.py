"""What the benchmarks print with --json, for everything.py and for later comparison."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Result:
    """What one server needed in one shape of load.

    Attributes:
        shape: The load.
        server: The server's name.
        unit: What the values are, such as ``µs a delivery``.
        values: One for each round.
        ratios: By the name of a peer in the same run: the median of the rounds' ratios to it.
    """

    shape: str
    server: str
    unit: str
    values: Sequence[float]
    ratios: Mapping[str, float]

    @property
    def median(self) -> float:
        return median(self.values)


def results(
    shape: str, unit: str, rounds: Mapping[str, Sequence[float]], bases: Iterable[str]
) -> list[Result]:
    """Return a result for each server.

    Args:
        shape: The load.
        unit: What the values are.
        rounds: The values of each server, one for each round.
        bases: The servers that ratios are to.
    """
    return [
        Result(
            shape,
            server,
            unit,
            values,
            {
                base: median(own / other for own, other in zip(values, rounds[base], strict=True))
                for base in bases
                if base in rounds and base != server
            },
        )
        for server, values in rounds.items()
    ]


def as_json(found: Iterable[Result]) -> str:
    return json.dumps([asdict(each) for each in found], indent=2, ensure_ascii=False)


def from_json(text: str) -> list[Result]:
    return [Result(**each) for each in json.loads(text)]


def table(found: Iterable[Result]) -> str:
    """Return the results as lines, the ratios first."""
    lines: list[str] = []
    title = ""
    for each in found:
        if title != (title := f"{each.shape}, {each.unit}"):
            lines += ["", title]
        ratios = "  ".join(f"{ratio:6.2f} of {base}" for base, ratio in each.ratios.items())
        spread = f"{min(each.values):.4g} to {max(each.values):.4g}"
        lines.append(f"  {each.server:32}{ratios or '-':44}{each.median:10.4g}  ({spread})")
    return "\n".join(lines)
