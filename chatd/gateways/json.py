"""``chatd.v1``: the commands and events of the chat, each as a JSON object in a text frame."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any, Final

import trio

from chatd.chat import Chat, Connection, perform
from chatd.gateways.pages import encode_answer
from chatd.gateways.websocket import disconnect
from chatd.model import UNSUPPORTED, Close, Event, Refusal
from chatd.protocol import commands, events
from chatd.protocol.codec import SUBPROTOCOL, encode, read_command, read_id
from chatd.wire import frames
from chatd.wire.websocket import WebSocket

__all__ = ["CODEC", "SUBPROTOCOL", "JsonCodec", "JsonGateway", "goodbye_frames"]

ERROR_CHARACTERS: Final = 200
"""A refusal may quote the frame that it refuses: at most this much of it."""


class JsonCodec:
    """Encodes each event as a frame with a JSON object."""

    def encode(self, room: str, items: Sequence[Any]) -> bytes:
        shapes = [events.shape(room, item) if isinstance(item, Event) else item for item in items]
        return b"".join([frames.text(encode(shape)) for shape in shapes])


CODEC: Final = JsonCodec()
"""One codec for all clients, so that an event is encoded once for all of them."""


def goodbye_frames(chat: Chat, close: Close, reason: str) -> bytes:
    """Return the ``bye`` that is sent before the Close frame."""
    return CODEC.encode("", [chat.bye(close, reason)])


class JsonGateway:
    """A client that speaks ``chatd.v1``."""

    def __init__(self, chat: Chat, websocket: WebSocket, connection: Connection) -> None:
        self._chat = chat
        self._websocket = websocket
        self._connection = connection
        self._connection.notify(self._connection.hello())
        if self._connection.nick_notice is not None:
            self._connection.notify(events.Notice(self._connection.nick_notice))

    def received(self, message: str | bytes) -> Awaitable[None] | None:
        if isinstance(message, bytes):
            self._websocket.end(UNSUPPORTED, "chatd.v1 is text")
            return None
        try:
            command = read_command(message)
        except ValueError as error:
            return self._refuse(message, error)
        mark = command.id
        answer = partial(self._answer, mark)
        return perform(self._connection, command, answer, quiet=mark is None)

    def goodbye_frames(self, close: Close, reason: str) -> bytes:
        return goodbye_frames(self._chat, close, reason)

    def ended(self, close: Close, reason: str) -> None:
        disconnect(self._connection, self._websocket, close, reason)

    def _answer(self, mark: Any, answer: commands.Result | Refusal) -> None:
        if isinstance(answer, Refusal):
            frame = frames.text(encode(commands.Answer(mark, error=answer)))
        else:
            frame = encode_answer(answer, partial(_answer_frame, mark), self._connection.log)
        self._websocket.outbox.offer(frame)

    async def _refuse(self, message: str, error: ValueError) -> None:
        why = str(error)[:ERROR_CHARACTERS]
        refusal = Refusal("bad_request", f"This is not a command of chatd.v1: {why}.")
        self._answer(read_id(message), refusal)
        if seconds := self._connection.refused(refusal, "unknown"):
            await trio.sleep(seconds)


def _answer_frame(mark: Any, answer: commands.Result) -> bytes:
    return frames.text(encode(commands.Answer(mark, answer)))
