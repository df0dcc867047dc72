"""Encodes pages: once for clients that join together, and without what cannot be encoded.

An event cannot be encoded if a codec has a bug, or if a stored text is broken. When such an event
is live, its subscribers are closed with 1011. They reconnect and get it on a page. So a page leaves
out what cannot be encoded: otherwise they would reconnect for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from msgspec.structs import replace

from chatd.logs import Log
from chatd.protocol import commands, events

__all__ = ["PageEncoder", "encode_answer", "readable"]

_Answer = TypeVar("_Answer")
_Encoded = TypeVar("_Encoded")


class PageEncoder(Generic[_Encoded]):
    """Encodes pages for one codec, and keeps the last one.

    Clients that join a room at about the same time, such as all of them after a restart, get the
    same page. Comparing two pages takes a twentieth of the time of encoding one.

    Args:
        encode: Encodes the events of a room.
    """

    def __init__(self, encode: Callable[[str, Sequence[Any]], _Encoded]) -> None:
        self._encode = encode
        self._last: tuple[str, str, Sequence[Any]] | None = None
        self._encoded: _Encoded

    def encode(self, room: str, page: Sequence[Any], epoch: str = "") -> _Encoded:
        """Return an encoded page.

        Args:
            room: The room's name.
            page: Its events, which are not changed later.
            epoch: The epoch of their numbers, if it is part of what is encoded.
        """
        wanted = (room, epoch, page)
        if wanted != self._last:
            self._encoded = self._encode(room, page)
            self._last = wanted
        return self._encoded


def encode_answer(answer: _Answer, encode: Callable[[_Answer], _Encoded], log: Log) -> _Encoded:
    """Return an encoded answer; if that raises, a page without what cannot be encoded.

    Args:
        answer: The answer of a command.
        encode: Encodes an answer.
        log: The connection's log. Each event that cannot be encoded is logged.

    Raises:
        Exception: What ``encode`` raised, if the answer is not a page.
    """
    try:
        return encode(answer)
    except Exception:  # the connection's boundary
        return encode(readable(answer, encode, log))


def readable(answer: _Answer, encode: Callable[[_Answer], object], log: Log) -> _Answer:
    """Return a page without the texts of those events that cannot be encoded, and log each.

    An answer that is not a page is returned as it is.
    """
    if not isinstance(answer, commands.Entered | commands.Page | commands.Found):
        return answer
    found: list[Any] = []
    for event in answer.events:
        for variant in _variants(event):
            try:
                encode(replace(answer, events=[variant]))
            except Exception as error:  # the connection's boundary
                log.fault(error, seq=events.number(event))
            else:
                found.append(variant)
                break
    return replace(answer, events=found)


def _variants(event: Any) -> list[Any]:
    if isinstance(event, events.Message | events.Edit):
        return [event, replace(event, text=None)]
    return [event]
