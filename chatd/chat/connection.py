"""One client's connection as the chat knows it: who it is, where it is, what it has unanswered."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, Literal

import trio
from msgspec import Struct
from msgspec.structs import asdict

from chatd import __version__
from chatd.bus import Codec, Submission
from chatd.chat.chat import Chat
from chatd.chat.expiry import Expiry
from chatd.chat.membership import Membership, Outbox, StartSoon
from chatd.chat.names import room_name
from chatd.chat.replies import Commit, SendAnswer
from chatd.chat.rights import check_may_read, may_read
from chatd.chat.rooms import Room
from chatd.chat.sanctions import Sanction
from chatd.chat.tokens import Grant
from chatd.chat.users import Came, User
from chatd.model import INTERNAL, UNAUTHORIZED, Close, Refused
from chatd.protocol import events
from chatd.timers import Timer

__all__ = ["Connection", "Traffic"]

MAX_UNANSWERED: Final = 64
"""Commands that may wait for their commit; then nothing more is read from this client."""


class Traffic(Struct, frozen=True):
    """What went over a connection, both ways."""

    bytes_in: int
    bytes_out: int
    messages_in: int
    messages_out: int


class Connection:
    """A client of the chat, from its making on somebody or, where guests are off, nobody yet.

    ``counted_as`` is whom limits by address count it for; empty where they do not hold.
    ``came`` is who it is by a token that it came with. ``nick`` is what it would like to be called;
    ``why_not`` says why it is called otherwise, if so. ``end`` closes the client's connection;
    whoever closes it calls ``close``, once.
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
        counted_as: str,
        transport: str,
        protocol: str,
        nick: str | None,
        end: Callable[[Close, str], None],
        came: Came | None = None,
    ) -> None:
        self.chat = chat
        self.id = connection_id
        self.outbox = outbox
        self.codec = codec
        self.start_soon = start_soon
        self.address = address
        self.counted_as = counted_as
        self.transport = transport
        self.protocol = protocol
        self.nick = nick
        self.end = end
        self.why_not: str | None = None
        self.grant: Grant | None = None
        self._user: User | None = None
        self._guest: User | None = None
        self._timer: Timer | None = None
        self.memberships: dict[str, Membership] = {}
        self._spelled: dict[str, Membership] = {}
        self.opened = trio.current_time()
        self.unanswered = 0
        self._unseen = 0
        self._progress = trio.Event()
        self.log = chat.log.bind(
            connection=connection_id, address=address, transport=transport, protocol=protocol
        )
        chat.connections.add(self)
        chat.flood.enter(counted_as)
        if came is not None:
            self.why_not = came.why_not
            self._be(came.user, came.grant)
        elif chat.guests:
            self._guest, self.why_not = chat.users.guest(nick)
            self._be(self._guest, None)
        else:
            timeout = chat.settings.limits.handshake_seconds
            self._timer = chat.timers.add(self.opened + timeout, self._auth_timed_out, self.fault)
        self.log.emit("connect")

    @property
    def known(self) -> bool:
        """Whether it is somebody. Who is nobody may do nothing but say who it is."""
        return self._user is not None

    @property
    def stranger(self) -> User | None:
        """The guest it began as, where nobody else is that guest; None where it is no such."""
        guest = self._guest
        alone = guest is self._user and guest is not None and guest.connections == {self}
        return guest if alone else None

    @property
    def user(self) -> User:
        """Who it is; asked of a connection that is ``known``."""
        assert self._user is not None  # noqa: S101  see `rules.perform`
        return self._user

    @property
    def op(self) -> bool:
        """Whether it is an operator's."""
        grant = self.grant
        return grant is not None and (grant.op or grant.user in self.chat.settings.chat.operators)

    def bind_log(self) -> None:
        """Put the user, under its present nick, into the lines that this connection logs."""
        self.log = self.log.bind(user=self.user.id, nick=self.user.nick.shown)

    def banned(self, room: str = "") -> Sanction | None:
        """Tell what keeps it out of a room, or of everything; nothing does that to operators."""
        if self.op:
            return None
        user = self._user
        return self.chat.sanctions.ban(
            room,
            "" if user is None else user.id,
            self.counted_as,
            guest=user is None or not user.subject,
        )

    def charge_message(self, size: int) -> None:
        """Count a message of ``size`` bytes. Refused, and not counted, if too many."""
        limits = self.chat.settings.limits
        if self.op and limits.operators_exempt:
            return
        if wait := self.chat.flood.says(self.user, self.counted_as, size, limits):
            raise Refused("rate_limited", "that is too much at once", wait)

    def charge_page(self) -> None:
        """Count a page or a list. Refused, and not counted, if too many."""
        limits = self.chat.settings.limits
        if self.op and limits.operators_exempt:
            return
        if wait := self.user.asks(limits):
            raise Refused("rate_limited", "that is asked too often", wait)

    def hello(self) -> events.Hello:
        """Give the first thing to be said to this client."""
        user, limits = self._user, self.chat.settings.limits
        rate, burst = limits.messages_per_second, limits.messages_burst
        return events.Hello(
            server=f"chatd/{__version__}",
            session=None if user is None else self.chat.users.secret(user),
            user=None if user is None else user.id,
            nick=None if user is None else user.nick.shown,
            op=self.op,
            limits=events.Limits(
                limits.message_bytes,
                None if rate == "off" else rate,
                None if burst == "off" else burst,
            ),
        )

    def become(self, user: User, grant: Grant | None = None) -> None:
        """Be somebody from now on, in place of the guest it began as, or of nobody."""
        before, users = self._user, self.chat.users
        for membership in list(self.memberships.values()):
            self.exit(membership)
        if before is not None:
            if before is self.stranger and not before.rooms:
                users.forget(before)
            else:
                users.detach(before, self)
        self._be(user, grant)
        self.log.emit("auth")

    def renew(self, grant: Grant) -> None:
        """Have another token of the same user's. What it does not let read is left, and told."""
        self._bear(grant)
        self.log.emit("auth")
        for membership in list(self.memberships.values()):
            try:
                check_may_read(self, membership.room.feed.key)
            except Refused as refused:
                self.exit(membership)
                self.tell(events.Notice(f"{membership.room.name}: {refused}"))

    def _be(self, user: User, grant: Grant | None) -> None:
        self._user = user
        self.bind_log()
        self._bear(grant)
        self.chat.users.attach(user, self)
        self._enter_directs()
        self.chat.stir()

    def _bear(self, grant: Grant | None) -> None:
        self.grant = grant
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if grant is not None:
            expiry = Expiry(self, grant, self.chat.now)
            self._timer = self.chat.timers.add(trio.current_time(), expiry.fire, self.fault)

    def _auth_timed_out(self, now: float) -> None:
        self.end(UNAUTHORIZED, "nobody said who this is in time")

    def tell(self, *items: Any) -> None:
        """Say something to this client alone."""
        if block := self.codec.encode("", items):
            self.outbox.offer(block, len(items))

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

    def committed(self, position: int) -> None:
        """Note that an event of this client's is committed, and about to be fanned out."""
        self._unseen += 1
        self.chat.said_by(position, self)

    def shown(self) -> None:
        """Note that one of them has been fanned out."""
        self._unseen -= 1
        self.wake()

    def wake(self) -> None:
        """Let the connection's reader look again whether it may go on."""
        self._progress.set()

    async def flushed(self) -> None:
        """Wait until every command is answered, and every event that they caused is fanned out."""
        while self.unanswered or self._unseen:
            await self._progressed()

    async def _progressed(self) -> None:
        # Only the connection's reader task ever waits here.
        self._progress = trio.Event()
        await self._progress.wait()

    # ---- rooms

    def member(self, spelled: str) -> Membership | None:
        """Find the room this connection is in, however its name is written."""
        if membership := self._spelled.get(spelled):
            return membership
        try:
            return self.memberships.get(room_name(spelled).fold)
        except Refused:
            return None

    @property
    def joined(self) -> int:
        """How many rooms it joined: direct messages' are not joined."""
        return sum(not membership.room.direct for membership in self.memberships.values())

    def enter(self, room: Room) -> Membership:
        """Be in a room from now on."""
        membership = Membership(room, self)
        room.enter(self.user, membership, self.chat.settings.limits.presence_members)
        self.memberships[room.feed.key] = self._spelled[room.name] = membership
        self.chat.stir()
        if not room.direct:
            self.log.emit("join", room=room.name)
        return membership

    def enter_direct(self, room: Room, /) -> None:
        """Be in a room of direct messages from now on, if it is not and may be."""
        if room.feed.key not in self.memberships and may_read(self, room.feed.key):
            self.enter(room).start(room.feed.visible)

    def _enter_directs(self) -> None:
        for room in self.chat.rooms.direct(self.user.id):
            self.enter_direct(room)

    def exit(
        self, membership: Membership, reason: Literal["leave", "kicked", "banned"] = "leave"
    ) -> None:
        """Be in it no more, by one's own will or an operator's."""
        room = membership.room
        del self.memberships[room.feed.key], self._spelled[room.name]
        membership.stop()
        crowd = self.chat.settings.limits.presence_members
        room.exit(self.user, membership, None, crowd, reason)
        if not room.direct:
            self.log.emit("leave", room=room.name, reason=reason)
        self.chat.rooms.release(room)
        self.chat.stir()

    def put_out(self, membership: Membership, reason: Literal["kicked", "banned"]) -> None:
        """Be put out of it: told as the others are, for it is not asked."""
        user, room = self.user, membership.room
        self.exit(membership, reason)
        self.tell(events.Left(room.name, user.nick.shown, user.id, reason))

    # ---- the end

    def fault(self, error: Exception) -> None:
        """Log an exception that this connection's code raised elsewhere, and close it with 1011."""
        self.log.emit(
            "fault", error=repr(error), traceback="".join(traceback.format_exception(error))
        )
        self.end(INTERNAL, INTERNAL.reason)

    def close(self, close: Close, reason: str, traffic: Traffic) -> None:
        """Leave everything, once: the client is gone, or the daemon ends."""
        settings = self.chat.settings
        self.chat.closes[close.code] += 1
        for membership in self.memberships.values():
            room = membership.room
            membership.stop()
            grace = None if room.direct else settings.chat.presence_grace_seconds
            room.exit(self.user, membership, grace, settings.limits.presence_members)
            if room.direct:
                self.chat.rooms.release(room)
        self.memberships.clear()
        self._spelled.clear()
        self.log.emit(
            "disconnect",
            code=close.code,
            reason=reason or close.reason,
            seconds=round(trio.current_time() - self.opened, 3),
            **asdict(traffic),
        )
        self.chat.connections.discard(self)
        self.chat.disconnected.notify()
        self.chat.flood.exit(self.counted_as)
        if self._timer is not None:
            self._timer.cancel()
        if self._user is not None:
            self.chat.users.detach(self._user, self)
        self.chat.stir()
