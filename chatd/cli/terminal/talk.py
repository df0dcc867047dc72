"""One person's conversation: what is typed is carried out, what is heard is shown.

A *place* is what a room is called here: its name, or ``@nick`` for what one and somebody else say
to each other, whose room goes by their ids. Two tasks meet here: `hear` takes the chat's events,
another carries out one line after the other. Each line waits for its answer, over lost connections
too, so what was typed first is said first.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

import trio
from msgspec import Struct
from rich.text import Text

from chatd import client
from chatd.cli.terminal import lines
from chatd.client.call import worth_waiting

__all__ = ["Screen", "Talk"]

# Who wrote nothing for so long after they began writes no more.
_TYPING_SECONDS: Final = 6.0

# Others take it for over when they hear nothing for a while.
_TYPING_AGAIN_SECONDS: Final = 3.0

_MARK_SECONDS: Final = 1.0

_NAMED: Final = 30
"""So many members are named where a room is entered."""

NOWHERE: Final = "you talk nowhere: /join ROOM"

_LOGGED: Final = (client.Message, client.Edit, client.Delete, client.Topic)

_COUNTED: Final = 100
"""So many are counted one by one; of more the daemon tells how many there are."""


class Screen(Protocol):
    """Where a conversation is shown."""

    def show(self, line: Text) -> None:
        """Show a line of the conversation, or of an answer."""

    def tell(self, line: Text) -> None:
        """Show what is said by the way: how things stand, what did not work."""

    def status(self, place: str, text: str) -> None:
        """Show where one is, and what goes on, until it is something else."""

    async def room(self) -> None:
        """Wait until more can be shown."""


class _Writer(Struct):
    nick: str
    until: float


class Talk:
    """A conversation on ``screen``. ``page`` is how many messages are shown of what was said."""

    def __init__(self, chat: client.Chat, screen: Screen, *, page: int) -> None:
        self.chat = chat
        self.screen = screen
        self.page = page
        self.room = ""
        """Where one talks, if anywhere."""
        self._said: tuple[str, int] | None = None
        self._nicks: dict[str, str] = {}
        self._direct: dict[str, str] = {}
        self._members: dict[str, set[str]] = {}
        self._totals: dict[str, int] = {}
        self._uncounted = False
        self._oldest: dict[str, int] = {}
        self._newest: dict[str, int] = {}
        self._writers: dict[tuple[str, str], _Writer] = {}
        self._marks: dict[str, int] = {}
        self._day: datetime | None = None
        self._told_typing = -_TYPING_AGAIN_SECONDS
        self._waits = False
        self._changed = trio.Event()

    # ---- places

    async def enter(self, room: str, *, quietly: bool = False) -> None:
        """Go to a place, and show what was said there last. Raises `client.Refused`."""
        entered = await self.chat.join(room, limit=self.page, messages=True)
        self._count(entered.room, entered.members, entered.member_count)
        self._named(entered.room, room)
        self.go(entered.room)
        self._show_page(entered.room, entered.events)
        if not quietly:
            self.tell(self._entered(entered))

    def go(self, room: str) -> None:
        """Talk in a room that was entered; "": nowhere."""
        self.room = room
        self._update()

    def tell_place(self) -> None:
        """Show where one talks."""
        self.tell(f"you talk in {self.place_of(self.room)}" if self.room else NOWHERE)

    def here(self) -> str:
        """Give the room one talks in. Raises `client.Refused` where that is none."""
        if not self.room:
            raise client.Refused("not_joined", NOWHERE)
        return self.room

    def left(self, room: str, *, then: str = "") -> None:
        """Be no more in a room. Who talked in it talks in ``then``.

        Who was put out talks nowhere: what they type just then was meant for those in the room.
        """
        self._members.pop(room, None)
        self._totals.pop(room, None)
        if room == self.room:
            self.go(then)
            self.tell_place()

    def _entered(self, entered: client.Entered) -> str:
        if entered.room.startswith("@"):
            return f"what you say here is for {self.place_of(entered.room)[1:]} alone"
        nicks = [member.nick for member in entered.members[:_NAMED]]
        more = entered.member_count - len(nicks)
        here = ", ".join(nicks) + (f" and {more} more" if more > 0 else "")
        topic = f" ({entered.topic})" if entered.topic else ""
        unread = f"; {entered.unread} unread" if entered.unread else ""
        return f"you are in {entered.room}{topic}: {here or 'nobody'}{unread}"

    def _named(self, room: str, place: str) -> None:
        """Note by which name a room was reached, if that is somebody's and not the room's own."""
        if room.startswith("@") and "," not in place:
            self._direct[room] = place.removeprefix("@")

    def place_of(self, room: str) -> str:
        """Give what a room is called here."""
        if not room.startswith("@"):
            return room
        if room not in self._direct:
            others = set(room[1:].split(",")) - {self.chat.identity.user}
            other = others.pop() if others else room[1:]
            self._direct[room] = self._nicks.get(other, other)
        return f"@{self._direct[room]}"

    def nicks(self) -> list[str]:
        """Give who was seen here, for who types a name."""
        return sorted(set(self._nicks.values()), key=str.casefold)

    # ---- what is typed

    async def say(self, text: str, *, room: str, reply_to: int | None = None) -> None:
        """Say a message, when the daemon will have it. Raises `client.Refused`."""
        key = secrets.token_hex(16)
        while True:
            try:
                said = await self.chat.say(text, room=room, key=key, reply_to=reply_to)
            except client.Refused as refused:
                if (seconds := worth_waiting(refused)) is None:
                    raise
                self._waits = True
                self._update()
                await trio.sleep(seconds)
            else:
                break
            finally:
                self._waits = False
        self._update()
        self._named(said.room, room)
        if said.seq is not None:
            self._said = (said.room, said.seq)

    def drafts(self, text: str) -> None:
        """Note what stands on the line that is being typed."""
        if not self.room or text.startswith("/"):
            return
        now = trio.current_time()
        since = now - self._told_typing
        if text and since >= _TYPING_AGAIN_SECONDS:
            self._told_typing = now
            self.chat.typing(self.room)
        elif not text and since < _TYPING_AGAIN_SECONDS:
            # Said or taken back: the next word is news again.
            self._told_typing = now - _TYPING_AGAIN_SECONDS
            self.chat.typing(self.room, active=False)

    async def older(self, count: int | None) -> None:
        """Show what was said before what is shown here. Raises `client.Refused`."""
        room = self.here()
        page = await self.chat.history(
            room, before=self._oldest.get(room), limit=count or self.page, messages=True
        )
        self._show_page(room, page.events)
        if not page.more:
            self.note("that is where it began")

    def note(self, text: str) -> None:
        """Show an answer."""
        self.screen.show(lines.note(text))

    def tell(self, text: str) -> None:
        """Show how things stand."""
        self.screen.tell(lines.note(text))

    def warn(self, text: str) -> None:
        """Show what did not work."""
        self.screen.tell(lines.warning(text))

    # ---- what is heard

    async def hear(self) -> None:
        """Show what happens, until it is over. Raises `client.Closed` where the daemon ended it."""
        async for event in self.chat:
            self._heard(event)
            self._update()
            await self.screen.room()

    def behind(self) -> bool:
        """Tell whether what was said last is still to be shown."""
        return self._said is not None and self._newest.get(self._said[0], 0) < self._said[1]

    async def changed(self) -> None:
        """Wait until something happens."""
        await self._changed.wait()

    async def mark(self) -> None:
        """Tell the daemon how far was read, as long as somebody reads."""
        while True:
            while not self._marks:
                await self._changed.wait()
            await trio.sleep(_MARK_SECONDS)
            room, seq = self._marks.popitem()
            try:
                await self.chat.read(room, seq)
            except (client.Refused, trio.TooSlowError):
                continue  # it is for the comfort of the next time

    async def count(self) -> None:
        """Ask who is there, after each time in which nothing was heard of who came and left."""
        while True:
            while not self._uncounted:
                await self._changed.wait()
            self._uncounted = False
            for room in self.chat.joined:
                try:
                    found = await self.chat.who(room, limit=_COUNTED)
                except (client.Refused, trio.TooSlowError):
                    continue  # what is known may be true still
                self._count(room, found.members, found.member_count)
            self._update()

    def _count(self, room: str, members: Sequence[client.Member], total: int) -> None:
        self._nicks.update((member.user, member.nick) for member in members)
        self._members[room] = {member.user for member in members}
        self._totals.pop(room, None)
        if total > len(members):
            self._totals[room] = total

    async def forget_writers(self) -> None:
        """Take away who has stopped writing."""
        while True:
            while not self._writers:
                await self._changed.wait()
            await trio.sleep_until(min(writer.until for writer in self._writers.values()))
            now = trio.current_time()
            self._writers = {
                where: writer for where, writer in self._writers.items() if writer.until > now
            }
            self._update()

    def _heard(self, event: client.AnyEvent) -> None:
        match event:
            case client.Message():
                self._message(event)
            case client.Edit(text=str()) | client.Delete() | client.Topic():
                self._happened(event)
            case client.Presence():
                self._totals[event.room] = event.total
                self._happened(event)
            case client.Joined():
                self._nicks[event.user] = event.nick
                self._members.setdefault(event.room, set()).add(event.user)
                if event.user != self.chat.identity.user:
                    self._happened(event)
            case client.Left():
                self._left(event)
            case client.NickChange():
                # It is told in each room that is shared.
                if self._nicks.get(event.user) != event.nick:
                    self._nicks[event.user] = event.nick
                    self._renamed(event)
                    self._happened(event, everywhere=True)
            case client.Typing():
                where = (event.room, event.user)
                if event.active:
                    until = trio.current_time() + _TYPING_SECONDS
                    self._writers[where] = _Writer(event.nick, until)
                else:
                    self._writers.pop(where, None)
            case client.Notice(code=None):
                self.tell(event.text)
            case client.Notice():
                self.warn(event.text)
            case client.Lost() | client.Reconnected() | client.Gap() | client.RoomLost():
                self._connection_changed(event)
            case _:
                pass  # told otherwise, or of a newer daemon

    def _connection_changed(
        self, event: client.Lost | client.Reconnected | client.Gap | client.RoomLost
    ) -> None:
        match event:
            case client.Lost(ending=ending):
                self._writers.clear()
                again = ", trying again" if ending.reconnect else ""
                self.warn(f"the connection is lost ({ending.reason or ending.code}){again}")
            case client.Reconnected(same_user=True):
                self._uncounted = True
                self.tell(f"connected again as {event.nick}")
            case client.Reconnected():
                self._uncounted = True
                self.warn(
                    f"the daemon does not know you any more: you are {event.nick}, a new guest"
                )
            case client.Gap():
                place = self.place_of(event.room)
                self.warn(f"what was said in {place} after #{event.after.seq} is gone in part")
            case client.RoomLost():
                self.warn(f"you are no longer in {event.room}: {event.refused.message}")
                self.left(event.room)

    def _renamed(self, event: client.NickChange) -> None:
        """Go on talking to somebody by their new name."""
        for room in self._direct:
            if event.user in room[1:].split(",") and event.user != self.chat.identity.user:
                self._direct[room] = event.nick

    def _left(self, event: client.Left) -> None:
        self._members.get(event.room, set()).discard(event.user)
        self._writers.pop((event.room, event.user), None)
        self._happened(event)
        if event.user == self.chat.identity.user and event.reason != "leave":
            self.left(event.room)

    def _message(self, event: client.Message) -> None:
        self._nicks[event.user] = event.nick
        if event.room.startswith("@") and event.user != self.chat.identity.user:
            self._direct[event.room] = event.nick
        self._writers.pop((event.room, event.user), None)
        me = self.chat.identity.nick if event.user != self.chat.identity.user else None
        self._show(event.at, lines.message(event, self._bracketed(event.room), me=me))
        if event.seq is not None:
            self._newest[event.room] = event.seq
            self._oldest.setdefault(event.room, event.seq)
            self._marks[event.room] = event.seq

    def _happened(self, event: lines.Happening, *, everywhere: bool = False) -> None:
        place = "" if everywhere else self._bracketed(event.room)
        at = None if hasattr(event, "at") else datetime.now(UTC)
        self.screen.show(lines.happened(event, place, at=at))

    def _show_page(self, room: str, events: Sequence[client.AnyEvent]) -> None:
        """Show a page of a log: messages as they read now, so no change of one that is on it."""
        logged = [event for event in events if isinstance(event, _LOGGED)]
        for event in logged:
            if isinstance(event, client.Message):
                line = lines.message(event, self._bracketed(room), again=True)
                self._show(event.at, line)
            elif isinstance(event, client.Topic):
                self._show(event.at, lines.happened(event, self._bracketed(room)))
        numbers = [event.seq for event in logged if event.seq is not None]
        if numbers:
            self._oldest[room] = min(numbers[0], self._oldest.get(room, numbers[0]))
            self._marks[room] = max(numbers[-1], self._marks.get(room, 0))

    def _show(self, at: datetime, line: Text) -> None:
        """Show a line of a log, below the day it is of."""
        local = at.astimezone()
        if self._day is None or local.date() != self._day.date():
            self._day = local
            self.screen.show(lines.day(at))
        self.screen.show(line)

    def _bracketed(self, room: str) -> str:
        return "" if room == self.room else self.place_of(room)

    def _update(self) -> None:
        """Show how things stand, and wake who waits for a change."""
        parts = [self.chat.identity.nick or "nobody yet"]
        if self.room in self._members and not self.room.startswith("@"):
            here = self._totals.get(self.room, len(self._members[self.room]))
            parts.append(f"{here} here")
        writers = [w.nick for (room, _), w in self._writers.items() if room == self.room]
        if writers:
            parts.append(f"{', '.join(writers[:3])} {'is' if len(writers) == 1 else 'are'} writing")
        if not self.chat.connected:
            parts.append("no connection, trying again")
        elif self._waits:
            parts.append("waiting until it may be said")
        self.screen.status(self.place_of(self.room), " | ".join(parts))
        self._changed.set()
        self._changed = trio.Event()
