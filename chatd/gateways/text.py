"""Plain text: a WebSocket with no library behind it is in one room, every frame is a message.

Lines to people are ``nick: text``; notices begin with ``* ``. Later lines of a message are
indented, so that no message looks like somebody else's. Which room it is in is this gateway's own
affair: the chat lets a connection be in many.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from chatd.chat import Chat, Connection, perform
from chatd.chat.direct import other_of
from chatd.chat.names import room_name
from chatd.chat.rules import enter
from chatd.gateways.websocket import disconnect
from chatd.model import NORMAL, UNSUPPORTED, Close, Event, Refusal, Refused
from chatd.protocol import commands, events
from chatd.wire import frames
from chatd.wire.websocket import WebSocket

__all__ = ["TextCodec", "TextGateway", "goodbye_frames"]

_PLACES: Final = re.compile(r"\{nick\}|\{room\}")

HELP: Final = (
    "/nick N: be called N; /join R: go to another room; /who: who is here; /history [N]: the last"
    " N messages; /msg N TEXT: say it to N alone; /me TEXT: do something;"
    " /auth TOKEN: be who it names; /quit: leave; // begins"
    " a message with a slash"
)


WHO: Final = "say who you are first: /auth TOKEN"


def goodbye_frames(codec: TextCodec, close: Close, reason: str) -> bytes:
    """Give the last line to be said."""
    return codec.encode("", [events.Notice(reason or close.reason)])


class TextCodec:
    """Says events as lines for people, one frame each. One for all who speak plain text."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    def encode(self, room: str, items: Sequence[Any]) -> bytes:
        lines = (self._line(room, item) for item in items)
        return b"".join(frames.text(line.encode()) for line in lines if line)

    def _line(self, room: str, item: Any) -> str:
        match item:
            case Event(kind="message", text=str(text)) | events.Message(text=str(text)):
                return f"{self._by(room, item)}: {_indented(text)}"
            case Event(kind="edit", text=str(text)):
                return f"* {self._by(room, item)} edited: {_indented(text)}"
            case Event(kind="delete"):
                return f"* {self._by(room, item)} deleted a message"
            case Event(kind="topic", text=str(text)):
                return f"* {self._by(room, item)} set the topic: {text}"
            case events.Joined(nick=nick):
                return f"* {nick} joined"
            case events.Left(nick=nick):
                return f"* {nick} left"
            case events.NickChange(before=old, nick=new) if not room.startswith("@"):
                return f"* {old} is now {new}"
            case events.Notice(text=text):
                return f"* {_indented(text)}"
            case _:
                return ""

    def _by(self, room: str, item: Event | events.Message) -> str:
        """Say who it is from. No nick has a space, so none looks like a direct message."""
        if not room.startswith("@"):
            return item.nick
        other = other_of(room, item.user)
        user = self._chat.users.get(other)
        return f"{item.nick} -> {user.nick.display if user else other}"


def _indented(text: str) -> str:
    # Unicode's own line ends too: many a client breaks lines there.
    return text.replace("\n", "\n  ").replace("\u2028", "\u2028  ").replace("\u2029", "\u2029  ")


