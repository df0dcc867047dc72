"""The result of a rule: an answer, or an operation that must be committed before the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from msgspec import Struct

from chatd.bus import Submission
from chatd.model import Operation, Outcome, Receipt, Refusal
from chatd.protocol import commands

if TYPE_CHECKING:
    from chatd.chat.actor import Actor

__all__ = ["Commit", "Reply", "SendAnswer"]

SendAnswer: TypeAlias = Callable[[commands.Result | Refusal], None]
"""Sends the answer of one command to its client, once. It may be called long after `perform`."""

_A = TypeVar("_A")


def _nothing() -> None: ...


class Reply(Struct, Generic[_A], frozen=True):
    """An answer; None where a command has none.

    ``then`` is called in the same step as the answer is sent: no event comes between the two.
    """

    answer: _A
    then: Callable[[], None] = _nothing


class Commit(Submission):
    """An operation whose outcome is the answer.

    Args:
        operation: What to commit.
        to_answer: Makes the answer once it is committed. The event is not fanned out yet.
        then: Called after the answer was sent, before the event is fanned out.
        undo: Called if the operation was not committed.
        before: Operations to submit first. Their outcome is not awaited.
        barrier: Whether the connection's next command has to wait until this one is fanned out.
    """

    __slots__ = (
        "answer",
        "barrier",
        "before",
        "command",
        "connection",
        "quiet",
        "then",
        "to_answer",
        "undo",
    )

    # Set by `Actor.publish`.
    connection: Actor
    command: str
    answer: SendAnswer
    quiet: bool

    def __init__(
        self,
        operation: Operation,
        to_answer: Callable[[Any], commands.Result],
        *,
        then: Callable[[], None] | None = None,
        undo: Callable[[], None] | None = None,
        before: Sequence[Operation] = (),
        barrier: bool = False,
    ) -> None:
        super().__init__(operation)
        self.to_answer = to_answer
        self.then = then
        self.undo = undo
        self.before = before
        self.barrier = barrier

    def resolve(self, outcome: Outcome) -> None:
        connection = self.connection
        connection.unanswered -= 1
        if connection.progress is not None:
            connection.progress.set()
        if isinstance(outcome, Receipt):
            if not outcome.duplicate:
                connection.unseen += 1
                connection.chat.senders[outcome.event.position] = connection
        elif isinstance(outcome, Refusal):
            if self.undo is not None:
                self.undo()
            connection.refused(outcome, self.command, getattr(self.operation, "room", None))
            self.answer(outcome)
            return
        try:
            if not self.quiet:
                self.answer(self.to_answer(outcome))
        finally:
            # The event reaches others even if this client cannot be answered.
            if self.then is not None:
                self.then()

    def fault(self, error: Exception) -> None:
        self.connection.fault(error)
