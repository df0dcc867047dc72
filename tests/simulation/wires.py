"""A person's connection in each protocol. What the daemon sends is neither sorted nor checked.

A wire calls its `Hearer` for everything that arrives, in that order. It does not reconnect.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, Protocol
from urllib.parse import urlencode

import msgspec
import trio

from chatd.client import Address, ConnectError, Ending, Refused
from chatd.client.connection import Connection
from chatd.engineio import packets
from chatd.gateways.http.requests import position_of, read_position
from chatd.model import LOST
from chatd.socketio.packets import Decoder, Packet, PacketType, encode
from chatd.testing.buffer import DEADLINES
from chatd.testing.cable import Plug
from chatd.testing.engineio import Frame, PollingTransport, Transport, WebSocketTransport
from chatd.testing.http import Block, HttpClient

__all__ = ["WIRES", "Hearer", "Wire"]

Fields = dict[str, Any]

PING_SECONDS: Final = 20.0
"""How often a client of Socket.IO 2 pings."""


class Hearer(Protocol):
    """What a wire reports to. None of its methods waits."""

    def opened(self, *, recovered: bool) -> None:
        """Take Socket.IO's CONNECT: with ``recovered``, missed events follow, then ``hello``."""

    def event(self, name: str, fields: Fields) -> None: ...

    def answer(self, number: int | None, ok: Fields | None, error: Fields | None) -> None: ...

    def line(self, text: str) -> None:
        """Take a frame of plain text."""

    def followed(self, epoch: str, *, reset: bool) -> None:
        """Take the beginning of an event stream: with ``reset`` it does not continue."""

    def placed(self, epoch: str, seq: int) -> None:
        """Take the number up to which an event stream has everything."""


class Wire(ABC):
    """One connection. `run` is called once and runs all of it.

    Args:
        plug: The cables to the daemon.
        hearer: Gets what arrives.
        hello: With what the client introduces itself: ``nick``, ``room``, and for Socket.IO its
            ``auth`` with ``session``, ``token``, ``since``, ``pid`` and ``offset``.
    """

    def __init__(self, plug: Plug, hearer: Hearer, hello: Fields) -> None:
        self._hearer = hearer
        self._hello = hello

    async def run(self) -> None:
        """Connect and read until the end, however it comes."""
        with suppress(ConnectError):
            await self._converse()

    @abstractmethod
    async def _converse(self) -> None: ...

    @abstractmethod
    def send(self, command: Fields) -> None:
        """Send a command, or with ``line`` alone a frame of plain text."""

    @abstractmethod
    def drop(self) -> None:
        """End the connection without notice."""


class _WebSocket(Wire):
    """A WebSocket with or without a subprotocol."""

    subprotocol: str | None

    def __init__(self, plug: Plug, hearer: Hearer, hello: Fields) -> None:
        super().__init__(plug, hearer, hello)
        query = {name: hello[name] for name in ("nick", "room") if hello.get(name)}
        target = f"/ws?{urlencode(query)}"
        self._connection = Connection(Address(plug), target, DEADLINES, self.subprotocol)

    async def _converse(self) -> None:
        await self._connection.converse(self._received, trio.lowlevel.checkpoint)

    @abstractmethod
    def _received(self, frame: str | bytes) -> None: ...

    def drop(self) -> None:
        self._connection.end(LOST.code, LOST.reason)


class JsonWire(_WebSocket):
    """``chatd.v1``."""

    subprotocol = "chatd.v1"

    def send(self, command: Fields) -> None:
        self._connection.send(Frame(msgspec.json.encode(command).decode()))

    def _received(self, frame: str | bytes) -> None:
        fields = msgspec.json.decode(frame, type=Fields)
        if "re" in fields:
            self._hearer.answer(fields["re"], fields.get("ok"), fields.get("error"))
        else:
            self._hearer.event(fields.pop("on"), fields)


class TextWire(_WebSocket):
    """Plain text."""

    subprotocol = None

    def send(self, command: Fields) -> None:
        self._connection.send(Frame(command["line"]))

    def _received(self, frame: str | bytes) -> None:
        self._hearer.line(str(frame))


