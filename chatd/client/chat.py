"""The chat as a program sees it: one object over any number of connections, one after the other.

The daemon's log is the memory; the client keeps its position in it.

* The program gets an event once, in the order of its room's numbers (`Following`).
* A command without an answer is sent again on the next connection (`Calls`). ``say`` carries a key
  of its user's, so that the log takes it once; the others have the same effect when repeated.
* A new connection first becomes the same user again, then joins every room from its position, and
  only then sends the commands that wait.

`Chat._run` makes the connections. Beside each runs `Chat._attend`, which restores the state and
then reads on in the logs of rooms whose events came faster than the program took them. What is
received is handled in the reader's own step, so that an answer takes effect before the event behind
it.
"""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from inspect import isawaitable
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import trio
from msgspec import Struct, structs

from chatd.client.call import Call, Calls, retry_seconds
from chatd.client.changes import Change, Lost, Reconnected, RoomLost
from chatd.client.connection import Connection, Deadlines
from chatd.client.dialing import Address, Backoff, Dial, dial_url
from chatd.client.errors import Closed, ConnectError, Ending, Garbled, Refused, unwrapped, with_bye
from chatd.client.following import Following, Take
from chatd.client.inbox import Inbox
from chatd.client.moderation import Moderation
from chatd.client.sessions import load_session, save_session
from chatd.model import LOST, NORMAL, UNAUTHORIZED
from chatd.protocol import commands
from chatd.protocol.codec import read_frame, read_result
from chatd.protocol.commands import (
    Answer,
    Changed,
    Command,
    Entered,
    Fault,
    Found,
    Identity,
    Members,
    Page,
    Position,
    ReadMark,
    Renamed,
    RoomInfo,
    RoomLeft,
    RoomList,
    Said,
)
from chatd.protocol.events import (
    Bye,
    Delete,
    Edit,
    Epoch,
    Hello,
    Left,
    LogEvent,
    Message,
    NickChange,
    Notice,
    ServerEvent,
    Topic,
    Unknown,
)

__all__ = ["AnyEvent", "Chat", "Statistics", "Token", "connect"]

_T = TypeVar("_T")

Token: TypeAlias = str | Callable[[], str] | Callable[[], Awaitable[str]]
"""A token, or a function, plain or async, that returns a fresh one."""

AnyEvent: TypeAlias = ServerEvent | Unknown | Change
"""Anything that `Chat.next_event` returns. Its name is in ``on``."""

# The first character of the names of direct messages' rooms.
_DIRECT: Final = "@"

# The epoch of a number that came without one.
_UNKNOWN: Final = ""

# The size of the pages in which a log is read on: the daemon's default.
_PAGE: Final = 100

# Half of them is the page that is read on, less the gaps that may have to be reported before it.
_LEAST_EVENTS: Final = 16


class Statistics(Struct, frozen=True):
    """Figures of a `Chat`.

    Attributes:
        connections: How many connections got as far as being used.
        waiting_events: How many events wait to be taken.
        unanswered: How many commands have no answer yet.
        duplicates: How many events of a log came a second time and were dropped.
        late: How many events of a log came while there was no room, to be read from the log later.
        dropped: How many events of no log were dropped because there was no room.
    """

    connections: int
    waiting_events: int
    unanswered: int
    duplicates: int
    late: int
    dropped: int


