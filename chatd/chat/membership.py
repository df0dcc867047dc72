"""A connection's place in a room, and its way from a position in the log to what is live."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias

import trio

from chatd.bus import Codec, Subscription, encode_page
from chatd.chat.chat import Chat
from chatd.chat.pages import PAGE_EVENTS, missed
from chatd.chat.rooms import Room
from chatd.journal import Unavailable
from chatd.model import Close, Event

__all__ = ["Hearer", "Membership", "Outbox", "StartSoon"]

READ_AGAIN_SECONDS = 1.0
"""While the store cannot be read, who catches up waits and asks again."""


StartSoon: TypeAlias = Callable[[Callable[[], Awaitable[None]]], None]
"""Runs a task for as long as the connection lasts."""


class Outbox(Protocol):
    """What waits for the client: the wire's, whatever the transport."""

    @property
    def waiting(self) -> int: ...

    def offer(self, block: Any, messages: int = 1, /) -> None: ...

    def offer_droppable(self, block: Any, messages: int = 1, /) -> None: ...

    async def drained(self) -> None: ...


class Hearer(Protocol):
    """A connection, as far as what it hears is concerned."""

    chat: Chat
    outbox: Outbox
    codec: Codec
    start_soon: StartSoon

    @property
    def end(self) -> Callable[[Close, str], None]: ...


class Membership:
    """Live events are heard from ``start`` on, once everything before them has been said.

    What is told and not kept is heard from the start on.
    """

    __slots__ = (
        "_catching_up",
        "_connection",
        "followed",
        "room",
        "starts",
        "subscription",
        "typed",
        "types",
    )

    def __init__(self, room: Room, connection: Hearer) -> None:
        self.room = room
        self.subscription: Subscription | None = None
        self.starts = 0
        """How often it was started: more than once where its room was joined again."""
        self.followed: int | None = None
        """The store's position when it began to be live; None until then."""
        self.types = False
        """Whether it was last told to be writing; and when that was, on Trio's clock."""
        self.typed = -math.inf
        self._connection = connection
        self._catching_up: trio.CancelScope | None = None

    def start(self, position: int) -> None:
        """Say what was shown after ``position``, at the client's pace, and then what is live."""
        self.starts += 1
        if self.subscription is None:
            self.subscription = self._told()
        if not self._follow(self.subscription, position):
            self._catching_up = trio.CancelScope()
            catch_up = partial(self._catch_up, self.subscription, position, self._catching_up)
            self._connection.start_soon(catch_up)

    def stop(self) -> None:
        """Hear nothing more of the room."""
        self.pause()
        if self.subscription is not None:
            self.subscription.cancel()
            self.subscription = None

    def pause(self) -> None:
        """Hear only what is told and not kept, until it is started again."""
        self.followed = None
        if self.subscription is not None:
            # A new one, for the old one may be in a fan-out that goes on.
            self.subscription.cancel()
            self.subscription = self._told()
        if self._catching_up is not None:
            self._catching_up.cancel()
            self._catching_up = None

    def _told(self) -> Subscription:
        connection = self._connection
        return self.room.feed.subscribe(connection, live=False)

    def _follow(self, subscription: Subscription, position: int) -> bool:
        """Be live, if nothing waits and what is missing can be had without waiting.

        No checkpoint here: the visible head stands still from its reading to the subscription.
        """
        connection, feed = self._connection, self.room.feed
        if connection.outbox.waiting or (rest := feed.after(position)) is None:
            return False
        if rest:
            self._offer_page(rest)
        feed.follow(subscription)
        self.followed = connection.chat.bus.fanning_out
        return True

    def _offer_page(self, page: Sequence[Event]) -> None:
        connection = self._connection
        block = encode_page(connection.codec, self.room.name, page, connection.chat.log)
        connection.outbox.offer(block, len(page))

    async def _catch_up(
        self, subscription: Subscription, position: int, scope: trio.CancelScope
    ) -> None:
        connection, feed = self._connection, self.room.feed
        chat = connection.chat
        with scope:
            while True:
                await connection.outbox.drained()
                if self._follow(subscription, position):
                    self._catching_up = None
                    return
                queue_bytes = chat.settings.limits.send_queue_bytes
                try:
                    page = await missed(chat.journal, feed, position, PAGE_EVENTS, queue_bytes)
                except Unavailable:
                    await trio.sleep(READ_AGAIN_SECONDS)
                    continue
                if page:
                    self._offer_page(page)
                # An empty page: retention took what was missed.
                position = page[-1].seq if page else feed.visible
