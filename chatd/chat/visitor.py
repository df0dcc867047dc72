"""A client for the time of a single request: it enters no room, and no events are sent to it."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from typing import Any

import trio

from chatd.chat.actor import Actor
from chatd.chat.chat import Chat
from chatd.chat.replies import Commit, Reply
from chatd.chat.users import Login
from chatd.model import Refusal, Refused
from chatd.protocol import commands

__all__ = ["NOWHERE", "Visitor", "visiting"]


class _Nowhere:
    """An outbox that drops everything."""

    waiting = 0

    def offer(self, block: Any, messages: int = 1) -> None:
        """Drop a block."""

    @staticmethod
    def offer_each(outboxes: Iterable[Any], block: Any, messages: int = 1) -> None:
        """Drop a block."""

    def offer_droppable(self, block: Any, messages: int = 1) -> None:
        """Drop a block."""

    async def drained(self) -> None:
        """Return: nothing waits here."""
        await trio.lowlevel.checkpoint()


NOWHERE = _Nowhere()


class Visitor(Actor):
    """The client of one request; made by `visiting`."""

    def __init__(
        self,
        chat: Chat,
        connection_id: str,
        login: Login,
        *,
        address: str,
        limit_key: str,
        transport: str,
    ) -> None:
        super().__init__(
            chat,
            connection_id,
            NOWHERE,
            address=address,
            limit_key=limit_key,
            transport=transport,
            protocol=transport,
        )
        self._user = login.user
        self.grant = login.grant
        self._outcome: commands.Result | Refusal | None = None
        self._error: Exception | None = None
        self.apply_settings()
        self.bind_log()

    async def outcome(self, result: Reply[Any] | Commit, command: str) -> Any:
        """Return the answer of a rule's result, once its event has been fanned out.

        Args:
            result: What the rule returned.
            command: The command's name.
        """
        if isinstance(result, Reply):
            result.then()
            return result.answer
        pending = self.publish(result, command, self._answer)
        if pending is not None:
            await pending
        with suppress(Refused):  # the event has not come back yet
            await self.flushed()
        while self.unanswered:  # commits before this one have taken that long
            await self.progressed()
        if self._error is not None:
            raise self._error
        return self._outcome

    def fault(self, error: Exception) -> None:
        """Let `outcome` raise an exception that was raised elsewhere."""
        self._error = error

    def _answer(self, answer: commands.Result | Refusal) -> None:
        self._outcome = answer


@contextmanager
def visiting(
    chat: Chat,
    connection_id: str,
    login: Login,
    *,
    address: str,
    limit_key: str,
    transport: str,
) -> Generator[Visitor]:
    """Make a visitor for one request, which limits by address count.

    Args:
        chat: The chat.
        connection_id: Names the client in the log.
        login: The user.
        address: The client's address, for the log.
        limit_key: The address or network that limits and bans see; empty if none applies.
        transport: For the log.
    """
    chat.flood.enter(limit_key)
    try:
        yield Visitor(
            chat,
            connection_id,
            login,
            address=address,
            limit_key=limit_key,
            transport=transport,
        )
    finally:
        chat.users.visited(login.user)
        chat.flood.exit(limit_key)
