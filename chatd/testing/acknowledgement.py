"""A Socket.IO event that asks for an acknowledgement, as the client that emitted it has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import trio

from chatd import client
from chatd.protocol.codec import read_result
from chatd.protocol.commands import Fault
from chatd.socketio.packets import Packet
from chatd.testing.mailbox import patience

__all__ = ["Call", "read"]

_T = TypeVar("_T")


class Call(Generic[_T]):
    """Waits for its acknowledgement, over a lost connection too.

    ``answered`` runs the moment it is read, before the packet behind it is looked at.
    """

    def __init__(
        self,
        packet: Packet,
        kind: type[_T],
        answered: Callable[[_T], None] | None,
        *,
        keyed: bool,
    ) -> None:
        self.packet = packet
        self.keyed = keyed
        """Whether only the same user may send it again: its key is the user's."""
        self.sent = False
        self._kind = kind
        self._answered = answered
        self._done = trio.Event()
        self._result: _T | None = None
        self._fault: Exception | None = None

    def acknowledged(self, answer: dict[str, Any]) -> None:
        if "error" in answer:
            fault = read_result(answer["error"], Fault)
            self.fail(client.Refused(fault.code, fault.message, fault.retry_ms))
            return
        self._result = read(answer["ok"], self._kind)
        if self._answered is not None:
            self._answered(self._result)
        self._done.set()

    def fail(self, fault: Exception) -> None:
        self._fault = fault
        self._done.set()

    async def outcome(self) -> _T:
        """Wait for the answer. Raises what `fail` was given, or trio.TooSlowError."""
        with trio.fail_after(patience()):
            await self._done.wait()
        if self._fault is not None:
            raise self._fault
        assert self._result is not None  # noqa: S101  done without a fault
        return self._result


def read(given: object, kind: type[_T]) -> _T:
    """Read an answer that was decoded to plain objects as ``kind``."""
    return read_result(given, kind)
