"""Rooms: who is in them, and what is told of their coming and going.

A room lives while somebody is in it; without members and events nothing of it is left. ``joined``
and ``left`` are told of a user's first and last connection; ``left`` of a lost one waits, and of
who is back in time neither is told.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Final, Literal, Protocol

import trio

from chatd.bus import Bus, Feed, Subscription
from chatd.chat.names import Name
from chatd.chat.users import User
from chatd.journal import Journal
from chatd.model import Refused
from chatd.protocol import events
from chatd.protocol.commands import Member, RoomInfo
from chatd.settings import Settings

__all__ = ["Room", "Rooms"]

TOTALS_SECONDS: Final = 1.0
"""A crowded room's ``presence`` is told at most this often."""


def _fold(user: User) -> str:
    return user.nick.fold


class Place(Protocol):
    """One connection's place in a room; ``subscription`` is by what it hears live events."""

    subscription: Subscription | None


class Room:
    """A room in which somebody is, or was a moment ago."""

    __slots__ = (
        "_roll",
        "_spoke",
        "_total_at",
        "_total_due",
        "about",
        "direct",
        "feed",
        "leaving",
        "members",
    )

    def __init__(self, feed: Feed, about: str = "") -> None:
        self.feed = feed
        self.about = about
        """What the room's people say it is about: the last ``topic`` that was shown."""
        self.direct = feed.key.startswith("@")
        """Whether it is the room of two users, who are in it without coming and going."""
        self.members: dict[User, set[Place]] = {}
        self.leaving: dict[User, float] = {}
        """Users whose last connection was lost, and when they are taken for gone."""
        self._roll: list[User] = []
        """The members by their nicks' folds: kept in order, for with 10,000 of them sorting takes
        longer than all else a join does."""
        self._spoke: dict[str, float] = {}
        """When each user last said something in slow mode, the longest ago first."""
        self._total_at = -TOTALS_SECONDS
        self._total_due = False

    @property
    def name(self) -> str:
        return self.feed.name

    @property
    def restless(self) -> bool:
        return bool(self.leaving) or self._total_due

    def member_list(self, after: str = "", limit: int = 100) -> list[Member]:
        """Members by nick's fold, from past ``after`` on."""
        start = bisect_right(self._roll, after, key=_fold)
        return [
            Member(user.nick.shown, user.id, user.op) for user in self._roll[start : start + limit]
        ]

    def entry(self) -> RoomInfo:
        return RoomInfo(self.name, len(self.members), self.feed.visible, self.about)

    def slowed(self, user: User, seconds: float) -> int:
        """Give the milliseconds until a user may speak in slow mode."""
        now = trio.current_time()
        while self._spoke and next(iter(self._spoke.values())) + seconds <= now:
            del self._spoke[next(iter(self._spoke))]
        if (last := self._spoke.get(user.id)) is not None:
            return math.ceil((last + seconds - now) * 1000)
        return 0

    def spoke(self, user: User) -> None:
        """Note that a user says something in slow mode now."""
        self._spoke[user.id] = trio.current_time()

    # ---- coming and going

    def enter(self, user: User, place: Place, crowd: int) -> None:
        """Take a connection in. ``crowd``: with more members than this nobody is told of each."""
        mine = self.members.get(user)
        if mine is None:
            self.members[user] = {place}
            user.rooms[self] = None
            insort(self._roll, user, key=_fold)
            joined = events.Joined(self.name, user.nick.shown, user.id, user.op)
            self._tell(joined, user, crowd)
        else:
            self.leaving.pop(user, None)
            mine.add(place)

    def exit(
        self,
        user: User,
        place: Place,
        grace: float | None,
        crowd: int,
        reason: Literal["leave", "kicked", "banned"] = "leave",
    ) -> None:
        """Let a connection out: told at once, or in ``grace`` seconds where it was lost."""
        mine = self.members[user]
        mine.discard(place)
        if mine:
            return
        if grace:
            self.leaving[user] = trio.current_time() + grace
        else:
            self._gone(user, reason if grace is None else "lost", crowd)

    def sweep(self, now: float, crowd: int) -> None:
        """Tell of those whose time to come back is over, and the total where it is due."""
        for user in [user for user, due in self.leaving.items() if due <= now]:
            del self.leaving[user]
            self._gone(user, "lost", crowd)
        if self._total_due and now - self._total_at >= TOTALS_SECONDS:
            self._tell_total(now)

    def strike(self, user: User) -> None:
        """Take a member off the roll, whose nick is about to change."""
        del self._roll[bisect_left(self._roll, user.nick.fold, key=_fold)]

    def rename(self, user: User, old: str) -> None:
        """Put a member that was struck back on the roll, and tell of the nick."""
        insort(self._roll, user, key=_fold)
        self.feed.broadcast([events.NickChange(self.name, user.id, old, user.nick.shown)])

    def _gone(
        self, user: User, reason: Literal["leave", "lost", "kicked", "banned"], crowd: int
    ) -> None:
        del self.members[user]
        user.rooms.pop(self, None)
        self.strike(user)
        self._tell(events.Left(self.name, user.nick.shown, user.id, reason), user, crowd)

    def places(self, user: User) -> set[Subscription]:
        """Give by what a member's connections hear the room."""
        mine = self.members.get(user, ())
        return {place.subscription for place in mine if place.subscription is not None}

    def _tell(self, event: events.Joined | events.Left, user: User, crowd: int) -> None:
        if self.direct:
            return
        if len(self.members) <= crowd:
            self.feed.broadcast([event], self.places(user))
            return
        now = trio.current_time()
        if now - self._total_at >= TOTALS_SECONDS:
            self._tell_total(now)
        else:
            self._total_due = True

    def _tell_total(self, now: float) -> None:
        self._total_at, self._total_due = now, False
        self.feed.broadcast([events.Presence(self.name, len(self.members))])


