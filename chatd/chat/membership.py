"""A connection's place in a room, and its way from a position in the log to what is live."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from chatd.bus import Subscription
from chatd.chat.pages import PAGE_EVENTS, missed
from chatd.journal import Unavailable

if TYPE_CHECKING:
    from chatd.chat.connection import Connection
    from chatd.chat.rooms import Room

__all__ = ["Membership"]

READ_AGAIN_SECONDS = 1.0
"""While the store cannot be read, who catches up waits and asks again."""


class Membership:
    """Live events are heard from ``start`` on, once everything before them has been said."""

    __slots__ = ("_catching_up", "_connection", "room", "subscription")

    def __init__(self, room: Room, connection: Connection) -> None:
        self.room = room
        self.subscription: Subscription | None = None
        self._connection = connection
        self._catching_up: trio.CancelScope | None = None

    def start(self, position: int) -> None:
        """Say what was shown after ``position``, at the client's pace, and then what is live."""
        if not self._follow(position):
            self._catching_up = trio.CancelScope()
            self._connection.start_soon(partial(self._catch_up, position, self._catching_up))

    def stop(self) -> None:
        """Hear nothing more of the room."""
        if self.subscription is not None:
            self.subscription.cancel()
            self.subscription = None
        if self._catching_up is not None:
            self._catching_up.cancel()
            self._catching_up = None

    def _follow(self, position: int) -> bool:
        """Subscribe, if nothing waits and what is missing can be had without waiting.

        No checkpoint here: the visible head stands still from its reading to the subscription.
        """
        connection, topic = self._connection, self.room.topic
        if connection.outbox.waiting or (rest := topic.after(position)) is None:
            return False
        if rest:
            connection.outbox.offer(connection.codec.encode(topic.name, rest), len(rest))
        self.subscription = topic.subscribe(connection.outbox, connection.codec)
        return True

    async def _catch_up(self, position: int, scope: trio.CancelScope) -> None:
        connection, topic = self._connection, self.room.topic
        chat = connection.chat
        with scope:
            while True:
                await connection.outbox.drained()
                if self._follow(position):
                    self._catching_up = None
                    return
                queue_bytes = chat.settings.limits.send_queue_bytes
                try:
                    page = await missed(chat.journal, topic, position, PAGE_EVENTS, queue_bytes)
                except Unavailable:
                    await trio.sleep(READ_AGAIN_SECONDS)
                    continue
                if page:
                    connection.outbox.offer(connection.codec.encode(topic.name, page), len(page))
                # An empty page: retention took what was missed.
                position = page[-1].seq if page else topic.visible
