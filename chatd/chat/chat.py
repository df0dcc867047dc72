"""The chat: its users, rooms and connections, and the rules of them, once for all protocols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import randrange
from typing import Final

import trio

from chatd import __version__
from chatd.bus import Bus, Codec
from chatd.chat import events
from chatd.chat.connection import Connection, Outbox, StartSoon
from chatd.chat.rooms import Rooms
from chatd.chat.users import User, Users
from chatd.journal import Journal
from chatd.logs import Fields, Log
from chatd.model import Close, Event, Outcome, Remember
from chatd.settings import Settings

__all__ = ["Chat"]

TEND_SECONDS: Final = 1.0
"""How often somebody looks who is gone for good: presence is best effort, to the second."""

RETRY_LEAST_MS: Final = 200
SPREAD_LEAST_MS: Final = 800
SPREAD_MS_EACH: Final = 2
SPREAD_MOST_MS: Final = 30_000
"""When to come back: one of a thousand clients every 2 ms is what one core greets with ease."""


class Chat:
    """Everything that is shared by its connections. ``run`` owns its task."""

    def __init__(
        self, settings: Settings, *, journal: Journal, log: Log, now: Callable[[], int]
    ) -> None:
        self.settings = settings
        self.journal = journal
        self.log = log
        self.bus = Bus(journal, self._shown)
        self.users = Users(settings, journal, now)
        self.rooms = Rooms(settings, journal, self.bus)
        self.connections: set[Connection] = set()
        self._said_by: dict[int, Connection] = {}
        self._stirred = trio.Event()

    async def run(self) -> None:
        """Tend users and rooms until cancelled: every second while something is due, else not."""
        while True:
            if not (self.users.restless or self.rooms.restless):
                self._stirred = trio.Event()
                await self._stirred.wait()
            await trio.sleep(TEND_SECONDS)
            self.users.sweep()
            self.rooms.sweep()
            await self.save()

    def stir(self) -> None:
        """Say that somebody came, went, or is called otherwise: something may be due."""
        self._stirred.set()

    async def save(self) -> None:
        """Publish what is to be kept of users and is not yet. Cancelled, the rest is left to do."""
        unsaved = self.users.unsaved
        while unsaved:
            user, record = next(iter(unsaved.items()))
            await self.bus.publish(Remember(record), _kept)
            if unsaved.get(user) is record:
                del unsaved[user]

    # ---- connections

    def connect(
        self,
        connection_id: str,
        outbox: Outbox,
        codec: Codec,
        start_soon: StartSoon,
        *,
        address: str,
        transport: str,
        protocol: str,
        nick: str | None,
    ) -> tuple[Connection, str | None]:
        """Let a client in as a guest; the second value says why ``nick`` could not be had."""
        user, why_not = self.users.guest(nick)
        connection = Connection(
            self,
            connection_id,
            user,
            outbox,
            codec,
            start_soon,
            address=address,
            transport=transport,
            protocol=protocol,
        )
        self.users.attach(user, connection)
        self.connections.add(connection)
        self.stir()
        self.log.emit("connect", **connection.who())
        return connection, why_not

    def hello(self, connection: Connection) -> events.Hello:
        """Give the first thing to be said to a client."""
        user = connection.user
        limits = self.settings.limits
        rate, burst = limits.messages_per_second, limits.messages_burst
        return events.Hello(
            server=f"chatd/{__version__}",
            session=self.users.secret(user),
            user=user.id,
            nick=user.nick.shown,
            op=user.op,
            limits=events.Limits(
                limits.message_bytes,
                None if rate == "off" else rate,
                None if burst == "off" else burst,
            ),
        )

    def bye(self, close: Close, reason: str) -> events.Bye:
        """Give the last thing to be said. Those who may come back come back one after another."""
        retry_ms = 0
        if close.reconnect:
            spread = max(SPREAD_LEAST_MS, len(self.connections) * SPREAD_MS_EACH)
            retry_ms = RETRY_LEAST_MS + randrange(min(spread, SPREAD_MOST_MS))  # noqa: S311  no secret
        return events.Bye(close.code, reason or close.reason, close.reconnect, retry_ms)

    def become(self, connection: Connection, user: User) -> None:
        """Make the guest that a connection began as somebody they were before."""
        before = connection.user
        if before is connection.guest and before.connections == {connection} and not before.rooms:
            self.users.forget(before)
        else:
            self.users.detach(before, connection)
        connection.user = user
        self.users.attach(user, connection)
        self.stir()
        self.log.emit("auth", **connection.who())

    def disconnected(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self.users.detach(connection.user, connection)
        self.stir()

    # ---- words

    def said_by(self, position: int, connection: Connection) -> None:
        """Note who said it, until it has been shown."""
        self._said_by[position] = connection
        connection.said()

    def _shown(self, room: str, shown: Sequence[Event], receivers: int) -> None:
        senders = [self._said_by.pop(event.position, None) for event in shown]
        for connection in senders:
            if connection is not None:
                connection.shown()
        if not self.settings.log.messages:
            return
        live = self.rooms.get(room)
        name = room if live is None else live.name
        rows: list[Fields] = []
        for event, connection in zip(shown, senders, strict=True):
            row: Fields = {
                "room": name,
                "seq": event.seq,
                "bytes": len((event.text or "").encode()),
                "receivers": receivers,
                "user": event.user,
                "nick": event.nick,
            }
            if connection is not None:
                row["connection"] = connection.id
                row["address"] = connection.address
                row["transport"] = connection.transport
                row["protocol"] = connection.protocol
            if self.settings.log.bodies:
                row["text"] = event.text
            rows.append(row)
        self.log.many("message", rows)


def _kept(outcome: Outcome) -> None:
    """Take the answer to a Remember that nobody waits for.

    What the store did not take is asked of it again when this user next comes or goes.
    """
