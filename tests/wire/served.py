"""A server of nothing but the wire, and raw clients that may break every rule."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

import msgspec
import trio
import trio.testing

from chatd import logs, model
from chatd.settings import Settings
from chatd.testing.recording import Recording
from chatd.timers import Timers
from chatd.wire import frames
from chatd.wire.listener import Listener, open_listeners
from chatd.wire.request import Request, Response
from chatd.wire.routes import Handler, Routes
from chatd.wire.server import HttpServer
from chatd.wire.transport import Peer, StreamTransport
from chatd.wire.websocket import Receiver, Upgrade, WebSocket

MEMORY = Peer("memory", "memory", loopback=True)
KEY = base64.b64encode(bytes(range(16))).decode()
HANDSHAKE = (
    "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
).encode()


def settings(**sections: Mapping[str, Any]) -> Settings:
    return msgspec.convert(sections, Settings)


def masked(head: int, payload: bytes, mask: bytes = b"\x12\xa4\x56\x78") -> bytes:
    """Make a client's frame; ``head`` is its first byte."""
    size = len(payload)
    if size < 126:
        length = bytes((0x80 | size,))
    elif size < 65536:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    body = bytes(byte ^ mask[index & 3] for index, byte in enumerate(payload))
    return bytes((head,)) + length + mask + body


class Chatter:
    """A receiver that echoes and obeys commands."""

    def __init__(self, websocket: WebSocket) -> None:
        self.websocket = websocket
        self.messages: list[str | bytes] = []
        self.over = trio.Event()
        self.close: model.Close | None = None
        self.reason = ""
        self.ends = 0

    def received(self, message: str | bytes) -> Awaitable[None] | None:
        self.messages.append(message)
        if message == "kick":
            self.websocket.end(model.KICKED, "kicked by ann")
        elif message == "boom":
            raise ValueError("boom")
        elif message == "later":
            self.websocket.start_soon(self.boom)
        elif isinstance(message, str):
            self.websocket.outbox.offer(frames.text(message.encode()))
        else:
            self.websocket.outbox.offer(frames.binary(message))
        return None

    async def boom(self) -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("boom later")

    def goodbye_frames(self, close: model.Close, reason: str) -> bytes:
        return frames.text(f"bye {close.code}".encode())

    def ended(self, close: model.Close, reason: str) -> None:
        self.ends += 1
        self.close = close
        self.reason = reason
        self.over.set()


Opening: TypeAlias = Callable[[WebSocket], Awaitable[Receiver]]


class Served:
    """The server with its listeners. ``chatters`` are its clients, ``arrived`` announces them."""

    def __init__(
        self, settings: Settings, handlers: trio.Nursery, paths: Mapping[str, Handler]
    ) -> None:
        self.recording = Recording()
        self.chatters: list[Chatter] = []
        self.handlers = handlers
        self.opening: Opening = self.chat
        self.upgrades: Upgrade | None = None
        self.listeners: list[Listener] = []
        self.clients: list[Client] = []
        table: dict[str, dict[str, Handler]] = {
            "/": {"GET": self.page},
            "/ws": {"WEBSOCKET": self.upgrade},
            "/echo": {"POST": self.echo},
            "/boom": {"GET": self.boom},
        }
        table.update({path: {"GET": handler} for path, handler in paths.items()})
        log = logs.open_log(sink=self.recording)
        self.timers = Timers(log)
        self.server = HttpServer(settings, Routes(table), log, timers=self.timers)

    async def page(self, request: Request) -> Response:
        return Response(200, b"hello\n")

    async def echo(self, request: Request) -> Response:
        return Response(200, await request.body(1000), "application/octet-stream")

    async def boom(self, request: Request) -> Response:
        raise ValueError("boom in a route")

    async def upgrade(self, request: Request) -> Upgrade:
        return self.upgrades or Upgrade(request.query.get("protocol"), self.open)

    async def open(self, websocket: WebSocket) -> Receiver:
        return await self.opening(websocket)

    async def chat(self, websocket: WebSocket) -> Receiver:
        chatter = Chatter(websocket)
        self.chatters.append(chatter)
        return chatter

    def dial(self, peer: Peer = MEMORY) -> Client:
        """Connect on a memory stream."""
        ours, theirs = trio.testing.memory_stream_pair()
        transport = StreamTransport(theirs, peer, listener_loopback=True)
        self.handlers.start_soon(self.server.handle, transport)
        return self._came(ours)

    async def dial_tcp(self) -> Client:
        return self._came(await trio.open_tcp_stream("127.0.0.1", self.listeners[0].port))

    def _came(self, stream: trio.abc.HalfCloseableStream) -> Client:
        self.clients.append(Client(stream))
        return self.clients[-1]

    @property
    def faults(self) -> list[str]:
        return [fields["error"] for name, fields in self.recording.records if name == "fault"]


