"""Clients that read slowly, on virtual time."""

from __future__ import annotations

import trio
import trio.testing

from chatd.changed import Changed
from chatd.engineio import payloads
from chatd.engineio.packets import Revision, decode_frame
from chatd.wire.transport import StreamTransport
from tests.engineio.served import Poller, Served, upgrade
from tests.wire.served import MEMORY, Client

PIECE = 16_384


class SlowStream(trio.abc.HalfCloseableStream):
    """The server's end of a connection whose client reads ``rate`` bytes a second; 0: nothing."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, rate: float) -> None:
        self._stream = stream
        self.rate = rate

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        for at in range(0, len(data), PIECE):
            piece = data[at : at + PIECE]
            if not self.rate:
                await trio.sleep_forever()
            await trio.sleep(len(piece) / self.rate)
            await self._stream.send_all(piece)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


class SlowServed:
    """Dials slow connections to what is served."""

    def __init__(self, served: Served, handlers: trio.Nursery, rate: float) -> None:
        self.served = served
        self.streams: list[SlowStream] = []
        self._handlers = handlers
        self._rate = rate

    def dial(self, *, lockstep: bool = False) -> Client:
        ours, theirs = trio.testing.memory_stream_pair()
        self.streams.append(SlowStream(theirs, self._rate))
        transport = StreamTransport(self.streams[-1], MEMORY, listener_loopback=True)
        self._handlers.start_soon(self.served.wire.handle, transport)
        client = Client(ours)
        self.served.clients.append(client)
        return client


class SlowReader:
    """A client of either revision and transport that reads slowly and keeps its heartbeat."""

    def __init__(
        self, served: Served, handlers: trio.Nursery, rate: float, revision: Revision
    ) -> None:
        self.slow = SlowServed(served, handlers, rate)
        self.revision: Revision = revision
        self.messages: list[str | bytes] = []
        self.pings = 0
        self.over = trio.Event()
        self.deaf = False
        self._changed = Changed()
        self._served = served
        self._handlers = handlers
        self._poller: Poller | None = None
        self._websocket: Client | None = None

    async def open(self, transport: str, interval: float) -> None:
        if transport == "websocket":
            self._websocket = self.slow.dial()
            query = f"EIO={self.revision}&transport=websocket"
            assert (await upgrade(self._websocket, query))[0] == 101
            assert (await self._websocket.hear())[0] == "0"
            self._handlers.start_soon(self._read)
        else:
            self._poller = Poller(self._served, self.revision)
            self._poller.dials = self.slow.dial
            await self._poller.open()
            self._handlers.start_soon(self._poll)
        if self.revision == 3:
            self._handlers.start_soon(self._ping, interval)

    async def has_heard(self, count: int) -> None:
        """Wait until this many messages have come, or the session is over."""
        while len(self.messages) < count and not self.over.is_set():
            await self._changed.wait()

    async def send(self, packet: str) -> None:
        if self.deaf:
            return
        if self._websocket is not None:
            await self._websocket.text(packet)
        else:
            assert self._poller is not None
            await self._poller.say(packet if self.revision == 4 else f"{len(packet)}:{packet}")

    async def _ping(self, interval: float) -> None:
        while not self.over.is_set():
            await self.send("2")
            await trio.sleep(interval)

    async def _take(self, kind: int, data: str | bytes) -> None:
        if kind == 2:
            self.pings += 1
            await self.send("3")
        elif kind == 4:
            self.messages.append(data)
        self._changed.notify()

    async def _read(self) -> None:
        assert self._websocket is not None
        while (frame := await self._websocket.frame()) is not None:
            if frame[0] == 0x88:
                break
            message = frame[1].decode() if frame[0] == 0x81 else frame[1]
            packet = decode_frame(message, self.revision)
            await self._take(packet.type, packet.data)
        self._end()

    def _end(self) -> None:
        self.over.set()
        self._changed.notify()

    async def _poll(self) -> None:
        assert self._poller is not None
        while not self.over.is_set():
            try:
                status, _, body = await self._poller.get()
            except EOFError:
                status, body = 0, b""
            if status != 200:
                self._end()
                return
            for packet in payloads.decode(body, self.revision):
                await self._take(packet.type, packet.data)
                if packet.type == 1:
                    self._end()
