"""Codecs: how events become blocks that many connections share, and what happens if one raises.

A codec is a connection's code that runs in the bus's tasks. So its errors end here: they are
logged, and only the connections that need the codec are closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias

from msgspec.structs import replace

from chatd.logs import Log
from chatd.model import INTERNAL, Close, Event

__all__ = ["Block", "Codec", "Subscriber", "encode", "encode_page"]

Block: TypeAlias = Any
"""The output of a codec, as its outboxes take it: bytes for a WebSocket, packets for a poll."""


class Codec(Protocol):
    """Encodes events for all connections of one (protocol, revision, transport).

    Codecs that compare equal share their blocks.
    """

    def encode(self, room: str, items: Sequence[Any]) -> Block:
        """Return a block of these items; an empty one if the protocol says nothing of them.

        Args:
            room: The room's name as written, or "" for items that belong to no room.
            items: `Event`s of the room's log, or ephemeral events of `chatd.protocol.events`.
        """
        ...


class Outbox(Protocol):
    """Takes blocks for one connection. Its methods never block, never await and never raise."""

    def offer(self, block: Block, messages: int = 1, /) -> None: ...

    @staticmethod
    def offer_each(outboxes: Sequence[Any], block: Block, messages: int = 1, /) -> None:
        """Offer a block to many outboxes of this class, in one loop."""

    def offer_droppable(self, block: Block, messages: int = 1, /) -> None: ...


class Closing(Protocol):
    """A connection, or something that stands for one, which can be closed."""

    @property
    def end(self) -> Callable[[Close, str], None]: ...


class Subscriber(Closing, Protocol):
    """A connection with an outbox and the codec for it."""

    @property
    def outbox(self) -> Outbox: ...

    @property
    def codec(self) -> Codec: ...


def encode(
    codec: Codec, room: str, items: Sequence[Any], receivers: Iterable[Closing], log: Log
) -> Block:
    """Return a block of the items for receivers that use the codec.

    If the codec raises, the items are encoded one by one, to log those that fail. The receivers are
    closed with 1011, and the block is empty: the clients reconnect and read a page.
    """
    try:
        return codec.encode(room, items)
    except Exception as error:  # the boundary of the connections that use the codec
        if not _report_each(codec, room, items, log):
            log.fault(error, detail=_name(codec), room=room or None)
    for receiver in list(receivers):
        _end(receiver, log)
    return b""


def encode_page(codec: Codec, room: str, events: Sequence[Event], log: Log) -> Block:
    """Return a block of a page of events; if the codec raises, without those texts that raise."""
    try:
        return codec.encode(room, events)
    except Exception:  # a client that reconnects for this page must not fail again and again
        return codec.encode(room, _readable(codec, room, events, log))


def _readable(codec: Codec, room: str, events: Iterable[Event], log: Log) -> list[Event]:
    """Return the events in a form that the codec can encode, and log those that it cannot.

    These are returned without their text, or left out if that fails too.
    """
    found: list[Event] = []
    for event in events:
        for variant in (event, replace(event, text=None)):
            if not _report_each(codec, room, [variant], log):
                found.append(variant)
                break
    return found


def _report_each(codec: Codec, room: str, items: Iterable[Any], log: Log) -> bool:
    """Log every item that the codec cannot encode by itself; return True if there is any."""
    found = False
    for item in items:
        try:
            codec.encode(room, [item])
        except Exception as error:  # the same boundary as in `encode`
            found = True
            seq = item.seq if isinstance(item, Event) else None
            log.fault(error, detail=_name(codec), room=room or None, seq=seq)
    return found


def _name(codec: Codec) -> str:
    return f"{type(codec).__name__}.encode"


def _end(receiver: Closing, log: Log) -> None:
    try:
        receiver.end(INTERNAL, INTERNAL.reason)
    except Exception as error:  # its goodbye may need the codec that has just raised
        log.fault(error, detail="the end of a connection")
