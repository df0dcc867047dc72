"""What the benchmarks print with --json, for everything.py and for later comparison."""

from __future__ import annotations

import json
from collections import defaultdict
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
        busy: The share of its core that the load process used, as the median of the rounds; None
            where that cannot matter.
    """

    shape: str
    server: str
    unit: str
    values: Sequence[float]
    ratios: Mapping[str, float]
    busy: float | None = None

    @property
    def median(self) -> float:
        return median(self.values)


def results(
    shape: str,
    unit: str,
    rounds: Mapping[str, Sequence[float]],
    bases: Iterable[str],
    busy: Mapping[str, Sequence[float]] | None = None,
) -> list[Result]:
    """Return a result for each server.

    Args:
        shape: The load.
        unit: What the values are.
        rounds: The values of each server, one for each round.
        bases: The servers that ratios are to.
        busy: The load's share of its core beside each server, one for each round.
    """
    shares = busy or {}
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
            median(shares[server]) if shares.get(server) else None,
        )
        for server, values in rounds.items()
    ]


_Rounds = dict[tuple[str, str], defaultdict[str, list[float]]]


class Figures:
    """The figures of all rounds, in the order in which they were measured first."""

    def __init__(self) -> None:
        self._values: _Rounds = {}
        self._busy: _Rounds = {}

    def add(
        self, shape: str, unit: str, server: str, value: float, busy: float | None = None
    ) -> None:
        """Add one server's value of one round, and the share of its core that the load used."""
        self._values.setdefault((shape, unit), defaultdict(list))[server].append(value)
        if busy is not None:
            self._busy.setdefault((shape, unit), defaultdict(list))[server].append(busy)

    def results(self, bases: Sequence[str]) -> list[Result]:
        """Return a result for each shape, unit and server; ratios are to the ``bases``."""
        found: list[Result] = []
        for (shape, unit), rounds in self._values.items():
            found += results(shape, unit, rounds, bases, self._busy.get((shape, unit)))
        return found

    def print(self, bases: Sequence[str], *, json: bool) -> None:
        """Print the results as JSON or as a table."""
        found = self.results(bases)
        print(as_json(found) if json else table(found))


def as_json(found: Iterable[Result]) -> str:
    return json.dumps([asdict(each) for each in found], indent=2, ensure_ascii=False)


def from_json(text: str) -> list[Result]:
    return [Result(**each) for each in json.loads(text)]


@dataclass(frozen=True, slots=True)
class Record:
    """What a run of everything.py found.

    Attributes:
        setting: The day, the machine and the versions, in words.
        results: All results.
    """

    setting: str
    results: Sequence[Result]

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Record:
        read = json.loads(text)
        return cls(read["setting"], [Result(**each) for each in read["results"]])


def table(found: Iterable[Result]) -> str:
    """Return the results as lines, the ratios first."""
    lines: list[str] = []
    title = ""
    for each in found:
        if title != (title := f"{each.shape}, {each.unit}"):
            lines += ["", title]
        ratios = "  ".join(f"{ratio:6.2f} of {base}" for base, ratio in each.ratios.items())
        spread = f"{min(each.values):.4g} to {max(each.values):.4g}"
        busy = "" if each.busy is None else f"  load {each.busy:.0%} of a core"
        lines.append(
            f"  {each.server:32}{ratios or '-':44}{each.median:10.4g}  {f'({spread})':24}{busy}"
        )
    return "\n".join(lines)
