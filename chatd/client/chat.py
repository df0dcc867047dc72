"""The chat as an application sees it: commands that are answered, events in order."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypedDict, Unpack

import trio

from chatd.client.connection import Deadlines
from chatd.client.conversation import AnyEvent, Conversation, Statistics, Token
from chatd.client.dialing import Address, Backoff, Dial, dial_url
from chatd.client.errors import Closed, Ending, unwrapped
from chatd.client.following import Following
from chatd.model import NORMAL
from chatd.protocol.commands import (
    Changed,
    Entered,
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
    Sanctioned,
)
from chatd.protocol.events import Hello

__all__ = ["Chat", "Person", "connect"]


class Person(TypedDict, total=False):
    """Whom an operator means: one of ``nick``, ``user`` and ``network``; and why."""

    nick: str
    user: str
    network: str
    reason: str


class Chat:
    """A chat; made by `connect`. Its methods may be called from any number of tasks.

    Every command waits for its answer, over a lost connection too: the next one sends it again.
    It raises `Refused`; trio.TooSlowError where a living connection brings no answer in
    ``Deadlines.answer`` seconds; `Closed` where the chat is over. What was cancelled while it
    waited may have been carried out.
    """

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    # ---- commands

    async def join(
        self,
        room: str,
        *,
        since: Position | None = None,
        limit: int | None = None,
        messages: bool | None = None,
    ) -> Entered:
        """Be in a room. The answer holds a page of its log: from ``since`` on, or the newest.

        With ``messages`` the newest ``limit`` messages and what came between them, else events.
        ``@nick`` follows the direct messages with somebody.

        From then on its events come by `next_event`, over lost connections too.
        """
        fields = {
            "room": room,
            "since": None if since is None else {"epoch": since.epoch, "seq": since.seq},
            "limit": limit,
            "messages": messages,
        }
        rooms = self._conversation.rooms

        def answered(entered: Entered) -> None:
            # Joined before: what it was told since and did not take yet still comes, in order.
            if entered.room not in rooms:
                rooms[entered.room] = Following(entered, since)

        return await self._conversation.call("join", fields, Entered, answered)

    async def leave(self, room: str) -> None:
        """Leave a room. Of what it was told before, the rest may still be taken."""
        rooms = self._conversation.rooms

        def answered(left: RoomLeft) -> None:
            rooms.pop(left.room, None)

        await self._conversation.call("leave", {"room": room}, RoomLeft, answered)

    async def say(
        self,
        text: str,
        *,
        room: str | None = None,
        key: str | None = None,
        reply_to: int | None = None,
    ) -> Said:
        """Say a message in ``room``, or in the one room that is joined (ValueError if not one).

        It is said once, over any number of connections. ``key`` (up to 64 bytes) is for who wants
        to say it again after an exception: what has the same key is said once.
        """
        if room is None:
            if len(self.joined) != 1:
                raise ValueError(f"in which room? joined are {', '.join(self.joined) or 'none'}")
            (room,) = self.joined
        fields = {
            "room": room,
            "text": text,
            "key": secrets.token_hex(16) if key is None else key,
            "reply_to": reply_to,
        }
        return await self._conversation.call("say", fields, Said, keyed=True)

    async def edit(self, room: str, seq: int, text: str) -> Changed:
        """Give a message of one's own another text."""
        fields = {"room": room, "seq": seq, "text": text}
        return await self._conversation.call("edit", fields, Changed)

    async def delete(self, room: str, seq: int) -> Changed:
        """Take a message away: one's own, or as an operator anybody's.

        Raises `Refused` with ``not_found`` too where the connection was lost after it was done.
        """
        return await self._conversation.call("delete", {"room": room, "seq": seq}, Changed)

    async def topic(self, room: str, text: str) -> Changed:
        """Say what a room is about; an empty text: nothing."""
        return await self._conversation.call("topic", {"room": room, "text": text}, Changed)

    async def history(
        self,
        room: str,
        *,
        before: int | None = None,
        after: int | None = None,
        limit: int | None = None,
        messages: bool | None = None,
    ) -> Page:
        """Read a page of a room's log: what came before a number, after one, or the newest.

        With ``messages``, ``limit`` counts messages alone.
        """
        fields = {
            "room": room,
            "before": before,
            "after": after,
            "limit": limit,
            "messages": messages,
        }
        return await self._conversation.call("history", fields, Page)

    async def search(
        self, room: str, query: str, *, before: int | None = None, limit: int | None = None
    ) -> Found:
        """Find the messages with all the words of ``query``, the newest first."""
        fields = {"room": room, "query": query, "before": before, "limit": limit}
        return await self._conversation.call("search", fields, Found)

    def typing(self, room: str, *, active: bool = True) -> None:
        """Tell the others that this user is writing, or no more; best effort, with no answer."""
        self._conversation.mention("typing", {"room": room, "on": active})

    async def read(self, room: str, seq: int) -> int:
        """Note that this user has read everything up to ``seq``; gives how far that is by now."""
        return (await self._conversation.call("read", {"room": room, "seq": seq}, ReadMark)).seq

    async def who(
        self, room: str, *, after: str | None = None, limit: int | None = None
    ) -> Members:
        """Ask who is in a room, by nick; ``after`` is the last nick of the page before."""
        fields = {"room": room, "after": after, "limit": limit}
        return await self._conversation.call("who", fields, Members)

    async def rooms(self) -> list[RoomInfo]:
        """Ask which rooms there are, page after page: direct messages first, then by name."""
        rooms: list[RoomInfo] = []
        more = True
        while more:
            fields = {"after": rooms[-1].room if rooms else None}
            page = await self._conversation.call("rooms", fields, RoomList)
            rooms += page.rooms
            more = page.more and bool(page.rooms)
        return rooms

    async def nick(self, nick: str) -> str:
        """Be called ``nick`` from now on; gives it as it is shown."""
        answered = self._conversation.renamed
        return (await self._conversation.call("nick", {"nick": nick}, Renamed, answered)).nick

    async def auth(self, session: str | None = None, *, token: str | None = None) -> Identity:
        """Be the guest again to whom ``session`` was given, or who a ``token`` names.

        Before the first `join`; later only with another token of the same user's, to renew it.
        """
        answered = self._conversation.identified
        fields = {"session": session, "token": token}
        return await self._conversation.call("auth", fields, Identity, answered)

    # ---- commands of operators; somebody is meant by nick, user id or, for bans, network

    async def kick(self, *, room: str | None = None, **who: Unpack[Person]) -> Sanctioned:
        """Put somebody out of a room, or of everything. They may come back."""
        return await self._conversation.call("kick", {"room": room, **who}, Sanctioned)

    async def ban(
        self, *, room: str | None = None, seconds: float | None = None, **who: Unpack[Person]
    ) -> Sanctioned:
        """Keep somebody, or a network, out of a room or of everything; without end or not."""
        fields = {"room": room, "seconds": seconds, **who}
        return await self._conversation.call("ban", fields, Sanctioned)

    async def unban(self, *, room: str | None = None, **who: Unpack[Person]) -> Sanctioned:
        """Take a ban back, by the name it was made with."""
        return await self._conversation.call("unban", {"room": room, **who}, Sanctioned)

    async def mute(
        self, *, room: str | None = None, seconds: float | None = None, **who: Unpack[Person]
    ) -> Sanctioned:
        """Let somebody say nothing in a room, or anywhere."""
        fields = {"room": room, "seconds": seconds, **who}
        return await self._conversation.call("mute", fields, Sanctioned)

    async def unmute(self, *, room: str | None = None, **who: Unpack[Person]) -> Sanctioned:
        """Let somebody speak again."""
        return await self._conversation.call("unmute", {"room": room, **who}, Sanctioned)

    async def slow(self, room: str, seconds: float) -> Sanctioned:
        """Have everybody else wait so long between two messages; 0 ends it."""
        return await self._conversation.call("slow", {"room": room, "seconds": seconds}, Sanctioned)

    async def close_room(
        self, room: str, *, seconds: float | None = None, reason: str | None = None
    ) -> Sanctioned:
        """Put everybody else out of a room and keep it shut, for so long or until 0 seconds."""
        fields = {"room": room, "seconds": seconds, "reason": reason}
        return await self._conversation.call("close", fields, Sanctioned)

    # ---- events

    async def next_event(self) -> AnyEvent:
        """Wait for the next event, over lost connections too. Raises `Closed` when all is over."""
        return await self._conversation.inbox.take()

    def next_event_nowait(self) -> AnyEvent:
        """Give the next event if it is there. Raises trio.WouldBlock, or `Closed`."""
        return self._conversation.inbox.take_nowait()

    def __aiter__(self) -> Chat:
        return self

    async def __anext__(self) -> AnyEvent:
        """Give the next event; ends after `aclose`, raises `Closed` when the daemon ended it."""
        try:
            return await self.next_event()
        except Closed as closed:
            if closed.ending.code == NORMAL.code:
                raise StopAsyncIteration from None
            raise

    # ---- the connection

    @property
    def identity(self) -> Identity:
        """Who this client is. Keep ``session`` to be the same guest in a later run."""
        return self._conversation.identity

    @property
    def hello(self) -> Hello | None:
        """The last connection's first word, with the daemon's limits."""
        return self._conversation.hello

    @property
    def connected(self) -> bool:
        """Whether commands go out at once."""
        return self._conversation.ready

    @property
    def ending(self) -> Ending | None:
        """Why the last connection ended; None while there is one."""
        return self._conversation.ending

    @property
    def joined(self) -> tuple[str, ...]:
        """The rooms this client is in, as they are written; direct messages are not joined."""
        return tuple(room for room in self._conversation.rooms if not room.startswith("@"))

    def position(self, room: str) -> Position | None:
        """Give where this client is in a joined room's log, as ``since`` for a later `join`."""
        following = self._conversation.rooms.get(room)
        return None if following is None else following.position

    async def lost(self) -> Ending:
        """Wait until there is no connection, and tell why."""
        return await self._conversation.lost()

    async def reconnect(self) -> None:
        """Connect again now; a connection that there is is dropped. Returns when all is restored.

        Raises `Closed`, or `ConnectError`, after which a chat that comes back by itself tries on.
        """
        await self._conversation.reconnect()

    async def aclose(self) -> None:
        """Leave: close the connection, end the events. What waits for an answer gets `Closed`."""
        await self._conversation.aclose()

    def statistics(self) -> Statistics:
        return self._conversation.statistics()


