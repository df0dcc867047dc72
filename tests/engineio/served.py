"""An engine on the wire, in memory, and raw clients that may break every rule."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import trio
import trio.testing

from chatd import engineio, logs
from chatd.engineio import Engine, Options, Session
from chatd.settings import Settings
from chatd.testing.recording import Recording
from chatd.wire.server import HttpServer
from chatd.wire.transport import Peer, StreamTransport
from tests.wire.served import KEY, MEMORY, Client

Answer = tuple[int, dict[str, str], bytes]


class Recorder:
    """A receiver that records messages, and echoes them unless told not to."""

    def __init__(self, session: Session, *, echo: bool = True) -> None:
        self.session = session
        self.echo = echo
        self.messages: list[str | bytes] = []
        self.reason: str | None = None
        self.ends = 0
        self.over = trio.Event()
        self.gate: trio.Event | None = None
        self.fails = ""

    async def received(self, message: str | bytes) -> None:
        if message == "boom":
            raise ValueError("boom")
        if self.gate is not None:
            await self.gate.wait()
        self.messages.append(message)
        if self.echo and self.session.reason is None:
            self.session.send_nowait(message)

    def ended(self, reason: str) -> None:
        self.ends += 1
        self.reason = reason
        self.over.set()
        if self.fails == "ended":
            raise ValueError("ended")


class Served:
    """The engine, its sessions, and ways to connect."""

    def __init__(self, options: Options, handlers: trio.Nursery, *, echo: bool) -> None:
        self.recording = Recording()
        self.log = logs.open_log(sink=self.recording)
        self.echo = echo
        self.engine = Engine(self._opened, options, log=self.log)
        self.wire = HttpServer(Settings(), self.engine.routes, self.log, timers=self.engine.timers)
        self.came: list[Recorder] = []
        self.clients: list[Client] = []
        self._handlers = handlers
        self._fails = ""

    def _opened(self, session: Session) -> Recorder:
        if self._fails == "opened":
            raise ValueError("opened")
        self.came.append(Recorder(session, echo=self.echo))
        self.came[-1].fails = self._fails
        return self.came[-1]

    @property
    def last(self) -> Recorder:
        return self.came[-1]

    def fails(self, when: str) -> None:
        """Make the layer above fail, from the next session on."""
        self._fails = when

    @property
    def faults(self) -> list[str]:
        return [fields["error"] for name, fields in self.recording.records if name == "fault"]

    def dial(self, *, lockstep: bool = False, peer: Peer = MEMORY) -> Client:
        """Connect on a memory stream; in lockstep, sends wait until they are read."""
        make = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
        ours, theirs = make()
        transport = StreamTransport(theirs, peer, listener_loopback=True)
        self._handlers.start_soon(self.wire.handle, transport)
        self.clients.append(Client(ours))
        return self.clients[-1]

    async def ask(
        self,
        method: str,
        query: str,
        headers: str = "",
        body: bytes = b"",
        *,
        peer: Peer = MEMORY,
    ) -> Answer:
        """Send a request on a new connection."""
        return await ask(self.dial(peer=peer), method, query, headers, body)

    async def poller(self, revision: int = 4, **query: str) -> Poller:
        """Open a session by polling."""
        poller = Poller(self, revision, **query)
        await poller.open()
        return poller

    async def websocket(self, query: str = "EIO=4&transport=websocket") -> Client:
        """Open a WebSocket; what it is opened with is not read."""
        client = self.dial()
        status, _, body = await upgrade(client, query)
        assert status == 101, body
        return client


async def ask(
    client: Client, method: str, query: str, headers: str = "", body: bytes = b""
) -> Answer:
    head = f"{method} /engine.io/?{query} HTTP/1.1\n{headers}"
    if body:
        head += f"Content-Length: {len(body)}\n"
    return await client.ask(head.rstrip("\n"), body)


async def upgrade(client: Client, query: str, headers: str = "") -> Answer:
    return await client.ask(
        f"GET /engine.io/?{query} HTTP/1.1\nUpgrade: websocket\nConnection: Upgrade\n"
        f"Sec-WebSocket-Version: 13\nSec-WebSocket-Key: {KEY}\n{headers}".rstrip("\n")
    )


class Poller:
    """A polling client, with a connection for GETs and one for POSTs."""

    def __init__(self, served: Served, revision: int = 4, **query: str) -> None:
        self.served = served
        self.query = {"EIO": str(revision), "transport": "polling", **query}
        self.handshake: dict[str, Any] = {}
        self.sid = ""
        self.dials: Callable[[], Client] = served.dial
        self._connections: dict[str, tuple[Client, float]] = {}

    @property
    def session(self) -> Session:
        return self.served.engine.sessions[self.sid]

    @property
    def getting(self) -> Client:
        return self._kept_alive("GET")

    @property
    def posting(self) -> Client:
        return self._kept_alive("POST")

    def _kept_alive(self, kind: str) -> Client:
        # As browsers do, well before the server would let an idle connection go.
        now = trio.current_time()
        client, used = self._connections.get(kind, (None, 0.0))
        if client is None or now - used > 5:
            client = self.dials()
        self._connections[kind] = (client, now)
        return client

    @property
    def line(self) -> str:
        return urlencode(self.query)

    async def open(self) -> Answer:
        answer = await ask(self.getting, "GET", self.line)
        body = answer[2].decode()
        assert answer[0] == 200, body
        if body.startswith("___eio"):
            body = json.loads(body[body.index("(") + 1 : -2])
        self.handshake = json.loads(body[body.index("{") : body.rindex("}") + 1])
        self.sid = self.query["sid"] = self.handshake["sid"]
        return answer

    async def get(self, headers: str = "") -> Answer:
        return await ask(self.getting, "GET", self.line, headers)

    async def poll(self) -> str:
        status, _, body = await self.get()
        assert status == 200, (status, body)
        return body.decode()

    async def post(self, body: str | bytes, headers: str = "") -> Answer:
        data = body.encode() if isinstance(body, str) else body
        return await ask(self.posting, "POST", self.line, headers, data)

    async def say(self, body: str | bytes) -> None:
        status, _, answer = await self.post(body)
        assert (status, answer) == (200, b"ok")

    async def candidate(self) -> Client:
        """Open a WebSocket for this session."""
        return await self.served.websocket(
            urlencode({**self.query, "transport": "websocket"}),
        )

    async def upgraded(self) -> Client:
        """Upgrade the session to a WebSocket, as clients do."""
        client = await self.candidate()
        await client.text("2probe")
        assert await client.hear() == "3probe"
        await client.text("5")
        return client


async def waiting(nursery: trio.Nursery, poller: Poller) -> list[Answer]:
    """Start a GET that waits; its answer will be in the list."""
    answers: list[Answer] = []

    async def get() -> None:
        answers.append(await poller.get())

    nursery.start_soon(get)
    await trio.testing.wait_all_tasks_blocked()
    return answers


@asynccontextmanager
async def serve(*, echo: bool = True, **options: Any) -> AsyncGenerator[Served]:
    async with trio.open_nursery() as nursery, trio.open_nursery() as handlers:
        served = Served(Options(**options), handlers, echo=echo)
        await nursery.start(served.engine.run)
        try:
            yield served
        finally:
            nursery.cancel_scope.cancel()
            handlers.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                for client in served.clients:
                    await trio.aclose_forcefully(client.stream)


@asynccontextmanager
async def serve_handler(
    handler: engineio.Handler, **options: Any
) -> AsyncGenerator[tuple[engineio.Server, Callable[[], Client], Recording]]:
    """Run a ``Server`` with this handler, without listeners; gives how to dial it too."""
    recording = Recording()
    log = logs.open_log(sink=recording)
    server = engineio.Server(handler, log=log, **options)
    wire = HttpServer(Settings(), server.routes, log)
    clients: list[Client] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)

        def dial() -> Client:
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(wire.handle, StreamTransport(theirs, MEMORY, listener_loopback=True))
            clients.append(Client(ours))
            return clients[-1]

        try:
            yield server, dial, recording
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                for client in clients:
                    await trio.aclose_forcefully(client.stream)
