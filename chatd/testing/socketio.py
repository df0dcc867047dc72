"""A client that speaks Socket.IO 5, on either transport of Engine.IO.

It is as plain as the scripts of a tutorial that keep a position: it drops nothing that comes twice
and mends no order, so that a test sees what the daemon sent.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import trio
from msgspec import structs

from chatd import client
from chatd.client.inbox import Inbox
from chatd.engineio import packets
from chatd.model import LOST, NORMAL
from chatd.protocol import commands
from chatd.protocol.codec import read_event
from chatd.socketio.packets import Decoder, Packet, PacketType, encode
from chatd.testing.acknowledgement import Call, read
from chatd.testing.cable import Plug
from chatd.testing.engineio import Transport
from chatd.testing.hearer import Hearer
from chatd.testing.mailbox import DEADLINES, EVENTS, patience

__all__ = ["SocketIoClient"]

_T = TypeVar("_T")


class SocketIoClient(Hearer):
    """A client that speaks Socket.IO 5. It does not come back by itself.

    It is in a room from the start, whose last messages come first, as events.
    """

    def __init__(
        self,
        plug: Plug,
        nick: str,
        room: str,
        protocol: str,
        transport: Callable[[Plug], Transport],
        nursery: trio.Nursery,
        token: str | None = None,
    ) -> None:
        self._token = token
        self._inbox: Inbox[client.AnyEvent] = Inbox(EVENTS)
        super().__init__(self._inbox.take, self._inbox.take_nowait)
        self.plug = plug
        self.protocol = protocol
        self.room = room
        """The room that `say` speaks in where it is not told: the one that was joined last."""
        self.entered: client.Entered | None = None
        """The answer to the last `join`, or what ``hello`` told of the start room."""
        self.hello: client.Hello | None = None
        """The last connection's first word."""
        self.identity = client.Identity(None, nick)
        """Who this client is, and the secret by which it is so again."""
        self._new_transport = transport
        self._nursery = nursery
        self._transport: Transport | None = None
        self._decoder = Decoder()
        self._positions: dict[str, client.Position] = {}
        self._first_room = room
        self._start = room
        self._since: client.Position | None = None
        self._calls: dict[int, Call[Any]] = {}
        self._numbers = itertools.count()
        self._ready = False
        self._bye: client.Bye | None = None
        self._dismissed = False
        self._same_user = True
        self._over: client.Closed | None = None
        self._fault = client.ConnectError("never connected")
        self._refused: client.ConnectError | None = None
        self._greeted = trio.Event()
        self._settled = trio.Event()
        self._ended = trio.Event()
        self._ending = client.Ending(LOST.code, "never connected", reconnect=True)

    # ---- as other clients have it

    @property
    def nick(self) -> str:
        return self.identity.nick or ""

    @property
    def user(self) -> str:
        return self.identity.user or ""

    def position(self, room: str | None = None) -> client.Position | None:
        """Give the last position seen of a room; None: it is not in it."""
        return self._positions.get(self._room(room))

    async def connect(self) -> None:
        """Connect, and be in the rooms again. The harness does it the first time."""
        if self._over is not None:
            raise self._over
        self._refused = None
        self._greeted = trio.Event()
        self._settled = trio.Event()
        self._ended = trio.Event()
        self._nursery.start_soon(self._converse)
        await self._settled.wait()
        if not self._ready:
            raise self._fault

    async def join(
        self, room: str, *, since: client.Position | None = None, limit: int | None = None
    ) -> client.Entered:
        """Join one more room. What is on its page is in the answer, not among the events."""
        given = {"room": room, "since": since, "limit": limit}
        self.entered = await self._call("join", [given], client.Entered, self._joined)
        self.room = self.entered.room
        return self.entered

    async def leave(self, room: str | None = None) -> None:
        room = self._room(room)

        def left(answer: commands.RoomLeft) -> None:
            self._positions.pop(answer.room, None)

        await self._call("leave", [{"room": room}], commands.RoomLeft, left)
        if room == self.room:
            self.room = None

    async def say(
        self, text: str, *, room: str | None = None, key: str | None = None
    ) -> client.Said:
        """Say it and wait for the answer, while the cable is cut too: until `reconnect`."""
        options = {"room": self._room(room), "key": secrets.token_hex(16) if key is None else key}
        return await self._call("chat message", [text, options], client.Said, keyed=True)

    async def nickname(self, nick: str) -> str:
        return (await self._call("nick", [{"nick": nick}], commands.Renamed, self._renamed)).nick

    async def who(self, room: str | None = None) -> list[str]:
        """Give the nicks of who is in the room."""
        answer = await self._call("who", [{"room": self._room(room)}], client.Members)
        return [member.nick for member in answer.members]

    async def history(
        self,
        room: str | None = None,
        *,
        before: int | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> client.Page:
        given = {"room": self._room(room), "before": before, "after": after, "limit": limit}
        return await self._call("history", [given], client.Page)

    async def lost(self) -> client.Ending:
        """Wait until the connection has ended; tells why.

        Polling has no close codes: 1006, where the daemon said no ``bye``.
        """
        with trio.fail_after(patience()):
            await self._ended.wait()
        return self._ending

    async def reconnect(self) -> None:
        """Connect again, be the same guest, be in the same rooms, say what waits.

        What was missed since the last position seen comes as events. Who has left every room is in
        the first one again.
        """
        if self._transport is not None:
            self._transport.end(LOST.code, "connecting again")
            await self.lost()
        with trio.fail_after(patience()):
            await self.connect()

    async def aclose(self) -> None:
        """Leave, as a client does that ends."""
        self._finish(client.Ending(NORMAL.code, "left", reconnect=False))
        if self._transport is not None:
            self._send(Packet(PacketType.DISCONNECT))
            self._transport.send(str(packets.CLOSE))
            with trio.move_on_after(DEADLINES.close):
                await self._ended.wait()
            if self._transport is not None:
                self._transport.end(NORMAL.code, "left")

    # ---- one connection

    async def _converse(self) -> None:
        self._bye = None
        self._dismissed = False
        self._decoder = Decoder()
        self._transport = self._new_transport(self.plug)
        used = False
        try:
            ending = self._with_bye(await self._transport.converse(self._received, self._restore))
            self._fault = self._refused or client.ConnectError(
                f"the connection ended before it was used: {ending.reason}",
                retry_ms=ending.retry_ms,
            )
        except client.ConnectError as fault:
            self._fault = fault
            ending = client.Ending(LOST.code, str(fault), reconnect=not fault.hopeless)
        finally:
            used, self._ready = self._ready, False
            self._transport = None
            self._ended.set()
            self._settled.set()
        self._ending = ending
        if used and self._over is None:
            self._put(client.Lost(ending))
        if not ending.reconnect:
            self._finish(ending)

    def _with_bye(self, ending: client.Ending) -> client.Ending:
        if (bye := self._bye) is None:
            # Socket.IO's clients do not come back by themselves from a DISCONNECT.
            return structs.replace(ending, reconnect=ending.reconnect and not self._dismissed)
        cut_short = ending.code == LOST.code
        return client.Ending(
            bye.code if cut_short else ending.code,
            bye.reason if cut_short else ending.reason,
            bye.reconnect,
            bye.retry_ms,
        )

    def _finish(self, ending: client.Ending) -> None:
        if self._over is None:
            self._over = client.Closed(ending)
            self._inbox.end(self._over)
            for call in self._calls.values():
                call.fail(self._over)

    async def _restore(self) -> None:
        """Be as before, as soon as the daemon has said hello."""
        before = self.identity
        with trio.move_on_after(DEADLINES.answer) as waiting:
            await self._greeted.wait()
            if before.nick is not None and before.user is not None and before.nick != self.nick:
                # Where it is somebody else's by now, the test sees it by `nick`.
                with suppress(client.Refused):
                    await self._call(
                        "nick",
                        [{"nick": before.nick}],
                        commands.Renamed,
                        self._renamed,
                        now=True,
                    )
            for room, since in list(self._positions.items()):
                if room != self._start:
                    await self._rejoin(room, since)
        if waiting.cancelled_caught:
            self._end(f"not let in within {DEADLINES.answer:g} s")
            return
        for call in self._calls.values():
            if call.keyed and call.sent and not self._same_user:
                text = "the session is over, and whether this was said is not known"
                call.fail(client.Refused("unauthorized", text))
            else:
                self._send(call.packet)
                call.sent = True
        self._ready = True
        self._settled.set()

    async def _rejoin(self, room: str, since: client.Position) -> None:
        def joined(entered: client.Entered) -> None:
            self._joined(entered, since)
            for event in entered.events:
                self._told(event)

        try:
            given = {"room": room, "since": since}
            await self._call("join", [given], client.Entered, joined, now=True)
        except client.Refused as refused:
            self._positions.pop(room, None)
            self._put(client.RoomLost(room, refused))

    # ---- packets out

    async def _call(
        self,
        event: str,
        args: list[Any],
        kind: type[_T],
        answered: Callable[[_T], None] | None = None,
        *,
        keyed: bool = False,
        now: bool = False,
    ) -> _T:
        """Emit an event and wait for its acknowledgement; ``now``: on this very connection."""
        if self._over is not None:
            raise self._over
        number = next(self._numbers)
        packet = Packet(PacketType.EVENT, data=[event, *args], id=number)
        call = Call(packet, kind, answered, keyed=keyed)
        self._calls[number] = call
        try:
            if self._ready or now:
                self._send(packet)
                call.sent = True
            return await call.outcome()
        finally:
            del self._calls[number]

    def _send(self, packet: Packet) -> None:
        if self._transport is not None:
            for message in encode(packet):  # one: nothing here is binary
                self._transport.send(f"{packets.MESSAGE}{message!s}")

    def _end(self, reason: str) -> None:
        if self._transport is not None:
            self._transport.end(LOST.code, reason)

    # ---- packets in; nothing here waits

    def _received(self, packet: packets.Packet) -> None:
        if packet.type == packets.OPEN:
            self._send(Packet(PacketType.CONNECT, data=self._auth()))
        elif packet.type == packets.PING and self._transport is not None:
            self._transport.send(str(packets.PONG))
        elif packet.type == packets.MESSAGE:
            whole = self._decoder.add(packet.data)
            if whole is not None:
                self._heard(whole)

    def _auth(self) -> dict[str, Any]:
        start = self.room if self.room in self._positions else next(iter(self._positions), None)
        self._start = start or self._first_room
        self._since = self._positions.get(self._start)
        auth: dict[str, Any] = {"room": self._start}
        if self._token is not None:
            auth["token"] = self._token
        # Who has a session gets their nick with it; the same nick for a stranger would be refused.
        if self.identity.session is None:
            auth["nick"] = self.identity.nick
        else:
            auth["session"] = self.identity.session
        if self._since is not None:
            auth["since"] = self._since
        return auth

    def _heard(self, packet: Packet) -> None:
        match packet:
            case Packet(PacketType.EVENT, data=["hello", fields]):
                self._welcomed(fields)
            # Events of a log end in an offset, for a client that recovers by it.
            case Packet(PacketType.EVENT, data=["chat message", text, about, *_]):
                # What is not kept has no number; what is deleted has no text.
                said = {} if about.get("deleted") else {"text": text}
                event = read_event({"on": "message", **about, **said})
                self._told(event, about.get("epoch"))
            case Packet(PacketType.EVENT, data=[name, fields, *_]):
                self._told(read_event({"on": name, **fields}))
            case Packet(PacketType.ACK, data=[answer], id=int(number)):
                # Who was cancelled does not wait for theirs any more.
                if number in self._calls:
                    self._calls[number].acknowledged(answer)
            case Packet(PacketType.CONNECT_ERROR, data=error):
                self._refused = client.ConnectError(f"refused: {error['message']}", hopeless=True)
                self._end("refused")
            case Packet(PacketType.DISCONNECT):
                self._dismissed = True
                self._end("disconnected by the daemon")
            case Packet(PacketType.CONNECT):
                pass
            case _:
                raise AssertionError(f"{self.nick}: the daemon sent {packet}")

    def _welcomed(self, fields: dict[str, Any]) -> None:
        joined = fields.pop("joined", None)
        hello = self.hello = read(fields, client.Hello)
        before, self.identity = (
            self.identity,
            client.Identity(hello.user, hello.nick, hello.op, hello.session),
        )
        if before.user is not None:
            self._same_user = before.user == hello.user
            self._put(client.Reconnected(hello.user, hello.nick, self._same_user))
        self._positions.pop(self._start, None)
        if joined is not None:  # else its token lets it be nowhere yet
            self.entered = read(joined, client.Entered)
            self._joined(self.entered, self._since)
            if self.room in {None, self._start}:
                self.room = self.entered.room
        self._greeted.set()

    def _joined(self, entered: client.Entered, since: client.Position | None = None) -> None:
        seq = entered.end
        if seq is None:
            seq = since.seq if since is not None and entered.recovered else entered.seq
        if since is not None and not entered.recovered:
            self._put(client.Gap(entered.room, since))
        self._positions[entered.room] = client.Position(entered.epoch, seq)

    def _renamed(self, renamed: commands.Renamed) -> None:
        self.identity = structs.replace(self.identity, nick=renamed.nick)

    def _told(self, event: client.AnyEvent, epoch: str | None = None) -> None:
        match event:
            case client.Bye():
                self._bye = event
            case client.NickChange() if event.user == self.identity.user:
                self.identity = structs.replace(self.identity, nick=event.nick)
            case client.Message() | client.Edit() | client.Delete() | client.Topic():
                known = self._positions.get(event.room)
                if known is not None and event.seq is not None:
                    self._positions[event.room] = client.Position(epoch or known.epoch, event.seq)
            case _:
                pass
        self._put(event)

    def _put(self, event: client.AnyEvent) -> None:
        if not self._inbox.fits(1):
            raise AssertionError(f"{self.nick}: {EVENTS} events came that no test took")
        self._inbox.put(event)
