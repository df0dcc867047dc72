"""Plain text: a bare WebSocket that is in one room, where every frame is a message.

Messages are sent as ``nick: text``, and notices begin with ``* ``. The further lines of a message
are indented, so that no message can imitate another one. The chat allows a connection several
rooms; it is this gateway that keeps its clients in one.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Sequence
from typing import Any, Final, TypeVar

import trio
from msgspec.structs import replace

from chatd.chat import Chat, Connection, perform
from chatd.chat.names import room_name
from chatd.chat.rules import enter
from chatd.gateways.pages import PageEncoder, encode_answer
from chatd.gateways.websocket import disconnect
from chatd.model import NORMAL, UNSUPPORTED, Close, ErrorCode, Event, Refusal, Refused
from chatd.protocol import commands, events
from chatd.protocol.pairs import other_of
from chatd.wire import frames
from chatd.wire.websocket import WebSocket

__all__ = ["TextCodec", "TextGateway", "goodbye_frames"]

_Page = TypeVar("_Page", commands.Entered, commands.Page)

_PLACEHOLDERS: Final = re.compile(r"\{nick\}|\{room\}")

# Where `str.splitlines` and UAX #14 break lines.
_BREAK: Final = re.compile("\r\n|[\n-\r\x1c-\x1e\x85\u2028\u2029]")

HELP: Final = (
    "/nick NICK: change your nick; /join ROOM: go to another room; /who: list who is here;"
    " /history [N]: show the last N messages; /msg NICK TEXT: send a direct message;"
    " /me TEXT: say what you do; /auth TOKEN: sign in; /quit: leave;"
    " // begins a message with a slash"
)

AUTHENTICATE: Final = "Sign in first: type /auth TOKEN."


def goodbye_frames(codec: TextCodec, close: Close, reason: str) -> bytes:
    """Return the notice that is sent before the Close frame."""
    return codec.encode("", [events.Notice(reason or close.reason)])


class TextCodec:
    """Encodes each event as a frame with text for people. Some kinds of events have no frame."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self.pages: Final = PageEncoder(self.encode)

    def encode(self, room: str, items: Sequence[Any]) -> bytes:
        block = b""
        for item in items:
            if line := self._line(room, item):
                if not line.isprintable():
                    line = _indented(line)
                block += frames.text(line.encode())
        return block

    def _line(self, room: str, item: Any) -> str:
        # Most items are live messages. A class pattern takes five times as long as this test.
        if type(item) is Event and item.kind == "message" and item.text is not None:
            return f"{self._by(room, item)}: {item.text}"
        match item:
            case events.Message(text=str(text)):
                return f"{self._by(room, item)}: {text}"
            case Event(kind="edit", text=str(text)):
                return f"* {self._by(room, item)} edited: {text}"
            case Event(kind="delete"):
                return f"* {self._by(room, item)} deleted a message"
            case Event(kind="topic", text=str(text)):
                if not text:
                    return f"* {self._by(room, item)} removed the topic"
                return f"* {self._by(room, item)} set the topic: {text}"
            case events.Joined(nick=nick):
                return f"* {nick} joined"
            case events.Left(nick=nick):
                return f"* {nick} left"
            case events.NickChange(before=old, nick=new) if not room.startswith("@"):
                return f"* {old} is now {new}"
            case events.Notice(text=text):
                return f"* {text}"
            case _:
                return ""

    def _by(self, room: str, item: Event | events.Message) -> str:
        """Return the sender, or both nicks of a direct message. No nick has spaces to fake it."""
        if not room.startswith("@"):
            return item.nick
        other = other_of(room, item.user)
        user = self._chat.users.get(other)
        return f"{item.nick} -> {user.nick.display if user else other}"


def _indented(text: str) -> str:
    """Return a text whose later lines are indented, wherever a client may break lines."""
    return _BREAK.sub(r"\g<0>  ", text)