class SocketIoWire(Wire):
    """Socket.IO 5, on a WebSocket."""

    def __init__(self, plug: Plug, hearer: Hearer, hello: Fields) -> None:
        super().__init__(plug, hearer, hello)
        self._transport = self._made(plug)
        self._decoder = Decoder()
        self._opened = False
        self._early: list[Packet] = []
        self.pid: str | None = None
        self.offset: str | None = hello.get("offset")

    def _made(self, plug: Plug) -> Transport:
        return WebSocketTransport(plug)

    async def _converse(self) -> None:
        await self._transport.converse(self._received, trio.lowlevel.checkpoint)

    def send(self, command: Fields) -> None:
        fields = dict(command)
        name, number = fields.pop("do"), fields.pop("id", None)
        args = [name, fields]
        if name == "say":
            args = ["chat message", fields.pop("text"), fields]
        self._packet(Packet(PacketType.EVENT, data=args, id=number))

    def drop(self) -> None:
        self._transport.end(LOST.code, LOST.reason)

    def _packet(self, packet: Packet) -> None:
        for message in encode(packet):  # one, since nothing here is binary
            self._transport.send(f"{packets.MESSAGE}{message!s}")

    def _received(self, packet: packets.Packet) -> None:
        if packet.type == packets.OPEN:
            self._introduce()
        elif packet.type == packets.PING:
            self._transport.send(str(packets.PONG))
        elif packet.type == packets.MESSAGE and (whole := self._decoder.add(packet.data)):
            self._heard(whole)

    def _introduce(self) -> None:
        self._packet(Packet(PacketType.CONNECT, data=self._hello))

    def _heard(self, packet: Packet) -> None:
        match packet:
            case Packet(PacketType.CONNECT, data=data):
                self._opened = True
                self.pid = (data or {}).get("pid")
                recovered = self.pid is not None and self.pid == self._hello.get("pid")
                self._hearer.opened(recovered=recovered)
                for early in self._early:
                    self._heard(early)
            case Packet(PacketType.EVENT) if not self._opened:
                self._early.append(packet)  # missed events; Socket.IO's client keeps them too
            case Packet(PacketType.EVENT, data=["chat message", text, fields, *rest]):
                said = {} if fields.get("deleted") else {"text": text}
                self._hearer.event("message", {**fields, **said})
                self._passed(rest)
            case Packet(PacketType.EVENT, data=[name, fields, *rest]):
                self._hearer.event(name, fields)
                self._passed(rest)
            case Packet(PacketType.ACK, data=[answer], id=int(number)):
                self._hearer.answer(number, answer.get("ok"), answer.get("error"))
            case Packet(PacketType.CONNECT_ERROR) | Packet(PacketType.DISCONNECT):
                self.drop()
            case _:
                raise AssertionError(f"the daemon sent {packet}")

    def _passed(self, rest: list[Any]) -> None:
        """Keep the offset that stands behind an event's arguments."""
        if rest:
            self.offset = rest[0]


class PollingWire(SocketIoWire):
    """Socket.IO 5 by HTTP long polling."""

    def _made(self, plug: Plug) -> Transport:
        return PollingTransport(plug)


class _OldTransport(WebSocketTransport):
    """A WebSocket of Engine.IO 3, on which the client pings."""

    def __init__(self, plug: Plug, query: str) -> None:
        target = f"/socket.io/?EIO=3&transport=websocket&{query}"
        self._connection = Connection(Address(plug), target, DEADLINES, subprotocol=None)

    async def converse(
        self, received: Callable[[packets.Packet], None], beside: Callable[[], Awaitable[None]]
    ) -> Ending:
        def framed(frame: str | bytes) -> None:
            received(packets.decode_frame(frame, 3))

        return await self._connection.converse(framed, self._ping)

    async def _ping(self) -> None:
        while True:
            await trio.sleep(PING_SECONDS)
            self.send(str(packets.PING))


class OldSocketIoWire(SocketIoWire):
    """Socket.IO 2, whose client introduces itself in the query."""

    def _made(self, plug: Plug) -> Transport:
        return _OldTransport(plug, urlencode(self._hello))

    def _introduce(self) -> None:
        """Do nothing: the daemon connects such clients by itself."""


