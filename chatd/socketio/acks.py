"""Acknowledgements that the server waits for: from one client, or from many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import trio

from chatd.socketio.errors import Disconnected

__all__ = ["AckCollector", "Answer", "Answers", "Reply", "value_of"]


def value_of(args: Sequence[Any]) -> Any:
    """Return the value of an acknowledgement: None for no argument, one by itself, else a tuple.

    It is the inverse of what a handler's return value becomes.
    """
    if not args:
        return None
    return args[0] if len(args) == 1 else tuple(args)


class Answer:
    """The acknowledgement of one client."""

    __slots__ = ("_args", "_came", "_reason")

    def __init__(self) -> None:
        self._came = trio.Event()
        self._args: Sequence[Any] = ()
        self._reason: str | None = None

    def received(self, _socket_id: str, args: Sequence[Any]) -> None:
        """Accept the arguments of the acknowledgement."""
        self._args = args
        self._came.set()

    def lost(self, _socket_id: str, reason: str) -> None:
        """Record that the socket is disconnected."""
        self._reason = reason
        self._came.set()

    async def wait(self) -> Any:
        """Wait for it, and return its value. Raises Disconnected if the socket is disconnected."""
        await self._came.wait()
        if self._reason is not None:
            raise Disconnected(self._reason)
        return value_of(self._args)


class Answers(list[tuple[str, Any]]):
    """The result of `Broadcast.call`: ``(socket_id, value)`` pairs in the order of arrival.

    Attributes:
        missing: The ids of the sockets that did not answer in time, or were disconnected.
    """

    def __init__(self, pairs: Iterable[tuple[str, Any]] = (), missing: Iterable[str] = ()) -> None:
        super().__init__(pairs)
        self.missing: tuple[str, ...] = tuple(missing)


class AckCollector:
    """Collects the acknowledgements of many clients to one event."""

    __slots__ = ("_answers", "_done", "_gone", "_waiting")

    def __init__(self, socket_ids: Iterable[str]) -> None:
        self._waiting = dict.fromkeys(socket_ids)
        self._gone: list[str] = []
        self._answers: list[tuple[str, Any]] = []
        self._done = trio.Event()
        self._check_done()

    def received(self, socket_id: str, args: Sequence[Any]) -> None:
        """Accept the arguments of one acknowledgement."""
        if socket_id in self._waiting:
            del self._waiting[socket_id]
            self._answers.append((socket_id, value_of(args)))
            self._check_done()

    def lost(self, socket_id: str, _reason: str) -> None:
        """Record that a socket is disconnected."""
        if socket_id in self._waiting:
            del self._waiting[socket_id]
            self._gone.append(socket_id)
            self._check_done()

    async def wait(self) -> None:
        """Wait until every socket has answered or is disconnected."""
        await self._done.wait()

    def answers(self) -> Answers:
        """Return what has arrived so far."""
        return Answers(self._answers, [*self._gone, *self._waiting])

    def _check_done(self) -> None:
        if not self._waiting:
            self._done.set()


Reply: TypeAlias = Answer | AckCollector
"""The recipient of acknowledgements with one id."""
