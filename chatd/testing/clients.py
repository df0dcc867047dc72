"""The clients a test speaks through, one kind for each protocol."""

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
from chatd.testing.cable import Plug
from chatd.testing.engineio import PollingTransport, Transport, WebSocketTransport
from chatd.testing.hearer import Hearer
from chatd.testing.mailbox import DEADLINES, EVENTS, Mailbox, patience
from chatd.testing.socketio import SocketIoClient

__all__ = ["PROTOCOLS", "Client", "JsonClient", "Line", "SocketIoClient", "TextClient"]


_P = ParamSpec("_P")
_T = TypeVar("_T")


def _patient(
    command: Callable[Concatenate[client.Chat, _P], Awaitable[_T]],
) -> Callable[Concatenate[JsonClient, _P], Awaitable[_T]]:
    """Give the client library's own method to a test's client, which does not wait for ever."""

    @wraps(command)
    async def asked(one: JsonClient, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with trio.fail_after(patience()):
            return await command(one.chat, *args, **kwargs)

    return asked


class JsonClient(Hearer):
    """A client that speaks ``chatd.v1``, by `chatd.client`. It does not come back by itself."""

    protocol: ClassVar[str] = "json"

    def __init__(self, chat: client.Chat, plug: Plug, leave: trio.CancelScope) -> None:
        super().__init__(chat.next_event, chat.next_event_nowait)
        self.chat = chat
        """The client library's own object, for what is not here."""
        self.plug = plug
        self.room: str | None = None
        """The room that `say` speaks in where it is not told: the one that was joined last."""
        self.entered: client.Entered | None = None
        """The answer to the last `join`."""
        self._leave = leave

    @property
    def nick(self) -> str:
        return self.chat.identity.nick or ""

    @property
    def user(self) -> str:
        return self.chat.identity.user or ""

    async def join(
        self, room: str, *, since: client.Position | None = None, limit: int | None = None
    ) -> client.Entered:
        """Join a room. What is on its page is in the answer, not among the events."""
        with trio.fail_after(patience()):
            self.entered = await self.chat.join(room, since=since, limit=limit)
        self.room = self.entered.room
        return self.entered

    async def leave(self, room: str | None = None) -> None:
        room = self._room(room)
        with trio.fail_after(patience()):
            await self.chat.leave(room)
        if room == self.room:
            self.room = None

    async def say(
        self, text: str, *, room: str | None = None, key: str | None = None
    ) -> client.Said:
        """Say it and wait for the answer, while the cable is cut too: until `reconnect`."""
        with trio.fail_after(patience()):
            return await self.chat.say(text, room=self._room(room), key=key)

    async def nickname(self, nick: str) -> str:
        with trio.fail_after(patience()):
            return await self.chat.nick(nick)

    async def who(self, room: str | None = None) -> list[str]:
        """Give the nicks of who is in the room."""
        with trio.fail_after(patience()):
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
        with trio.fail_after(patience()):
            return await self.chat.history(
                self._room(room), before=before, after=after, limit=limit
            )

    # As the library has them, with the room named.
    edit = _patient(client.Chat.edit)
    delete = _patient(client.Chat.delete)
    topic = _patient(client.Chat.topic)
    search = _patient(client.Chat.search)
    read = _patient(client.Chat.read)
    rooms = _patient(client.Chat.rooms)
    kick = _patient(client.Chat.kick)
    ban = _patient(client.Chat.ban)
    unban = _patient(client.Chat.unban)
    mute = _patient(client.Chat.mute)
    unmute = _patient(client.Chat.unmute)
    slow = _patient(client.Chat.slow)
    close_room = _patient(client.Chat.close_room)

    def typing(self, room: str, *, active: bool = True) -> None:
        """Tell the others that this user is writing, or no more; it has no answer."""
        self.chat.typing(room, active=active)

    async def lost(self) -> client.Ending:
        """Wait until the connection has ended; tells why."""
        with trio.fail_after(patience()):
            return await self.chat.lost()

    async def reconnect(self) -> None:
        """Connect again, be the same guest, be in the same rooms, say what waits.

        What was missed comes as events.
        """
        with trio.fail_after(patience()):
            await self.chat.reconnect()

    async def aclose(self) -> None:
        """Leave, as a client does that ends."""
        with trio.fail_after(patience()):
            await self.chat.aclose()
        self._leave.cancel()


class Line(Struct, frozen=True):
    """A frame of plain text: ``greeting``, ``message`` with its nick, ``notice`` without its star.

    Later lines of a message have lost their indent.
    """

    on: Literal["greeting", "message", "notice"]
    text: str
    nick: str | None = None


class Typed:
    """A line on its way to the daemon."""

    withdrawn = False

    def __init__(self, frame: str) -> None:
        self.frame = frame


class TextClient:
    """A client that speaks plain text. It cannot resume: coming back shows the backlog again."""

    protocol: ClassVar[str] = "text"

    def __init__(
        self, plug: Plug, nick: str, room: str, nursery: trio.Nursery, token: str | None = None
    ) -> None:
        self._headers = [] if token is None else [("Authorization", f"Bearer {token}")]
        self.plug = plug
        self.nick = nick
        """The nick that was asked for."""
        self.room = room
        """The room that was asked for when it connected."""
        self._nursery = nursery
        self._connection: Connection | None = None
        self._greeted = False
        self._fault = client.ConnectError("never connected")
        self._opened = trio.Event()
        self._ended = trio.Event()
        self._ending = client.Ending(LOST.code, "never connected", reconnect=True)
        self._lines: Inbox[Line] = Inbox(EVENTS)
        self._mailbox: Mailbox[Line] = Mailbox(self._lines.take, self._lines.take_nowait)

    async def connect(self) -> None:
        """Connect, and wait for the greeting. The harness does it."""
        self._greeted = False
        self._fault = client.ConnectError("the connection ended before the greeting")
        self._opened = trio.Event()
        self._ended = trio.Event()
        self._nursery.start_soon(self._converse)
        await self._opened.wait()
        if not self._greeted:
            raise self._fault

    async def say(self, text: str) -> None:
        """Send a line as it is typed: a message, or a command with a slash. It has no answer."""
        if self._connection is None:
            raise ConnectionError(f"{self.nick} is not connected: {self._ending.reason}")
        self._connection.send(Typed(text))
        await trio.lowlevel.checkpoint()

    async def join(self, room: str) -> Line:
        """Go to another room; gives its greeting. Other lines stay to be taken."""
        for _ in self.waiting("greeting"):
            await self.next("greeting")
        await self.say(f"/join {room}")
        return await self.next("greeting")

    async def next(self, kind: Literal["greeting", "message", "notice"] | None = None) -> Line:
        """Take the next line of ``kind``, or the very next one; the others stay for later calls.

        Raises AssertionError where none comes: within an hour of a virtual clock, 10 seconds of a
        real one.
        """
        return await self._mailbox.next(self.nick, kind)

    def waiting(self, kind: Literal["greeting", "message", "notice"] | None = None) -> list[Line]:
        """Give, and leave, the lines that have come and were not taken."""
        return self._mailbox.waiting(kind)

    async def texts(self, count: int) -> list[str | None]:
        """Take the next ``count`` messages; gives what they say."""
        return [(await self.next("message")).text for _ in range(count)]

    async def lost(self) -> client.Ending:
        """Wait until the connection has ended; tells why."""
        with trio.fail_after(patience()):
            await self._ended.wait()
        return self._ending

    async def reconnect(self) -> None:
        """Connect again, in the first room, as somebody new with the same nick if that is free."""
        if self._connection is not None:
            self._connection.end(LOST.code, "connecting again")
            await self.lost()
        await self.connect()

    async def aclose(self) -> None:
        """Leave, as a client does that ends."""
        if self._connection is not None:
            with trio.fail_after(patience()):
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
            self._opened.set()
            self._ended.set()

    def _received(self, frame: str | bytes) -> None:
        if not self._lines.fits(1):
            raise AssertionError(f"{self.nick}: {EVENTS} lines came that no test took")
        self._lines.put(self._line(str(frame).replace("\n  ", "\n")))
        self._greeted = True
        self._opened.set()

    def _line(self, text: str) -> Line:
        if not self._greeted:
            return Line("greeting", text)
        if text.startswith("* "):
            return Line("notice", text[2:])
        nick, colon, said = text.partition(": ")
        # A nick has neither space nor colon; a greeting, after /join, mostly has.
        return Line("message", said, nick) if colon and " " not in nick else Line("greeting", text)


Client: TypeAlias = JsonClient | TextClient | SocketIoClient

Opener: TypeAlias = Callable[
    [trio.Nursery, Plug, str, str | None, client.Token | None], Awaitable[Client]
]


async def _open_json(
    nursery: trio.Nursery, plug: Plug, nick: str, room: str | None, token: client.Token | None
) -> Client:
    opening = _Opening(plug, nick, token)
    nursery.start_soon(opening.be_there)
    one = await opening.client()
    if room is not None:
        await one.join(room)
    return one


class _Opening:
    """A JSON client in the task that holds its connections, and what became of it."""

    def __init__(self, plug: Plug, nick: str, token: client.Token | None) -> None:
        self._plug = plug
        self._nick = nick
        self._token = token
        self._opened = trio.Event()
        self._client: JsonClient | None = None
        self._fault: client.ChatError | None = None

    async def client(self) -> JsonClient:
        await self._opened.wait()
        if self._client is None:
            raise self._fault or client.ConnectError("the chat is being closed")
        return self._client

    async def be_there(self) -> None:
        try:
            with trio.CancelScope() as leave:
                async with client.connect(
                    client.Address(self._plug),
                    nick=self._nick,
                    token=self._token,
                    reconnect=False,
                    events=EVENTS,
                    deadlines=DEADLINES,
                ) as chat:
                    self._client = JsonClient(chat, self._plug, leave)
                    self._opened.set()
                    await trio.sleep_forever()
        except client.ChatError as fault:
            self._fault = fault
        finally:
            self._opened.set()


async def _open_text(
    nursery: trio.Nursery, plug: Plug, nick: str, room: str | None, token: client.Token | None
) -> Client:
    if room is None:
        raise ValueError("plain text is always in a room: room=None is for other protocols")
    one = TextClient(plug, nick, room, nursery, _fixed(token))
    await one.connect()
    return one


def _open_socketio(protocol: str, transport: Callable[[Plug], Transport]) -> Opener:
    async def opening(
        nursery: trio.Nursery, plug: Plug, nick: str, room: str | None, token: client.Token | None
    ) -> Client:
        if room is None:
            raise ValueError(
                "Socket.IO is in a room from the start: room=None is for other protocols"
            )
        one = SocketIoClient(plug, nick, room, protocol, transport, nursery, _fixed(token))
        await one.connect()
        return one

    return opening


def _fixed(token: client.Token | None) -> str | None:
    if callable(token):
        raise ValueError("only JSON's client asks a function for its token")
    return token


PROTOCOLS: Final[dict[str, Opener]] = {
    "json": _open_json,
    "text": _open_text,
    "socketio": _open_socketio("socketio", WebSocketTransport),
    "polling": _open_socketio("polling", PollingTransport),
}
"""How a client is made for each protocol that tests can speak. Its tasks live in the nursery."""
