"""``chatd.v1``: one JSON object in each frame.

The server is strict about what it reads. The client is tolerant: it takes an event that it does not
know for `Unknown`, and ignores unknown fields.
"""

from __future__ import annotations

import json
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import astuple, replace

from chatd.protocol.commands import Answer, AnyCommand, Command, Entered, Found, Page
from chatd.protocol.events import ServerEvent, Unknown

__all__ = [
    "SUBPROTOCOL",
    "encode",
    "read_command",
    "read_event",
    "read_frame",
    "read_id",
    "read_result",
]

SUBPROTOCOL: Final = "chatd.v1"

ID_BYTES: Final = 64

ID_MOST: Final = 2**53
"""The integers that every JSON library reads exactly (RFC 8259 section 6)."""

_T = TypeVar("_T")
_Command = TypeVar("_Command", bound="Command | _Head")

encode: Final = msgspec.json.Encoder().encode
"""Return a command, an answer or an event as JSON."""


# ---- what the server reads


class _Head(Struct, frozen=True):
    """The part of a command that can be read although the rest is faulty."""

    id: str | int | float | None = None


_COMMAND: Final[Any] = AnyCommand
_commands: Final[msgspec.json.Decoder[Command]] = msgspec.json.Decoder(_COMMAND)
_heads: Final = msgspec.json.Decoder(_Head)


def read_command(frame: str) -> Command:
    """Return the command in a frame.

    Raises:
        ValueError: It holds no command, an id that is too long, a key twice, or too many values.
            The message is for people.
    """
    try:
        return _checked(_commands.decode(frame), frame)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_id(frame: str) -> str | int | float | None:
    """Return the id in a frame that `read_command` refused; None if it has none."""
    try:
        return _checked(_heads.decode(frame), frame).id
    except (ValueError, RecursionError):
        return None


def _checked(command: _Command, frame: str) -> _Command:
    mark = command.id
    if isinstance(mark, str):
        if len(mark.encode()) > ID_BYTES:
            raise ValueError(f"an id has at most {ID_BYTES} bytes")
    elif isinstance(mark, int) and abs(mark) > ID_MOST:
        raise ValueError(f"an id is a number up to {ID_MOST}")
    # msgspec accepts a key that is there twice. If there are as many colons as fields, no key is;
    # counting colons takes a tenth of the time of looking at the keys.
    fields = astuple(command)
    if frame.count(":") != 1 + len(fields) - fields.count(None):
        _check_keys(frame)
    return command


def _check_keys(frame: str) -> None:
    # Late, because `chatd.client` reads with this module too, and has no use for the server's.
    from chatd.budgets import JSON_VALUES, json_values  # noqa: PLC0415

    if json_values(frame, JSON_VALUES) > JSON_VALUES:
        raise ValueError(f"it has more than {JSON_VALUES} values")
    _keys.decode(frame)


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key is there twice")


# Only checks the keys. msgspec has read the frame before, so no integer has over 4,300 digits.
_keys: Final = json.JSONDecoder(object_pairs_hook=_once)


# ---- what the client reads

_EVENT: Final[Any] = ServerEvent
_events: Final[msgspec.json.Decoder[ServerEvent]] = msgspec.json.Decoder(_EVENT)
_answers: Final = msgspec.json.Decoder(Answer)
_objects: Final = msgspec.json.Decoder(dict[str, Any])


def read_frame(frame: str | bytes) -> Answer | ServerEvent | Unknown:
    """Return the answer or the event in a frame.

    Raises:
        ValueError: It holds no JSON object, or a malformed answer.
    """
    try:
        return _events.decode(frame)
    except msgspec.ValidationError:
        pass  # an answer, or an event that this version does not know
    except RecursionError as error:
        raise ValueError(str(error)) from None
    try:
        fields = _objects.decode(frame)
        if "on" not in fields and "re" in fields:
            return _answers.decode(frame)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    return read_event(fields)


def read_event(fields: object) -> ServerEvent | Unknown:
    """Return the event in a JSON object that was decoded already."""
    try:
        known: ServerEvent = msgspec.convert(fields, _EVENT)
    except msgspec.ValidationError:
        unknown = fields if isinstance(fields, dict) else {}
        return Unknown(name=str(unknown.get("on", "")), fields=unknown)
    return known


def read_result(ok: object, kind: type[_T]) -> _T:
    """Return the ``ok`` or the ``error`` of an `Answer` that was read as ``kind``.

    Raises:
        ValueError: It is not of that kind.
    """
    if kind is not Entered and kind is not Page and kind is not Found:
        return msgspec.convert(ok, kind)
    # Events one by one: one that is unknown must not spoil the page.
    fields = msgspec.convert(ok, dict[str, Any])
    events = msgspec.convert(fields.get("events", []), list[Any])
    page: Any = msgspec.convert(fields | {"events": []}, kind)
    known: _T = replace(page, events=[read_event(one) for one in events])
    return known
