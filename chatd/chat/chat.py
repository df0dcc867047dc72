"""The chat as all its connections share it: users, rooms, the bus, the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from random import randrange
from typing import Any, Final, Protocol

import trio
from msgspec import Struct

from chatd.bus import Bus, Codec, Group, Submission, encode, fan_out
from chatd.changed import Changed
from chatd.chat.flood import Flood
from chatd.chat.rooms import Rooms
from chatd.chat.sanctions import Sanctions
from chatd.chat.tokens import Grant, Keys
from chatd.chat.users import User, Users
from chatd.journal import Journal
from chatd.logs import Log
from chatd.model import UNAUTHORIZED, Close, Event, Refused, Remember
from chatd.protocol import events
from chatd.settings import Settings
from chatd.timers import Timers

__all__ = ["Chat", "ChatStatistics", "Client"]

TEND_SECONDS: Final = 1.0
"""How often somebody looks who is gone for good: presence is best effort, to the second."""

RETRY_LEAST_MS: Final = 200
SPREAD_LEAST_MS: Final = 800
SPREAD_MS_EACH: Final = 2
SPREAD_MOST_MS: Final = 30_000
"""When to come back: one of a thousand clients every 2 ms is what one core greets with ease."""


class Outlet(Protocol):
    """What waits for a client."""

    @property
    def waiting(self) -> int: ...

    def offer(self, block: Any, messages: int = 1, /) -> None: ...


class Client(Protocol):
    """A connection, as far as the chat as a whole is concerned."""

    id: str
    address: str
    transport: str
    protocol: str
    opened: float
    codec: Codec
    log: Log

    @property
    def known(self) -> bool: ...

    @property
    def user(self) -> User: ...

    @property
    def outbox(self) -> Outlet: ...

    @property
    def memberships(self) -> Mapping[str, Any]: ...

    @property
    def grant(self) -> Grant | None: ...

    @property
    def end(self) -> Callable[[Close, str], None]: ...

    def shown(self) -> None:
        """Hear that one thing it said has been shown."""


class ChatStatistics(Struct, frozen=True):
    """Who is here, by transport and protocol, and the bytes that wait for them.

    Since the start: commands by name, refusals by code, ends of connections by close code.
    """

    connections: dict[tuple[str, str], int]
    waiting: int
    users: int
    rooms: int
    commands: dict[str, int]
    refusals: dict[str, int]
    closes: dict[int, int]


class Chat:
    """Everything that is shared by its connections. ``run`` owns its tasks.

    ``keys`` verify tokens. ``timers`` are run by the caller.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        journal: Journal,
        log: Log,
        now: Callable[[], int],
        timers: Timers,
        keys: Keys | None = None,
    ) -> None:
        self.settings = settings
        self.keys = Keys() if keys is None else keys
        self.timers = timers
        self.journal = journal
        self.log = log
        self.now = now
        self.bus = Bus(journal, self._shown, log)
        self.users = Users(settings, journal, now)
        self.rooms = Rooms(settings, journal, self.bus)
        self.sanctions = Sanctions(now)
        self.flood = Flood()
        self.connections: set[Client] = set()
        self.disconnected = Changed()
        self.commands: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.closes: Counter[int] = Counter()
        self._said_by: dict[int, Client] = {}
        self._stirred = trio.Event()

    async def load(self) -> None:
        """Take up what the store keeps of users and of what operators did."""
        await self.users.load()
        await self.sanctions.load(self.journal)

    def apply(self, settings: Settings) -> None:
        """Go by these settings from now on."""
        self.settings = self.users.settings = self.rooms.settings = settings
        self.stir()
        if not self.guests:
            for client in list(self.connections):
                if client.known and client.grant is None:
                    client.end(UNAUTHORIZED, "guests are let in no more")

    def statistics(self) -> ChatStatistics:
        return ChatStatistics(
            connections=Counter((one.transport, one.protocol) for one in self.connections),
            waiting=sum(one.outbox.waiting for one in self.connections),
            users=len(self.users),
            rooms=len(self.rooms),
            commands=dict(self.commands),
            refusals=dict(self.refusals),
            closes=dict(self.closes),
        )

    async def run(self) -> None:
        """Look after users and rooms until cancelled, every second while something is due."""
        while True:
            if not (self.users.restless or self.rooms.restless or self.flood.restless):
                self._stirred = trio.Event()
                await self._stirred.wait()
            await trio.sleep(TEND_SECONDS)
            self.users.sweep()
            self.rooms.sweep()
            self.flood.sweep(self.settings.limits)
            await self.save()

    def stir(self) -> None:
        """Say that somebody came, went, or is called otherwise: something may be due."""
        self._stirred.set()

    async def save(self) -> None:
        """Publish what is to be kept of users and is not yet. Cancelled, the rest is left to do.

        What the store does not take is asked of it again when that user next comes or goes.
        """
        unsaved = self.users.unsaved
        while unsaved:
            user, record = next(iter(unsaved.items()))
            await self.bus.publish(Submission(Remember(record)))
            if unsaved.get(user) is record:
                del unsaved[user]

    # ---- tokens

    @property
    def guests(self) -> bool:
        """Whether who brings no token is let in."""
        return self.settings.auth.mode == "open" or self.settings.auth.guests

    def verify(self, token: str) -> Grant:
        """Return what a token grants now. Raise Refused if it is invalid."""
        if self.settings.auth.mode == "open":
            raise Refused("unauthorized", "no tokens are taken here: everybody is a guest")
        return self.keys.verify(token, self.now())

    def check_may_enter(self, user: str, address: str, grant: Grant | None) -> None:
        """Raise Refused if somebody is banned; ``user`` is empty where it is not known yet."""
        if grant is not None and (grant.op or grant.user in self.settings.chat.operators):
            return
        if ban := self.sanctions.ban("", user, address, guest=grant is None):
            raise self.sanctions.refused(ban, "you are banned")

    def rekey(self, keys: Keys) -> None:
        """Go by other keys from now on; who has a token of one that is gone goes with it."""
        self.keys = keys
        for connection in list(self.connections):
            if connection.grant is not None and connection.grant.key not in keys:
                connection.end(UNAUTHORIZED, "the key of your token is gone")

    # ---- connections

    def bye(self, close: Close, reason: str) -> events.Bye:
        """Give the last thing to be said. Those who may come back come back one after another."""
        retry_ms = 0
        if close.reconnect:
            spread = max(SPREAD_LEAST_MS, len(self.connections) * SPREAD_MS_EACH)
            retry_ms = RETRY_LEAST_MS + randrange(min(spread, SPREAD_MOST_MS))  # noqa: S311  no secret
        return events.Bye(close.code, reason or close.reason, close.reconnect, retry_ms)

    async def announce(self, text: str, room: str | None = None) -> int:
        """Tell everybody, or who is in the room of this fold; gives how many connections heard.

        Each gets it at once, so the last one may hear it a moment after the first.
        """
        listeners: dict[Codec, list[Client]] = {}
        for client in self.connections:
            if room is None or room in client.memberships:
                listeners.setdefault(client.codec, []).append(client)
        groups: list[Group[Outlet]] = []
        for codec, clients in listeners.items():
            block = encode(codec, "", [events.Notice(text)], clients, self.log)
            groups.append((block, [client.outbox for client in clients], self._outboxes))
        await fan_out(groups, 1)
        return sum(map(len, listeners.values()))

    def _outboxes(self) -> set[Outlet]:
        return {client.outbox for client in self.connections}

    # ---- words

    def said_by(self, position: int, speaker: Client) -> None:
        """Note who said it, until it has been shown."""
        self._said_by[position] = speaker

    def _shown(self, room: str, shown: Sequence[Event], receivers: int) -> None:
        speakers = [self._said_by.pop(event.position, None) for event in shown]
        for speaker in speakers:
            if speaker is not None:
                speaker.shown()
        live = self.rooms.get(room)
        name = room if live is None else live.name
        lines: list[bytes] = []
        for event, speaker in zip(shown, speakers, strict=True):
            if event.kind == "topic" and live is not None:
                live.about = event.text or ""
            if event.kind == "message" and not self.settings.log.messages:
                continue
            if not self.log.enabled(event.kind):
                continue
            log = self.log if speaker is None else speaker.log
            line = log.line(
                event.kind,
                room=name,
                seq=event.seq,
                of=event.of,
                bytes=len((event.text or "").encode()),
                receivers=receivers,
                user=event.user,
                nick=event.nick,
                text=event.text if self.settings.log.bodies else None,
            )
            lines.append(line)
        if lines:
            self.log.output.write(lines)