class _Script(HttpClient):
    """A script that hands on the blocks of its stream, and pages, as they come."""

    def __init__(
        self, plug: Plug, nick: str, nursery: trio.Nursery, taken: Callable[[Block], None]
    ) -> None:
        super().__init__(plug, nick, nursery)
        self._taken = taken

    def _take(self, block: Block) -> None:
        self._taken(block)

    async def over(self) -> None:
        """Wait for the end of the stream."""
        await self._ended.wait()

    async def page(self, room: str, since: str | None, limit: int) -> Fields:
        """Return a page of a room's log, in the form of a join's answer."""
        headers, body = await self._ask("GET", self._target(room, since=since, limit=limit))
        end = read_position(headers["chatd-position"])
        return {
            "events": [msgspec.json.decode(line, type=Fields) for line in body.splitlines()],
            "epoch": end.epoch,
            "seq": end.seq,
            "recovered": headers.get("chatd-recovered") == "true",
            "more": headers.get("chatd-more") == "true",
        }


class HttpWire(Wire):
    """A script: it follows a room by an event stream, and posts and reads pages beside it."""

    def __init__(self, plug: Plug, hearer: Hearer, hello: Fields) -> None:
        super().__init__(plug, hearer, hello)
        self._plug = plug
        self._scope = trio.CancelScope()
        self._begun = self._over = False
        self._script: _Script
        self._nursery: trio.Nursery

    async def _converse(self) -> None:
        position = _position(self._hello.get("since"))
        with self._scope:
            async with trio.open_nursery() as self._nursery:
                nick = self._hello["nick"]
                self._script = _Script(self._plug, nick, self._nursery, self._taken)
                with suppress(ConnectError):
                    await self._script.join(self._hello["room"], since=position)
                    await self._script.over()
                self._over = True
                self._nursery.cancel_scope.cancel()

    def send(self, command: Fields) -> None:
        """Post a message, or read a page."""
        if not self._over:
            request = self._post if command["do"] == "say" else self._page
            self._nursery.start_soon(self._request, command["id"], request(command))

    async def _request(self, number: int, request: Awaitable[Fields]) -> None:
        try:
            self._hearer.answer(number, await request, None)
        except Refused as refused:
            self._hearer.answer(number, None, {"code": refused.code})
        except ConnectError:
            self._hearer.answer(number, None, {"code": "unavailable"})

    async def _post(self, command: Fields) -> Fields:
        room, key = command["room"], command.get("key")
        said = await self._script.say(command["text"], room=room, key=key)
        who = {"user": self._script.user, "nick": self._script.nick}
        return {**msgspec.to_builtins(said), **who}

    async def _page(self, command: Fields) -> Fields:
        since = _position(command.get("since"))
        return await self._script.page(command["room"], since, command["limit"])

    def drop(self) -> None:
        self._scope.cancel()

    def _taken(self, block: Block) -> None:
        event = None if block.data is None else msgspec.json.decode(block.data, type=Fields)
        position = None if block.id is None else read_position(block.id)
        if event is not None and event["on"] == "reset":
            self._begin(event["epoch"], reset=True)
        elif position is not None:
            self._begin(position.epoch, reset=False)
            if event is None:
                self._hearer.placed(position.epoch, position.seq)
            else:
                self._hearer.event(event.pop("on"), {"epoch": position.epoch, **event})
        elif event is not None:
            self._hearer.event(event.pop("on"), event)

    def _begin(self, epoch: str, *, reset: bool) -> None:
        if not self._begun:
            self._begun = True
            self._hearer.followed(epoch, reset=reset)


def _position(since: Fields | None) -> str | None:
    return None if since is None else position_of(since["epoch"], since["seq"])


WIRES: Final[dict[str, type[Wire]]] = {
    "json": JsonWire,
    "socketio": SocketIoWire,
    "polling": PollingWire,
    "socketio2": OldSocketIoWire,
    "text": TextWire,
    "http": HttpWire,
}
