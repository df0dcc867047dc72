"""``chatd.v1``: one JSON object a text frame, the commands and events of the chat as they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, TypeVar, Union

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from chatd.chat import Chat, Connection, perform
from chatd.chat.rules import RULES
from chatd.gateways.websocket import disconnect
from chatd.model import UNSUPPORTED, Close, Event, Refusal
from chatd.protocol import commands, events
from chatd.wire import frames
from chatd.wire.websocket import WebSocket

__all__ = ["CODEC", "SUBPROTOCOL", "JsonCodec", "JsonGateway", "farewell"]

SUBPROTOCOL: Final = "chatd.v1"

ID_BYTES: Final = 64

ID_MOST: Final = 2**53
"""The whole numbers that every JSON library gives back as they were (RFC 8259 section 6)."""

WHY_CHARACTERS: Final = 200
"""A refusal may quote what it refuses: so much of it."""


class Done(Struct, frozen=True):
    """The answer to a command that was carried out."""

    re: Any
    ok: commands.Answer


class Refused(Struct, frozen=True):
    """The answer to one that was not; ``re`` is null where there was no id, or none to be read."""

    re: Any
    error: Refusal


class Head(Struct, frozen=True):
    """What can be read of a command that is faulty otherwise."""

    id: str | int | float | None = None


_ENCODER: Final = msgspec.json.Encoder()
_COMMANDS: Final[msgspec.json.Decoder[commands.Command]] = msgspec.json.Decoder(
    Union[tuple(RULES)]  # noqa: UP007  of a table, not of names
)
_HEADS: Final = msgspec.json.Decoder(Head)

_UNREADABLE: Final = (ValueError, RecursionError)
"""What decoders raise for what comes from outside: deep nesting is no ValueError."""

_Command = TypeVar("_Command", bound=commands.Command | Head)


class JsonCodec:
    """Says events as frames of one JSON object each."""

    def encode(self, room: str, items: Sequence[Any]) -> bytes:
        return b"".join(
            frames.text(
                _ENCODER.encode(events.shape(room, item) if isinstance(item, Event) else item)
            )
            for item in items
        )


CODEC: Final = JsonCodec()
"""One for everybody: it keeps nothing, so one block serves all who speak JSON."""


def farewell(chat: Chat, close: Close, reason: str) -> bytes:
    """Give the last thing to be said."""
    return CODEC.encode("", [chat.bye(close, reason)])


class JsonGateway:
    """One client that speaks ``chatd.v1``."""

    def __init__(self, chat: Chat, websocket: WebSocket, connection: Connection) -> None:
        self._chat = chat
        self._websocket = websocket
        self._connection = connection
        self._connection.tell(self._connection.hello())
        if self._connection.why_not is not None:
            self._connection.tell(events.Notice(self._connection.why_not))

    async def received(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            self._websocket.end(UNSUPPORTED, "chatd.v1 is text")
            return
        try:
            command = _sound(_COMMANDS.decode(message), message)
        except _UNREADABLE as error:
            self._chat.refusals["bad_request"] += 1
            self._refuse(message, error)
        else:
            await perform(self._connection, command, partial(self._answer, command.id))

    def farewell(self, close: Close, reason: str) -> bytes:
        return farewell(self._chat, close, reason)

    def ended(self, close: Close, reason: str) -> None:
        disconnect(self._connection, self._websocket, close, reason)

    def _answer(self, mark: Any, answer: commands.Answer | Refusal) -> None:
        if isinstance(answer, Refusal):
            frame = frames.text(_ENCODER.encode(Refused(mark, answer)))
        elif mark is not None:
            frame = frames.text(_ENCODER.encode(Done(mark, answer)))
        else:
            return
        self._websocket.outbox.offer(frame)

    def _refuse(self, message: str, error: Exception) -> None:
        try:
            mark = _sound(_HEADS.decode(message), message).id
        except _UNREADABLE:
            mark = None
        why = "nested too deep" if isinstance(error, RecursionError) else str(error)
        refusal = Refusal("bad_request", f"no command of chatd.v1: {why[:WHY_CHARACTERS]}")
        self._answer(mark, refusal)


def _sound(command: _Command, message: str) -> _Command:
    """Give back what was decoded, or raise ValueError: for an id that is none, a key said twice."""
    mark = command.id
    if isinstance(mark, str):
        if len(mark.encode()) > ID_BYTES:
            raise ValueError(f"an id has {ID_BYTES} bytes at most")
    elif isinstance(mark, int) and abs(mark) > ID_MOST:
        raise ValueError(f"an id is a number up to {ID_MOST}")
    # msgspec passes over a key that is there twice. With a colon for each field and none besides,
    # every key is there once, which takes a tenth of the time of looking at the keys.
    fields = astuple(command)
    if message.count(":") != 1 + len(fields) - fields.count(None):
        _KEYS.decode(message)
    return command


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key is there twice")


_KEYS: Final = json.JSONDecoder(object_pairs_hook=_once)
"""Reads for the keys alone; every whole number within it has 4,300 digits at most."""
