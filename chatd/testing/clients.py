"""The clients of tests, one class for each protocol."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ClassVar, Concatenate, Final, Literal, ParamSpec, TypeAlias, TypeVar
from urllib.parse import urlencode

import trio
from msgspec import Struct

from chatd import client
from chatd.client.connection import Connection
from chatd.client.inbox import Inbox
from chatd.model import LOST
from chatd.testing.buffer import DEADLINES, EVENTS, EventBuffer, wait_limit
from chatd.testing.cable import Plug
from chatd.testing.engineio import Frame, PollingTransport, Transport, WebSocketTransport
from chatd.testing.events import EventClient
from chatd.testing.http import HttpClient, HttpPage
from chatd.testing.socketio import SocketIoClient

__all__ = [
    "PROTOCOLS",
    "Client",
    "HttpClient",
    "HttpPage",
    "JsonClient",
    "SocketIoClient",
    "TextClient",
    "TextLine",
]


_P = ParamSpec("_P")
_T = TypeVar("_T")


def _limited(
    command: Callable[Concatenate[client.Chat, _P], Awaitable[_T]],
) -> Callable[Concatenate[JsonClient, _P], Awaitable[_T]]:
    """Return a method of `chatd.client.Chat` as one of `JsonClient` that does not wait for ever."""

    @wraps(command)
    async def limited(one: JsonClient, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with trio.fail_after(wait_limit()):
            return await command(one.chat, *args, **kwargs)

    return limited


class JsonClient(EventClient):
    """A client that speaks ``chatd.v1``, made by `Harness.client`. It does not reconnect by itself.

    Attributes:
        chat: The `chatd.client.Chat` behind it.
        room: The room that was joined last. `say` and others use it by default.
        entered: The answer to the last `join`.
    """

    protocol: ClassVar[str] = "json"

    def __init__(self, chat: client.Chat, plug: Plug, leave: trio.CancelScope) -> None:
        super().__init__(chat.next_event, chat.next_event_nowait)
        self.chat = chat
        self.plug = plug
        self.room: str | None = None
        self.entered: client.Entered | None = None
        self._leave = leave

    @property
    def nick(self) -> str:
        """The client's present nick."""
        return self.chat.identity.nick or ""

    @property
    def user(self) -> str:
        """The client's user id."""
        return self.chat.identity.user or ""

    async def join(
        self, room: str, *, since: client.Position | None = None, limit: int | None = None
    ) -> client.Entered:
        """Join a room. The events of its page are in the answer and do not come as events.

        Args:
            room: The room's name, or ``@nick``.
            since: The position to continue from. By default the page has the newest events.
            limit: The size of the page: 100 by default, 0 to 500.

        Returns:
            The page and the state of the room.

        Raises:
            chatd.client.Refused: The daemon refused it.
        """
        with trio.fail_after(wait_limit()):
            self.entered = await self.chat.join(room, since=since, limit=limit)
        self.room = self.entered.room
        return self.entered

    async def leave(self, room: str | None = None) -> None:
        """Leave a room.

        Args:
            room: The room's name. By default the room that was joined last.

        Raises:
            chatd.client.Refused: The daemon refused it.
        """
        room = self._room(room)
        with trio.fail_after(wait_limit()):
            await self.chat.leave(room)
        if room == self.room:
            self.room = None

    async def say(
        self, text: str, *, room: str | None = None, key: str | None = None
    ) -> client.Said:
        """Send a message and wait for the answer, also while the cable is cut.

        Args:
            text: The text.
            room: The room's name. By default the room that was joined last.
            key: As for `chatd.client.Chat.say`. By default a random one.

        Returns:
            The message's number and time.

        Raises:
            chatd.client.Refused: The daemon refused it.
        """
        with trio.fail_after(wait_limit()):
            return await self.chat.say(text, room=self._room(room), key=key)

    async def nickname(self, nick: str) -> str:
        """Change the client's nick.

        Args:
            nick: The new nick, of at most 32 characters.

        Returns:
            The nick as it is displayed.

        Raises:
            chatd.client.Refused: The daemon refused it.
        """
        with trio.fail_after(wait_limit()):
            return await self.chat.nick(nick)

    async def who(self, room: str | None = None) -> list[str]:
        """Return the nicks of a room's first 100 members.

        Args:
            room: The room's name. By default the room that was joined last.

        Raises:
            chatd.client.Refused: The daemon refused it.
        """
        with trio.fail_after(wait_limit()):
            members = await self.chat.who(self._room(room))
        return [member.nick for member in members.members]

    async def history(
        self,
        room: str | None = None,
        *,
        before: int | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> client.Page:
        """Return a page of a room's log: before a number, after one, or the newest events.

        Args:
            room: The room's name. By default the room that was joined last.
            before: Only events with smaller numbers.
            after: Only events with greater numbers.
            limit: The size of the page: 100 by default, 0 to 500.

        Raises:
            chatd.client.Refused: The daemon refused it.
        """
        with trio.fail_after(wait_limit()):
            return await self.chat.history(
                self._room(room), before=before, after=after, limit=limit
            )

    # As the client library has them, with the room named.
    edit = _limited(client.Chat.edit)
    delete = _limited(client.Chat.delete)
    topic = _limited(client.Chat.topic)
    search = _limited(client.Chat.search)
    read = _limited(client.Chat.read)
    rooms = _limited(client.Chat.rooms)
    kick = _limited(client.Chat.kick)
    ban = _limited(client.Chat.ban)
    unban = _limited(client.Chat.unban)
    mute = _limited(client.Chat.mute)
    unmute = _limited(client.Chat.unmute)
    slow = _limited(client.Chat.slow)
    close_room = _limited(client.Chat.close_room)
    remove_room = _limited(client.Chat.remove_room)
    bans = _limited(client.Chat.bans)

    def typing(self, room: str, *, active: bool = True) -> None:
        """Report that this user is typing. It has no answer.

        Args:
            room: The room's name, or ``@nick``.
            active: False if the user stopped typing.
        """
        self.chat.typing(room, active=active)

    async def lost(self) -> client.Ending:
        """Wait until the connection has ended, and return why."""
        with trio.fail_after(wait_limit()):
            return await self.chat.lost()

    async def reconnect(self) -> None:
        """Connect again as the same guest, join the same rooms, send what waits.

        Missed events come as events.

        Raises:
            chatd.client.ConnectError: The connection could not be made.
            chatd.client.Closed: The client was closed, or the daemon ended it for good.
        """
        with trio.fail_after(wait_limit()):
            await self.chat.reconnect()

    async def aclose(self) -> None:
        """Disconnect, as a client does that ends."""
        with trio.fail_after(wait_limit()):
            await self.chat.aclose()
        self._leave.cancel()


class TextLine(Struct, frozen=True):
    """One frame of plain text.

    Attributes:
        on: What it is: the first frame and the answer to ``/join`` are greetings.
        text: The text, without the nick of a message, the star of a notice and the indent of later
            lines.
        nick: The sender's nick; only messages have one.
    """

    on: Literal["greeting", "message", "notice"]
    text: str
    nick: str | None = None


class TextClient:
    """A client that speaks plain text over WebSocket, made by `Harness.client`.

    It cannot resume: when it reconnects, it is another guest and gets the backlog again.

    Attributes:
        nick: The nick that was asked for.
        room: The room that was asked for at first.
    """

    protocol: ClassVar[str] = "text"

    def __init__(
        self, plug: Plug, nick: str, room: str, nursery: trio.Nursery, token: str | None = None
    ) -> None:
        self._headers = [] if token is None else [("Authorization", f"Bearer {token}")]
        self.plug = plug
        self.nick = nick
        self.room = room
        self._nursery = nursery
        self._connection: Connection | None = None
        self._greeted = False
        self._fault = client.ConnectError("never connected")
        self._attempted = trio.Event()
        self._ended = trio.Event()
        self._ending = client.Ending(LOST.code, "never connected", reconnect=True)
        self._inbox: Inbox[TextLine] = Inbox(EVENTS)
        self._lines: EventBuffer[TextLine] = EventBuffer(self._inbox.take, self._inbox.take_nowait)

    async def connect(self) -> None:
        """Connect and wait for the greeting. `Harness.client` does it the first time.

        Raises:
            chatd.client.ConnectError: The connection could not be made.
        """
        self._greeted = False
        self._fault = client.ConnectError("the connection ended before the greeting")
        self._attempted = trio.Event()
        self._ended = trio.Event()
        self._nursery.start_soon(self._converse)
        await self._attempted.wait()
        if not self._greeted:
            raise self._fault

    async def say(self, text: str) -> None:
        """Send a frame: a message, or a command with a slash. It has no answer.

        Args:
            text: The frame's text.

        Raises:
            ConnectionError: The client is not connected.
        """
        if self._connection is None:
            raise ConnectionError(f"{self.nick} is not connected: {self._ending.reason}")
        self._connection.send(Frame(text))
        await trio.lowlevel.checkpoint()

    async def join(self, room: str) -> TextLine:
        """Go to another room and return its greeting. Other lines stay to be taken.

        Args:
            room: The room's name.
        """
        for _ in self.waiting("greeting"):
            await self.next("greeting")
        await self.say(f"/join {room}")
        return await self.next("greeting")

    async def next(self, kind: Literal["greeting", "message", "notice"] | None = None) -> TextLine:
        """Wait for a line and take it. Other lines that arrive first stay for later calls.

        Args:
            kind: What it is. By default the very next line.

        Returns:
            The line.

        Raises:
            AssertionError: None came within an hour of a virtual clock, 10 seconds of a real one.
        """
        return await self._lines.next(self.nick, kind)

    def waiting(
        self, kind: Literal["greeting", "message", "notice"] | None = None
    ) -> list[TextLine]:
        """Return the lines that came and were not taken. They stay.

        Args:
            kind: What they are. By default all lines.
        """
        return self._lines.waiting(kind)

    async def texts(self, count: int) -> list[str | None]:
        """Take the next messages and return their texts.

        Args:
            count: How many messages.

        Raises:
            AssertionError: One of them did not come in time, as for `next`.
        """
        return [(await self.next("message")).text for _ in range(count)]

    async def lost(self) -> client.Ending:
        """Wait until the connection has ended, and return why."""
        with trio.fail_after(wait_limit()):
            await self._ended.wait()
        return self._ending

    async def reconnect(self) -> None:
        """Connect again, to the first room, as another guest with the same nick if it is free.

        Raises:
            chatd.client.ConnectError: The connection could not be made.
        """
        if self._connection is not None:
            self._connection.end(LOST.code, "connecting again")
            await self.lost()
        await self.connect()

    async def aclose(self) -> None:
        """Disconnect, as a client does that ends."""
        if self._connection is not None:
            with trio.fail_after(wait_limit()):
                await self._connection.aclose()
                await self._ended.wait()

    async def _converse(self) -> None:
        query = urlencode({"nick": self.nick, "room": self.room})
        address = client.Address(self.plug, "localhost", f"/ws?{query}")
        connection = Connection(address, address.target, DEADLINES, None, self._headers)
        self._connection = connection
        try:
            self._ending = await connection.converse(self._received, trio.lowlevel.checkpoint)
        except client.ConnectError as fault:
            self._fault = fault
        finally:
            self._connection = None
            self._attempted.set()
            self._ended.set()

    def _received(self, frame: str | bytes) -> None:
        if not self._inbox.fits(1):
            raise AssertionError(f"{self.nick}: {EVENTS} lines came that no test took")
        self._inbox.put(self._line(str(frame).replace("\n  ", "\n")))
        self._greeted = True
        self._attempted.set()

    def _line(self, text: str) -> TextLine:
        if not self._greeted:
            return TextLine("greeting", text)
        if text.startswith("* "):
            return TextLine("notice", text[2:])
        nick, colon, said = text.partition(": ")
        # A nick has no space and no colon; the greeting after /join usually has both.
        if colon and " " not in nick:
            return TextLine("message", said, nick)
        return TextLine("greeting", text)


Client: TypeAlias = JsonClient | TextClient | SocketIoClient | HttpClient

Opener: TypeAlias = Callable[
    [trio.Nursery, Plug, str, str | None, client.Token | None], Awaitable[Client]
]


async def _open_json(
    nursery: trio.Nursery, plug: Plug, nick: str, room: str | None, token: client.Token | None
) -> Client:
    one: JsonClient = await nursery.start(_run_json, plug, nick, token)
    if room is not None:
        await one.join(room)
    return one


async def _run_json(
    plug: Plug,
    nick: str,
    token: client.Token | None,
    task_status: trio.TaskStatus[JsonClient],
) -> None:
    """Keep the connections of a JSON client open until it leaves."""
    with trio.CancelScope() as leave:
        async with client.connect(
            client.Address(plug),
            nick=nick,
            token=token,
            reconnect=False,
            events=EVENTS,
            deadlines=DEADLINES,
        ) as chat:
            task_status.started(JsonClient(chat, plug, leave))
            await trio.sleep_forever()


async def _open_text(
    nursery: trio.Nursery, plug: Plug, nick: str, room: str | None, token: client.Token | None
) -> Client:
    if room is None:
        raise ValueError("Plain text is in a room from the start: it does not take room=None.")
    one = TextClient(plug, nick, room, nursery, _fixed(token))
    await one.connect()
    return one


def _open_socketio(protocol: str, transport: Callable[[Plug], Transport]) -> Opener:
    async def opening(
        nursery: trio.Nursery, plug: Plug, nick: str, room: str | None, token: client.Token | None
    ) -> Client:
        if room is None:
            raise ValueError("Socket.IO is in a room from the start: it does not take room=None.")
        one = SocketIoClient(plug, nick, room, protocol, transport, nursery, _fixed(token))
        await one.connect()
        return one

    return opening


async def _open_http(
    nursery: trio.Nursery, plug: Plug, nick: str, room: str | None, token: client.Token | None
) -> Client:
    one = HttpClient(plug, nick, nursery, _fixed(token))
    if room is not None:
        await one.join(room)
    return one


def _fixed(token: client.Token | None) -> str | None:
    if callable(token):
        raise ValueError("Only a JSON client calls a function for its token.")
    return token


PROTOCOLS: Final[dict[str, Opener]] = {
    "json": _open_json,
    "text": _open_text,
    "socketio": _open_socketio("socketio", WebSocketTransport),
    "polling": _open_socketio("polling", PollingTransport),
    "http": _open_http,
}
"""The function that opens a client of each protocol. Its tasks run in the nursery."""
