"""The state of one person's chat on a screen: sends what they type, shows what happens.

A *label* is how a room is named to the user: its own name or, for direct messages, whose room is
named by user ids, ``@nick``. Two tasks use a `Talk`: `show_events` shows the chat's events, and
another one carries out the typed lines, one after the other. Each line waits for its answer, even
across lost connections, so messages are sent in the order in which they were typed.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

import trio
from msgspec import Struct, structs
from rich.text import Text

from chatd import client
from chatd.cli.terminal import lines
from chatd.client.call import retry_seconds
from chatd.protocol.pairs import other_of, users_of

__all__ = ["Screen", "Talk"]

# A member whose last typing event is older than this is no longer shown as typing.
_TYPING_SECONDS: Final = 6.0

# How often typing is announced again: other clients let it expire after a few seconds.
_TYPING_AGAIN_SECONDS: Final = 3.0

_MARK_SECONDS: Final = 1.0

_LISTED_MEMBERS: Final = 30
"""At most this many members are listed when a room is entered."""

_NO_ROOM: Final = "You are not in a room."

_LOGGED: Final = (client.Message, client.Edit, client.Delete, client.Topic)

_TRACKED_MEMBERS: Final = 100
"""A room with more members than this is only counted, by the server's total."""


class Screen(Protocol):
    """The output of a chat: a terminal or a pipe."""

    def show(self, line: Text) -> None:
        """Show a line of the chat, or a command's output."""

    def notify(self, line: Text) -> None:
        """Show a notice or an error, which is not part of the chat itself."""

    def status(self, label: str, text: str) -> None:
        """Set the current room and the status line."""

    async def writable(self) -> None:
        """Wait until more lines can be shown."""


class _Search(Struct, frozen=True):
    """A search in a room, for the messages before a number."""

    room: str
    query: str
    sender: str | None
    before: int | None = None


class _Writer(Struct):
    nick: str
    until: float


