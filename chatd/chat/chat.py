"""What all connections of the chat share: users, rooms, the bus, and announcements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from random import randrange
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from chatd.bus import Bus, Codec, FannedOut, Group, Outbox, encode, fan_out
from chatd.changed import Changed
from chatd.chat.arrivals import Arrivals
from chatd.chat.flood import Flood
from chatd.chat.issuer import IssuerKeys
from chatd.chat.rooms import Rooms
from chatd.chat.roster import LocalRoster, Roster
from chatd.chat.sanctions import Sanctions
from chatd.chat.shared import SharedRoster
from chatd.chat.token_keys import Key
from chatd.chat.tokens import Grant, Keys, UnknownKey
from chatd.chat.user import User
from chatd.chat.users import Login, Users
from chatd.journal import Journal
from chatd.journal.damage import Damage
from chatd.journal.shared import SharedJournal
from chatd.logs import Log
from chatd.model import UNAUTHORIZED, Close, Event, Refused
from chatd.protocol import events
from chatd.settings import Settings
from chatd.timers import Timers

if TYPE_CHECKING:
    from chatd.chat.actor import Actor
    from chatd.chat.connection import Connection

__all__ = ["Chat", "ChatStatistics"]

MIN_RETRY_MS: Final = 200
MIN_SPREAD_MS: Final = 800
SPREAD_MS_EACH: Final = 2
MAX_SPREAD_MS: Final = 30_000
"""The time over which clients come back after a restart: one core easily greets one every 2 ms."""


class ChatStatistics(Struct, frozen=True):
    """Counts as of now: connections by transport and protocol, and the bytes that wait for them.

    Counts since the start: commands by name, refusals by code, refused commands by name and code,
    closed connections by close code.
    """

    connections: dict[tuple[str, str], int]
    waiting: int
    users: int
    rooms: int
    commands: dict[str, int]
    refusals: dict[str, int]
    refused_commands: dict[tuple[str, str], int]
    closes: dict[int, int]


class Chat:
    """What all connections share.

    Args:
        settings: The configuration.
        journal: Stores the rooms' logs and the users' records.
        log: The operator's log.
        now: Returns the wall clock's time in milliseconds since 1970. What is kept for a time ends
            by the journal's `steady_now`.
        timers: Run by the caller.
        keys: The keys that verify tokens.
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
        self.issuer = IssuerKeys(self._use_fetched, log)
        """The keys at ``auth.jwks_url``. Run by the caller."""
        self.issuer.follow(settings.jwks_url)
        self.timers = timers
        self.journal = journal
        self.log = log
        self.now = now
        neighbours = SharedRoster(self, journal) if isinstance(journal, SharedJournal) else None
        self.roster: Roster = LocalRoster(self) if neighbours is None else neighbours
        self.bus = Bus(journal, self._fanned_out, log, neighbours=neighbours)
        self.users = Users(self)
        self.rooms = Rooms(self)
        self.sanctions = Sanctions(journal.steady_now)
        self.damage = Damage(log.emit)
        """Reports records of the store that somebody has changed by hand."""
        self.flood = Flood(self)
        self.arrivals = Arrivals()
        self.connections: set[Connection] = set()
        self.disconnected = Changed()
        self.relayed: dict[str, Callable[[bytes], None]] = {}
        """Takes what another layer of a daemon relayed to all daemons, by its kind."""
        self.senders: dict[int, Actor] = {}
        """The senders of committed events that are not fanned out yet, by position."""
        self.commands: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.refused_commands: Counter[tuple[str, str]] = Counter()
        self.closes: Counter[int] = Counter()

    async def load(self) -> None:
        """Read what the store keeps of users and of operators' sanctions."""
        await self.users.load()
        await self.sanctions.load(self.journal, self.damage)

    def apply(self, settings: Settings) -> None:
        """Use other settings from now on."""
        self.settings = settings
        self.issuer.follow(settings.jwks_url)
        for connection in list(self.connections):
            connection.apply_settings()
            if connection.authenticated and connection.grant is None and not self.allows_guests:
                connection.end(UNAUTHORIZED, "guests are no longer allowed")

    def statistics(self) -> ChatStatistics:
        return ChatStatistics(
            connections=Counter((one.transport, one.protocol) for one in self.connections),
            waiting=sum(one.outbox.waiting for one in self.connections),
            users=len(self.users),
            rooms=len(self.rooms),
            commands=dict(self.commands),
            refusals=dict(self.refusals),
            refused_commands=dict(self.refused_commands),
            closes=dict(self.closes),
        )

    # ---- tokens

    @property
    def allows_guests(self) -> bool:
        """Whether clients without a token may enter."""
        return self.settings.auth.mode == "open" or self.settings.auth.guests

    def verify(self, token: str) -> Grant:
        """Return what a token grants now, by the keys that are known. Raise Refused if invalid."""
        if self.settings.auth.mode == "open":
            raise Refused("unauthorized", "This server does not take tokens. Everyone is a guest.")
        return self.keys.verify(token, self.now(), self.settings.auth)

    async def admit(self, token: str, limit_key: str) -> Grant:
        """Return what a token grants, by keys that may have to be fetched first.

        Args:
            token: The token.
            limit_key: The address or network that bans see.

        Raises:
            Refused: The token is invalid, its user is banned, or the keys cannot be fetched now.
        """
        try:
            grant = self.verify(token)
        except UnknownKey:
            await self.issuer.look_again()
            grant = self.verify(token)
        self.check_may_enter(grant.user, limit_key, grant)
        return grant

    async def log_in(
        self, grant: Grant, limit_key: str, nick: str | None, replaced: User | None = None
    ) -> Login:
        """Return the user of a grant. The caller attaches a connection at once.

        Args:
            grant: What `admit` returned.
            limit_key: The address or network that bans see.
            nick: The nick that the client asked for.
            replaced: A guest whose nick becomes free by this login.

        Raises:
            Refused: Meanwhile the user was banned, or the token's key removed; or the store did
                not confirm the nick.
        """

        def check() -> None:
            self.check_may_enter(grant.user, limit_key, grant)
            if grant.key not in self.keys:
                raise Refused("unauthorized", "The key of this token is gone. Get a new token.")

        return await self.users.subject(grant, nick, replaced, check)

    async def new_guest(
        self, limit_key: str, nick: str | None, *, counted: bool = True
    ) -> Login | None:
        """Return a new guest; None where clients have to authenticate first.

        The caller attaches a connection at once.

        Args:
            limit_key: The address or network that limits and bans see.
            nick: The nick that the client asked for.
            counted: Whether the address is charged for a new guest.

        Raises:
            Refused: The client is banned, the address brings too many guests, or the store did not
                confirm the nick.
        """
        if not self.allows_guests:
            return None
        if counted:
            self.flood.admit_guest(limit_key)
        return await self.users.guest(nick, partial(self.check_may_enter, "", limit_key, None))

    def check_may_enter(self, user: str, limit_key: str, grant: Grant | None) -> None:
        """Raise Refused if a client is banned; ``user`` is empty if it is not known yet."""
        if grant is not None and (grant.op or grant.user in self.settings.chat.operators):
            return
        if ban := self.sanctions.ban("", user, limit_key, guest=grant is None):
            raise self.sanctions.refused(ban, "You are banned")

    def use_keys(self, keys: Keys) -> None:
        """Verify tokens with other configured keys."""
        self._verify_with(keys.with_fetched(self.keys.fetched))

    def _use_fetched(self, fetched: Sequence[Key]) -> None:
        self._verify_with(self.keys.with_fetched(fetched))

    def _verify_with(self, keys: Keys) -> None:
        """Verify tokens with other keys. Connections whose token's key is gone are closed."""
        self.keys = keys
        for connection in list(self.connections):
            if connection.grant is not None and connection.grant.key not in keys:
                connection.end(UNAUTHORIZED, "the key of your token is gone")

    # ---- connections

    def bye(self, close: Close, reason: str) -> events.Bye:
        """Return the last event for a client. Clients come back one after another."""
        retry_ms = 0
        if close.reconnect:
            spread = max(MIN_SPREAD_MS, len(self.connections) * SPREAD_MS_EACH)
            retry_ms = MIN_RETRY_MS + randrange(min(spread, MAX_SPREAD_MS))  # noqa: S311  no secret
        return events.Bye(close.code, reason or close.reason, close.reconnect, retry_ms)

    async def broadcast(self, event: events.Notice | events.Epoch, room: str | None = None) -> None:
        """Send an event to all clients that are connected here, or to a room, by its key.

        Other tasks may run before the last client gets it.
        """
        listeners: dict[tuple[Codec, type[Outbox]], list[Connection]] = {}
        for connection in self.connections:
            if room is None or room in connection.memberships:
                kind = connection.codec, type(connection.outbox)
                listeners.setdefault(kind, []).append(connection)
        groups: list[Group[Connection]] = []
        for (codec, _), connections in listeners.items():
            block = encode(codec, "", [event], connections, self.log)
            if not block:
                continue
            outboxes = [connection.outbox for connection in connections]
            groups.append(Group(block, 1, connections, outboxes, lambda: self.connections))
        await fan_out(groups, self.bus.slices)

    async def renew(self, epoch: str) -> None:
        """Send another epoch to all clients of this daemon: the numbers continue under it."""
        await self.broadcast(events.Epoch(epoch))
        for connection in list(self.connections):
            connection.renewed()

    # ---- events

    def forget_senders(self, upto: int | None = None) -> None:
        """Let no sender wait any longer for events that this daemon will not fan out.

        ``upto`` is the last position of these events; by default all are meant.
        """
        for position in [each for each in self.senders if upto is None or each <= upto]:
            self._seen(self.senders.pop(position))

    def _seen(self, sender: Actor) -> None:
        """Record that an event of a connection's command was fanned out."""
        sender.unseen -= 1
        if sender.progress is not None:
            sender.progress.set()

    def _fanned_out(self, rooms: Sequence[FannedOut]) -> None:
        """Wake the waiting senders of events, and log the events."""
        logs_messages = self.settings.log.messages
        # All of them first: what fails below must keep no other sender waiting.
        rest: list[tuple[Event, Actor | None, int]] = []
        for fanned_out, receivers in rooms:
            for event in fanned_out:
                sender = self.senders.pop(event.position, None)
                if sender is not None:
                    self._seen(sender)
                if logs_messages or sender is None or event.kind != "message":
                    rest.append((event, sender, receivers))
        if not rest:
            return
        logged = self.log.output.enabled
        lines: list[bytes] = []
        for event, sender, receivers in rest:
            if sender is None:
                self.roster.heard(event)
            if event.kind == "topic" and (room := self.rooms.get(event.room)) is not None:
                room.topic = event.text or ""
            if (event.kind != "message" or logs_messages) and logged[event.kind]:
                lines.append(self._line(event, sender, receivers))
        if lines:
            self.log.output.write(lines)

    def _line(self, event: Event, sender: Actor | None, receivers: int) -> bytes:
        log = self.log if sender is None else sender.log
        room = self.rooms.get(event.room)
        return log.line(
            event.kind,
            room=event.room if room is None else room.name,
            seq=event.seq,
            of=event.of,
            bytes=len((event.text or "").encode()),
            receivers=receivers,
            user=event.user,
            nick=event.nick,
            text=event.text if self.settings.log.bodies else None,
        )