class Rooms:
    """The rooms that live now."""

    def __init__(self, settings: Settings, journal: Journal, bus: Bus) -> None:
        self.settings = settings
        self._journal = journal
        self._bus = bus
        self._live: dict[str, Room] = {}
        self._direct: dict[str, set[Room]] = {}
        self._opening = trio.Lock()

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Room]:
        return iter(self._live.values())

    @property
    def restless(self) -> bool:
        """Whether somebody's coming or going is yet to be told."""
        return any(room.restless for room in self._live.values())

    def get(self, fold: str) -> Room | None:
        return self._live.get(fold)

    async def open(self, name: Name) -> Room:
        """Return the room of this name; create it if that is allowed. The caller enters it at once.

        Raises:
            Refused: there is no such room, and it may not be created.
            chatd.journal.Unavailable: the store cannot be read now.
        """
        if room := self._live.get(name.fold):
            return room
        async with self._opening:
            if room := self._live.get(name.fold):
                return room
            # Registered before the head is read: what is committed meanwhile is shown through it.
            feed = self._bus.open_feed(name.fold, name.shown)
            try:
                head = await self._journal.head(name.fold)
                if head is None:
                    await self._check_may_create(name)
            except BaseException:
                self._bus.close_feed(feed)
                raise
            if head is not None:
                feed.name = head.name
                feed.set_head(head.seq)
            room = self._live[name.fold] = Room(feed, "" if head is None else head.topic)
            if room.direct:
                for user in name.fold[1:].split(","):
                    self._direct.setdefault(user, set()).add(room)
            return room

    def direct(self, user: str) -> list[Room]:
        """Give the live rooms of a user's direct messages."""
        return list(self._direct.get(user, ()))

    async def _check_may_create(self, name: Name) -> None:
        if name.fold.startswith("@"):
            return
        if not self.settings.chat.create_rooms and name.shown != self.settings.chat.default_room:
            raise Refused("not_found", f"there is no room {name.shown}")
        known = {head.room for head in await self._journal.rooms()} | self._live.keys()
        if len(known) >= self.settings.limits.rooms:
            raise Refused("forbidden", "there are as many rooms as there may be")

    def release(self, room: Room) -> None:
        """Let go of a room in which nobody is."""
        if not room.members:
            self._bus.close_feed(room.feed)
            del self._live[room.feed.key]
            if room.direct:
                for user in room.feed.key[1:].split(","):
                    mine = self._direct[user]
                    mine.discard(room)
                    if not mine:
                        del self._direct[user]

    async def entries(self) -> list[tuple[str, RoomInfo]]:
        """Give every room that has members or events, but for direct messages', by their folds."""
        entries = {
            room.feed.key: room.entry()
            for room in self._live.values()
            if room.members and not room.direct
        }
        for head in await self._journal.rooms():
            if head.room not in entries:
                entries[head.room] = RoomInfo(head.name, 0, head.seq, head.topic)
        return sorted(entries.items())

    def sweep(self) -> None:
        """Tell what is due, and let go of the rooms that are empty by it."""
        now = trio.current_time()
        crowd = self.settings.limits.presence_members
        for room in list(self._live.values()):
            room.sweep(now, crowd)
            self.release(room)
