"""A connection's membership in a room: how it catches up, and then gets live events."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import trio

from chatd import bus
from chatd.bus import Subscription, encode_page
from chatd.chat.pages import PAGE_EVENTS, read_after
from chatd.chat.rooms import Room
from chatd.chat.user import User
from chatd.journal import Unavailable
from chatd.model import Event

if TYPE_CHECKING:
    from chatd.chat.connection import Connection

__all__ = ["Membership", "Outbox", "StartSoon"]

RETRY_SECONDS: Final = 1.0
"""Wait this long to catch up again if the store could not be read."""

StartSoon: TypeAlias = Callable[[Callable[[], Awaitable[None]]], None]
"""Runs a task for as long as the connection lasts."""


class Outbox(bus.Outbox, Protocol):
    """The client's send queue: the wire's outbox, or an Engine.IO session."""

    @property
    def waiting(self) -> int: ...

    async def drained(self) -> None: ...


class Membership:
    """Delivers a room's live events after `start`, once the backlog has been sent.

    Ephemeral events are delivered as soon as it is started.
    """

    __slots__ = (
        "_catching_up",
        "_connection",
        "live_since",
        "room",
        "starts",
        "subscription",
        "typing",
        "typing_at",
        "user",
    )

    def __init__(self, room: Room, connection: Connection, user: User) -> None:
        self.room = room
        self.user = user
        self.subscription: Subscription | None = None
        self.starts = 0
        """How often it was started: more than once if the room was joined again."""
        self.live_since: int | None = None
        """The store's position from which it delivers live events; None until then."""
        self.typing = False
        """Whether the last ``typing`` event said that the client is typing."""
        self.typing_at = -math.inf
        """The time of the last ``typing`` event, on Trio's clock."""
        self._connection = connection
        self._catching_up: trio.CancelScope | None = None

    def start(self, seq: int) -> None:
        """Send what follows a number of the room, at the client's pace, and then live events."""
        self.starts += 1
        if self.subscription is None:
            self.subscription = self._subscribe()
        if not self._follow(self.subscription, seq):
            self._catching_up = trio.CancelScope()
            catch_up = partial(self._catch_up, self.subscription, seq, self._catching_up)
            self._connection.start_soon(catch_up)

    def stop(self) -> None:
        """Deliver nothing more."""
        self.pause()
        if self.subscription is not None:
            self.subscription.cancel()
            self.subscription = None

    def pause(self) -> None:
        """Deliver only ephemeral events, until it is started again."""
        self.live_since = None
        if self.subscription is not None:
            # A new one, because the old one may be part of a fan-out that is under way.
            self.subscription.cancel()
            self.subscription = self._subscribe()
        if self._catching_up is not None:
            self._catching_up.cancel()
            self._catching_up = None

    def _subscribe(self) -> Subscription:
        """Subscribe to ephemeral events alone."""
        return self.room.feed.subscribe(self._connection, live=False)

    def _follow(self, subscription: Subscription, seq: int) -> bool:
        """Deliver live events if nothing waits and the events before them are in memory.

        Return False if that is not so. There is no checkpoint between reading the visible head and
        subscribing.
        """
        connection, feed = self._connection, self.room.feed
        if connection.outbox.waiting or (rest := feed.after(seq)) is None:
            return False
        if rest:
            self._offer_page(rest)
        feed.follow(subscription)
        self.live_since = connection.chat.bus.fanning_out
        if connection.moved is not None:
            connection.moved()
        return True

    def _offer_page(self, page: Sequence[Event]) -> None:
        connection = self._connection
        block = encode_page(connection.codec, self.room.name, page, connection.log)
        connection.outbox.offer(block, len(page))

    async def _catch_up(
        self, subscription: Subscription, seq: int, scope: trio.CancelScope
    ) -> None:
        connection, feed = self._connection, self.room.feed
        chat = connection.chat
        with scope:
            while True:
                await connection.outbox.drained()
                # If it is cancelled after it was woken, nothing has raised yet.
                await trio.lowlevel.checkpoint_if_cancelled()
                if self._follow(subscription, seq):
                    self._catching_up = None
                    return
                queue_bytes = chat.settings.limits.send_queue_bytes
                try:
                    page = await read_after(chat.journal, feed, seq, PAGE_EVENTS, queue_bytes)
                except Unavailable:
                    await trio.sleep(RETRY_SECONDS)
                    continue
                await trio.lowlevel.checkpoint_if_cancelled()
                if page:
                    self._offer_page(page)
                # An empty page: retention removed what was missed.
                seq = page[-1].seq if page else feed.visible
