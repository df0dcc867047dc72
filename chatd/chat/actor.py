"""A client as the rules see it: its user, its rights, and its commands that are not answered yet.

A `Connection` stays, and is in rooms. A `Visitor` exists for a single request.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from chatd.budgets import REFUSALS_BURST, REFUSALS_PER_SECOND, Bucket
from chatd.bus import Submission
from chatd.chat.roster import unreachable
from chatd.model import Refusal, Refused

if TYPE_CHECKING:
    from chatd.chat.chat import Chat
    from chatd.chat.membership import Outbox
    from chatd.chat.replies import Commit, SendAnswer
    from chatd.chat.sanctions import Sanction
    from chatd.chat.tokens import Grant
    from chatd.chat.user import User

__all__ = ["Actor"]

BY_RIGHT: Final = frozenset({"unauthorized", "forbidden", "muted", "banned"})
"""The codes of refusals that are logged: somebody tried what they have no right to."""

MAX_UNANSWERED: Final = 64
"""How many commands may wait for their commit before reading from this client pauses."""


class Actor(ABC):
    """A client that gives commands.

    Args:
        chat: The chat.
        connection_id: Names it in the log.
        outbox: Takes the frames for the client. It never blocks and never raises.
        address: The client's address, for the log.
        limit_key: The address or network that limits and bans see; empty if none applies.
        transport: For the log.
        protocol: For the log.
        last_key: Returns that of the last request, where it may change; by default ``limit_key``.
    """

    def __init__(
        self,
        chat: Chat,
        connection_id: str,
        outbox: Outbox,
        *,
        address: str,
        limit_key: str,
        transport: str,
        protocol: str,
        last_key: Callable[[], str] | None = None,
    ) -> None:
        self.chat = chat
        self.id = connection_id
        self.outbox = outbox
        self.address = address
        self.limit_key = limit_key
        self._last_key = last_key
        self.transport = transport
        self.protocol = protocol
        self.grant: Grant | None = None
        """The rights from the client's token; None for a guest."""
        self.op = False
        """Whether it has the rights of an operator."""
        self.unanswered = 0
        self.unseen = 0
        """Events of its commands that are committed, but not fanned out yet."""
        self.progress: trio.Event | None = None
        """Set when one of these two decreases. Only the task that reads from the client waits."""
        self._user: User | None = None
        self._refusals: Bucket | None = None
        """What may still be refused without a pause; None before the first refusal."""
        self.log = chat.log.bind(
            connection=connection_id, address=address, transport=transport, protocol=protocol
        )

    # ---- who

    @property
    def authenticated(self) -> bool:
        """Whether it has a user. Without one, only ``auth`` is accepted."""
        return self._user is not None

    @property
    def user(self) -> User:
        """The user. Raises Refused until there is one."""
        if self._user is None:
            raise Refused("unauthorized", "Authenticate first: send auth with a token.")
        return self._user

    def apply_settings(self) -> None:
        """Follow settings that have changed."""
        operators = self.chat.settings.chat.operators
        op = self.grant is not None and (self.grant.op or self.grant.user in operators)
        if op != self.op:
            self.op = op
            self.chat.users.ranks += 1
            self.chat.roster.ranked(self.user)

    def bind_log(self) -> None:
        """Bind the user and the current nick to the lines that this client logs."""
        self.log = self.log.bind(user=self.user.id, nick=self.user.nick.display)

    # ---- what it may do

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses and networks that bans see: the first one, and the last if it changed."""
        last = self.limit_key if self._last_key is None else self._last_key()
        return tuple(key for key in dict.fromkeys((self.limit_key, last)) if key)

    def banned(self, room: str = "") -> Sanction | None:
        """Return what bans it from a room, or from the chat. Operators are never banned."""
        if self.op or not self.chat.sanctions.held:
            return None
        user = self._user
        user_id, guest = ("", True) if user is None else (user.id, not user.subject)
        sanctions = self.chat.sanctions
        for address in self.addresses or ("",):
            if ban := sanctions.ban(room, user_id, address, guest=guest):
                return ban
        return None

    # ---- what is refused

    def refused(self, refusal: Refusal, command: str, room: str | None = None) -> float:
        """Count a refused command, and log it if the client has no right to it.

        Args:
            refusal: The answer.
            command: The command's name; "unknown" if it is none.
            room: The room that it is about, as the client wrote it.

        Returns:
            The seconds to wait before the client's next command, mostly 0: one that is refused
            again and again is read more slowly.
        """
        chat, code = self.chat, refusal.code
        chat.refusals[code] += 1
        chat.refused_commands[command, code] += 1
        if code in BY_RIGHT:
            self.log.emit("refused", command=command, code=code, reason=refusal.message, room=room)
        if self._refusals is None:
            self._refusals = Bucket()
        wait = self._refusals.take(1, REFUSALS_PER_SECOND, REFUSALS_BURST)
        if wait:
            self._refusals.put_back(-1)  # it was refused all the same
        return wait / 1000

    # ---- what is under way

    def publish(
        self, commit: Commit, command: str, answer: SendAnswer, *, quiet: bool = False
    ) -> Awaitable[None] | None:
        """Hand an operation to the bus, which makes its outcome the answer.

        Args:
            commit: The operation.
            command: The command's name.
            answer: Called with the answer or the refusal.
            quiet: Whether to call it with a refusal only.

        Returns:
            None if that is done, or what must be awaited before the client's next command: too much
            of this client's is unanswered, the bus is full, or the commit is a barrier.
        """
        commit.connection, commit.command = self, command
        commit.answer, commit.quiet = answer, quiet
        if self.unanswered < MAX_UNANSWERED and not (commit.before or commit.barrier):
            try:
                self.chat.bus.publish_nowait(commit)
            except trio.WouldBlock:
                pass  # wait for room in the bus
            else:
                self.unanswered += 1
                return None
        return self._publish(commit)

    async def _publish(self, commit: Commit) -> None:
        while self.unanswered >= MAX_UNANSWERED:
            await self.progressed()
        self.unanswered += 1
        try:
            for operation in commit.before:
                await self.chat.bus.publish(Submission(operation))
            await self.chat.bus.publish(commit)
        except BaseException:
            self.unanswered -= 1
            if commit.undo is not None:
                commit.undo()
            raise
        if commit.barrier:
            with suppress(Refused):  # this command has its answer; the next one waits again
                await self.flushed()

    async def flushed(self) -> None:
        """Wait until every command is answered, and every event that they caused is fanned out.

        Raises:
            Refused: The events do not come back from the store that other daemons share.
        """
        if not (self.unanswered or self.unseen):
            return
        with trio.move_on_after(self.chat.roster.fan_out_seconds) as waiting:
            while self.unanswered or self.unseen:
                await self.progressed()
        if waiting.cancelled_caught:
            raise unreachable()

    async def progressed(self) -> None:
        """Wait until a command is answered, or an event fanned out."""
        self.progress = trio.Event()
        await self.progress.wait()
        self.progress = None

    # ---- the end

    @abstractmethod
    def fault(self, error: Exception) -> None:
        """Log an exception that this client's code raised elsewhere, and end what it was doing."""