class Chat(Moderation):
    """A chat, made by `connect`. Its methods may be called from any number of tasks.

    Every command waits for its answer, also over a lost connection: the next one sends it again. A
    command that is cancelled while it waits may have been carried out.

    Iterating over a chat (``async for event in chat``) yields the events that `next_event` returns,
    and ends after `aclose`.

    Every command may raise these:

    Raises:
        Refused: The daemon refused the command. Its ``code`` tells why.
        trio.TooSlowError: A living connection brought no answer in `Deadlines.answer` seconds.
        Closed: The chat is over.
    """

    def __init__(
        self,
        address: Address,
        identity: Identity,
        *,
        token: Token | None = None,
        session_file: Path | None = None,
        reconnect: bool,
        events: int,
        deadlines: Deadlines,
        backoff: Backoff,
    ) -> None:
        self._address = address
        self._identity = identity
        self._token = token
        self._session_file = session_file
        self._reconnect = reconnect
        self._deadlines = deadlines
        self._backoff = backoff
        self._inbox: Inbox[AnyEvent] = Inbox(events)
        self._rooms: dict[str, Following] = {}
        self._calls = Calls(deadlines.answer)
        # The connection there is, and how far it got.
        self._connection: Connection | None = None
        self._hello: Hello | None = None
        self._greeted = trio.Event()
        self._ready = False
        self._bye: Bye | None = None
        # Work for the task beside the connection: a token to renew, rooms to read on in.
        self._work = trio.Event()
        self._renew = False
        # The attempt to connect that is being made, and the end of the last connection.
        self._attempted = trio.Event()
        self._failed: ConnectError | None = None
        self._ending: Ending | None = None
        self._lost = trio.Event()
        self._retry = trio.Event()
        self._over: Closed | None = None
        self._connections = 0
        self._duplicates = 0
        self._late = 0
        self._dropped = 0

    # ---- commands

    async def join(
        self,
        room: str,
        *,
        since: Position | None = None,
        limit: int | None = None,
        messages: bool | None = None,
    ) -> Entered:
        """Join a room and return a page of its log.

        Later events of the room come by `next_event`, also over lost connections.

        Args:
            room: The room's name, of at most 64 characters, or ``@nick`` for the direct messages
                with a user, whose events come without a join too.
            since: The position to continue from. By default the page has the newest events.
            limit: The size of the page: 100 by default, 0 to 500.
            messages: True if ``limit`` counts messages only; the page has all events between them.

        Returns:
            The page and the state of the room. The events of the page do not come again.

        Raises:
            Refused: ``not_found`` (there is no such room, and users may not create rooms),
                ``banned``, ``forbidden``, ``rate_limited`` or ``bad_request``.
        """

        def answered(entered: Entered) -> None:
            # If the room was joined before, events that were not taken yet still come, in order.
            if entered.room not in self._rooms:
                self._rooms[entered.room] = Following(entered, since)

        join = commands.Join(room=room, since=since, limit=limit, messages=bool(messages))
        return await self._call(join, Entered, answered)

    async def leave(self, room: str) -> None:
        """Leave a room. Events that came before may still be taken.

        Args:
            room: The room's name.

        Raises:
            Refused: ``not_joined``, or ``bad_request`` for direct messages.
        """

        def answered(left: RoomLeft) -> None:
            self._rooms.pop(left.room, None)

        await self._call(commands.Leave(room=room), RoomLeft, answered)

    async def say(
        self,
        text: str,
        *,
        room: str | None = None,
        key: str | None = None,
        reply_to: int | None = None,
    ) -> Said:
        """Send a message. It is in the log once, over any number of connections.

        Args:
            text: The text, of at most ``limits.message_bytes`` bytes (see `hello`).
            room: The room's name, or ``@nick`` for a direct message. By default the one room that
                is joined.
            key: 1 to 64 bytes that name this message among the user's. To send a message again
                after an exception, give the same key both times. By default a random one.
            reply_to: The number of the message that this one answers.

        Returns:
            The message's number and time.

        Raises:
            Refused: ``not_joined``, ``muted``, ``rate_limited``, ``too_large``, ``bad_request``,
                ``forbidden``, or ``unavailable``: then the message may or may not be in the log.
            ValueError: No room was given, and not exactly one is joined.
        """
        if room is None:
            if len(self.joined) != 1:
                joined = ", ".join(self.joined) or "none"
                raise ValueError(f"Name the room to speak in. Joined rooms: {joined}.")
            (room,) = self.joined
        if key is None:
            key = secrets.token_hex(16)
        say = commands.Say(room=room, text=text, key=key, reply_to=reply_to)
        return await self._call(say, Said, keyed=True)

    async def edit(self, room: str, seq: int, text: str) -> Changed:
        """Change the text of one of the user's own messages.

        Args:
            room: The room's name.
            seq: The message's number.
            text: The new text, of at most ``limits.message_bytes`` bytes.

        Returns:
            The number and time of the ``edit`` event.

        Raises:
            Refused: ``not_found``, ``forbidden`` (another user's message), ``not_joined``,
                ``muted``, ``rate_limited``, ``too_large``, ``bad_request`` or ``unavailable``.
        """
        return await self._call(commands.Edit(room=room, seq=seq, text=text), Changed)

    async def delete(self, room: str, seq: int) -> Changed:
        """Delete one of the user's own messages, or, as an operator, any message.

        Args:
            room: The room's name.
            seq: The message's number.

        Returns:
            The number and time of the ``delete`` event.

        Raises:
            Refused: ``not_found``, also if the connection was lost after the message was deleted;
                ``forbidden`` (another user's message), ``not_joined`` or ``unavailable``.
        """
        return await self._call(commands.Delete(room=room, seq=seq), Changed)

    async def topic(self, room: str, text: str) -> Changed:
        """Set a room's topic.

        Args:
            room: The room's name.
            text: The topic, one line of at most 1,024 bytes; an empty text removes it.

        Returns:
            The number and time of the ``topic`` event.

        Raises:
            Refused: ``forbidden``, ``not_joined``, ``muted``, ``rate_limited``, ``too_large``,
                ``bad_request`` or ``unavailable``.
        """
        return await self._call(commands.Topic(room=room, text=text), Changed)

    async def history(
        self,
        room: str,
        *,
        before: int | None = None,
        after: int | None = None,
        limit: int | None = None,
        messages: bool | None = None,
    ) -> Page:
        """Read a page of a room's log: before a number, after one, or the newest events.

        Args:
            room: The room's name, or ``@nick``. It need not be joined.
            before: Only events with smaller numbers.
            after: Only events with greater numbers. Give at most one of the two.
            limit: The size of the page: 100 by default, 0 to 500.
            messages: True if ``limit`` counts messages only; it has no effect with ``after``.

        Returns:
            Events, oldest first, and whether the log goes on in that direction.

        Raises:
            Refused: ``not_found``, ``banned``, ``forbidden``, ``rate_limited`` or ``bad_request``.
        """
        history = commands.History(
            room=room, before=before, after=after, limit=limit, messages=bool(messages)
        )
        return await self._call(history, Page)

    async def search(
        self,
        room: str | None,
        query: str,
        *,
        sender: str | None = None,
        before: int | datetime | None = None,
        limit: int | None = None,
    ) -> Found:
        """Find the messages that have all words of ``query``.

        Args:
            room: The room's name, or ``@nick``. It need not be joined. None for all rooms that this
                user is in.
            query: Words, in at most 256 bytes; each finds the words that begin with it. Words in
                double quotes are found exactly as they are, one after the other.
            sender: Only messages of this nick; default: of everybody. The query may then be empty.
            before: In one room, only messages with smaller numbers; in all rooms, only messages
                from before this time, which has a time zone.
            limit: The size of the page: 100 by default, 0 to 500. In all rooms it may be exceeded
                by messages that have the time of the last one.

        Returns:
            Messages, the newest first, and whether there may be more.

        Raises:
            Refused: ``not_found``, ``banned``, ``forbidden``, ``rate_limited``, ``too_large`` or
                ``bad_request``.
        """
        search = commands.Search(room=room, query=query, sender=sender, before=before, limit=limit)
        return await self._call(search, Found)

    def typing(self, room: str, *, active: bool = True) -> None:
        """Report that this user is typing. It does not wait, and is lost if there is no connection.

        Args:
            room: The room's name, or ``@nick``.
            active: False if the user stopped typing.
        """
        if self._ready and self._connection is not None:
            self._calls.mention(self._connection.send, commands.Typing(room=room, on=active))

    async def read(self, room: str, seq: int) -> int:
        """Mark a room as read up to a number.

        Args:
            room: The room's name, or ``@nick``.
            seq: The number of the last event that was read.

        Returns:
            The number up to which the room is read; it never goes back.

        Raises:
            Refused: ``not_joined``, ``bad_request`` or ``unavailable``.
        """
        return (await self._call(commands.Read(room=room, seq=seq), ReadMark)).seq

    async def who(
        self, room: str, *, after: str | None = None, limit: int | None = None
    ) -> Members:
        """List a room's members by nick.

        Args:
            room: The room's name. It need not be joined.
            after: The last nick of the previous page. By default the first page is returned.
            limit: The size of the page: 100 by default, 0 to 500.

        Returns:
            A page of members, and how many there are in all.

        Raises:
            Refused: ``not_found``, ``banned``, ``forbidden`` or ``rate_limited``.
        """
        return await self._call(commands.Who(room=room, after=after, limit=limit), Members)

    async def rooms(self) -> list[RoomInfo]:
        """Return all rooms: direct messages first, then by name. It asks page after page.

        Raises:
            Refused: ``rate_limited`` or ``unavailable``.
        """
        rooms: list[RoomInfo] = []
        more = True
        while more:
            after = rooms[-1].room if rooms else None
            page = await self._call(commands.Rooms(after=after), RoomList)
            rooms += page.rooms
            more = page.more and bool(page.rooms)
        return rooms

    async def nick(self, nick: str) -> str:
        """Change this user's nick.

        Args:
            nick: The new nick, of at most 32 characters.

        Returns:
            The nick as it is displayed.

        Raises:
            Refused: ``nick_taken``, ``bad_request`` or ``rate_limited``.
        """
        return (await self._call(commands.Nick(nick=nick), Renamed, self._renamed)).nick

    async def auth(self, session: str | None = None, *, token: str | None = None) -> Identity:
        """Become another user. After the first `join` it can only renew the same user's token.

        Args:
            session: The ``session`` of an `Identity`, to become that guest again.
            token: A token, to become the user that it names. Give one of the two.

        Returns:
            Who this client is now.

        Raises:
            Refused: ``unauthorized`` (the secret is unknown or has expired), ``forbidden`` or
                ``bad_request``.
        """
        return await self._call(
            commands.Auth(session=session, token=token), Identity, self._identified
        )

    # ---- events

    async def next_event(self) -> AnyEvent:
        """Wait for the next event, also over lost connections, and return it.

        Raises:
            Closed: The chat is over, and all events were taken.
        """
        return await self._inbox.take()

    def next_event_nowait(self) -> AnyEvent:
        """Return the next event.

        Raises:
            trio.WouldBlock: There is none now.
            Closed: The chat is over, and all events were taken.
        """
        return self._inbox.take_nowait()

    def __aiter__(self) -> Chat:
        return self

    async def __anext__(self) -> AnyEvent:
        try:
            return await self.next_event()
        except Closed as closed:
            if closed.ending.code == NORMAL.code:
                raise StopAsyncIteration from None
            raise

    # ---- the state

    @property
    def identity(self) -> Identity:
        """Who this client is. Keep ``session`` to be the same guest in a later run."""
        return self._identity

    @property
    def hello(self) -> Hello | None:
        """The first event of the last connection, with the daemon's limits."""
        return self._hello

    @property
    def connected(self) -> bool:
        """True if commands are sent at once."""
        return self._ready

    @property
    def ending(self) -> Ending | None:
        """Why the last connection ended; None while there is one."""
        return self._ending

    @property
    def joined(self) -> tuple[str, ...]:
        """The names of the rooms that are joined, which direct messages are not."""
        return tuple(room for room in self._rooms if not room.startswith(_DIRECT))

    def position(self, room: str) -> Position | None:
        """Return the client's position in a room's log, to be ``since`` of a later `join`.

        Events that wait to be taken are before it.

        Args:
            room: The room's name as `Entered` has it.

        Returns:
            The position; None if the room is not joined.
        """
        following = self._rooms.get(room)
        return None if following is None else following.position

    def statistics(self) -> Statistics:
        """Return figures of this chat."""
        return Statistics(
            connections=self._connections,
            waiting_events=len(self._inbox),
            unanswered=len(self._calls),
            duplicates=self._duplicates,
            late=self._late,
            dropped=self._dropped,
        )

    # ---- the connection

    async def lost(self) -> Ending:
        """Wait until there is no connection, and return why."""
        while self._ending is None:
            await self._lost.wait()
        return self._ending

    async def reconnect(self) -> None:
        """Connect again now, and wait until all is restored. It drops a connection that there is.

        Raises:
            ConnectError: This attempt failed; unless ``reconnect=False``, others follow.
            Closed: The chat is over.
        """
        if self._over is not None:
            raise self._over
        if self._attempted.is_set():
            self._attempted = trio.Event()
            self._failed = None
            if self._ready and self._connection is not None:
                self._connection.end(LOST.code, "connecting again")
            # If an attempt is being made, that is the one to wait for.
            if self._ready or self._connection is None:
                self._retry.set()
        await self._wait_attempted()

    async def aclose(self) -> None:
        """Close the connection and end the events. Commands that wait raise `Closed`."""
        self._finish(Ending(NORMAL.code, "left", reconnect=False))
        if self._connection is not None:
            await self._connection.aclose()

    async def _wait_attempted(self) -> None:
        """Wait until the present attempt to connect has ended, and raise what it failed with.

        `connect` calls it.
        """
        await self._attempted.wait()
        if self._failed is not None:
            raise self._failed
        if self._over is not None:
            raise self._over

    async def _run(self) -> None:
        """Make the connections until the chat is over. `connect` calls it."""
        attempt = 0
        while self._over is None:
            began = trio.current_time()
            try:
                ending = await self._converse()
            except ConnectError as error:
                self._failed = error
                retry_ms = error.retry_ms
                if self._connections == 0 or error.hopeless:
                    self._finish(Ending(LOST.code, str(error), reconnect=False))
                self._attempted.set()
            else:
                retry_ms = ending.retry_ms
                if not ending.reconnect:
                    self._finish(ending)
            if self._over is not None:
                return
            if trio.current_time() - began > self._backoff.most_seconds:
                attempt = 0
            await self._wait_to_retry(attempt, retry_ms)
            attempt += 1

    async def _wait_to_retry(self, attempt: int, retry_ms: int | None) -> None:
        chance = random.random()  # noqa: S311  it spreads load, it guards nothing
        if not self._reconnect:
            seconds = math.inf
        elif retry_ms is not None:
            seconds = self._backoff.after(retry_ms, chance)
        else:
            seconds = self._backoff.seconds(attempt, chance)
        with trio.move_on_after(seconds):
            await self._retry.wait()
        self._retry = trio.Event()

    async def _converse(self) -> Ending:
        """Make one connection and return why it ended, or raise `ConnectError`."""
        self._greeted = trio.Event()
        self._bye = None
        # A session brings its nick with it. The nick in the request would only be another's.
        nick = None if self._identity.session else self._identity.nick
        connection = Connection(self._address, self._address.beginning(nick), self._deadlines)
        self._connection = connection
        try:
            ending = await connection.converse(self._received, partial(self._attend, connection))
        finally:
            self._connection = None
            was_ready, self._ready = self._ready, False
            self._calls.stranded()
        if self._bye is not None:
            ending = with_bye(ending, self._bye)
        if ending.reconnect and not was_ready:
            raise ConnectError(
                f"the connection ended before it was used: {ending.reason}",
                retry_ms=ending.retry_ms,
            )
        if self._over is None:
            self._ended(ending)
            self._put(Lost(ending))
        return ending

    def _ended(self, ending: Ending) -> None:
        self._ending = ending
        self._lost.set()

    def _finish(self, ending: Ending) -> None:
        if self._over is not None:
            return
        over = self._over = Closed(ending)
        self._ended(ending)
        self._calls.fail(over)
        self._inbox.end(over)
        self._attempted.set()

    async def _call(
        self,
        command: Command,
        kind: type[_T],
        answered: Callable[[_T], None] | None = None,
        *,
        keyed: bool = False,
    ) -> _T:
        if self._over is not None:
            raise self._over
        call = self._calls.new(command, kind, answered, keyed=keyed)
        if self._ready and self._connection is not None:
            self._calls.send(self._connection.send, call)
        return await self._calls.outcome(call)

    # ---- what is received; nothing here waits

    def _received(self, frame: str | bytes) -> None:
        try:
            received = read_frame(frame)
            if not isinstance(received, Answer):
                self._event(received)
            elif received.re is None and received.error is not None:
                self._put(Notice(text=read_result(received.error, Fault).message))
            else:
                self._calls.answered(received)
        except ValueError as error:
            raise Garbled(str(error)) from None

    def _event(self, event: ServerEvent | Unknown) -> None:
        match event:
            case Message(seq=int()) | Edit() | Delete() | Topic():
                self._log_event(event)
                return
            case Hello():
                self._hello = event
                self._greeted.set()
                return
            case Bye():
                self._bye = event
            case Notice(do="auth", code=None) if callable(self._token):
                self._renew = True
                self._work.set()
                return
            case Epoch():
                for following in self._rooms.values():
                    following.renewed(event.epoch)
            case NickChange() if event.user == self._identity.user:
                self._identity = structs.replace(self._identity, nick=event.nick)
            case Left(reason="kicked" | "banned") if event.user == self._identity.user:
                self._rooms.pop(event.room, None)  # which the client does not join again by itself
            case _:
                pass
        self._put(event)

    def _log_event(self, event: LogEvent) -> None:
        if event.seq is None:
            self._put(event)
            return
        following = self._rooms.get(event.room)
        if following is None:
            self._put(event)
            if event.room.startswith(_DIRECT):
                self._follow(event.room, event.seq)
            return
        if following.resuming:
            return
        # Two: a gap may have to be reported first.
        match following.take(event.seq, fits=self._inbox.fits(2)):
            case Take.SEEN:
                self._duplicates += 1
            case Take.LATE:
                self._late += 1
                self._work.set()
            case Take.NOW:
                for gap in following.pending_gap():
                    self._put(gap)
                self._put(event)

    def _follow(self, room: str, seq: int) -> None:
        """Follow direct messages, which are not joined, from the first one that arrives."""
        self._rooms[room] = following = Following(Entered(room, _UNKNOWN, seq, []), None)
        following.seq = seq
        # The page that is read at once has the epoch of the number.
        following.late = True
        self._work.set()

    def _put(self, event: AnyEvent) -> None:
        if self._inbox.fits(1):
            self._inbox.put(event)
        else:
            self._dropped += 1

    def _identified(self, identity: Identity) -> None:
        self._identity = identity
        self._save_again()

    def _save_session(self) -> None:
        """Save the session in its file, which has some 100 bytes. Raise OSError."""
        if self._session_file is not None and self._identity.session is not None:
            save_session(self._session_file, self._identity.session)

    def _save_again(self) -> None:
        # `connect` has written the file. If that fails by now, the one there mostly still does.
        with suppress(OSError):
            self._save_session()

    def _renamed(self, renamed: Renamed) -> None:
        self._identity = structs.replace(self._identity, nick=renamed.nick)

    # ---- beside each connection

    async def _attend(self, connection: Connection) -> None:
        try:
            await self._restore(connection)
            while True:
                await self._work.wait()
                if self._renew:
                    self._renew = False
                    await self._authenticate(connection)
                    continue
                late = next((room for room in self._rooms.values() if room.late), None)
                if late is None:
                    self._work = trio.Event()
                else:
                    await self._inbox.half_empty()
                    await self._read_on(connection, late)
        except trio.TooSlowError:
            connection.end(LOST.code, "no answer in time")
        except Closed:
            pass  # `aclose` ends the connection

    async def _restore(self, connection: Connection) -> None:
        with trio.fail_after(self._deadlines.answer):
            await self._greeted.wait()
        same_user = await self._become(connection)
        if self._connections:
            self._save_again()
        if self._connections or not same_user:
            self._put(Reconnected(self._identity.user, self._identity.nick, same_user))
        joins = [(room, self._rejoin(connection, room)) for room in self._rooms.values()]
        try:
            for following, call in joins:
                await self._rejoined(connection, following, call)
        finally:
            for _, call in joins:
                self._calls.forget(call)
        self._calls.resend(connection.send, same_user=same_user)
        self._connections += 1
        self._failed = None
        self._ending = None
        self._lost = trio.Event()
        self._ready = True
        self._attempted.set()

    async def _become(self, connection: Connection) -> bool:
        """Become the user of before, and return whether that was possible."""
        assert self._hello is not None  # noqa: S101  the greeting was waited for
        before, hello = self._identity, self._hello
        guest = Identity(hello.user, hello.nick, hello.op, hello.session)
        if self._token is not None:
            return await self._authenticate(connection)
        if before.session is None:
            self._identity = guest
            return True
        known = True
        try:
            auth = commands.Auth(session=before.session)
            self._identity = await self._calls.ask(connection.send, auth, Identity)
        except Refused:
            self._identity = guest
            known = False
        if before.nick is not None and self._identity.nick != before.nick:
            # If another user has the nick by now, the program sees that in `identity`.
            with suppress(Refused):
                nick = commands.Nick(nick=before.nick)
                self._renamed(await self._calls.ask(connection.send, nick, Renamed))
        return known

    async def _authenticate(self, connection: Connection) -> bool:
        """Become the user that the token names. If it is refused, the chat is over."""
        token = self._token() if callable(self._token) else self._token
        if isawaitable(token):
            token = await token
        before = self._identity
        try:
            auth = commands.Auth(token=token)
            self._identity = await self._calls.ask(connection.send, auth, Identity)
        except Refused as refused:
            connection.end(UNAUTHORIZED.code, refused.message)
            await trio.sleep_forever()
        return before.user in {None, self._identity.user}

    def _rejoin(self, connection: Connection, following: Following) -> Call[Entered]:
        join = commands.Join(room=following.room, since=following.rejoining())
        call = self._calls.new(join, Entered, partial(self._rejoin_answered, following))
        self._calls.send(connection.send, call)
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
                self._rooms.pop(following.room, None)
                self._put(RoomLost(following.room, refused))
            return

    def _rejoin_answered(self, following: Following, entered: Entered) -> None:
        self._rooms.pop(following.room, None)
        following.rejoined(entered)
        self._rooms[following.room] = following
        for event in entered.events:
            self._event(event)
        if following.gap is not None:  # and no event before which it could be reported
            following.late = True
            self._work.set()

    async def _read_on(self, connection: Connection, following: Following) -> None:
        newest = following.newest
        history = commands.History(
            room=following.room,
            after=following.position.seq,
            limit=min(_PAGE, self._inbox.most // 2 - 2),
        )
        try:
            page = await self._calls.ask(connection.send, history, Page)
        except Refused:
            page = Page(following.epoch, [])
        if self._rooms.get(following.room) is following:
            for event in following.read(page, newest):
                self._put(event)


@asynccontextmanager
async def connect(
    where: str | Dial | Address,
    *,
    nick: str | None = None,
    session: str | None = None,
    session_file: str | Path | None = None,
    token: Token | None = None,
    reconnect: bool = True,
    events: int = 1000,
    deadlines: Deadlines | None = None,
    backoff: Backoff | None = None,
) -> AsyncGenerator[Chat]:
    """Connect to a daemon, and leave it at the end of the block.

    Args:
        where: ``ws://host:port``, ``wss://host:port``, ``unix:/path/of/the/socket``, an `Address`,
            or an async function that opens a stream.
        nick: The nick to start with. If it is taken, the daemon gives a similar one.
        session: The ``session`` of an earlier `Identity`, to be the same guest again.
        session_file: A file in which the session is kept, so that the next run is the same guest
            with the same nick. It is made if it is not there, and only its owner can read it. Use
            one for each program and daemon.
        token: A token, to be the user that it names; or a function, plain or async, that returns
            one. It is called for each connection, and before a token expires.
        reconnect: False if a lost connection stays lost until `Chat.reconnect`.
        events: How many events may wait to be taken, at least 16. Events of a log that come faster
            are read from the log later; others are dropped.
        deadlines: How long each wait for the daemon may take. See `Deadlines` for the defaults.
        backoff: How long to wait between attempts to connect. See `Backoff` for the defaults.

    Yields:
        The chat.

    Raises:
        ConnectError: The first connection could not be made.
        Closed: The daemon ended the first connection for good.
        ValueError: ``where`` is no address, ``events`` is less than 16, or ``session_file`` holds
            something else.
        OSError: ``session_file`` cannot be read or written.
    """
    if events < _LEAST_EVENTS:
        raise ValueError(f"events must be at least {_LEAST_EVENTS}")
    if isinstance(where, str):
        address = dial_url(where)
    else:
        address = where if isinstance(where, Address) else Address(where)
    file = None if session_file is None else Path(session_file)
    if file is not None and session is None and token is None:
        session = load_session(file)
    chat = Chat(
        address,
        Identity(None, nick, session=session),
        token=token,
        session_file=file,
        reconnect=reconnect,
        events=events,
        deadlines=Deadlines() if deadlines is None else deadlines,
        backoff=Backoff() if backoff is None else backoff,
    )
    with unwrapped():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(chat._run)  # noqa: SLF001  a chat is made here alone
            try:
                await chat._wait_attempted()  # noqa: SLF001  as above
                chat._save_session()  # noqa: SLF001  as above
                yield chat
            finally:
                try:
                    await chat.aclose()
                finally:
                    nursery.cancel_scope.cancel()
