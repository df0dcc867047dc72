"""A client in memory: real polling sessions of the engine, without sockets in between.

It sends what a test tells it to, and by itself only pongs.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import trio
import trio.testing

from chatd import socketio
from chatd.engineio import payloads
from chatd.engineio.packets import Revision
from chatd.logs import open_log
from chatd.socketio.packets import Decoder, Packet, PacketType, encode
from chatd.testing.recording import Recording
from chatd.wire.request import Request, Response
from chatd.wire.routes import ANY
from chatd.wire.transport import Peer

MEMORY = Peer("memory", "memory", loopback=True)


def quiet(**options: Any) -> tuple[socketio.Server, Recording]:
    """Make a server whose log is a list."""
    recording = Recording()
    return socketio.Server(log=open_log(sink=recording), **options), recording


class Gone(Exception):  # noqa: N818 - it is no error
    """The session is over."""


class Client:
    """One Engine.IO session by polling."""

    def __init__(self, io: socketio.Server, nursery: trio.Nursery, revision: Revision) -> None:
        self.revision: Revision = revision
        self.sid = ""
        self.over = trio.Event()
        self._io = io
        self._nursery = nursery
        self._send, self._messages = trio.open_memory_channel[str | bytes](10_000)
        self._decoder = Decoder()
        self._cut = trio.Event()
        self._polls = trio.CancelScope()

    async def request(
        self, method: str, body: bytes = b"", query: str = "", headers: Sequence[Any] = ()
    ) -> Response:
        async def read(_limit: int) -> bytes:
            return body

        sid = f"&sid={self.sid}" if self.sid else ""
        if self.revision == 3:
            query += "&b64=1"
        target = f"/socket.io/?EIO={self.revision}&transport=polling{sid}{query}"
        request = Request(method, target, headers, MEMORY, read=read, gone=self._cut.wait)
        answer = await self._io.engine.methods[ANY](request)
        assert isinstance(answer, Response)
        return answer

    async def open(self, query: str = "", headers: Sequence[tuple[str, str]] = ()) -> None:
        answer = await self.request("GET", query=query, headers=headers)
        assert answer.status == 200, answer.body
        first, *rest = payloads.decode(answer.body, self.revision)
        self.sid = json.loads(first.data)["sid"]
        self._dispatch(rest)
        self._nursery.start_soon(self._poll)

    async def _poll(self) -> None:
        with self._polls:
            while True:
                answer = await self.request("GET")
                if answer.status != 200:
                    break
                packets = list(payloads.decode(answer.body, self.revision))
                if self._dispatch(packets):
                    break
                if any(packet.type == 2 for packet in packets):
                    await self.request("POST", b"3")
        self._send.close()
        self.over.set()

    def _dispatch(self, packets: Sequence[Any]) -> bool:
        for packet in packets:
            if packet.type == 4:
                self._send.send_nowait(packet.data)
            elif packet.type == 1:
                return True
        return False

    def stall(self) -> None:
        """Stop polling and sending."""
        self._polls.cancel()

    def cut(self) -> None:
        """Disappear without a packet: "transport error"."""
        self._cut.set()

    async def close(self) -> None:
        """Close the engine's session: "transport close"."""
        await self.post_raw("1" if self.revision == 4 else "1:1")

    async def post_raw(self, body: str) -> Response:
        return await self.request("POST", body.encode())

    async def say(self, *messages: str | bytes) -> None:
        """Send messages as they are, in one POST."""
        parts = [
            f"4{message}"
            if isinstance(message, str)
            else ("b" if self.revision == 4 else "b4") + base64.b64encode(message).decode()
            for message in messages
        ]
        if self.revision == 4:
            await self.post_raw("\x1e".join(parts))
        else:
            units = [len(part.encode("utf-16-le")) // 2 for part in parts]
            counted = zip(units, parts, strict=True)
            await self.post_raw("".join(f"{size}:{part}" for size, part in counted))

    async def emit(
        self, event: str, *args: Any, ack: int | None = None, namespace: str = "/"
    ) -> None:
        await self.say(*encode(Packet(PacketType.EVENT, namespace, [event, *args], ack)))

    async def heard(self) -> str | bytes:
        """Return the next message undecoded. Raises Gone."""
        try:
            return await self._messages.receive()
        except trio.EndOfChannel:
            raise Gone from None

    async def packet(self) -> Packet:
        while True:
            packet = self._decoder.add(await self.heard())
            if packet is not None:
                return packet

    async def event(self) -> list[Any]:
        packet = await self.packet()
        assert packet.type is PacketType.EVENT, packet
        assert isinstance(packet.data, list)
        return packet.data

    async def join(self, namespace: str = "/", auth: Any = None) -> dict[str, Any]:
        """Ask for a namespace; give the CONNECT reply's payload."""
        await self.say(*encode(Packet(PacketType.CONNECT, namespace, auth)))
        packet = await self.packet()
        assert packet.type is PacketType.CONNECT, packet
        assert packet.namespace == namespace
        return packet.data or {}

    @property
    def silent(self) -> bool:
        """Whether nothing has come that was not asked for yet."""
        return self._messages.statistics().current_buffer_used == 0


class Stage:
    """A server that runs, and its clients."""

    def __init__(self, io: socketio.Server, nursery: trio.Nursery) -> None:
        self.io = io
        self.nursery = nursery

    async def client(
        self, query: str = "", *, revision: Revision = 4, headers: Sequence[tuple[str, str]] = ()
    ) -> Client:
        """Open only an engine session."""
        client = Client(self.io, self.nursery, revision)
        await client.open("".join(f"&{quote(query, '=&')}" if query else ""), headers)
        return client

    async def joined(self, namespace: str = "/", auth: Any = None) -> Client:
        """Connect to a namespace."""
        client = await self.client()
        await client.join(namespace, auth)
        return client


@asynccontextmanager
async def running(io: socketio.Server) -> AsyncGenerator[Stage, None]:
    """Run a server for as long as the block."""
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as serving:
            await serving.start(io.run)
            yield Stage(io, nursery)
            serving.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def settled() -> None:
    """Wait until all tasks are blocked."""
    await trio.testing.wait_all_tasks_blocked()