class TextGateway:
    """A client that speaks plain text. ``enter`` joins its first room."""

    def __init__(
        self, chat: Chat, websocket: WebSocket, codec: TextCodec, connection: Connection
    ) -> None:
        self._chat = chat
        self._websocket = websocket
        self._codec = codec
        self._room = chat.settings.chat.default_room
        self._connection = connection

    async def enter(self) -> None:
        """Join the room of ``?room=``, or else the default room, and greet the user there."""
        if not self._connection.authenticated:
            self._notice(AUTHENTICATE)
            return
        query = self._websocket.request.query
        wanted = query.get("room", self._room)
        nick_notice = self._connection.nick_notice
        notices = [] if nick_notice is None else [events.Notice(nick_notice)]
        for room in dict.fromkeys((wanted, self._room)):
            try:
                await self._join(room, notices)
            except Refused as refused:
                notices.append(_notice(refused.refusal))
            else:
                return
        self._connection.notify(*notices)

    def received(self, message: str | bytes) -> Awaitable[None] | None:
        if isinstance(message, bytes):
            self._websocket.end(UNSUPPORTED, "binary frames are not supported")
            return None
        if message.endswith("\n"):
            message = message.removesuffix("\n").removesuffix("\r")
        if message.startswith("/"):
            if not message.startswith("//"):
                return self._command(message)
            message = message[1:]
        return self._say(message) if message else None

    def goodbye_frames(self, close: Close, reason: str) -> bytes:
        return goodbye_frames(self._codec, close, reason)

    def ended(self, close: Close, reason: str) -> None:
        disconnect(self._connection, self._websocket, close, reason)

    # ---- what is typed

    async def _command(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        rest = rest.strip()
        if name == "/auth":
            await self._auth(rest)
            return
        if not (self._connection.authenticated or text in ("/help", "/quit")):
            await self._refuse(AUTHENTICATE, "unauthorized")
            return
        match name.lower():
            case "/nick" if rest:
                await self._perform(commands.Nick(nick=rest))
            case "/join" if rest:
                await self._move(rest.removeprefix("#"))
            case "/who":
                await self._perform(commands.Who(room=self._room))
            case "/history":
                await self._history(rest)
            case "/msg" if len(words := rest.split(maxsplit=1)) > 1:
                await self._perform(commands.Say(room=f"@{words[0].lstrip('@')}", text=words[1]))
            case "/me" if rest:
                if (pending := self._say(f"_{rest}_")) is not None:
                    await pending
            case "/quit":
                self._websocket.end(NORMAL, "bye")
            case "/help":
                self._notice(HELP)
            case "/msg":
                await self._refuse("Name a nick and a text: /msg NICK TEXT.")
            case "/nick" | "/join" | "/me":
                await self._refuse(f"{name} needs an argument. Type /help for the list.")
            case _:
                await self._refuse(
                    f"Unknown command {name[:32]}. Type /help for the list,"
                    " or // to begin a message with a slash."
                )

    async def _auth(self, token: str) -> None:
        """Sign in with a token, and join the first room again; or renew the token."""
        connection, before = self._connection, self._connection.grant
        renews = connection.authenticated and connection.user.subject
        changes = not renews and await self._is_valid(token)
        if changes and connection.membership(self._room) is not None:
            # The user can only change while the connection is in no room.
            await self._perform(commands.Leave(room=self._room))
        await self._perform(commands.Auth(token=token))
        if renews and connection.grant is not before:
            self._notice(f"You are {connection.user.nick.display}.")
        if changes and connection.authenticated:
            await self.enter()

    async def _is_valid(self, token: str) -> bool:
        try:
            await self._chat.admit(token, self._connection.limit_key)
        except Refused:
            return False
        return True

    def _say(self, text: str) -> Awaitable[None] | None:
        if not self._connection.authenticated:
            return self._refuse(AUTHENTICATE, "unauthorized")
        say = commands.Say(room=self._room, text=text)
        # The client sees what it said by the line that everyone gets.
        return perform(self._connection, say, self._answer, quiet=True)

    async def _history(self, rest: str) -> None:
        if rest and not (rest.isascii() and rest.isdigit() and len(rest) < 10):
            await self._refuse("Name a number: /history N.")
            return
        limit = int(rest) if rest else self._chat.settings.chat.backlog
        await self._perform(commands.History(room=self._room, limit=limit, messages=True))

    async def _move(self, room: str) -> None:
        """Change the room; stay if that is refused."""
        connection, before = self._connection, self._room
        alone = self._chat.settings.limits.rooms_per_client == 1 and connection.joined > 0
        try:
            if alone:
                # It may not be in both, not even for a moment.
                await self._perform(commands.Leave(room=before))
            else:
                # The user's earlier messages appear before the greeting.
                await connection.flushed()
            await self._join(room, [])
        except Refused as refused:
            connection.notify(_notice(refused.refusal))
            if alone and not connection.joined:
                await self._perform(commands.Join(room=before, limit=0))

    async def _join(self, room: str, notices: Sequence[events.Notice]) -> None:
        """Join a room and greet the user there. Raise Refused."""
        room_name(room)  # direct messages are not joined
        join = commands.Join(room=room, limit=self._backlog(), messages=True)
        reply = await enter(self._connection, join, members=False)
        self._enter(reply.answer.room)
        self._greet(reply.answer, notices)
        reply.then()

    def _enter(self, room: str) -> None:
        """Make a room the current one, and leave the other: nothing of it follows the greeting."""
        connection = self._connection
        before = connection.membership(self._room)
        if before is not None and before is not connection.membership(room):
            connection.exit(before)
        self._room = room

    def _backlog(self) -> int:
        wanted = self._websocket.request.query.get("backlog", "")
        if wanted.isascii() and wanted.isdigit() and len(wanted) < 10:
            return int(wanted)
        return self._chat.settings.chat.backlog

    def _greet(self, joined: commands.Entered, notices: Sequence[events.Notice]) -> None:
        names = {"{nick}": self._connection.user.nick.display, "{room}": joined.room}
        # Both in one pass, because a nick may look like a placeholder.
        template = self._chat.settings.chat.greeting
        greeting = _PLACEHOLDERS.sub(lambda found: names[found[0]], template)
        block = frames.text(greeting.encode()) + self._codec.encode(joined.room, notices)
        page = _messages(joined)
        block += self._encode_page(page)
        self._websocket.outbox.offer(block, 1 + len(notices) + len(page.events))

    # ---- what is answered

    async def _perform(self, command: commands.Command) -> None:
        pending = perform(self._connection, command, self._answer)
        if pending is not None:
            await pending

    def _answer(self, answer: commands.Result | Refusal) -> None:
        match answer:
            case Refusal():
                self._connection.notify(_notice(answer))
            case commands.Members(members=members, member_count=count):
                nicks = ", ".join(member.nick for member in members)
                more = f" and {count - len(members)} more" if count > len(members) else ""
                self._notice(f"In #{self._room}: {nicks}{more}")
            case commands.Page():
                page = _messages(answer)
                self._websocket.outbox.offer(self._encode_page(page), len(page.events))
            case _:
                # The client sees what it did by the lines that everyone gets.
                pass

    def _encode_page(self, page: commands.Entered | commands.Page) -> bytes:
        def encode(page: commands.Entered | commands.Page) -> bytes:
            return self._codec.pages.encode(self._room, page.events)

        return encode_answer(page, encode, self._connection.log)

    def _notice(self, text: str) -> None:
        self._connection.notify(events.Notice(text))

    async def _refuse(self, text: str, code: ErrorCode = "bad_request") -> None:
        """Answer a line that is no command of the chat."""
        self._notice(text)
        if seconds := self._connection.refused(Refusal(code, text), "unknown"):
            await trio.sleep(seconds)


def _messages(page: _Page) -> _Page:
    """Return a page without events that have no line: deleted messages, and changes."""
    messages = [
        event
        for event in page.events
        if isinstance(event, events.Message) and event.text is not None
    ]
    return replace(page, events=messages)


def _notice(refusal: Refusal) -> events.Notice:
    if refusal.retry_ms is None:
        return events.Notice(refusal.message)
    text = refusal.message.removesuffix(".")
    return events.Notice(f"{text}. Try again in {refusal.retry_ms / 1000:.1f} s.")
