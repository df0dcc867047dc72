"""One client's connections, one after the other, and what outlives them.

The theory: the daemon's log is the memory, the client keeps its place in it.

* An event is given to the application once, in the order of its room's numbers (`Following`).
* A command without an answer is sent again on the next connection. ``say`` carries a key of its
  user's, so that the log takes it once; the others come to the same when carried out twice.
* A new connection first becomes the same guest again, then joins every room from its place, and
  only then says what waits.

Tasks: `run` makes the connections. Beside each runs `_attend`, which restores, and then reads on in
the logs of rooms whose events came faster than the application took them. What is received is dealt
with in the reader's own step, so that an answer takes effect before the event behind it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from inspect import isawaitable
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
import trio
from msgspec import Struct, structs

from chatd.client.call import Call, Calls, retry_seconds
from chatd.client.changes import Change, Lost, Reconnected, RoomLost
from chatd.client.connection import Connection, Deadlines
from chatd.client.dialing import Address, Backoff
from chatd.client.errors import Closed, ConnectError, Ending, Garbled, Refused
from chatd.client.following import Following, Take
from chatd.client.inbox import Inbox
from chatd.model import LOST, NORMAL, UNAUTHORIZED
from chatd.protocol import commands
from chatd.protocol.codec import read_frame, read_result
from chatd.protocol.commands import Answer, Entered, Fault, Identity, Page, Renamed
from chatd.protocol.events import (
    Bye,
    Delete,
    Edit,
    Hello,
    Left,
    Message,
    NickChange,
    Notice,
    ServerEvent,
    Topic,
    Unknown,
)

__all__ = ["AnyEvent", "Conversation", "Statistics", "Token"]

_T = TypeVar("_T")

Token: TypeAlias = str | Callable[[], str] | Callable[[], Awaitable[str]]
"""A token, or what gives a fresh one."""

AnyEvent: TypeAlias = ServerEvent | Unknown | Change
"""Whatever `Chat.next_event` gives; its name stands in ``on``."""

# What the name of a room of direct messages begins with.
_DIRECT: Final = "@"

# The epoch of a number that came without one.
_UNKNOWN: Final = ""

# The daemon's own page, while reading on in a log.
_PAGE: Final = 100


class Statistics(Struct, frozen=True):
    """What a chat did so far, and what it holds."""

    connections: int
    """Connections that got as far as being used."""
    waiting_events: int
    """Events the application has still to take."""
    unanswered: int
    """Commands without an answer."""
    duplicates: int
    """Events of a log that came a second time and were dropped."""
    late: int
    """Events of a log that came while there was no room, to be read from it afterwards."""
    dropped: int
    """Events of no log for which there was no room."""


class Conversation:
    """What `Chat` is the face of."""

    def __init__(
        self,
        address: Address,
        identity: Identity,
        *,
        token: Token | None = None,
        reconnect: bool,
        events: int,
        deadlines: Deadlines,
        backoff: Backoff,
    ) -> None:
        self.identity = identity
        self.hello: Hello | None = None
        self.ending: Ending | None = None
        self.ready = False
        self.inbox: Inbox[AnyEvent] = Inbox(events)
        self.rooms: dict[str, Following] = {}
        self._address = address
        self._token = token
        self._reconnect = reconnect
        self._deadlines = deadlines
        self._backoff = backoff
        self._calls = Calls(deadlines.answer)
        self._connection: Connection | None = None
        self._over: Closed | None = None
        self._bye: Bye | None = None
        self._greeted = trio.Event()
        self._renew = False
        self._late = trio.Event()
        self._again = trio.Event()
        self._lost = trio.Event()
        self._settled = trio.Event()
        self._failed: ConnectError | None = None
        self._connections = 0
        self._duplicates = 0
        self._lates = 0
        self._dropped = 0

    # ---- for the application

    async def call(
        self,
        do: str,
        fields: dict[str, Any],
        kind: type[_T],
        answered: Callable[[_T], None] | None = None,
        *,
        keyed: bool = False,
    ) -> _T:
        """Have a command carried out, on this connection or a later one."""
        if self._over is not None:
            raise self._over
        call = self._calls.new(_command(do, fields), kind, answered, keyed=keyed)
        if self.ready and self._connection is not None:
            self._calls.send(self._connection, call)
        return await self._calls.outcome(call)

    def mention(self, do: str, fields: dict[str, Any]) -> None:
        """Send a command that has no answer, if there is a connection to send it on."""
        if self.ready and self._connection is not None:
            self._calls.mention(self._connection, _command(do, fields))

    async def settled(self) -> None:
        """Wait until the attempt to connect that is being made ends. Raises what it failed with."""
        await self._settled.wait()
        if self._failed is not None:
            raise self._failed
        if self._over is not None:
            raise self._over

    async def reconnect(self) -> None:
        if self._over is not None:
            raise self._over
        if self._settled.is_set():
            self._settled = trio.Event()
            self._failed = None
            if self.ready and self._connection is not None:
                self._connection.end(LOST.code, "connecting again")
            # Where an attempt is being made, that is the one to wait for.
            if self.ready or self._connection is None:
                self._again.set()
        await self.settled()

    async def lost(self) -> Ending:
        while self.ending is None:
            await self._lost.wait()
        return self.ending

    async def aclose(self) -> None:
        self._finish(Ending(NORMAL.code, "left", reconnect=False))
        if self._connection is not None:
            await self._connection.aclose()

    def identified(self, identity: Identity) -> None:
        self.identity = identity

    def renamed(self, renamed: Renamed) -> None:
        self.identity = structs.replace(self.identity, nick=renamed.nick)

    def statistics(self) -> Statistics:
        return Statistics(
            connections=self._connections,
            waiting_events=len(self.inbox),
            unanswered=len(self._calls),
            duplicates=self._duplicates,
            late=self._lates,
            dropped=self._dropped,
        )

    # ---- the connections

    async def run(self) -> None:
        """Connect, and come back, until it is over."""
        attempt = 0
        while self._over is None:
            began = trio.current_time()
            retry_ms = None
            try:
                ending = await self._converse()
            except ConnectError as error:
                self._failed = error
                retry_ms = error.retry_ms
                if self._connections == 0 or error.hopeless:
                    self._finish(Ending(LOST.code, str(error), reconnect=False))
                self._settled.set()
            else:
                retry_ms = ending.retry_ms
                if not ending.reconnect:
                    self._finish(ending)
            if self._over is not None:
                return
            if trio.current_time() - began > self._backoff.most_seconds:
                attempt = 0
            await self._rest(attempt, retry_ms)
            attempt += 1

    async def _rest(self, attempt: int, retry_ms: int | None) -> None:
        chance = random.random()  # noqa: S311  it spreads load, it guards nothing
        if not self._reconnect:
            seconds = math.inf
        elif retry_ms is not None:
            seconds = self._backoff.after(retry_ms, chance)
        else:
            seconds = self._backoff.seconds(attempt, chance)
        with trio.move_on_after(seconds):
            await self._again.wait()
        self._again = trio.Event()

    async def _converse(self) -> Ending:
        self._greeted = trio.Event()
        self._bye = None
        # Who has a session gets their nick with it; another's guess at it would only be in the way.
        nick = None if self.identity.session else self.identity.nick
        connection = Connection(self._address, self._address.beginning(nick), self._deadlines)
        self._connection = connection
        try:
            ending = await connection.converse(self._received, partial(self._attend, connection))
        finally:
            self._connection = None
            restored, self.ready = self.ready, False
            self._calls.stranded()
        ending = self._with_bye(ending)
        if ending.reconnect and not restored:
            raise ConnectError(
                f"the connection ended before it was used: {ending.reason}",
                retry_ms=ending.retry_ms,
            )
        if self._over is None:
            self._ended(ending)
            self._put(Lost(ending))
        return ending

    def _with_bye(self, ending: Ending) -> Ending:
        if (bye := self._bye) is not None:
            cut_short = ending.code == LOST.code
            ending = Ending(
                bye.code if cut_short else ending.code,
                bye.reason if cut_short else ending.reason,
                bye.reconnect,
                bye.retry_ms,
            )
        return ending

    def _ended(self, ending: Ending) -> None:
        self.ending = ending
        self._lost.set()

    def _finish(self, ending: Ending) -> None:
        if self._over is not None:
            return
        over = self._over = Closed(ending)
        self._ended(ending)
        self._calls.fail(over)
        self.inbox.end(over)
        self._settled.set()

    # ---- what is received; nothing here waits

    def _received(self, frame: str | bytes) -> None:
        try:
            received = read_frame(frame)
            if not isinstance(received, Answer):
                self._told(received)
            elif received.re is None and received.error is not None:
                self._put(Notice(text=read_result(received.error, Fault).message))
            else:
                self._calls.answered(received)
        except ValueError as error:
            raise Garbled(str(error)) from None

    def _told(self, event: ServerEvent | Unknown) -> None:
        match event:
            case Message(seq=int()) | Edit() | Delete() | Topic():
                self._logged(event)
                return
            case Hello():
                self.hello = event
                self._greeted.set()
                return
            case Bye():
                self._bye = event
            case Notice(do="auth", code=None) if callable(self._token):
                self._renew = True
                self._late.set()
                return
            case NickChange() if event.user == self.identity.user:
                self.identity = structs.replace(self.identity, nick=event.nick)
            case Left(reason="kicked" | "banned") if event.user == self.identity.user:
                self.rooms.pop(event.room, None)  # and nobody goes back in by themselves
            case _:
                pass
        self._put(event)

    def _logged(self, event: Message | Edit | Delete | Topic) -> None:
        if event.seq is None:
            self._put(event)
            return
        following = self.rooms.get(event.room)
        if following is None:
            self._put(event)
            if event.room.startswith(_DIRECT):
                self._follow(event.room, event.seq)
            return
        if following.resuming:
            return
        # Two: the gap that may have to be told first.
        match following.take(event.seq, fits=self.inbox.fits(2)):
            case Take.SEEN:
                self._duplicates += 1
            case Take.LATE:
                self._lates += 1
                self._late.set()
            case Take.NOW:
                for gap in following.told():
                    self._put(gap)
                self._put(event)

    def _follow(self, room: str, seq: int) -> None:
        """Follow direct messages, which nobody joins, from the first one on that was heard."""
        self.rooms[room] = following = Following(Entered(room, _UNKNOWN, seq, []), None)
        following.seq = seq
        # The log is read on at once: the page tells which epoch the number is of.
        following.late = True
        self._late.set()

    def _put(self, event: AnyEvent) -> None:
        if self.inbox.fits(1):
            self.inbox.put(event)
        else:
            self._dropped += 1

    # ---- beside each connection

    async def _attend(self, connection: Connection) -> None:
        try:
            await self._restore(connection)
            while True:
                await self._late.wait()
                if self._renew:
                    self._renew = False
                    await self._authenticate(connection)
                    continue
                late = next((room for room in self.rooms.values() if room.late), None)
                if late is None:
                    self._late = trio.Event()
                else:
                    await self.inbox.half_empty()
                    await self._read_on(connection, late)
        except trio.TooSlowError:
            connection.end(LOST.code, "no answer in time")
        except Closed:
            pass  # left meanwhile: `aclose` ends the connection

    async def _restore(self, connection: Connection) -> None:
        with trio.fail_after(self._deadlines.answer):
            await self._greeted.wait()
        same_user = await self._become(connection)
        if self._connections or not same_user:
            self._put(Reconnected(self.identity.user, self.identity.nick, same_user))
        joins = [(room, self._rejoin(connection, room)) for room in self.rooms.values()]
        try:
            for following, call in joins:
                await self._rejoined(connection, following, call)
        finally:
            for _, call in joins:
                self._calls.forget(call)
        self._calls.resend(connection, same_user=same_user)
        self._connections += 1
        self._failed = None
        self.ending = None
        self._lost = trio.Event()
        self.ready = True
        self._settled.set()

    async def _become(self, connection: Connection) -> bool:
        """Be who we were. Tells whether that was to be had."""
        assert self.hello is not None  # noqa: S101  the greeting was waited for
        before, hello = self.identity, self.hello
        guest = Identity(hello.user, hello.nick, hello.op, hello.session)
        if self._token is not None:
            return await self._authenticate(connection)
        if before.session is None:
            self.identity = guest
            return True
        known = True
        try:
            self.identity = await self._calls.ask(
                connection, commands.Auth(session=before.session), Identity
            )
        except Refused:
            self.identity = guest
            known = False
        if before.nick is not None and self.identity.nick != before.nick:
            # Where it is somebody else's by now, the application sees it by `identity`.
            with suppress(Refused):
                self.renamed(
                    await self._calls.ask(connection, commands.Nick(nick=before.nick), Renamed)
                )
        return known

    async def _authenticate(self, connection: Connection) -> bool:
        """Be who the token names. One that is refused is refused for good."""
        token = self._token() if callable(self._token) else self._token
        if isawaitable(token):
            token = await token
        before = self.identity
        try:
            self.identity = await self._calls.ask(connection, commands.Auth(token=token), Identity)
        except Refused as refused:
            connection.end(UNAUTHORIZED.code, refused.message)
            await trio.sleep_forever()
        return before.user in {None, self.identity.user}

    def _rejoin(self, connection: Connection, following: Following) -> Call[Entered]:
        since = following.rejoining()
        join = commands.Join(room=following.room, since=since)
        call = self._calls.new(join, Entered, partial(self._back_in, following))
        self._calls.send(connection, call)
        return call

    async def _rejoined(
        self, connection: Connection, following: Following, call: Call[Entered]
    ) -> None:
        while True:
            try:
                await self._calls.outcome(call)
            except Refused as refused:
                if (seconds := retry_seconds(refused)) is not None:
                    await trio.sleep(seconds)
                    call = self._rejoin(connection, following)
                    continue
                self.rooms.pop(following.room, None)
                self._put(RoomLost(following.room, refused))
            return

    def _back_in(self, following: Following, entered: Entered) -> None:
        self.rooms.pop(following.room, None)
        following.rejoined(entered)
        self.rooms[following.room] = following
        for event in entered.events:
            self._told(event)
        if following.gap is not None:  # and no event to tell it with
            following.late = True
            self._late.set()

    async def _read_on(self, connection: Connection, following: Following) -> None:
        newest = following.newest
        history = commands.History(
            room=following.room,
            after=following.position.seq,
            limit=min(_PAGE, self.inbox.most // 2 - 2),
        )
        try:
            page = await self._calls.ask(connection, history, Page)
        except Refused:
            page = Page(following.epoch, [])
        if self.rooms.get(following.room) is following:
            for event in following.read(page, newest):
                self._put(event)


def _command(do: str, fields: dict[str, Any]) -> commands.Command:
    given = {name: value for name, value in fields.items() if value is not None}
    command: commands.Command = msgspec.convert(given | {"do": do}, _COMMAND)
    return command


_COMMAND: Final[Any] = commands.AnyCommand
