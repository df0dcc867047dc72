"""One client's connection to the chat: its user, its rooms, and what is sent to it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import trio
from msgspec import Struct
from msgspec.structs import asdict

from chatd import __version__
from chatd.bus import Codec
from chatd.chat.actor import Actor
from chatd.chat.chat import Chat
from chatd.chat.expiry import Expiry
from chatd.chat.membership import Membership, Outbox, StartSoon
from chatd.chat.names import NICK_CHARACTERS, room_name
from chatd.chat.rights import check_may_read, may_read
from chatd.chat.rooms import Room
from chatd.chat.tokens import Grant
from chatd.chat.user import User
from chatd.chat.users import Login
from chatd.model import INTERNAL, UNAUTHORIZED, Close, ExitReason, Refused
from chatd.protocol import events
from chatd.timers import Timer

__all__ = ["Connection", "Traffic"]


class Traffic(Struct, frozen=True):
    """What went over a connection, both ways."""

    bytes_in: int
    bytes_out: int
    messages_in: int
    messages_out: int


class Connection(Actor):
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
        super().__init__(
            chat,
            connection_id,
            outbox,
            address=address,
            limit_key=limit_key,
            transport=transport,
            protocol=protocol,
            last_key=last_key,
        )
        self.codec = codec
        self.start_soon = start_soon
        # A longer one is no nick, and may be of any length.
        self.nick = None if nick is None else nick[: NICK_CHARACTERS + 1]
        self.end = end
        self.moved = moved
        self.nick_notice: str | None = None
        """Says why the nick is not the one that the client asked for."""
        self.memberships: dict[str, Membership] = {}
        """The rooms that it is in, by their keys."""
        self.opened = trio.current_time()
        self._first_guest: User | None = None
        self._timer: Timer | None = None
        self._by_written_name: dict[str, Membership] = {}
        chat.connections.add(self)
        chat.flood.enter(limit_key)
        chat.arrivals.connected(self)
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

    def renewed(self) -> None:
        """Do what a protocol needs after the event ``epoch``, beside sending it: mostly nothing."""

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
        self.chat.arrivals.gone(self)
        self.chat.disconnected.notify()
        self.chat.flood.exit(self.limit_key)
        if self._timer is not None:
            self._timer.cancel()
        if self._user is not None:
            self.chat.users.detach(self._user, self)
        # They belong to what carries the connection and refers to it: only the garbage collector
        # would free both.
        self.end = self.start_soon = _closed
        self.moved = None


def _closed(*_arguments: object) -> None:
    """Do nothing: the connection is closed."""
