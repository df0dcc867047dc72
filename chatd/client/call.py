"""Commands that wait for their answers. They may outlive a connection.

``say`` carries a key of its user's, so that the log takes it once, however often it is sent. The
other commands have the same effect when they are carried out twice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, Final, Generic, TypeAlias, TypeVar

import trio
from msgspec import structs

from chatd.client.errors import Garbled, Refused
from chatd.protocol.codec import encode, read_result
from chatd.protocol.commands import Answer, Command, Fault

__all__ = ["Call", "Calls", "retry_seconds"]

_T = TypeVar("_T")

# For refusals that name no time: the daemon's token buckets refill in about a second, and a store
# that is briefly busy is back by then.
_RETRY_SECONDS: Final = 1.0

_TEMPORARY: Final = frozenset({"rate_limited", "unavailable"})


class Call(Generic[_T]):
    """One command, whose answer is a ``kind``.

    ``answered`` is called with the answer as soon as it is read, before the next frame.
    """

    def __init__(
        self,
        command: Command,
        kind: type[_T],
        answered: Callable[[_T], None] | None = None,
        *,
        keyed: bool = False,
    ) -> None:
        self.command = command
        self.withdrawn = False
        self.sent = False
        self.keyed = keyed
        """True if only the same user may send it again, because its key is that user's."""
        self._kind = kind
        self._answered = answered
        self._done = trio.Event()
        self._scope = trio.CancelScope()
        self._result: _T | None = None
        self._fault: Exception | None = None

    @property
    def frame(self) -> str:
        """The command as a frame of ``chatd.v1``."""
        return encode(self.command).decode()

    def sending(self, seconds: float) -> None:
        """Start the time in which the answer has to come."""
        self.sent = True
        self._scope.deadline = trio.current_time() + seconds

    def stranded(self) -> None:
        """Stop the time: the connection is lost, and the next one sends the command again."""
        self._scope.deadline = math.inf

    def answer(self, answer: Answer) -> None:
        """Take the answer.

        Raises:
            Garbled: It is not of the kind that was expected.
        """
        try:
            if answer.error is not None:
                fault = read_result(answer.error, Fault)
                self.fail(Refused(fault.code, fault.message, fault.retry_ms))
                return
            result = read_result(answer.ok, self._kind)
        except ValueError as error:
            garbled = Garbled(str(error))
            self.fail(garbled)
            raise garbled from None
        if self._answered is not None:
            self._answered(result)
        self._result = result
        self._done.set()

    def fail(self, fault: Exception) -> None:
        """Make `outcome` raise ``fault``."""
        self._fault = fault
        self._done.set()

    async def outcome(self) -> _T:
        """Wait for the answer and return it.

        Raises:
            Exception: What `fail` was given.
            trio.TooSlowError: A connection brought no answer in time.
        """
        with self._scope:
            await self._done.wait()
        if self._fault is not None:
            raise self._fault
        if not self._done.is_set():
            raise trio.TooSlowError
        assert self._result is not None  # noqa: S101  done without an exception
        return self._result


Send: TypeAlias = Callable[[Call[Any]], None]
"""Sends ``call.command`` on one connection, unless the call is ``withdrawn`` by then."""


class Calls:
    """All commands of a chat that have no answer yet, in the order in which they were made.

    ``seconds`` is the time in which a connection has to bring an answer.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._numbers = itertools.count(1)
        self._calls: dict[int, Call[Any]] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def new(
        self,
        command: Command,
        kind: type[_T],
        answered: Callable[[_T], None] | None = None,
        *,
        keyed: bool = False,
    ) -> Call[_T]:
        """Return a call that waits until it is sent. The caller has to `outcome` or `forget` it."""
        number = next(self._numbers)
        call = Call(structs.replace(command, id=number), kind, answered, keyed=keyed)
        self._calls[number] = call
        return call

    def send(self, send: Send, call: Call[Any]) -> None:
        """Send a call on a living connection."""
        call.sending(self._seconds)
        send(call)

    def mention(self, send: Send, command: Command) -> None:
        """Send a command that has no answer, on this connection or never."""
        send(Call(structs.replace(command, id=next(self._numbers)), object))

    async def outcome(self, call: Call[_T]) -> _T:
        """Wait for the answer, return it and forget the call. It raises what `Call.outcome` does.

        The time until the call is sent does not count.
        """
        try:
            return await call.outcome()
        finally:
            self.forget(call)

    def forget(self, call: Call[Any]) -> None:
        """Stop waiting for a call, and do not send it if it was not sent yet."""
        call.withdrawn = True
        assert isinstance(call.command.id, int)  # noqa: S101  as `new` made it
        self._calls.pop(call.command.id, None)

    async def ask(self, send: Send, command: Command, kind: type[_T]) -> _T:
        """Send a command on this connection, and again whenever the refusal is temporary."""
        while True:
            call = self.new(command, kind)
            self.send(send, call)
            try:
                return await self.outcome(call)
            except Refused as refused:
                if (seconds := retry_seconds(refused)) is None:
                    raise
                await trio.sleep(seconds)

    def answered(self, answer: Answer) -> None:
        """Take an answer. It is ignored if its call was forgotten."""
        call = self._calls.get(answer.re) if isinstance(answer.re, int) else None
        if call is not None:
            call.answer(answer)

    def stranded(self) -> None:
        """Stop the time of all calls: the connection is lost."""
        for call in self._calls.values():
            call.stranded()

    def resend(self, send: Send, *, same_user: bool) -> None:
        """Send all calls on a new connection.

        Keys belong to users: a keyed call that was sent before fails if the user has changed.
        """
        for call in self._calls.values():
            if call.keyed and call.sent and not same_user:
                text = "The session has expired; whether this message was sent is not known."
                call.fail(Refused("unauthorized", text))
            else:
                self.send(send, call)

    def fail(self, fault: Exception) -> None:
        """Make all calls raise ``fault``."""
        for call in self._calls.values():
            call.fail(fault)


def retry_seconds(refused: Refused) -> float | None:
    """Return after how many seconds the same command may succeed; None if never."""
    if refused.code not in _TEMPORARY:
        return None
    return _RETRY_SECONDS if refused.retry_ms is None else refused.retry_ms / 1000
