"""One client's connection to the chat: its user, its rooms, and its pending commands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, Literal

import trio
from msgspec import Struct
from msgspec.structs import asdict

from chatd import __version__
from chatd.budgets import REFUSALS_BURST, REFUSALS_PER_SECOND, Bucket
from chatd.bus import Codec, Submission
from chatd.chat.chat import Chat
from chatd.chat.expiry import Expiry
from chatd.chat.membership import Membership, Outbox, StartSoon
from chatd.chat.names import NICK_CHARACTERS, room_name
from chatd.chat.replies import Commit, SendAnswer
from chatd.chat.rights import check_may_read, may_read
from chatd.chat.rooms import Room
from chatd.chat.sanctions import Sanction
from chatd.chat.tokens import Grant
from chatd.chat.users import Login, User
from chatd.model import INTERNAL, UNAUTHORIZED, Close, ExitReason, Refusal, Refused
from chatd.protocol import events
from chatd.timers import Timer

__all__ = ["Connection", "Traffic"]

BY_RIGHT: Final = frozenset({"unauthorized", "forbidden", "muted", "banned"})
"""The codes of refusals that are logged: somebody tried what they have no right to."""

MAX_UNANSWERED: Final = 64
"""How many commands may wait for their commit before reading from this client pauses."""


class Traffic(Struct, frozen=True):
    """What went over a connection, both ways."""

    bytes_in: int
    bytes_out: int
    messages_in: int
    messages_out: int


class Connection:
    """One client's connection. Unauthenticated until ``auth`` if guests are not allowed.

    Args:
        chat: The chat.
        connection_id: Names it in the log.
        outbox: Takes the frames for the client. It never blocks and never raises.
        codec: Encodes events for all clients of its protocol.
        start_soon: Runs a task for as long as the connection lasts.
        address: The client's address, for the log.
        limit_key: The address or network that limits and bans see; empty if none applies.
        last_key: Returns that of the last request, where it may change; by default ``limit_key``.
        transport: For the log.
        protocol: For the log.
        nick: The nick that the client asked for.
        end: Closes the connection. Whoever closes it then calls `close`, once.
        login: The user of the token that the client came with, or a new guest; None if it has to
            authenticate first.
        moved: Called when it has entered or left a room, or gets a room's live events.
    """

    def __init__(
        self,
        chat: Chat,
        connection_id: str,
        outbox: Outbox,
        codec: Codec,
        start_soon: StartSoon,
        *,
        address: str,
        limit_key: str,
        transport: str,
        protocol: str,
        nick: str | None,
        end: Callable[[Close, str], None],
        login: Login | None = None,
        last_key: Callable[[], str] | None = None,
        moved: Callable[[], None] | None = None,
    ) -> None:
        self.chat = chat
        self.id = connection_id
        self.outbox = outbox
        self.codec = codec
        self.start_soon = start_soon
        self.address = address
        self.limit_key = limit_key
        self._last_key = last_key
        self.transport = transport
        self.protocol = protocol
        # A longer one is no nick, and may be of any length.
        self.nick = None if nick is None else nick[: NICK_CHARACTERS + 1]
        self.end = end
        self.moved = moved
        self.nick_notice: str | None = None
        """Says why the nick is not the one that the client asked for."""
        self.grant: Grant | None = None
        """The rights from the client's token; None for a guest."""
        self.op = False
        """Whether it has the rights of an operator."""
        self.memberships: dict[str, Membership] = {}
        """The rooms that it is in, by their keys."""
        self.opened = trio.current_time()
        self.unanswered = 0
        self.unseen = 0
        """Events of its commands that are committed, but not fanned out yet."""
        self.progress: trio.Event | None = None
        """Set when one of these two decreases. Only the task that reads from the client waits."""
        self._user: User | None = None
        self._first_guest: User | None = None
        self._timer: Timer | None = None
        self._by_written_name: dict[str, Membership] = {}
        self._refusals: Bucket | None = None
        """What may still be refused without a pause; None before the first refusal."""
        self.log = chat.log.bind(
            connection=connection_id, address=address, transport=transport, protocol=protocol
        )
        chat.connections.add(self)
        chat.flood.enter(limit_key)
        if login is not None:
            self.nick_notice = login.nick_notice
            if login.grant is None:
                self._first_guest = login.user
            self._set_user(login.user, login.grant)
        else:
            timeout = chat.settings.limits.handshake_seconds
            self._timer = chat.timers.add(self.opened + timeout, self._auth_timed_out, self.fault)
        self.log.emit("connect")

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

    @property
    def provisional_guest(self) -> User | None:
        """The guest created for this connection, if no other connection shares it."""
        guest = self._first_guest
        alone = guest is self._user and guest is not None and guest.connections == {self}
        return guest if alone else None

    def switch_user(self, user: User, grant: Grant | None = None) -> None:
        """Become another user. A provisional guest is dropped."""
        before, users = self._user, self.chat.users
        for membership in list(self.memberships.values()):
            self.exit(membership)
        if before is not None:
            if before is self.provisional_guest and not before.rooms:
                users.forget(before)
            else:
                users.detach(before, self)
        self._set_user(user, grant)
        self.log.emit("auth")

    def renew_grant(self, grant: Grant) -> None:
        """Use another token of the same user, and leave the rooms that it does not let read."""
        self._set_grant(grant)
        self.log.emit("auth")
        for membership in list(self.memberships.values()):
            try:
                check_may_read(self, membership.room.key)
            except Refused as refused:
                self.exit(membership)
                self.notify(events.Notice(f"You left {membership.room.name}. {refused}"))

    def apply_settings(self) -> None:
        """Follow settings that have changed."""
        operators = self.chat.settings.chat.operators
        op = self.grant is not None and (self.grant.op or self.grant.user in operators)
        if op != self.op:
            self.op = op
            self.chat.roster.ranked(self.user)

    def bind_log(self) -> None:
        """Bind the user and the current nick to the lines that this connection logs."""
        self.log = self.log.bind(user=self.user.id, nick=self.user.nick.display)

    def _set_user(self, user: User, grant: Grant | None) -> None:
        self._user = user
        self.bind_log()
        self._set_grant(grant)
        self.chat.users.attach(user, self)
        for room in self.chat.rooms.direct(user.id):
            self.enter_direct(room)

    def _set_grant(self, grant: Grant | None) -> None:
        self.grant = grant
        self.apply_settings()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if grant is not None:
            expiry = Expiry(self, grant)
            self._timer = self.chat.timers.add(trio.current_time(), expiry.fire, self.fault)

    def _auth_timed_out(self, now: float) -> None:
        self.end(UNAUTHORIZED, "not authenticated in time")

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

    # ---- what is sent to it

    def hello(self) -> events.Hello:
        """Return the first event for this client."""
        user, limits = self._user, self.chat.settings.limits
        rate, burst = limits.messages_per_second, limits.messages_burst
        return events.Hello(
            server=f"chatd/{__version__}",
            session=None if user is None else self.chat.users.session(user),
            user=None if user is None else user.id,
            nick=None if user is None else user.nick.display,
            op=self.op,
            limits=events.Limits(
                limits.message_bytes,
                None if rate == "off" else rate,
                None if burst == "off" else burst,
            ),
        )

    def notify(self, *items: Any) -> None:
        """Send events to this client alone.

        Any task may call it: if they cannot be encoded, only this connection is closed.
        """
        try:
            block = self.codec.encode("", items)
        except Exception as error:  # the connection's boundary
            self.fault(error)
            return
        if block:
            self.outbox.offer(block, len(items))

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

    def publish(self, commit: Commit, answer: SendAnswer) -> Awaitable[None] | None:
        """Hand an operation to the bus, which makes its outcome the answer.

        Return None if that is done, or what must be awaited before the client's next command: too
        much of this client's is unanswered, the bus is full, or the commit is a barrier.
        """
        commit.connection, commit.answer = self, answer
        if self.unanswered < MAX_UNANSWERED and not (commit.before or commit.barrier):
            with suppress(trio.WouldBlock):
                self.chat.bus.publish_nowait(commit)
                self.unanswered += 1
                return None
        return self._publish(commit)

    async def _publish(self, commit: Commit) -> None:
        while self.unanswered >= MAX_UNANSWERED:
            await self._progressed()
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
            await self.flushed()

    async def flushed(self) -> None:
        """Wait until every command is answered, and every event that they caused is fanned out."""
        while self.unanswered or self.unseen:
            await self._progressed()

    async def _progressed(self) -> None:
        self.progress = trio.Event()
        await self.progress.wait()
        self.progress = None

    # ---- rooms

    def membership(self, written_name: str) -> Membership | None:
        """Return the membership in a room, however its name is written; None if there is none."""
        if membership := self._by_written_name.get(written_name):
            return membership
        with suppress(Refused):
            return self.memberships.get(room_name(written_name).key)
        return None

    @property
    def joined(self) -> int:
        """The number of rooms that it joined. Rooms of direct messages are not joined."""
        return sum(not membership.room.direct for membership in self.memberships.values())

    def enter(self, room: Room) -> Membership:
        """Enter a room. Nothing is delivered until the membership is started."""
        membership = Membership(room, self, self.user)
        room.enter(self.user, membership)
        self.memberships[room.key] = self._by_written_name[room.name] = membership
        if not room.direct:
            self.log.emit("join", room=room.name)
        if self.moved is not None:
            self.moved()
        return membership

    def enter_direct(self, room: Room) -> None:
        """Enter a room of direct messages, if it may and is not in it yet."""
        if room.key not in self.memberships and may_read(self, room.key):
            self.enter(room).start(room.feed.visible)

    def exit(self, membership: Membership, reason: ExitReason = "leave") -> None:
        """Leave a room."""
        room = membership.room
        del self.memberships[room.key], self._by_written_name[room.name]
        membership.stop()
        room.exit(membership.user, membership, reason)
        if not room.direct:
            self.log.emit("leave", room=room.name, reason=reason)
        if self.moved is not None:
            self.moved()

    def kick(self, membership: Membership, reason: Literal["kicked", "banned"]) -> None:
        """Leave a room on an operator's command, and send ``left`` to this client too."""
        user, room = self.user, membership.room
        self.exit(membership, reason)
        self.notify(events.Left(room.name, user.nick.display, user.id, reason))

    # ---- the end

    def fault(self, error: Exception) -> None:
        """Log an exception that this connection's code raised elsewhere, and close it with 1011."""
        self.log.fault(error)
        self.end(INTERNAL, INTERNAL.reason)

    def close(self, close: Close, reason: str, traffic: Traffic) -> None:
        """Leave everything, once: the client is gone, or the daemon ends."""
        self.chat.closes[close.code] += 1
        for membership in self.memberships.values():
            membership.stop()
            membership.room.lose(membership.user, membership)
        self.memberships.clear()
        self._by_written_name.clear()
        self.log.emit(
            "disconnect",
            code=close.code,
            reason=reason or close.reason,
            seconds=round(trio.current_time() - self.opened, 3),
            **asdict(traffic),
        )
        self.chat.connections.discard(self)
        self.chat.disconnected.notify()
        self.chat.flood.exit(self.limit_key)
        if self._timer is not None:
            self._timer.cancel()
        if self._user is not None:
            self.chat.users.detach(self._user, self)
