"""The chat as all its connections share it: users, rooms, the bus, the log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import randrange
from typing import Final, Protocol

import trio

from chatd.bus import Bus
from chatd.chat import events
from chatd.chat.flood import Flood
from chatd.chat.rooms import Rooms
from chatd.chat.sanctions import Sanctions
from chatd.chat.tokens import Grant, Keys
from chatd.chat.users import Users
from chatd.journal import Journal
from chatd.logs import Fields, Log
from chatd.model import UNAUTHORIZED, Close, Event, Kind, Outcome, Refusal, Remember
from chatd.settings import Settings
from chatd.wire.heartbeats import Heartbeats

__all__ = ["Chat"]

TEND_SECONDS: Final = 1.0
"""How often somebody looks who is gone for good: presence is best effort, to the second."""

RETRY_LEAST_MS: Final = 200
SPREAD_LEAST_MS: Final = 800
SPREAD_MS_EACH: Final = 2
SPREAD_MOST_MS: Final = 30_000
"""When to come back: one of a thousand clients every 2 ms is what one core greets with ease."""


class Speaker(Protocol):
    """A connection, as far as what it said and whose token it has is concerned."""

    id: str
    address: str
    transport: str
    protocol: str

    @property
    def grant(self) -> Grant | None: ...

    @property
    def end(self) -> Callable[[Close, str], None]: ...

    def shown(self) -> None:
        """Hear that one thing it said has been shown."""


class Chat:
    """Everything that is shared by its connections. ``run`` owns its tasks.

    ``keys`` verify tokens; ``expiries`` has what is to end by itself.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        journal: Journal,
        log: Log,
        now: Callable[[], int],
        keys: Keys | None = None,
    ) -> None:
        self.settings = settings
        self.keys = Keys() if keys is None else keys
        self.expiries = Heartbeats()
        self.journal = journal
        self.log = log
        self.now = now
        self.bus = Bus(journal, self._shown)
        self.users = Users(settings, journal, now)
        self.rooms = Rooms(settings, journal, self.bus)
        self.sanctions = Sanctions(now)
        self.flood = Flood()
        self.connections: set[Speaker] = set()
        self._said_by: dict[int, Speaker] = {}
        self._stirred = trio.Event()

    async def load(self) -> None:
        """Take up what the store keeps of users and of what operators did."""
        await self.users.load()
        await self.sanctions.load(self.journal)

    async def run(self) -> None:
        """Tend users, rooms and tokens until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.expiries.run)
            await self._tend()

    async def _tend(self) -> None:
        """Look every second while something is due, else not."""
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
        """Publish what is to be kept of users and is not yet. Cancelled, the rest is left to do."""
        unsaved = self.users.unsaved
        while unsaved:
            user, record = next(iter(unsaved.items()))
            await self.bus.publish(Remember(record), _kept)
            if unsaved.get(user) is record:
                del unsaved[user]

    # ---- tokens

    @property
    def guests(self) -> bool:
        """Whether who brings no token is let in."""
        return self.settings.auth.mode == "open" or self.settings.auth.guests

    def verify(self, token: str) -> Grant | Refusal:
        """Give what a token says here and now."""
        if self.settings.auth.mode == "open":
            return Refusal("unauthorized", "no tokens are taken here: everybody is a guest")
        return self.keys.verify(token, self.now())

    def refusal_to_enter(self, user: str, address: str, grant: Grant | None) -> Refusal | None:
        """Tell why somebody may not come in at all; ``user`` is empty where it is not known yet."""
        if grant is not None and (grant.op or grant.user in self.settings.chat.operators):
            return None
        ban = self.sanctions.ban("", user, address, guest=grant is None)
        return None if ban is None else self.sanctions.refusal(ban, "you are banned")

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

    # ---- words

    def said_by(self, position: int, speaker: Speaker) -> None:
        """Note who said it, until it has been shown."""
        self._said_by[position] = speaker

    def _shown(self, room: str, shown: Sequence[Event], receivers: int) -> None:
        speakers = [self._said_by.pop(event.position, None) for event in shown]
        for speaker in speakers:
            if speaker is not None:
                speaker.shown()
        live = self.rooms.get(room)
        name = room if live is None else live.name
        rows: dict[Kind, list[Fields]] = {}
        logs = self.settings.log.messages and self.log.enabled("message")
        for event, speaker in zip(shown, speakers, strict=True):
            if event.kind == "topic" and live is not None:
                live.about = event.text or ""
            if not logs:
                continue
            row: Fields = {
                "room": name,
                "seq": event.seq,
                "bytes": len((event.text or "").encode()),
                "receivers": receivers,
                "user": event.user,
                "nick": event.nick,
            }
            if event.of is not None:
                row["of"] = event.of
            if speaker is not None:
                row["connection"], row["address"] = speaker.id, speaker.address
                row["transport"], row["protocol"] = speaker.transport, speaker.protocol
            if self.settings.log.bodies:
                row["text"] = event.text
            rows.setdefault(event.kind, []).append(row)
        for kind, lines in rows.items():
            self.log.many(kind, lines)


def _kept(outcome: Outcome) -> None:
    """Take the answer to a Remember that nobody waits for.

    What the store did not take is asked of it again when this user next comes or goes.
    """