@asynccontextmanager
async def serve(
    configured: Settings | None = None, *, tcp: bool = True, **paths: Handler
) -> AsyncGenerator[Served]:
    async with trio.open_nursery() as nursery, trio.open_nursery() as handlers:
        served = Served(
            configured or settings(),
            handlers,
            {f"/{name}": handler for name, handler in paths.items()},
        )
        nursery.start_soon(served.timers.run)
        if tcp:
            served.listeners = open_listeners(["127.0.0.1:0"])
            serving = partial(served.server.serve, served.listeners, handlers=handlers)
            await nursery.start(serving)
        try:
            yield served
        finally:
            nursery.cancel_scope.cancel()
            handlers.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                for client in served.clients:
                    await trio.aclose_forcefully(client.stream)


class Client:
    """Raw bytes out, HTTP answers and server frames in."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self._buffer = bytearray()

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def _more(self) -> bool:
        try:
            data = await self.stream.receive_some(65536)
        except trio.BrokenResourceError:
            return False
        self._buffer += data
        return bool(data)

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        while await self._more():
            pass
        return bytes(self._buffer)

    async def some(self) -> bytes:
        """Take what has come, or comes next; raise EOFError at the end."""
        if not self._buffer and not await self._more():
            raise EOFError
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    async def exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not await self._more():
                raise EOFError(bytes(self._buffer))
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if not await self._more():
                raise EOFError(bytes(self._buffer))
        line = await self.exactly(self._buffer.index(b"\r\n") + 2)
        return line[:-2]

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """One HTTP answer: status, headers by lower-case name, body."""
        status, headers = await self.head()
        return status, headers, await self.exactly(int(headers.get("content-length", "0")))

    async def head(self) -> tuple[int, dict[str, str]]:
        """Read the head of an HTTP answer."""
        while b"\r\n\r\n" not in self._buffer:
            if not await self._more():
                raise EOFError(bytes(self._buffer))
        head, _, _ = bytes(self._buffer).partition(b"\r\n\r\n")
        del self._buffer[: len(head) + 4]
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        return int(first.split()[1]), headers

    async def ask(self, request: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        head = request.replace("\n", "\r\n") + "\r\nHost: localhost\r\n\r\n"
        await self.send(head.encode() + body)
        return await self.answer()

    async def upgrade(self) -> None:
        await self.send(HANDSHAKE)
        status, _, _ = await self.answer()
        assert status == 101

    async def frame(self) -> tuple[int, bytes] | None:
        """Read the server's next frame as (first byte, payload), or None at the end."""
        while (size := self._frame_size()) is None or len(self._buffer) < size[1]:
            if not await self._more():
                return None
        first = self._buffer[0]
        payload = bytes(self._buffer[size[0] : size[1]])
        del self._buffer[: size[1]]
        return first, payload

    def _frame_size(self) -> tuple[int, int] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        wide = {126: 2, 127: 8}.get(buffer[1], 0)
        if len(buffer) < 2 + wide:
            return None
        size = int.from_bytes(buffer[2 : 2 + wide], "big") if wide else buffer[1]
        return 2 + wide, 2 + wide + size

    async def text(self, payload: str) -> None:
        await self.send(masked(0x81, payload.encode()))

    async def hear(self) -> str:
        frame = await self.frame()
        assert frame is not None
        assert frame[0] == 0x81
        return frame[1].decode()

    async def closed(self) -> tuple[int, str]:
        """Pass over frames until the Close frame; its code and reason, after which all ends."""
        while True:
            frame = await self.frame()
            if frame is None:
                return 1006, ""
            if frame[0] == 0x88:
                return int.from_bytes(frame[1][:2], "big"), frame[1][2:].decode()

    async def aclose(self) -> None:
        await self.stream.aclose()
