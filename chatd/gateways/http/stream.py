"""The event stream of a room (Server-Sent Events, defined in the HTML standard).

A stream is a connection of the chat that joins one room and stays in it. Each event of the room's
log has its position as ``id``, with which the client resumes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, Literal

from msgspec import Struct

from chatd.chat import Chat, Connection, Login, Traffic
from chatd.chat.membership import Membership
from chatd.chat.replies import Reply
from chatd.chat.rooms import Room
from chatd.chat.rules import enter
from chatd.chat.visitor import NOWHERE
from chatd.gateways.http.requests import position_of
from chatd.gateways.pages import encode_answer
from chatd.model import (
    BANNED,
    GOING_AWAY,
    INTERNAL,
    KICKED,
    NORMAL,
    TOO_MANY,
    UNAUTHORIZED,
    Close,
    ErrorCode,
    Event,
    ExitReason,
    Refused,
)
from chatd.protocol import commands, events
from chatd.protocol.codec import encode
from chatd.timers import Timer
from chatd.wire.streaming import LAST_CHUNK, Stream, chunk

__all__ = ["EventStreamCodec", "RoomStream", "page_end"]

RETRY_MS: Final = 2000
"""After this time a client reconnects, unless ``bye`` names another time."""

SILENCE_SECONDS: Final = 15.0
"""A comment is sent after this time without an event: proxies drop connections that are silent
for a minute."""

_CLOSES: Final[dict[ErrorCode, Close]] = {
    "banned": BANNED,
    "rate_limited": TOO_MANY,
    "unavailable": GOING_AWAY,
}
"""The close of a stream that was refused, by the code; UNAUTHORIZED for all other codes."""

_CODES: Final[dict[int, ErrorCode]] = {
    KICKED.code: "forbidden",
    BANNED.code: "banned",
    UNAUTHORIZED.code: "unauthorized",
}
"""The refusal of a stream that was ended before it began, by the close; ``unavailable`` for all
others."""


class Reset(Struct, frozen=True, tag_field="on", tag="reset"):
    """The first event of a stream whose position could not be resumed."""

    room: str
    epoch: str
    seq: int


class _Place(Struct, frozen=True):
    """The number up to which a stream has all events, for a block with only a position."""

    seq: int


def page_end(entered: commands.Entered, since: commands.Position | None) -> int:
    """Return the number at which a page ends; events that were left out count too."""
    if (end := entered.end) is not None:
        return end
    return since.seq if entered.recovered and since is not None else entered.seq


class EventStreamCodec:
    """Encodes events for all streams. Presence, typing and the like are not sent: no block.

    Args:
        chat: The chat.
        chunked: Whether the body is in chunks, as in HTTP/1.1.
    """

    def __init__(self, chat: Chat, *, chunked: bool) -> None:
        self._chat = chat
        self._chunked: Final = chunked
        self.comment: Final = self._framed(b":\n\n")

    def encode(self, room: str, items: Sequence[Any]) -> bytes:
        epoch = self._chat.journal.epoch
        return self._framed(b"".join(_lines(epoch, room, item) for item in items))

    def page(self, entered: commands.Entered, *, since: commands.Position | None) -> bytes:
        """Return the first block: when to reconnect, a page, and the position after it."""
        epoch, room = entered.epoch, entered.room
        block = b"retry: %d\n\n" % RETRY_MS
        if since is not None and not entered.recovered:
            block += b"data: %b\n\n" % encode(Reset(room, epoch, entered.seq))
        block += b"".join(_lines(epoch, room, event) for event in entered.events)
        block += b"id: %b\n\n" % position_of(epoch, page_end(entered, since)).encode()
        return self._framed(block)

    def goodbye(self, close: Close, reason: str) -> bytes:
        """Return the last block: ``bye``, and when to connect again."""
        bye = self._chat.bye(close, reason)
        block = b"data: %b\n\n" % encode(bye)
        if bye.reconnect:
            block = b"retry: %d\n%b" % (bye.retry_ms or RETRY_MS, block)
        return self._framed(block) + (LAST_CHUNK if self._chunked else b"")

    def _framed(self, block: bytes) -> bytes:
        return chunk(block) if self._chunked and block else block


def _lines(epoch: str, room: str, item: Any) -> bytes:
    if isinstance(item, _Place):
        return b"id: %b\n\n" % position_of(epoch, item.seq).encode()
    event = events.shape(room, item) if isinstance(item, Event) else item
    if (seq := events.number(event)) is not None:
        return b"id: %b\ndata: %b\n\n" % (position_of(epoch, seq).encode(), encode(event))
    # A direct message that is not kept, or a notice to people that does not ask for `auth`.
    said = isinstance(event, events.Message) or (isinstance(event, events.Notice) and not event.do)
    if said or isinstance(event, events.Epoch):
        return b"data: %b\n\n" % encode(event)
    return b""


class _OneRoom(Connection):
    """A connection that is in one room, and ends when it leaves that room."""

    kicked_from = ""
    """The room's key if the user was kicked from the room, and not from the chat."""

    def enter_direct(self, room: Room) -> None:
        """Do nothing: other rooms' direct messages are not sent here."""

    def renewed(self) -> None:
        for membership in self.memberships.values():
            # A membership that catches up gets the epoch with its next event.
            if membership.live_since is not None:
                self.notify(_Place(membership.room.feed.visible))

    def exit(self, membership: Membership, reason: ExitReason = "leave") -> None:
        super().exit(membership, reason)
        if reason == "leave":
            self.end(NORMAL, "you are no longer in the room")

    def kick(self, membership: Membership, reason: Literal["kicked", "banned"]) -> None:
        super().kick(membership, reason)
        self.kicked_from = membership.room.key
        close = KICKED if reason == "kicked" else BANNED
        self.end(close, close.reason)