class Talk:
    """A chat on ``screen``. ``page`` is how many earlier messages are shown at a time.

    ``commands``: lines that begin with ``/`` are commands, which hints may name.
    """

    def __init__(
        self, chat: client.Chat, screen: Screen, *, page: int, commands: bool = True
    ) -> None:
        self.chat = chat
        self.screen = screen
        self.page = page
        self._no_room = f"{_NO_ROOM} Type /join ROOM." if commands else _NO_ROOM
        self.room = ""
        """The room that typed messages go to; "" for none."""
        self._last_sent: tuple[str, int] | None = None
        self._nicks: dict[str, str] = {}
        self._peers: dict[str, str] = {}
        self._members: dict[str, set[str]] = {}
        self._totals: dict[str, int] = {}
        self._members_stale = False
        self._oldest: dict[str, int] = {}
        self._newest: dict[str, int] = {}
        self._writers: dict[tuple[str, str], _Writer] = {}
        self._search: _Search | None = None
        """The last search, if there are older messages to find."""
        self._read_marks: dict[str, int] = {}
        self._day: datetime | None = None
        self._typing_sent = -_TYPING_AGAIN_SECONDS
        self._waiting = False
        self._changed = trio.Event()

    # ---- rooms

    async def enter(self, room: str, *, quietly: bool = False) -> None:
        """Join a room, make it the current one and show its latest messages.

        Raises `client.Refused`.
        """
        entered = await self.chat.join(room, limit=self.page, messages=True)
        self._set_members(entered.room, entered.members, entered.member_count)
        self._reached(entered.room, room)
        self.go(entered.room)
        self._show_page(entered.room, entered.events)
        if not quietly:
            self.notify(self._entered(entered))

    def go(self, room: str) -> None:
        """Make a joined room the current one; "" for none."""
        self.room = room
        self._update()

    def notify_room(self) -> None:
        """Show which room is the current one."""
        self.notify(f"You are now in {self.label(self.room)}." if self.room else self._no_room)

    def here(self) -> str:
        """Return the current room. Raises `client.Refused` if there is none."""
        if not self.room:
            raise client.Refused("not_joined", self._no_room)
        return self.room

    def left(self, room: str, *, then: str = "") -> None:
        """Forget a room that was left. If it was the current one, ``then`` takes its place.

        After a kick there is no current room: the line being typed was meant for the room that was
        lost, and must not go to another one.
        """
        self._members.pop(room, None)
        self._totals.pop(room, None)
        if room == self.room:
            self.go(then)
            self.notify_room()

    def _entered(self, entered: client.Entered) -> str:
        if entered.room.startswith("@"):
            return f"Only {self.label(entered.room)[1:]} can read what you write here."
        nicks = [member.nick for member in entered.members[:_LISTED_MEMBERS]]
        more = entered.member_count - len(nicks)
        here = ", ".join(nicks) + (f" and {more} more" if more > 0 else "")
        topic = f" ({entered.topic})" if entered.topic else ""
        unread = f" {entered.unread} unread." if entered.unread else ""
        return f"You are in {entered.room}{topic}: {here or 'nobody'}.{unread}"

    def _reached(self, room: str, name: str) -> None:
        """Remember the nick by which a room of direct messages was opened."""
        if room.startswith("@") and "," not in name:
            self._peers[room] = name.removeprefix("@")

    def label(self, room: str) -> str:
        """Return a room's label."""
        if not room.startswith("@"):
            return room
        if room not in self._peers:
            other = other_of(room, self.chat.identity.user or "")
            self._peers[room] = self._nicks.get(other, other)
        return f"@{self._peers[room]}"

    def nicks(self) -> list[str]:
        """Return the nicks seen so far, for completion."""
        return sorted(set(self._nicks.values()), key=str.casefold)

    # ---- sending

    async def say(self, text: str, *, room: str, reply_to: int | None = None) -> None:
        """Send a message, and again after a refusal that passes. Raises `client.Refused`."""
        key = secrets.token_hex(16)
        while True:
            try:
                said = await self.chat.say(text, room=room, key=key, reply_to=reply_to)
            except client.Refused as refused:
                if (seconds := retry_seconds(refused)) is None:
                    raise
                self._waiting = True
                self._update()
                await trio.sleep(seconds)
            else:
                break
            finally:
                self._waiting = False
        self._update()
        self._reached(said.room, room)
        if said.seq is not None:
            self._last_sent = (said.room, said.seq)

    async def say_here(self, text: str) -> None:
        """Send a message to the current room. Raises `client.Refused`."""
        await self.say(text, room=self.here())

    def drafts(self, text: str) -> None:
        """Announce typing, given the unfinished line."""
        if not self.room or text.startswith("/"):
            return
        now = trio.current_time()
        since = now - self._typing_sent
        if text and since >= _TYPING_AGAIN_SECONDS:
            self._typing_sent = now
            self.chat.typing(self.room)
        elif not text and since < _TYPING_AGAIN_SECONDS:
            # Sent or erased: the next key press is announced at once.
            self._typing_sent = now - _TYPING_AGAIN_SECONDS
            self.chat.typing(self.room, active=False)

    async def show_history(self, count: int | None) -> None:
        """Show the page of messages before the oldest shown. Raises `client.Refused`."""
        room = self.here()
        page = await self.chat.history(
            room, before=self._oldest.get(room), limit=count or self.page, messages=True
        )
        self._show_page(room, page.events)
        if not page.more:
            self.answer("There are no earlier messages.")

    async def search(self, query: str, sender: str | None) -> None:
        """Show the newest messages of the room that a search finds. Raises `client.Refused`."""
        await self._show_found(_Search(self.here(), query, sender))

    async def search_on(self) -> None:
        """Show the next older messages of the last search. Raises `client.Refused`."""
        if self._search is None:
            raise client.Refused("bad_request", "Name what to search: /search WORDS.")
        await self._show_found(self._search)

    async def _show_found(self, search: _Search) -> None:
        found = await self.chat.search(
            search.room,
            search.query,
            sender=search.sender,
            before=search.before,
            limit=self.page or None,
        )
        messages = [event for event in found.events if isinstance(event, client.Message)]
        for one in reversed(messages):
            label = f"{one.at.astimezone():%Y-%m-%d}"
            self.screen.show(lines.message(one, label, again=True))
        count = "1 message" if len(messages) == 1 else f"{len(messages) or 'no'} messages"
        others = ""
        self._search = None
        if found.more and messages:
            self._search = structs.replace(search, before=messages[-1].seq)
            others = " There are older ones. Type /search to see them."
        if found.incomplete:
            others = " The server is still indexing older ones: try again later."
        self.answer(f"Found {count}.{others}")

    def waiting(self, line: str) -> None:
        """Show a typed line that cannot be sent yet."""
        if self._waiting or not self.chat.connected:
            self.notify(f"Waiting to be sent: {line}")

    def answer(self, text: str) -> None:
        """Show a command's output."""
        self.screen.show(lines.notice(text))

    def notify(self, text: str) -> None:
        """Show a notice."""
        self.screen.notify(lines.notice(text))

    def warn(self, text: str) -> None:
        """Show an error."""
        self.screen.notify(lines.warning(text))

    # ---- receiving

    async def show_events(self) -> None:
        """Show events until the chat ends. Raises `client.Closed` if the server closed it."""
        async for event in self.chat:
            self._show_event(event)
            self._update()
            await self.screen.writable()

    def behind(self) -> bool:
        """Return whether the last message sent has not been shown yet."""
        return (
            self._last_sent is not None
            and self._newest.get(self._last_sent[0], 0) < self._last_sent[1]
        )

    async def changed(self) -> None:
        """Wait for the next change."""
        await self._changed.wait()

    async def send_read_marks(self) -> None:
        """Send read marks to the server, until cancelled."""
        while True:
            while not self._read_marks:
                await self._changed.wait()
            await trio.sleep(_MARK_SECONDS)
            room, seq = self._read_marks.popitem()
            try:
                await self.chat.read(room, seq)
            except (client.Refused, trio.TooSlowError):
                continue  # only a convenience: the next mark includes this one

    async def refresh_members(self) -> None:
        """Fetch the members after each reconnection, when joins and leaves were missed."""
        while True:
            while not self._members_stale:
                await self._changed.wait()
            self._members_stale = False
            for room in self.chat.joined:
                try:
                    found = await self.chat.who(room, limit=_TRACKED_MEMBERS)
                except (client.Refused, trio.TooSlowError):
                    continue  # keep the old list
                self._set_members(room, found.members, found.member_count)
            self._update()

    def _set_members(self, room: str, members: Sequence[client.Member], total: int) -> None:
        self._nicks.update((member.user, member.nick) for member in members)
        self._members[room] = {member.user for member in members}
        self._totals.pop(room, None)
        if total > len(members):
            self._totals[room] = total

    async def expire_typing(self) -> None:
        """Remove expired typing notices, until cancelled."""
        while True:
            while not self._writers:
                await self._changed.wait()
            await trio.sleep_until(min(writer.until for writer in self._writers.values()))
            now = trio.current_time()
            self._writers = {
                where: writer for where, writer in self._writers.items() if writer.until > now
            }
            self._update()

    def _show_event(self, event: client.AnyEvent) -> None:
        match event:
            case client.Message():
                self._message(event)
            case client.Edit(text=str()) | client.Delete() | client.Topic():
                self._show_activity(event)
            case client.Presence():
                self._totals[event.room] = event.total
                self._show_activity(event)
            case client.Joined():
                self._nicks[event.user] = event.nick
                self._members.setdefault(event.room, set()).add(event.user)
                if event.user != self.chat.identity.user:
                    self._show_activity(event)
            case client.Left():
                self._left(event)
            case client.NickChange():
                # It comes once for each shared room.
                if self._nicks.get(event.user) != event.nick:
                    self._nicks[event.user] = event.nick
                    self._renamed(event)
                    self._show_activity(event, everywhere=True)
            case client.Typing():
                where = (event.room, event.user)
                if event.active:
                    until = trio.current_time() + _TYPING_SECONDS
                    self._writers[where] = _Writer(event.nick, until)
                else:
                    self._writers.pop(where, None)
            case client.Notice(code=None):
                self.notify(event.text)
            case client.Notice():
                self.warn(event.text)
            case client.Lost() | client.Reconnected() | client.Gap() | client.RoomLost():
                self._connection_changed(event)
            case _:
                pass  # shown elsewhere, or from a newer server

    def _connection_changed(
        self, event: client.Lost | client.Reconnected | client.Gap | client.RoomLost
    ) -> None:
        match event:
            case client.Lost(ending=ending):
                self._writers.clear()
                again = " Trying again." if ending.reconnect else ""
                self.warn(f"Connection lost ({ending.reason or ending.code}).{again}")
            case client.Reconnected(same_user=True):
                self._members_stale = True
                self.notify(f"Connected again as {event.nick}.")
            case client.Reconnected():
                self._members_stale = True
                self.warn(f"The server no longer knows you. You are now a new guest, {event.nick}.")
            case client.Gap():
                room = self.label(event.room)
                self.warn(
                    f"Some messages in {room} after #{event.after.seq} could not be restored."
                )
            case client.RoomLost():
                self.warn(f"You are no longer in {event.room}. {event.refused.message}")
                self.left(event.room)

    def _renamed(self, event: client.NickChange) -> None:
        """Update the labels of direct messages with a user who changed their nick."""
        for room in self._peers:
            if event.user in users_of(room) and event.user != self.chat.identity.user:
                self._peers[room] = event.nick

    def _left(self, event: client.Left) -> None:
        self._members.get(event.room, set()).discard(event.user)
        self._writers.pop((event.room, event.user), None)
        self._show_activity(event)
        if event.user == self.chat.identity.user and event.reason != "leave":
            self.left(event.room)

    def _message(self, event: client.Message) -> None:
        self._nicks[event.user] = event.nick
        if event.room.startswith("@") and event.user != self.chat.identity.user:
            self._peers[event.room] = event.nick
        self._writers.pop((event.room, event.user), None)
        me = self.chat.identity.nick if event.user != self.chat.identity.user else None
        self._show(event.at, lines.message(event, self._prefix(event.room), me=me))
        if event.seq is not None:
            self._newest[event.room] = event.seq
            self._oldest.setdefault(event.room, event.seq)
            self._read_marks[event.room] = event.seq

    def _show_activity(self, event: lines.Activity, *, everywhere: bool = False) -> None:
        label = "" if everywhere else self._prefix(event.room)
        at = None if hasattr(event, "at") else datetime.now(UTC)
        self.screen.show(lines.activity(event, label, at=at))

    def _show_page(self, room: str, events: Sequence[client.AnyEvent]) -> None:
        """Show a page of a log. Its messages have their present text, so edits are left out."""
        logged = [event for event in events if isinstance(event, _LOGGED)]
        for event in logged:
            if isinstance(event, client.Message):
                line = lines.message(event, self._prefix(room), again=True)
                self._show(event.at, line)
            elif isinstance(event, client.Topic):
                self._show(event.at, lines.activity(event, self._prefix(room)))
        numbers = [event.seq for event in logged if event.seq is not None]
        if numbers:
            self._oldest[room] = min(numbers[0], self._oldest.get(room, numbers[0]))
            self._read_marks[room] = max(numbers[-1], self._read_marks.get(room, 0))

    def _show(self, at: datetime, line: Text) -> None:
        """Show a line of a log, and before it the date if that changed."""
        local = at.astimezone()
        if self._day is None or local.date() != self._day.date():
            self._day = local
            self.screen.show(lines.day(at))
        self.screen.show(line)

    def _prefix(self, room: str) -> str:
        return "" if room == self.room else self.label(room)

    def _update(self) -> None:
        """Update the status line and wake the tasks that wait for a change."""
        parts = [self.chat.identity.nick or "not signed in"]
        if self.room in self._members and not self.room.startswith("@"):
            here = self._totals.get(self.room, len(self._members[self.room]))
            parts.append(f"{here} here")
        writers = [w.nick for (room, _), w in self._writers.items() if room == self.room]
        if writers:
            parts.append(f"{', '.join(writers[:3])} {'is' if len(writers) == 1 else 'are'} typing")
        if not self.chat.connected:
            parts.append("offline, trying again")
        elif self._waiting:
            parts.append("waiting to send")
        self.screen.status(self.label(self.room), " | ".join(parts))
        self._changed.set()
        self._changed = trio.Event()