@asynccontextmanager
async def connect(
    where: str | Dial | Address,
    *,
    nick: str | None = None,
    session: str | None = None,
    token: Token | None = None,
    reconnect: bool = True,
    events: int = 1000,
    deadlines: Deadlines | None = None,
    backoff: Backoff | None = None,
) -> AsyncGenerator[Chat]:
    """Connect to a daemon and leave it at the end of the block.

    ``where`` is ``ws://host:port``, ``wss://…``, ``unix:/path``, an `Address`, or a function that
    opens a stream. ``nick`` is a wish for the beginning: a free one is given where it is taken.
    ``session`` makes this the guest to whom it was given, ``token`` the user whom it names: a
    function, plain or async, is asked for a fresh one for each connection and before one ends.
    With ``reconnect=False`` a lost
    connection stays lost until `Chat.reconnect`. ``events`` bounds what waits to be taken (at least
    16); what comes faster is read from the rooms' logs later.

    Raises `ConnectError` where the first connection cannot be made, `Closed` where the daemon ends
    it for good, and ValueError.
    """
    if events < 16:
        raise ValueError("events must be at least 16, half of which is the page that is read on")
    if isinstance(where, str):
        address = dial_url(where)
    else:
        address = where if isinstance(where, Address) else Address(where)
    conversation = Conversation(
        address,
        Identity(None, nick, session=session),
        token=token,
        reconnect=reconnect,
        events=events,
        deadlines=Deadlines() if deadlines is None else deadlines,
        backoff=Backoff() if backoff is None else backoff,
    )
    with unwrapped():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(conversation.run)
            try:
                await conversation.settled()
                yield Chat(conversation)
            finally:
                try:
                    await conversation.aclose()
                finally:
                    nursery.cancel_scope.cancel()
