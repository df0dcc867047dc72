"""A person's connection in each protocol. What the daemon sends is neither sorted nor checked.

A wire calls its `Hearer` for everything that arrives, in that order. It does not reconnect.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any, Final, Protocol
from urllib.parse import urlencode

import msgspec
import trio

from chatd.client import Address, ConnectError
from chatd.client.connection import Connection
from chatd.engineio import packets
from chatd.model import LOST
from chatd.socketio.packets import Decoder, Packet, PacketType, encode
from chatd.testing.buffer import DEADLINES
from chatd.testing.cable import Plug
from chatd.testing.engineio import Frame, PollingTransport, WebSocketTransport

__all__ = ["WIRES", "Hearer", "Wire"]

Fields = dict[str, Any]


class Hearer(Protocol):
    """Whoever a wire reports to. Nothing here waits."""

    def opened(self, *, recovered: bool) -> None:
        """Take Socket.IO's CONNECT: with ``recovered``, missed events follow, then ``hello``."""

    def event(self, name: str, fields: Fields) -> None: ...

    def answer(self, number: int | None, ok: Fields | None, error: Fields | None) -> None: ...

    def line(self, text: str) -> None:
        """Take a frame of plain text."""


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
        """End the connection without a word."""


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

    transport: type[WebSocketTransport | PollingTransport] = WebSocketTransport

    def __init__(self, plug: Plug, hearer: Hearer, hello: Fields) -> None:
        super().__init__(plug, hearer, hello)
        self._transport = self.transport(plug)
        self._decoder = Decoder()
        self._early: list[Packet] = []
        self.pid: str | None = None
        self.offset: str | None = hello.get("offset")

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
            self._packet(Packet(PacketType.CONNECT, data=self._hello))
        elif packet.type == packets.PING:
            self._transport.send(str(packets.PONG))
        elif packet.type == packets.MESSAGE and (whole := self._decoder.add(packet.data)):
            self._heard(whole)

    def _heard(self, packet: Packet) -> None:
        match packet:
            case Packet(PacketType.CONNECT, data={"pid": str(pid)}):
                self.pid = pid
                self._hearer.opened(recovered=pid == self._hello.get("pid"))
                for early in self._early:
                    self._heard(early)
            case Packet(PacketType.EVENT) if self.pid is None:
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

    transport = PollingTransport


WIRES: Final[dict[str, type[Wire]]] = {
    "json": JsonWire,
    "socketio": SocketIoWire,
    "polling": PollingWire,
    "text": TextWire,
}
