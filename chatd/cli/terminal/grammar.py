"""Parse a typed line: a message, or a ``/`` command with its arguments. Sans-IO."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

__all__ = ["Invalid", "Parameter", "Say", "Verb", "optional", "read"]


class Parameter(Struct, frozen=True):
    """One parameter of a command.

    ``read`` raises ValueError or argparse.ArgumentTypeError for an invalid word.
    """

    name: str
    read: Callable[[str], Any] = str
    rest: bool = False
    """Whether it takes the rest of the line."""
    needed: bool = True

    def __str__(self) -> str:
        return self.name if self.needed else f"[{self.name}]"


class Verb(Struct, frozen=True):
    """A command."""

    name: str
    parameters: tuple[Parameter, ...]
    help: str
    operators: bool = False
    """Whether it is for operators only."""

    def __str__(self) -> str:
        return " ".join(["/" + self.name, *map(str, self.parameters)])


class Say(Struct, frozen=True):
    """A message."""

    text: str


class Invalid(Struct, frozen=True):
    """An invalid line; ``message`` says what to type instead."""

    message: str


def optional(parameter: Parameter) -> Parameter:
    """Return the parameter as an optional one, whose value is None when left out."""
    return Parameter(parameter.name, parameter.read, parameter.rest, needed=False)


def read(line: str, verbs: Mapping[str, Verb]) -> Say | tuple[Verb, list[Any]] | Invalid | None:
    """Parse a line: a message, a command and its arguments, or None if it is blank.

    ``//`` begins a message with a slash.
    """
    if not line.strip():
        return None
    if line.startswith("//"):
        return Say(line[1:])
    if not line.startswith("/"):
        return Say(line)
    name, _, rest = line[1:].partition(" ")
    verb = verbs.get(name.lower())
    if verb is None:
        return Invalid(
            f"Unknown command /{name[:32]}. Type /help for the list,"
            " or // to begin a message with a slash."
        )
    return _arguments(verb, rest.strip())


def _arguments(verb: Verb, rest: str) -> tuple[Verb, list[Any]] | Invalid:
    values: list[Any] = []
    for parameter in verb.parameters:
        word, _, behind = (rest, "", "") if parameter.rest else rest.partition(" ")
        try:
            value = parameter.read(word) if word else None
        except (ValueError, argparse.ArgumentTypeError):
            value = None
        if value is None and parameter.needed:
            return Invalid(f"Usage: {verb}. {verb.help}")
        values.append(value)
        if value is not None:
            rest = behind.lstrip()
    return Invalid(f"Usage: {verb}. {verb.help}") if rest else (verb, values)
