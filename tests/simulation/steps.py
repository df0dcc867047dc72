"""The schedule of a simulation: steps that a seed draws, and how they are written down.

Each step is complete in itself and does nothing where it makes no sense, so that any of them can be
taken out of a schedule.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from msgspec import Struct

__all__ = ["Step", "action", "actions_of", "draw", "read_steps"]

_F = TypeVar("_F", bound=Callable[..., Any])

_WEIGHT: Final = "simulation_weight"


class Step(Struct, frozen=True):
    """One action with its arguments."""

    do: str
    args: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return " ".join([self.do, *(f"{name}={value}" for name, value in self.args)])


def read_steps(text: str) -> list[Step]:
    """Return the steps that are written down, one in a line; ``#`` begins a comment.

    Raises:
        ValueError: A line is no step.
    """
    steps = []
    for line in text.splitlines():
        if words := line.partition("#")[0].split():
            pairs = [word.partition("=") for word in words[1:]]
            if any(not sign for _, sign, _ in pairs):
                raise ValueError(f"A step is written as `say client=1 room=tea`, not as {line!r}.")
            steps.append(Step(words[0], tuple((name, value) for name, _, value in pairs)))
    return steps


def action(weight: int) -> Callable[[_F], _F]:
    """Make a method an action of schedules, as frequent as ``weight`` says."""

    def mark(method: _F) -> _F:
        setattr(method, _WEIGHT, weight)
        return method

    return mark


def actions_of(kind: type) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Return a class's actions by name: each one's weight and the names of its parameters."""
    found = {}
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if (weight := getattr(method, _WEIGHT, 0)) > 0:
            parameters = tuple(inspect.signature(method).parameters)[1:]
            found[name.rstrip("_")] = (weight, parameters)
    return found


def draw(
    chance: random.Random, kind: type, values: Mapping[str, Sequence[Any]], count: int
) -> list[Step]:
    """Return ``count`` steps: actions of ``kind`` whose arguments are drawn from ``values``."""
    actions = actions_of(kind)
    names = list(actions)
    weights = [actions[name][0] for name in names]
    return [
        Step(
            name,
            tuple((each, str(chance.choice(values[each]))) for each in actions[name][1]),
        )
        for name in chance.choices(names, weights, k=count)
    ]