class RoomStream:
    """The source of one stream, from before its response until its end.

    Args:
        chat: The chat.
        codec: Encodes the stream's events.
        connection_id: The connection's id in the log.
        login: The stream's user.
        address: The client's address, for the log.
        limit_key: The address or network that limits and bans see; empty if none applies.
        kicked: Called if the user is kicked, with the user's id and the room's key, which is empty
            for a kick from the chat.
    """

    def __init__(
        self,
        chat: Chat,
        codec: EventStreamCodec,
        connection_id: str,
        login: Login,
        *,
        address: str,
        limit_key: str,
        kicked: Callable[[str, str], None],
    ) -> None:
        self._chat = chat
        self._codec = codec
        self._kicked = kicked
        self._stream: Stream | None = None
        self._closing: tuple[Close, str] | None = None
        self._over = False
        self._first = b""
        self._events = 0
        self._then: Callable[[], None] = _nothing
        self._room: Room | None = None
        self._spoke = 0.0
        self._timer: Timer | None = None
        self._connection = _OneRoom(
            chat,
            connection_id,
            NOWHERE,  # until the head of the response is sent
            codec,
            self._start_soon,
            address=address,
            limit_key=limit_key,
            transport="sse",
            protocol="http",
            nick=None,
            end=self._end,
            login=login,
        )

    async def enter(self, command: commands.Join) -> None:
        """Join the room. If that is refused, the stream is over.

        Raises:
            Refused: The command is refused, or the connection was ended meanwhile.
        """
        try:
            reply = await enter(self._connection, command)
            if self._closing is None:
                self._prepare(reply, command.since)
        except Refused as refused:
            self.ended(_CLOSES.get(refused.refusal.code, UNAUTHORIZED), str(refused))
            raise
        except BaseException:
            self.ended(INTERNAL, INTERNAL.reason)
            raise
        if self._closing is not None:
            close, reason = self._closing
            self.ended(close, reason)
            raise Refused(_CODES.get(close.code, "unavailable"), f"Connection ended: {reason}.")

    def _prepare(self, reply: Reply[commands.Entered], since: commands.Position | None) -> None:
        page = partial(self._codec.page, since=since)
        self._first = encode_answer(reply.answer, page, self._connection.log)
        self._events = len(reply.answer.events)
        self._then = reply.then
        [membership] = self._connection.memberships.values()
        self._room = membership.room

    # ---- for the wire

    def opened(self, stream: Stream) -> None:
        self._stream = stream
        if self._closing is not None:
            stream.end(*self._closing)
            return
        connection = self._connection
        connection.outbox = stream.outbox
        stream.outbox.offer(self._first, self._events)
        self._first = b""
        self._then()
        self._then = _nothing
        self._spoke = connection.opened
        due = self._spoke + SILENCE_SECONDS
        self._timer = self._chat.timers.add(due, self._break_silence, connection.fault)

    def goodbye(self, close: Close, reason: str) -> bytes:
        return self._codec.goodbye(close, reason)

    def ended(self, close: Close, reason: str) -> None:
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        connection, stream = self._connection, self._stream
        self._stream = None  # which refers to this source
        sent = None if stream is None else stream.outbox
        connection.close(
            close,
            reason,
            Traffic(
                bytes_in=0 if stream is None else stream.received_bytes,
                bytes_out=0 if sent is None else sent.sent_bytes,
                messages_in=0,
                messages_out=0 if sent is None else sent.sent_messages,
            ),
        )

    # ---- for the chat

    def _end(self, close: Close, reason: str) -> None:
        if self._closing is None:
            self._closing = close, reason
            if close is KICKED:
                self._kicked(self._connection.user.id, self._connection.kicked_from)
        if self._stream is not None:
            self._stream.end(close, reason)

    def _start_soon(self, job: Callable[[], Awaitable[None]]) -> None:
        # The chat has nothing to do for a client before the stream is opened.
        if self._stream is not None:
            self._stream.start_soon(job)

    def _break_silence(self, now: float) -> float:
        room, outbox = self._room, self._connection.outbox
        if outbox.waiting:
            self._spoke = now
        elif room is not None:
            self._spoke = max(self._spoke, room.feed.fanned_out_at)
        if self._spoke + SILENCE_SECONDS <= now:
            outbox.offer(self._codec.comment, 0)
            self._spoke = now
        return self._spoke + SILENCE_SECONDS


def _nothing() -> None: ...
