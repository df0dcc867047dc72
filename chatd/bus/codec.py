"""Codecs: how events become blocks for everybody who speaks alike, and what happens if one raises.

A codec is a connection's code, but it runs in the bus's tasks. So its errors end here: they are
logged, and only the subscribers who need this codec are closed.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias, Unpack

from msgspec.structs import replace

from chatd.logs import Fields, Log
from chatd.model import INTERNAL, Close, Event

__all__ = ["Block", "Codec", "Subscriber", "encode", "encode_page", "readable", "report"]

Block: TypeAlias = Any
"""What a codec makes and its outboxes take: bytes for a WebSocket, packets for a poll."""


class Codec(Protocol):
    """Encodes events for everybody who speaks one (protocol, revision, transport).

    Two codecs are the same if they compare equal: one block is made for all of them.
    """

    def encode(self, room: str, items: Sequence[Any]) -> Block:
        """Return a block of these items; an empty one if the protocol says nothing of them.

        Args:
            room: The room's name as written, or "" for items that belong to no room.
            items: `Event`s of the room's log, or ephemeral events of `chatd.protocol.events`.
        """
        ...


class Outbox(Protocol):
    """Where blocks go. Its methods never block, never await and never raise."""

    def offer(self, block: Block, messages: int = 1, /) -> None: ...

    def offer_droppable(self, block: Block, messages: int = 1, /) -> None: ...


class Closing(Protocol):
    """What has a connection that can be closed with a close and a reason."""

    @property
    def end(self) -> Callable[[Close, str], None]: ...


class Subscriber(Closing, Protocol):
    """A connection, as far as the bus is concerned."""

    @property
    def outbox(self) -> Outbox: ...

    @property
    def codec(self) -> Codec: ...


def report(log: Log, error: Exception, /, **fields: Unpack[Fields]) -> None:
    """Log an error of chatd's own with its traceback."""
    fields["error"] = repr(error)
    fields["traceback"] = "".join(traceback.format_exception(error))
    log.emit("fault", **fields)


def encode(
    codec: Codec, room: str, items: Sequence[Any], receivers: Iterable[Closing], log: Log
) -> Block:
    """Return a block for the receivers, who use this codec.

    If the codec raises, the items are encoded one by one, to log those that it cannot encode. The
    receivers are closed with 1011, and the block is empty: they come back and read a page.
    """
    try:
        return codec.encode(room, items)
    except Exception as error:  # the boundary of the connections that use this codec
        if not _report_each(codec, room, items, log):
            report(log, error, detail=_name(codec), room=room or None)
    for receiver in list(receivers):
        _end(receiver, log)
    return b""


def encode_page(codec: Codec, room: str, events: Sequence[Event], log: Log) -> Block:
    """Return a block of a page of events, made `readable` if the codec raises."""
    try:
        return codec.encode(room, events)
    except Exception:  # the boundary again: whoever comes back for this page must not loop
        return codec.encode(room, readable(codec, room, events, log))


def readable(codec: Codec, room: str, events: Iterable[Event], log: Log) -> list[Event]:
    """Return the events as the codec can encode them: if need be without the text, or not at all.

    Each event that it cannot encode as it is is logged.
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
        except Exception as error:  # the same boundary
            found = True
            seq = item.seq if isinstance(item, Event) else None
            report(log, error, detail=_name(codec), room=room or None, seq=seq)
    return found


def _name(codec: Codec) -> str:
    return f"{type(codec).__name__}.encode"


def _end(receiver: Closing, log: Log) -> None:
    try:
        receiver.end(INTERNAL, INTERNAL.reason)
    except Exception as error:  # its goodbye may need the codec that has just raised
        report(log, error, detail="the end of a connection")
