"""A client that speaks Socket.IO 5, on either transport of Engine.IO.

Unlike `chatd.client` it drops no event that comes twice and corrects no order, so that a test sees
what the daemon sent. It keeps the last position seen of each room, as a tutorial's script does.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
import trio
from msgspec import structs

from chatd import client
from chatd.client.call import Call, Calls
from chatd.client.errors import with_bye
from chatd.client.inbox import Inbox
from chatd.engineio import packets
from chatd.model import LOST, NORMAL
from chatd.protocol import commands
from chatd.protocol.codec import read_event, read_result
from chatd.socketio.packets import Decoder, Packet, PacketType, encode
from chatd.testing.buffer import DEADLINES, EVENTS, wait_limit
from chatd.testing.cable import Plug
from chatd.testing.engineio import Transport
from chatd.testing.events import EventClient

__all__ = ["SocketIoClient"]

_T = TypeVar("_T")


class SocketIoClient(EventClient):
    """A client that speaks Socket.IO 5, made by `Harness.client`. It does not reconnect by itself.

    It is in a room from the start. The room's last messages come first, as events.

    Attributes:
        protocol: ``"socketio"`` or ``"polling"``.
        room: The room that was joined last. `say` and others use it by default.
        entered: The answer to the last `join`, or the state of the first room.
        hello: The first event of the last connection.
        identity: Who the client is, and the session with which it becomes the same guest again.
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
        self._inbox: Inbox[client.AnyEvent] = Inbox(EVENTS)
        super().__init__(self._inbox.take, self._inbox.take_nowait)
        self.plug = plug
        self.protocol = protocol
        self.room = room
        self.entered: client.Entered | None = None
        self.hello: client.Hello | None = None
        self.identity = client.Identity(None, nick)
        self._token = token
        self._new_transport = transport
        self._nursery = nursery
        self._transport: Transport | None = None
        self._decoder = Decoder()
        self._positions: dict[str, client.Position] = {}
        # The room that the handshake of this connection names, and the position in it.
        self._first_room = room
        self._start_room = room
        self._start_since: client.Position | None = None
        self._calls = Calls(wait_limit())
        self._ready = False
        self._same_user = True
        self._greeted = trio.Event()
        self._attempted = trio.Event()
        self._fault = client.ConnectError("never connected")
        self._refused: client.ConnectError | None = None
        self._bye: client.Bye | None = None
        self._dismissed = False
        self._ended = trio.Event()
        self._ending = client.Ending(LOST.code, "never connected", reconnect=True)
        self._over: client.Closed | None = None

    @property
    def nick(self) -> str:
        """The client's present nick."""
        return self.identity.nick or ""

    @property
    def user(self) -> str:
        """The client's user id."""
        return self.identity.user or ""

    def position(self, room: str | None = None) -> client.Position | None:
        """Return the last position seen of a room; None if the client is not in it.

        Args:
            room: The room's name. By default the room that was joined last.
        """
        return self._positions.get(self._room(room))

    # ---- commands

    async def join(
        self, room: str, *, since: client.Position | None = None, limit: int | None = None
    ) -> client.Entered:
        """Join one more room. The events of its page are in the answer and do not come as events.

        Args:
            room: The room's name, or ``@nick``.
            since: The position to continue from. By default the page has the newest events.
            limit: The size of the page: 100 by default, 0 to 500.

        Returns:
            The page and the state of the room.

        Raises:
            chatd.client.Refused: The daemon refused it.
        """
        join = commands.Join(room=room, since=since, limit=limit)
        self.entered = await self._call(join, client.Entered, self._joined)
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

        def left(answer: commands.RoomLeft) -> None:
            self._positions.pop(answer.room, None)

        await self._call(commands.Leave(room=room), commands.RoomLeft, left)
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
        key = secrets.token_hex(16) if key is None else key
        say = commands.Say(room=self._room(room), text=text, key=key)
        return await self._call(say, client.Said, keyed=True)

    async def nickname(self, nick: str) -> str:
        """Change the client's nick.

        Args:
            nick: The new nick, of at most 32 characters.

        Returns:
            The nick as it is displayed.

        Raises:
            chatd.client.Refused: The daemon refused it.
        """
        nicked = await self._call(commands.Nick(nick=nick), commands.Renamed, self._renamed)
        return nicked.nick

    async def who(self, room: str | None = None) -> list[str]:
        """Return the nicks of a room's first 100 members.

        Args:
            room: The room's name. By default the room that was joined last.

        Raises:
            chatd.client.Refused: The daemon refused it.
        """
        members = await self._call(commands.Who(room=self._room(room)), client.Members)
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
        room = self._room(room)
        history = commands.History(room=room, before=before, after=after, limit=limit)
        return await self._call(history, client.Page)

    async def _call(
        self,
        command: commands.Command,
        kind: type[_T],
        answered: Callable[[_T], None] | None = None,
        *,
        keyed: bool = False,
        restoring: bool = False,
    ) -> _T:
        if self._over is not None:
            raise self._over
        with trio.fail_after(wait_limit()):
            call = self._calls.new(command, kind, answered, keyed=keyed)
            if self._ready or restoring:
                self._calls.send(self._send, call)
            return await self._calls.outcome(call)

    # ---- the connection

    async def connect(self) -> None:
        """Connect, and join the rooms again. `Harness.client` does it the first time.

        Raises:
            chatd.client.ConnectError: The connection could not be made.
            chatd.client.Closed: The client was closed, or the daemon ended it for good.
        """
        if self._over is not None:
            raise self._over
        self._refused = None
        self._greeted = trio.Event()
        self._attempted = trio.Event()
        self._ended = trio.Event()
        self._nursery.start_soon(self._converse)
        await self._attempted.wait()
        if not self._ready:
            raise self._fault

    async def lost(self) -> client.Ending:
        """Wait until the connection has ended, and return why.

        Polling has no close codes: the code is 1006 unless the daemon sent ``bye``.
        """
        with trio.fail_after(wait_limit()):
            await self._ended.wait()
        return self._ending

    async def reconnect(self) -> None:
        """Connect again as the same guest, join the same rooms, send what waits.

        Missed events come as events. A client that left every room is in the first one again.

        Raises:
            chatd.client.ConnectError: The connection could not be made.
            chatd.client.Closed: The client was closed, or the daemon ended it for good.
        """
        if self._transport is not None:
            self._transport.end(LOST.code, "connecting again")
            await self.lost()
        with trio.fail_after(wait_limit()):
            await self.connect()

    async def aclose(self) -> None:
        """Disconnect, as a client does that ends."""
        self._finish(client.Ending(NORMAL.code, "left", reconnect=False))
        if self._transport is not None:
            self._send_packet(Packet(PacketType.DISCONNECT))
            self._transport.send(str(packets.CLOSE))
            with trio.move_on_after(DEADLINES.close):
                await self._ended.wait()
            if self._transport is not None:
                self._transport.end(NORMAL.code, "left")

    async def _converse(self) -> None:
        self._bye = None
        self._dismissed = False
        self._decoder = Decoder()
        self._transport = self._new_transport(self.plug)
        was_ready = False
        try:
            ending = await self._transport.converse(self._received, self._restore)
            if self._bye is not None:
                ending = with_bye(ending, self._bye)
            elif self._dismissed:
                # The clients of Socket.IO do not reconnect by themselves after a DISCONNECT.
                ending = structs.replace(ending, reconnect=False)
            self._fault = self._refused or client.ConnectError(
                f"the connection ended before it was used: {ending.reason}",
                retry_ms=ending.retry_ms,
            )
        except client.ConnectError as fault:
            self._fault = fault
            ending = client.Ending(LOST.code, str(fault), reconnect=not fault.hopeless)
        finally:
            was_ready, self._ready = self._ready, False
            self._transport = None
            self._calls.stranded()
            self._ended.set()
            self._attempted.set()
        self._ending = ending
        if was_ready and self._over is None:
            self._put(client.Lost(ending))
        if not ending.reconnect:
            self._finish(ending)

    def _finish(self, ending: client.Ending) -> None:
        if self._over is None:
            self._over = client.Closed(ending)
            self._inbox.end(self._over)
            self._calls.fail(self._over)

    async def _restore(self) -> None:
        """Take the nick back and join the other rooms, once the daemon has said hello."""
        before = self.identity
        with trio.move_on_after(DEADLINES.answer) as waiting:
            await self._greeted.wait()
            if before.nick is not None and before.user is not None and before.nick != self.nick:
                # If another user has the nick by now, the test sees that in `nick`.
                with suppress(client.Refused):
                    nick = commands.Nick(nick=before.nick)
                    await self._call(nick, commands.Renamed, self._renamed, restoring=True)
            for room, since in list(self._positions.items()):
                if room != self._start_room:
                    await self._rejoin(room, since)
        if waiting.cancelled_caught:
            self._end(f"not let in within {DEADLINES.answer:g} s")
            return
        self._calls.resend(self._send, same_user=self._same_user)
        self._ready = True
        self._attempted.set()

    async def _rejoin(self, room: str, since: client.Position) -> None:
        def joined(entered: client.Entered) -> None:
            self._joined(entered, since)
            for event in entered.events:
                self._event(event)

        try:
            join = commands.Join(room=room, since=since)
            await self._call(join, client.Entered, joined, restoring=True)
        except client.Refused as refused:
            self._positions.pop(room, None)
            self._put(client.RoomLost(room, refused))

    # ---- packets out

    def _send(self, call: Call[Any]) -> None:
        fields: dict[str, Any] = msgspec.to_builtins(call.command)
        name, number = fields.pop("do"), fields.pop("id")
        args = [name, fields]
        if name == "say":
            args = ["chat message", fields.pop("text"), fields]
        self._send_packet(Packet(PacketType.EVENT, data=args, id=number))

    def _send_packet(self, packet: Packet) -> None:
        if self._transport is not None:
            for message in encode(packet):  # one, since nothing here is binary
                self._transport.send(f"{packets.MESSAGE}{message!s}")

    def _handshake(self) -> dict[str, Any]:
        start = self.room if self.room in self._positions else next(iter(self._positions), None)
        self._start_room = start or self._first_room
        self._start_since = self._positions.get(self._start_room)
        auth: dict[str, Any] = {"room": self._start_room}
        if self._token is not None:
            auth["token"] = self._token
        # A session brings its nick with it; for another user the same nick would be taken.
        if self.identity.session is None:
            auth["nick"] = self.identity.nick
        else:
            auth["session"] = self.identity.session
        if self._start_since is not None:
            auth["since"] = self._start_since
        return auth

    def _end(self, reason: str) -> None:
        if self._transport is not None:
            self._transport.end(LOST.code, reason)

    # ---- packets in; nothing here waits

    def _received(self, packet: packets.Packet) -> None:
        if packet.type == packets.OPEN:
            self._send_packet(Packet(PacketType.CONNECT, data=self._handshake()))
        elif packet.type == packets.PING and self._transport is not None:
            self._transport.send(str(packets.PONG))
        elif packet.type == packets.MESSAGE:
            whole = self._decoder.add(packet.data)
            if whole is not None:
                self._packet(whole)

    def _packet(self, packet: Packet) -> None:
        match packet:
            case Packet(PacketType.EVENT, data=["hello", fields]):
                self._welcomed(fields)
            # Events of a log may have an offset behind their arguments, for recovery.
            case Packet(PacketType.EVENT, data=["chat message", text, fields, *_]):
                # A deleted message has no text; the packet has an empty one.
                said = {} if fields.get("deleted") else {"text": text}
                event = read_event({"on": "message", **fields, **said})
                self._event(event, fields.get("epoch"))
            case Packet(PacketType.EVENT, data=[name, fields, *_]):
                self._event(read_event({"on": name, **fields}))
            case Packet(PacketType.ACK, data=[answer], id=int(number)):
                self._calls.answered(commands.Answer(number, **answer))
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
        hello = self.hello = read_result({"on": "hello", **fields}, client.Hello)
        before, self.identity = (
            self.identity,
            client.Identity(hello.user, hello.nick, hello.op, hello.session),
        )
        if before.user is not None:
            self._same_user = before.user == hello.user
            self._put(client.Reconnected(hello.user, hello.nick, self._same_user))
        self._positions.pop(self._start_room, None)
        if joined is not None:  # otherwise its token allows it no room yet
            self.entered = read_result(joined, client.Entered)
            self._joined(self.entered, self._start_since)
            if self.room in {None, self._start_room}:
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

    def _event(self, event: client.AnyEvent, epoch: str | None = None) -> None:
        match event:
            case client.Bye():
                self._bye = event
            case client.Epoch():
                for room, before in self._positions.items():
                    self._positions[room] = client.Position(event.epoch, before.seq)
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
