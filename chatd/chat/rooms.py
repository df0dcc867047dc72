"""Rooms: their members, and the presence events about them.

A room exists while it has members; after that only its log is left. ``joined`` and ``left`` are
sent for a user's first and last connection. A user whose last connection was lost has a while to
return; in that case neither is sent.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from chatd.bus import Feed, Subscription
from chatd.chat.names import Name, room_name
from chatd.chat.user import User
from chatd.journal import Unavailable
from chatd.model import ExitReason, Head, Refused
from chatd.mutex import Mutex
from chatd.protocol import events
from chatd.protocol.commands import Member, RoomInfo
from chatd.protocol.pairs import users_of
from chatd.timers import Timer

if TYPE_CHECKING:
    from chatd.chat.actor import Actor
    from chatd.chat.chat import Chat
    from chatd.chat.membership import Membership

__all__ = ["Room", "Rooms"]

FIRST_MEMBERS: Final = 100
"""How many members are listed to everybody who joins."""

TOTALS_SECONDS: Final = 1.0
"""A crowded room's ``presence`` is sent at most this often."""


def _nick(user: User) -> str:
    return user.nick.key


def _member(user: User) -> Member:
    return Member(user.nick.display, user.id, user.op)


class Room:
    """A room with members, or that had some a moment ago."""

    __slots__ = (
        "_away",
        "_chat",
        "_first",
        "_first_ranks",
        "_here",
        "_index",
        "_spoke",
        "_total_at",
        "_total_timer",
        "direct",
        "feed",
        "key",
        "members",
        "members_at",
        "name",
        "topic",
    )

    def __init__(self, chat: Chat, feed: Feed, topic: str = "") -> None:
        self.feed = feed
        self.key = feed.key
        """The name by which the room is found."""
        self.name = feed.name
        """The name as it was written first."""
        self.topic = topic
        """The text of the last ``topic`` that was fanned out."""
        self.direct = self.key.startswith("@")
        """Whether it is a room of direct messages: two users, who are in it without joining."""
        self.members: dict[User, set[Membership]] = {}
        """The members, each with their memberships here: none if the connection was lost a moment
        ago, or if the user is in the room at other daemons only."""
        self.members_at = 0
        """The store's position at which the members at other daemons were read."""
        self._chat = chat
        self._here = 0
        """How many members are in the room here, or were a moment ago."""
        self._away: dict[User, Timer] = {}
        """Members whose last connection was lost. They are removed when their time is over."""
        self._index: list[User] = []
        """The members in the order of their nicks. Sorting 10,000 would take longer than a join."""
        self._first: list[Member] | None = None
        """The first members; None after one left or changed the nick."""
        self._first_ranks = 0
        """`Users.ranks` when they were listed."""
        self._spoke = chat.rooms.spoke.setdefault(self.key, {})
        self._total_at = -TOTALS_SECONDS
        self._total_timer: Timer | None = None

    def first_members(self) -> list[Member]:
        """Return the first members, in the order of their nicks.

        The list is kept: to make it anew for each client would be a tenth of the work of a join.
        """
        ranks = self._chat.users.ranks
        if self._first is None or self._first_ranks != ranks:
            self._first, self._first_ranks = self.member_list(), ranks
        return self._first

    def member_list(self, after: str = "", limit: int = FIRST_MEMBERS) -> list[Member]:
        """Return members in the order of their nicks, after the key ``after``."""
        start = bisect_right(self._index, after, key=_nick)
        return [_member(user) for user in self._index[start : start + limit]]

    def info(self) -> RoomInfo:
        return RoomInfo(self.name, len(self.members), self.feed.visible, self.topic)

    def slow_mode_wait(self, user: User, seconds: float) -> int:
        """Return the milliseconds until a user may send a message in slow mode; 0: now."""
        now = trio.current_time()
        while self._spoke and next(iter(self._spoke.values())) + seconds <= now:
            del self._spoke[next(iter(self._spoke))]
        if (last := self._spoke.get(user.id)) is not None:
            return math.ceil((last + seconds - now) * 1000)
        return 0

    def spoke(self, user_id: str, ago: float = 0) -> None:
        """Record that a user sent a message in slow mode, ``ago`` seconds before now."""
        self._spoke[user_id] = trio.current_time() - ago

    # ---- coming and going

    def enter(self, user: User, membership: Membership) -> None:
        """Add a connection."""
        self.add(user)
        memberships = self.members[user]
        known = bool(memberships)
        if away := self._away.pop(user, None):
            away.cancel()
            known = True
        memberships.add(membership)
        if not known:
            self._here += 1
            self._chat.roster.entered(self, user)

    def exit(self, user: User, membership: Membership, reason: ExitReason) -> None:
        """Remove a connection, and the user with the last one."""
        memberships = self.members[user]
        memberships.discard(membership)
        if not memberships:
            self._leave(user, reason)

    def lose(self, user: User, membership: Membership) -> None:
        """Remove a connection that ended. The user may come back within the grace period."""
        memberships = self.members[user]
        memberships.discard(membership)
        if memberships:
            return
        grace = 0 if self.direct else self._chat.settings.chat.presence_grace_seconds
        if grace:
            due = trio.current_time() + grace
            self._away[user] = self._chat.timers.add(due, partial(self._grace_over, user))
        else:
            self._leave(user, "lost")

    def _grace_over(self, user: User, now: float) -> None:
        del self._away[user]
        self._leave(user, "lost")

    def _leave(self, user: User, reason: ExitReason) -> None:
        """Note that a user is no longer here. The room is closed after the last one."""
        self._here -= 1
        self._chat.roster.exited(self, user, reason)
        self.close_if_empty()

    def close_if_empty(self) -> None:
        """Close the room if nobody is in it here, whoever is in it elsewhere."""
        if self._here:
            return
        members, self.members = self.members, {}
        self._index, self._first = [], None  # all at once: there may be many
        for each in members:
            del each.rooms[self]
            self._chat.users.unlisted(each)
        if self._total_timer is not None:
            self._total_timer.cancel()
        self._chat.rooms.close(self)

    def add(self, user: User) -> None:
        """Add a user to the members, without an event."""
        if user not in self.members:
            self.members[user] = set()
            user.rooms[self] = None
            self.add_to_index(user)

    def remove(self, user: User) -> None:
        """Remove a user from the members, without an event."""
        del self.members[user]
        user.rooms.pop(self, None)
        self.remove_from_index(user)
        self._chat.users.unlisted(user)

    def has_here(self, user: User) -> bool:
        """Return whether a user is in the room here, or was a moment ago."""
        return bool(self.members.get(user)) or user in self._away

    def announce_joined(self, user: User) -> None:
        """Send ``joined`` to the other members, or the new total if the room is crowded."""
        self._announce(events.Joined(self.name, user.nick.display, user.id, user.op), user)

    def announce_left(self, user: User, reason: ExitReason) -> None:
        """Send ``left`` to the other members, or the new total if the room is crowded."""
        self._announce(events.Left(self.name, user.nick.display, user.id, reason), user)

    def clear(self) -> None:
        """Remove the members whose connections are lost."""
        for user in list(self._away):
            self.dismiss(user)

    def dismiss(self, user: User) -> None:
        """Remove a member whose connections are lost, without waiting."""
        if away := self._away.pop(user, None):
            away.cancel()
            self._leave(user, "lost")

    def remove_from_index(self, user: User) -> None:
        """Remove a member from the index, before the nick changes."""
        place = bisect_left(self._index, user.nick.key, key=_nick)
        while self._index[place] is not user:  # two have one nick for a moment, elsewhere
            place += 1
        del self._index[place]
        if place < FIRST_MEMBERS:
            self._first = None

    def add_to_index(self, user: User) -> None:
        """Add a new member, or one whose nick has changed."""
        place = bisect_right(self._index, user.nick.key, key=_nick)
        self._index.insert(place, user)
        if place < FIRST_MEMBERS and (first := self._first) is not None:
            # Another list, because the last one may be in an answer.
            self._first = [*first[:place], _member(user), *first[place : FIRST_MEMBERS - 1]]

    def announce_nick(self, user: User, before: str) -> None:
        """Send a user's new nick to the members."""
        self.feed.broadcast([events.NickChange(self.name, user.id, before, user.nick.display)])

    def subscriptions(self, user: User) -> set[Subscription]:
        """Return the subscriptions of a member's connections."""
        memberships = self.members.get(user, ())
        return {each.subscription for each in memberships if each.subscription is not None}

    @property
    def crowded(self) -> bool:
        """Whether the room is too large for ``joined`` and ``left``."""
        return len(self.members) > self._chat.settings.limits.presence_members

    def _announce(self, event: events.Joined | events.Left, user: User) -> None:
        if self.direct:
            return
        if not self.crowded:
            self.feed.broadcast([event], self.subscriptions(user))
        elif self._total_timer is None:
            now, due = trio.current_time(), self._total_at + TOTALS_SECONDS
            if due <= now:
                self._send_total(now)
            else:
                self._total_timer = self._chat.timers.add(due, self._send_total)

    def _send_total(self, now: float) -> None:
        self._total_at, self._total_timer = now, None
        self.feed.broadcast([events.Presence(self.name, len(self.members))])


