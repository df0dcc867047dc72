"""Commands on their way: waiting to be sent, sent, answered. They may outlive a connection.

``say`` carries a key of its user's, so that the log takes it once, however often it is sent; the
other commands come to the same when they are carried out twice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import trio

from chatd.client import protocol
from chatd.client.connection import Connection
from chatd.client.errors import Garbled, Refused
from chatd.client.protocol import Answer

__all__ = ["Call", "Calls", "worth_waiting"]

_T = TypeVar("_T")

# For a refusal that names no time: the daemon's buckets refill, and its store is back, about then.
_RETRY_SECONDS: Final = 1.0

_PASSING: Final = frozenset({"rate_limited", "unavailable"})


class Call(Generic[_T]):
    """One command, answered with a ``kind``.

    ``answered`` runs the moment the answer is read, before the frame behind it is looked at.
    """

    def __init__(
        self,
        number: int,
        do: str,
        fields: dict[str, Any],
        kind: type[_T],
        answered: Callable[[_T], None] | None = None,
        *,
        keyed: bool = False,
    ) -> None:
        self.number = number
        self.frame = protocol.command(do, number, fields)
        self.withdrawn = False
        self.sent = False
        self.keyed = keyed
        """Whether only the same user may send it again: its key is the user's."""
        self._kind = kind
        self._answered = answered
        self._done = trio.Event()
        self._scope = trio.CancelScope()
        self._result: _T | None = None
        self._fault: Exception | None = None

    def sending(self, seconds: float) -> None:
        """Begin to wait for the answer on a connection."""
        self.sent = True
        self._scope.deadline = trio.current_time() + seconds

    def stranded(self) -> None:
        """Wait for the next connection: the one that was to answer is gone."""
        self._scope.deadline = math.inf

    def answer(self, answer: Answer) -> None:
        """Take the answer. Raises `Garbled`."""
        if answer.error is not None:
            error = answer.error
            self.fail(Refused(error.code, error.message, error.retry_ms))
            return
        try:
            result = protocol.result(answer.ok, self._kind)
        except Garbled as garbled:
            self.fail(garbled)
            raise
        if self._answered is not None:
            self._answered(result)
        self._result = result
        self._done.set()

    def fail(self, fault: Exception) -> None:
        self._fault = fault
        self._done.set()

    async def outcome(self) -> _T:
        """Wait for the answer. Raises what `fail` was given, or trio.TooSlowError."""
        with self._scope:
            await self._done.wait()
        if self._fault is not None:
            raise self._fault
        if not self._done.is_set():
            raise trio.TooSlowError
        assert self._result is not None  # noqa: S101  done without a fault
        return self._result


class Calls:
    """All of a chat's commands without an answer, in the order in which they were made."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._numbers = itertools.count(1)
        self._calls: dict[int, Call[Any]] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def new(
        self,
        do: str,
        fields: dict[str, Any],
        kind: type[_T],
        answered: Callable[[_T], None] | None = None,
        *,
        keyed: bool = False,
    ) -> Call[_T]:
        """Make a command; it waits until it is sent. Somebody must `outcome` or `forget` it."""
        call = Call(next(self._numbers), do, fields, kind, answered, keyed=keyed)
        self._calls[call.number] = call
        return call

    def send(self, connection: Connection, call: Call[Any]) -> None:
        """Send a command on a living connection."""
        call.sending(self._seconds)
        connection.send(call)

    def mention(self, connection: Connection, do: str, fields: dict[str, Any]) -> None:
        """Send a command whose answer nobody waits for, on this connection or never."""
        connection.send(Call(next(self._numbers), do, fields, object))

    async def outcome(self, call: Call[_T]) -> _T:
        """Wait for the answer, for as long as it takes to send it, and forget the command."""
        try:
            return await call.outcome()
        finally:
            self.forget(call)

    def forget(self, call: Call[Any]) -> None:
        call.withdrawn = True
        self._calls.pop(call.number, None)

    async def patiently(
        self, connection: Connection, do: str, fields: dict[str, Any], kind: type[_T]
    ) -> _T:
        """Have a command carried out on this very connection, however often it is told to wait."""
        while True:
            call = self.new(do, fields, kind)
            self.send(connection, call)
            try:
                return await self.outcome(call)
            except Refused as refused:
                if (seconds := worth_waiting(refused)) is None:
                    raise
                await trio.sleep(seconds)

    def answered(self, answer: Answer) -> None:
        """Take an answer. One to a command that nobody waits for any more is nothing."""
        call = self._calls.get(answer.re) if isinstance(answer.re, int) else None
        if call is not None:
            call.answer(answer)

    def stranded(self) -> None:
        """Wait for the next connection: this one is gone."""
        for call in self._calls.values():
            call.stranded()

    def again(self, connection: Connection, *, same_user: bool) -> None:
        """Send everything that waits. What another user's key protects is not sent twice."""
        for call in self._calls.values():
            if call.keyed and call.sent and not same_user:
                text = "the session is over, and whether this was said is not known"
                call.fail(Refused("unauthorized", text))
            else:
                self.send(connection, call)

    def fail(self, fault: Exception) -> None:
        """Answer everything that waits with ``fault``."""
        for call in self._calls.values():
            call.fail(fault)


def worth_waiting(refused: Refused) -> float | None:
    """Tell how many seconds to wait until the same may be carried out; None: it never is."""
    if refused.code not in _PASSING:
        return None
    return _RETRY_SECONDS if refused.retry_ms is None else refused.retry_ms / 1000