class TextGateway:
    """One client that speaks plain text. ``enter`` takes it into its first room."""

    def __init__(
        self, chat: Chat, websocket: WebSocket, codec: TextCodec, connection: Connection
    ) -> None:
        self._chat = chat
        self._websocket = websocket
        self._codec = codec
        self._room = chat.settings.chat.default_room
        self._connection = connection

    async def enter(self) -> None:
        """Join the room of ``?room=``, or the default one where that cannot be; greet there."""
        if not self._connection.authenticated:
            self._notice(WHO)
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
        self._connection.notify(notices[-1])

    async def received(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            self._websocket.end(UNSUPPORTED, "plain text is text")
            return
        text = message[:-2] if message.endswith("\r\n") else message.removesuffix("\n")
        if text == "/auth" or text.startswith("/auth "):
            await self._auth(text.removeprefix("/auth").strip())
        elif not (self._connection.authenticated or text in ("", "/help", "/quit")):
            self._notice(WHO)
        elif text.startswith("/") and not text.startswith("//"):
            await self._command(text)
        elif text:
            await self._say(text[1:] if text.startswith("//") else text)

    def goodbye_frames(self, close: Close, reason: str) -> bytes:
        return goodbye_frames(self._codec, close, reason)

    def ended(self, close: Close, reason: str) -> None:
        disconnect(self._connection, self._websocket, close, reason)

    # ---- what is typed

    async def _command(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        rest = rest.strip()
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
                await self._say(f"_{rest}_")
            case "/quit":
                self._websocket.end(NORMAL, "bye")
            case "/help":
                self._notice(HELP)
            case "/msg":
                self._notice("/msg N TEXT: to whom, and what?")
            case "/nick" | "/join" | "/me":
                self._notice(f"{name} what? /help tells")
            case _:
                self._notice(
                    f"there is no {name[:32]}; /help tells, // begins a message with a slash"
                )

    async def _auth(self, token: str) -> None:
        """Be who the token names, in the room of the beginning; or renew the token."""
        connection, before = self._connection, self._connection.grant
        renews = connection.authenticated and connection.user.subject
        changes = not renews and self._is_valid(token)
        if changes and connection.membership(self._room) is not None:
            # A guest was let in already: another user's token is for before the first join.
            await self._perform(commands.Leave(room=self._room))
        await self._perform(commands.Auth(token=token))
        if renews and connection.grant is not before:
            self._notice(f"you are {connection.user.nick.display}")
        if changes and connection.authenticated:
            await self.enter()

    def _is_valid(self, token: str) -> bool:
        try:
            self._chat.verify(token)
        except Refused:
            return False
        return True

    async def _say(self, text: str) -> None:
        await self._perform(commands.Say(room=self._room, text=text))

    async def _history(self, rest: str) -> None:
        if rest and not (rest.isascii() and rest.isdigit() and len(rest) < 10):
            self._notice("/history N: N is a number")
            return
        limit = int(rest) if rest else self._chat.settings.chat.backlog
        await self._perform(commands.History(room=self._room, limit=limit, messages=True))

    async def _move(self, room: str) -> None:
        """Go to another room; where that is refused, stay."""
        connection, before = self._connection, self._room
        if self._chat.settings.limits.rooms_per_client == 1 and connection.joined:
            # No room for both, if only for a moment.
            await self._perform(commands.Leave(room=before))
        else:
            # What was said before is seen before the greeting.
            await connection.flushed()
        try:
            await self._join(room, [])
        except Refused as refused:
            connection.notify(_notice(refused.refusal))
            if not connection.joined:
                await self._perform(commands.Join(room=before, limit=0))

    async def _join(self, room: str, notices: Sequence[events.Notice]) -> None:
        """Join a room and greet the user there. Raise Refused."""
        room_name(room)  # direct messages are not joined
        join = commands.Join(room=room, limit=self._backlog(), messages=True)
        reply = await enter(self._connection, join)
        self._enter(reply.answer.room)
        self._greet(reply.answer, notices)
        reply.then()

    def _enter(self, room: str) -> None:
        """Talk in a room from now on, and be in no other: nothing of that follows the greeting."""
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
        # In one pass: a nick may look like a place to fill in.
        greeting = _PLACES.sub(lambda place: names[place[0]], self._chat.settings.chat.greeting)
        past = _messages(joined.events)
        block = frames.text(greeting.encode()) + self._codec.encode(joined.room, [*notices, *past])
        self._websocket.outbox.offer(block, 1 + len(notices) + len(past))

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
                self._notice(f"in #{self._room}: {nicks}{more}")
            case commands.Page(events=page):
                past = _messages(page)
                self._websocket.outbox.offer(self._codec.encode(self._room, past), len(past))
            case _:
                # What was said and who is called what is seen by the lines everybody gets.
                pass

    def _notice(self, text: str) -> None:
        self._connection.notify(events.Notice(text))


def _messages(page: Sequence[Any]) -> list[events.Message]:
    """Give what is said like the live lines; deleted messages are passed over."""
    return [
        message
        for message in page
        if isinstance(message, events.Message) and isinstance(message.text, str)
    ]


def _notice(refusal: Refusal) -> events.Notice:
    if refusal.retry_ms is None:
        return events.Notice(refusal.message)
    text = refusal.message.removesuffix(".")
    return events.Notice(f"{text}. Try again in {refusal.retry_ms / 1000:.1f} s.")
