"""A chat on a memory journal, with clients that consist of an outbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, TypeVar

import trio

from chatd import chat as package
from chatd.chat import Chat, Connection, Login, Traffic
from chatd.chat.membership import Membership
from chatd.chat.names import room_name
from chatd.chat.replies import SendAnswer
from chatd.chat.tokens import Grant, Keys
from chatd.journal.memory import MemoryJournal
from chatd.logs import open_log
from chatd.model import LOST, Close, Event, Refusal, Refused
from chatd.protocol import commands, events
from chatd.settings import Settings
from chatd.testing.recording import Recording
from chatd.timers import Timers


class Codec:
    """Hands items on as they are."""

    def encode(self, room: str, items: Sequence[Any]) -> list[Any]:
        return [events.shape(room, item) if isinstance(item, Event) else item for item in items]


CODEC = Codec()

Result = TypeVar("Result")


async def perform(connection: Connection, command: commands.Command, answer: SendAnswer) -> None:
    """Perform a command, and wait until the connection's next one may be performed."""
    pending = package.perform(connection, command, answer)
    if pending is not None:
        await pending


def at_once(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of a coroutine that does not wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: Result = stop.value
        return result
    raise AssertionError(f"{coroutine} waits")


class Client:
    """A connection: its received frames are ``got``, its answers ``answers``."""

    def __init__(
        self,
        room: Room,
        nick: str | None,
        nursery: trio.Nursery,
        came: Login | None = None,
        address: str = "",
    ) -> None:
        self.closed: list[tuple[Close, str]] = []
        self.got: list[Any] = []
        self.answers: list[Any] = []
        self.waiting = 0
        self._read = trio.Event()
        self._arrived = trio.Event()
        self._nursery = nursery
        self._bus = room.chat.bus
        if came is None:
            came = at_once(room.chat.new_guest(address, nick, counted=False))
        self.connection = Connection(
            room.chat,
            f"c{next(room.ids)}",
            self,
            CODEC,
            nursery.start_soon,
            address=address or "192.0.2.1",
            limit_key=address,
            transport="memory",
            protocol="test",
            nick=nick,
            end=self.end,
            login=came,
        )
        self.nick_notice = self.connection.nick_notice

    def end(self, close: Close, reason: str) -> None:
        """Record that the chat closes this connection."""
        self.closed.append((close, reason))
        self._arrive()

    # the outbox
    def offer(self, block: Any, messages: int = 1, /) -> None:
        assert len(block) == messages
        self.got += block
        self._arrive()

    @staticmethod
    def offer_each(outboxes: Iterable[Client], block: Any, messages: int = 1, /) -> None:
        for outbox in outboxes:
            outbox.offer(block, messages)

    def offer_droppable(self, block: Any, messages: int = 1, /) -> None:
        self.offer(block, messages)

    async def drained(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.waiting:
            await self._read.wait()

    def stall(self) -> None:
        """Read nothing for now."""
        self.waiting = 100
        self._read = trio.Event()

    def read_on(self) -> None:
        self.waiting = 0
        self._read.set()

    # the client
    async def do(self, command: commands.Command) -> Any:
        """Perform a command, and wait for its answer and the fan-out of what it adds to a log.

        The answer comes first, once the store has committed. Without a network in between, the
        next command could be quicker than the fan-out.
        """
        answers: list[Any] = []

        def answered(answer: Any) -> None:
            answers.append(answer)
            self._arrive()

        await perform(self.connection, command, answered)
        await self.until(lambda: answers)
        if isinstance(command, commands.InRoom | commands.Moderate):
            await self._bus.probe()
        return answers[0]

    async def join(self, room: str = "lobby", **fields: Any) -> Any:
        return await self.do(commands.Join(room=room, **fields))

    async def say(self, text: str, room: str = "lobby", **fields: Any) -> Any:
        return await self.do(commands.Say(room=room, text=text, **fields))

    async def until(self, true: Callable[[], Any]) -> None:
        with trio.fail_after(60):
            while not true():
                self._arrived = trio.Event()
                await self._arrived.wait()

    def texts(self) -> list[str]:
        return [str(item.text) for item in self.got if isinstance(item, events.Message)]

    def told(self, kind: type[Any]) -> list[Any]:
        return [item for item in self.got if isinstance(item, kind)]

    def close(self) -> None:
        self.connection.close(LOST, "", Traffic(0, 0, 0, 0))

    def _arrive(self) -> None:
        self._arrived.set()


class Room:
    """The chat and its clients."""

    def __init__(self, chat: Chat, nursery: trio.Nursery, log: Recording) -> None:
        self.chat = chat
        self.log = log
        self.ids = count(1)
        self._nursery = nursery

    def client(self, nick: str | None = None, address: str = "") -> Client:
        """Connect a guest; ``address`` is the one that limits count."""
        return Client(self, nick, self._nursery, address=address)

    async def guest(self, nick: str | None = None, address: str = "") -> Client:
        """Connect a guest, whose nick the store may have to confirm."""
        came = await self.chat.new_guest(address, nick, counted=False)
        return Client(self, nick, self._nursery, came, address)

    def token(self, user: str, seconds: int = 3600, **fields: Any) -> str:
        """Issue a token, with the chat's own key."""
        return self.chat.keys.issue(user, now=self.chat.now(), seconds=seconds, **fields)

    async def subject(
        self, user: str, wish: str | None = None, *, address: str = "", **fields: Any
    ) -> Client:
        """Connect with a token."""
        grant = self.chat.verify(self.token(user, **fields))
        came = await self.chat.log_in(grant, address, wish)
        return Client(self, wish, self._nursery, came, address)


class Wall:
    """A wall clock on Trio's clock, ``ahead`` by some ms, so that a MockClock can skip days."""

    ahead = 0

    def __call__(self) -> int:
        return 1_750_000_000_000 + round(trio.current_time() * 1000) + self.ahead


@asynccontextmanager
async def open_room(
    settings: Settings | None = None,
    journal: MemoryJournal | None = None,
    keys: Keys | None = None,
) -> AsyncIterator[Room]:
    wall = Wall()
    recording = Recording()
    log = open_log(sink=recording, now=wall)
    timers = Timers(log)
    chat = Chat(
        settings or Settings(),
        journal=journal or MemoryJournal(now=wall),
        log=log,
        now=wall,
        timers=timers,
        keys=keys,
    )
    await chat.load()
    async with trio.open_nursery() as tending:
        tending.start_soon(timers.run)
        async with trio.open_nursery() as flowing:
            flowing.start_soon(chat.bus.run)
            async with trio.open_nursery() as nursery:
                yield Room(chat, nursery, recording)
                nursery.cancel_scope.cancel()
            await chat.users.save()
            chat.bus.close()
        tending.cancel_scope.cancel()


class NoOutbox:
    """Of a connection that is sent nothing: a rule returns its answer."""

    waiting = 0

    def offer(self, block: Any, messages: int = 1, /) -> None:
        raise AssertionError(block)

    offer_droppable = offer

    @staticmethod
    def offer_each(outboxes: Iterable[NoOutbox], block: Any, messages: int = 1, /) -> None:
        raise AssertionError(block)

    async def drained(self) -> None:
        """Return at once."""


async def member(
    settings: Settings | None = None, *, op: bool = False, room: str = "lobby"
) -> tuple[Connection, Membership]:
    """Return a guest, ann, in a room of a chat that runs no tasks, to call rules with."""
    wall = Wall()
    log = open_log(sink=Recording(), now=wall)
    chat = Chat(
        settings or Settings(),
        journal=MemoryJournal(now=wall),
        log=log,
        now=wall,
        timers=Timers(log),
    )
    connection = Connection(
        chat,
        "c1",
        NoOutbox(),
        CODEC,
        lambda task: None,
        address="192.0.2.1",
        limit_key="",
        transport="memory",
        protocol="test",
        nick="ann",
        end=lambda close, reason: None,
        login=await chat.new_guest("", "ann"),
    )
    if op:
        user = connection.user.id
        connection.renew_grant(Grant(user, key="", expires=2**50, lifetime=2**50, op=True))
    return connection, connection.enter(await chat.rooms.open(room_name(room)))


def promote(client: Client) -> None:
    """Make the client an operator, as a token would."""
    user = client.connection.user.id
    grant = Grant(user, key="", expires=2**50, lifetime=2**50, op=True)
    client.connection.renew_grant(grant)


def edit(seq: int, text: str, room: str = "lobby") -> commands.Edit:
    return commands.Edit(room=room, seq=seq, text=text)


def delete(seq: int, room: str = "lobby") -> commands.Delete:
    return commands.Delete(room=room, seq=seq)


async def page(client: Client, **fields: Any) -> list[Any]:
    answer = await client.do(commands.History(room="lobby", **fields))
    return list(answer.events)


def seqs(page: Sequence[events.Message]) -> list[Any]:
    return [message.seq for message in page]


async def auth(client: Client, token: str) -> Any:
    return await client.do(commands.Auth(token=token))


def refused(answer: Any) -> str | None:
    """Return the code of a refusal; None for anything else."""
    return answer.code if isinstance(answer, Refusal) else None


def refusal(check: Callable[..., object], *args: Any, **keywords: Any) -> Refusal | None:
    """Return the refusal that a call raises; None if it raises none."""
    try:
        check(*args, **keywords)
    except Refused as error:
        return error.refusal
    return None