class Rooms:
    """The rooms with members."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._open: dict[str, Room] = {}
        self.get = self._open.get
        """Returns the room of a key, or None if nobody is in it."""
        self.spoke: dict[str, dict[str, float]] = {}
        """When users last sent a message in slow mode, by the room's key, the longest ago first.

        It outlives the room: scripts send messages to rooms that nobody is in.
        """
        self._direct: dict[str, set[Room]] = {}
        self._opening = Mutex()
        self._opened_next = ""
        """The key of the room that is being opened."""
        self._opened = trio.Event()
        """Set when it is open, or could not be opened."""
        self._losses = 0
        """How often the store has lost events."""
        self._most: float = math.inf
        """At most so many rooms count for ``limits.rooms``. Counting takes 10 ms where there are
        10,000, so each room that is opened adds one, and they are only counted at the limit."""
        self._changing: dict[str, trio.Event] = {}
        """Rooms that nobody may come into, until their events are set."""

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Room]:
        return iter(self._open.values())

    async def open(self, name: Name, connection: Actor | None = None) -> Room:
        """Return the room of this name; create it if that is allowed.

        The caller enters it at once, or closes it with `close_unless_used`. A new room is charged
        to the client's user and address, if one is given.

        Raises:
            Refused: there is no such room, and it may not be created.
            chatd.journal.Unavailable: the store cannot be read now.
        """
        while (room := self._open.get(name.key)) is None:
            async with self._opening:
                if (over := self._changing.get(name.key)) is None:
                    return self._open.get(name.key) or await self._open_next(name, connection)
            await over.wait()
        return room

    async def _open_next(self, name: Name, connection: Actor | None) -> Room:
        chat = self._chat
        # Before the head is read: what is committed meanwhile is fanned out through it.
        feed = chat.bus.open_feed(name.key, name.display)
        self._opened_next, self._opened = name.key, trio.Event()
        losses = self._losses
        try:
            head = await chat.journal.head(name.key)
            gone = head is None or head.empty
            if gone and not await chat.roster.is_occupied(name.key):
                await self._check_may_create(name, connection)
            room = Room(chat, feed, "" if head is None else head.topic)
            # Last: from then on the room hears of members elsewhere.
            await chat.roster.opened(room)
            if losses != self._losses:
                raise Unavailable("the store lost events while they were read")
        except BaseException:
            chat.bus.close_feed(feed)
            raise
        finally:
            self._opened_next = ""
            self._opened.set()
        if head is not None:
            room.name = feed.name = head.name
            feed.set_head(head.seq)
        return self._add(room)

    def _add(self, room: Room) -> Room:
        self._open[room.key] = room
        if room.direct:
            for user in users_of(room.key):
                self._direct.setdefault(user, set()).add(room)
        else:
            self._most += 1
        return room

    async def settled(self, key: str) -> None:
        """Wait while a room is being opened. Whoever opens it enters it before this returns."""
        if key == self._opened_next:
            await self._opened.wait()

    def arrive(self, key: str, seq: int, topic: str = "") -> None:
        """Open a room of direct messages that come from another daemon, for those who are here.

        Args:
            key: The room's key.
            seq: Its last number before these messages.
            topic: Its topic.
        """
        if key in self._open or key == self._opened_next:
            return
        chat = self._chat
        feed = chat.bus.open_feed(key, key)
        feed.set_head(seq)
        room = self._add(Room(chat, feed, topic))
        for party in users_of(key):
            if (user := chat.users.get(party)) is not None:
                for connection in list(user.connections):
                    connection.enter_direct(room)
        self.close_unless_used(room)  # if nobody here may read it

    @asynccontextmanager
    async def importing(self, name: Name) -> AsyncGenerator[None]:
        """Let nobody come into a room during the block: its log is changed and not fanned out.

        Raises:
            Refused: it has members, or is being imported already.
        """
        async with self._changed(name):
            if await self._chat.roster.is_occupied(name.key):
                raise Refused(
                    "forbidden", f"{name.display} has members. Import it when it has none."
                )
            self._most += 1
            yield

    @asynccontextmanager
    async def removing(self, name: Name) -> AsyncGenerator[None]:
        """Let nobody come into a room during the block, which removes its members first.

        Raises:
            Refused: its log is being changed already.
        """
        async with self._changed(name):
            yield

    @asynccontextmanager
    async def _changed(self, name: Name) -> AsyncGenerator[None]:
        async with self._opening:
            if name.key in self._changing:
                raise Refused("forbidden", f"{name.display} is being imported or removed already.")
            over = self._changing[name.key] = trio.Event()
        try:
            yield
        finally:
            del self._changing[name.key]
            over.set()

    async def exists(self, name: Name) -> bool:
        """Return whether a room has members or events. The default room always exists.

        Raises:
            chatd.journal.Unavailable: the store cannot be read now.
        """
        if name.key in self._open or self._is_default(name):
            return True
        head = await self._chat.journal.head(name.key)
        if head is not None and not head.empty:
            return True
        return await self._chat.roster.is_occupied(name.key)

    def _is_default(self, name: Name) -> bool:
        return name.key == room_name(self._chat.settings.chat.default_room).key

    def direct(self, user_id: str) -> list[Room]:
        """Return the open rooms of a user's direct messages."""
        return list(self._direct.get(user_id, ()))

    async def _check_may_create(self, name: Name, connection: Actor | None) -> None:
        settings = self._chat.settings
        if name.key.startswith("@") or self._is_default(name):
            return
        if not settings.chat.create_rooms:
            raise Refused("not_found", f"There is no room named {name.display}.")
        if connection is not None:
            self._chat.flood.charge_room(connection)
        if self._most < settings.limits.rooms and not self._chat.roster.shared:
            return
        known = {head.room for head in await self._chat.journal.rooms()}
        known.update(room.key for room in self._open.values() if not room.direct)
        known.update(await self._chat.roster.occupied())
        self._most = len(known)
        if self._most >= settings.limits.rooms:
            raise Refused(
                "forbidden", "There are too many rooms to create another one. Join one of them."
            )

    def close_unless_used(self, room: Room) -> None:
        """Forget a room that was opened for a moment, if nobody is in it here."""
        if self._open.get(room.key) is room:
            room.close_if_empty()

    def begin_anew(self) -> None:
        """Forget all rooms: the store has lost events. All connections have been closed before."""
        self._losses += 1
        for room in list(self):
            room.clear()
            self.close_unless_used(room)

    def close(self, room: Room) -> None:
        """Forget a room that has no members."""
        self._chat.bus.close_feed(room.feed)
        del self._open[room.key]
        if not self.spoke[room.key]:
            del self.spoke[room.key]
        if room.direct:
            for user in users_of(room.key):
                rooms = self._direct[user]
                rooms.discard(room)
                if not rooms:
                    del self._direct[user]

    async def infos(self, after: str = "") -> Iterator[tuple[str, RoomInfo]]:
        """Return the rooms that have members or events, by their keys, after this key.

        Without direct messages. Each is made when it is asked for: a client reads a page of them.
        """
        heads = {head.room: head for head in await self._chat.journal.rooms()}
        occupied = await self._chat.roster.occupied()
        keys = list(heads)
        here = (room.key for room in self._open.values() if room.members and not room.direct)
        keys += sorted(key for key in {*here, *occupied} if key not in heads)
        keys.sort()  # two sorted parts
        return self._infos(keys[bisect_right(keys, after) :], heads, occupied)

    def _infos(
        self,
        keys: Sequence[str],
        heads: Mapping[str, Head],
        occupied: Mapping[str, tuple[str, int]],
    ) -> Iterator[tuple[str, RoomInfo]]:
        for key in keys:
            room, head = self._open.get(key), heads.get(key)
            name, members = occupied.get(key, ("", 0))
            if room is not None and room.members:
                yield key, room.info()
            elif head is not None:
                yield key, RoomInfo(head.name, members, head.seq, head.topic)
            elif members:
                yield key, RoomInfo(name, members, 0, "")
