"""``chatd.v1``: one JSON object a text frame, the commands and events of the chat as they are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from chatd.chat import Chat, commands, events, perform
from chatd.gateways.websocket import connect, disconnect
from chatd.model import UNSUPPORTED, Close, Event, Refusal
from chatd.wire import frames
from chatd.wire.websocket import WebSocket

__all__ = ["CODEC", "SUBPROTOCOL", "JsonCodec", "JsonGateway"]

SUBPROTOCOL: Final = "chatd.v1"

Mark = (
    Annotated[str, Meta(max_length=64)] | Annotated[int, Meta(ge=-(2**53), le=2**53)] | float | None
)
"""A command's ``id``: what every JSON library can give back as it was."""


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

    id: Mark = None
    do: str | None = None


_ENCODER: Final = msgspec.json.Encoder()
_COMMANDS: Final = msgspec.json.Decoder(
    commands.Auth
    | commands.Join
    | commands.Leave
    | commands.Say
    | commands.History
    | commands.Who
    | commands.Rooms
    | commands.Nick
)
_HEADS: Final = msgspec.json.Decoder(Head)

_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes from outside: bad UTF-8 and deep nesting are not DecodeErrors."""


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


class JsonGateway:
    """One client that speaks ``chatd.v1``."""

    def __init__(self, chat: Chat, websocket: WebSocket) -> None:
        self._chat = chat
        self._websocket = websocket
        self._connection, why_not = connect(chat, websocket, CODEC, SUBPROTOCOL)
        self._connection.tell(chat.hello(self._connection))
        if why_not is not None:
            self._connection.tell(events.Notice(why_not))

    async def received(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            self._websocket.end(UNSUPPORTED, "chatd.v1 is text")
            return
        try:
            command = _COMMANDS.decode(message)
        except _UNREADABLE as error:
            self._refuse(message, error)
        else:
            await perform(self._connection, command, partial(self._answer, command.id))

    def farewell(self, close: Close, reason: str) -> bytes:
        return CODEC.encode("", [self._chat.bye(close, reason)])

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
            head = _HEADS.decode(message)
        except _UNREADABLE:
            head = Head()
        why = "nested too deep" if isinstance(error, RecursionError) else str(error)
        self._answer(head.id, Refusal("bad_request", f"this is no command of chatd.v1: {why}"))
