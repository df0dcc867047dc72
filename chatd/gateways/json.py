"""``chatd.v1``: one JSON object a text frame, the commands and events of the chat as they are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from chatd.chat import Chat, Connection, perform
from chatd.gateways.websocket import disconnect
from chatd.model import UNSUPPORTED, Close, Event, Refusal
from chatd.protocol import commands, events
from chatd.protocol.codec import SUBPROTOCOL, encode, read_command, read_id
from chatd.wire import frames
from chatd.wire.websocket import WebSocket

__all__ = ["CODEC", "SUBPROTOCOL", "JsonCodec", "JsonGateway", "goodbye_frames"]

WHY_CHARACTERS: Final = 200
"""A refusal may quote what it refuses: so much of it."""


class JsonCodec:
    """Says events as frames of one JSON object each."""

    def encode(self, room: str, items: Sequence[Any]) -> bytes:
        return b"".join(
            frames.text(encode(events.shape(room, item) if isinstance(item, Event) else item))
            for item in items
        )


CODEC: Final = JsonCodec()
"""One for everybody: it keeps nothing, so one block serves all who speak JSON."""


def goodbye_frames(chat: Chat, close: Close, reason: str) -> bytes:
    """Give the last thing to be said."""
    return CODEC.encode("", [chat.bye(close, reason)])


class JsonGateway:
    """One client that speaks ``chatd.v1``."""

    def __init__(self, chat: Chat, websocket: WebSocket, connection: Connection) -> None:
        self._chat = chat
        self._websocket = websocket
        self._connection = connection
        self._connection.notify(self._connection.hello())
        if self._connection.nick_notice is not None:
            self._connection.notify(events.Notice(self._connection.nick_notice))

    async def received(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            self._websocket.end(UNSUPPORTED, "chatd.v1 is text")
            return
        try:
            command = read_command(message)
        except ValueError as error:
            self._chat.refusals["bad_request"] += 1
            self._refuse(message, error)
        else:
            pending = perform(self._connection, command, partial(self._answer, command.id))
            if pending is not None:
                await pending

    def goodbye_frames(self, close: Close, reason: str) -> bytes:
        return goodbye_frames(self._chat, close, reason)

    def ended(self, close: Close, reason: str) -> None:
        disconnect(self._connection, self._websocket, close, reason)

    def _answer(self, mark: Any, answer: commands.Result | Refusal) -> None:
        if isinstance(answer, Refusal):
            frame = frames.text(encode(commands.Answer(mark, error=answer)))
        elif mark is not None:
            frame = frames.text(encode(commands.Answer(mark, answer)))
        else:
            return
        self._websocket.outbox.offer(frame)

    def _refuse(self, message: str, error: ValueError) -> None:
        why = str(error)[:WHY_CHARACTERS]
        self._answer(read_id(message), Refusal("bad_request", f"no command of chatd.v1: {why}"))
