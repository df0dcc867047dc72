"""``Server``: Socket.IO on Engine.IO, alone or in somebody else's table of routes.

::

    serve
    ├── listeners, and one task for each TCP connection      engineio.serve
    └── run
        ├── the engine: heartbeats, ends                     engineio.Engine
        └── one task for each Engine.IO session, with a nursery of its own: connection.py
            ├── a worker, while there are handlers to run
            ├── one task for each CONNECT that is being decided
            └── what socket.start_soon started
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Unpack, overload

import trio
from msgspec import Struct
from msgspec.structs import replace

from chatd import engineio
from chatd.engineio import Engine, Session
from chatd.logs import Log, open_log
from chatd.model import INTERNAL
from chatd.settings import Settings
from chatd.socketio.broadcast import Broadcast
from chatd.socketio.connection import Connection
from chatd.socketio.files import Folder, client_routes
from chatd.socketio.handlers import H, Handler, Handlers, Listening, call
from chatd.socketio.namespace import DynamicNamespace, Namespace, Pattern
from chatd.socketio.options import Options, OptionsDict, Tunable
from chatd.socketio.recovery import MemoryLog, RecoveryLog, parse_recovery
from chatd.socketio.socket import Socket
from chatd.timers import Timers
from chatd.wire.request import Refused as HttpRefused
from chatd.wire.request import Request, refusal
from chatd.wire.routes import Methods, Routes

__all__ = ["Server", "ServerStatistics"]

CLIENT_FOLDER: Final = Path(__file__).with_name("client")
"""Where the browser client is, if nothing else is said."""


class ServerStatistics(Struct, frozen=True):
    """How many connections and sockets there are, sockets by namespace, and handlers' faults.

    ``queued`` is how many events wait for a handler, in all connections.
    """

    connections: int
    sockets: dict[str, int]
    queued: int
    faults: int


class Server(Broadcast, Listening):
    """A Socket.IO server: protocol revision 5, and 4 where ``allow_eio3``.

    What it has of a namespace's (``on``, ``use``, ``emit``, ``to`` …) is that of ``/``. Its options
    are those of `Options`, as keyword arguments.
    """

    def __init__(
        self,
        *,
        settings: Settings | None = None,
        timers: Timers | None = None,
        log: Log | None = None,
        **options: Unpack[OptionsDict],
    ) -> None:
        self.options = Options(**options)
        self._settings = settings
        self._log = log or open_log(level="warning")
        self.engine = Engine(
            self._opened,
            replace(self.options, allow_request=self._allows),
            log=self._log,
            timers=timers,
        )
        recovery = parse_recovery(self.options.recovery)
        self.skip_middleware = recovery is not None and recovery.skip_middleware
        self._recovery_log: RecoveryLog | None = None
        if recovery is not None:
            self._recovery_log = recovery.log or MemoryLog(recovery.seconds)
        self._folder = None if self.options.static is None else Folder(self.options.static)
        self._client_folder = Path(self.options.client_files or CLIENT_FOLDER)
        self.on_connections: list[Handler] = []
        self._on_errors: list[Handler] = []
        self._namespaces: dict[str, Namespace] = {}
        self._dynamic: list[DynamicNamespace] = []
        self._main = self.of("/")
        super().__init__(self._main.delivery, self.options.ack_timeout)
        self._connections: set[Connection] = set()
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self._draining = False
        self._emptied = trio.Event()
        self._faults = 0

    def tune(self, **changes: Unpack[Tunable]) -> None:
        """Replace these options while it serves.

        Connections that are open keep the heartbeat that they were told, and their time to connect.
        """
        self.options = replace(self.options, **changes)
        self.engine.options = replace(self.options, allow_request=self._allows)

    # Namespaces, handlers

    @property
    def _handlers(self) -> Handlers:
        return self._main.handlers

    @property
    def sockets(self) -> Mapping[str, Socket]:
        """The sockets of ``/`` that are connected, by id."""
        return self._main.sockets

    @property
    def namespaces(self) -> Mapping[str, Namespace]:
        """The namespaces that were named, by name."""
        return MappingProxyType(self._namespaces)

    @overload
    def of(self, name: str, /) -> Namespace: ...

    @overload
    def of(self, pattern: Pattern, /) -> DynamicNamespace: ...

    def of(self, name: str | Pattern, /) -> Namespace | DynamicNamespace:
        """Give the namespace of a name, one that a pattern made too; made now if it is new.

        A regular expression that the whole name matches, or ``function(name, auth)``, async or
        plain, that tells whether there is such a one, gives a `DynamicNamespace`: each namespace
        it allows is made when its first client asks for it. Names come before patterns, and
        patterns are asked in the order in which they were given.
        """
        if not isinstance(name, str):
            dynamic = DynamicNamespace(
                name, log=self._recovery_log, ack_timeout=self.options.ack_timeout
            )
            self._dynamic.append(dynamic)
            return dynamic
        if not name.startswith("/"):
            name = f"/{name}"
        if "," in name:
            raise ValueError(f"no namespace can be called {name!r}: a comma ends its name")
        namespace = self._namespaces.get(name) or next(
            (dynamic.namespaces[name] for dynamic in self._dynamic if name in dynamic.namespaces),
            None,
        )
        if namespace is None:
            namespace = self._namespaces[name] = Namespace(
                name, Handlers(), log=self._recovery_log, ack_timeout=self.options.ack_timeout
            )
        return namespace

    def use_connection(self, middleware: H) -> H:
        """Register middleware that each connection passes, once: ``middleware(connection)``.

        ``connection.session.handshake`` is its request, ``connection.data`` is to be filled. It
        runs before any namespace's; raising `Refused` refuses every namespace of the connection.
        To refuse the request itself there is ``allow_request``.
        """
        self.on_connections.append(middleware)
        return middleware

    def on_error(self, handler: H) -> H:
        """Register who hears what handlers raise: ``handler(error, socket, event)``.

        ``socket`` is None where there is none yet; ``event`` is the event's name, or ``connect``,
        ``disconnect``, ``connection``, ``task`` (of ``start_soon``), ``recovery``. Where nobody is
        registered it goes to the log.
        """
        self._on_errors.append(handler)
        return handler

    # Serving

    @property
    def routes(self) -> Routes:
        """The table that answers under ``path``, and at ``/`` where there is ``static``."""
        paths, prefixes = self.mounts()
        if self._folder is not None:
            prefixes.update(self._folder.routes)
        return Routes(paths, prefixes)

    def mounts(self) -> tuple[dict[str, Methods], dict[str, Methods]]:
        """Give whole paths and prefixes for a table of one's own; ``run`` serves them."""
        path = self.engine.options.path.rstrip("/")
        paths = client_routes(f"{path}/", self._client_folder)
        if path:
            paths[path] = self.engine.methods
        return paths, {f"{path}/": self.engine.methods}

    async def serve(
        self, *addresses: str, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen on these addresses and serve, until cancelled or drained.

        An address is ``"127.0.0.1:3000"``, ``"localhost:3000"`` (both loopbacks), ``"[::]:3000"``
        or ``"unix:/path"``; port 0 is a free one. Started with the list of addresses bound.
        Cancelled, it closes transports without DISCONNECT, so that clients come back by
        themselves, and gives ``disconnect`` handlers ``shutdown_timeout``. Raises ListenError where
        an address cannot be had.
        """
        if not addresses:
            raise ValueError('serve() wants an address, such as "127.0.0.1:3000"')
        with trio.CancelScope() as self._scope:
            await engineio.serve(
                self,
                *addresses,
                log=self._log,
                routes=self.routes,
                settings=self._settings,
                task_status=task_status,
            )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve connections that come by ``mounts``, without listeners, until cancelled."""
        if self._nursery is not None:
            raise RuntimeError("this server runs already")
        self._draining = False
        try:
            async with trio.open_nursery() as self._nursery:
                await self._nursery.start(self._run_engine)
                task_status.started()
        finally:
            self._nursery = None

    async def _run_engine(self, *, task_status: trio.TaskStatus[None]) -> None:
        await self.engine.run(task_status=task_status)

    async def drain(self, seconds: float = 10.0) -> None:
        """End gently: nobody new is let in, everybody is sent what waits and is then closed.

        Events that had come are handled, ``disconnect`` handlers run, and ``serve`` returns; after
        ``seconds`` at most, and ``shutdown_timeout`` for handlers that did not end in time. Clients
        get no DISCONNECT, so they come back by themselves.
        """
        self._draining = True
        self._emptied = trio.Event()
        self.engine.end_all("server shutting down")
        with trio.move_on_after(seconds):
            while self._connections:
                await self._emptied.wait()
                self._emptied = trio.Event()
        self._scope.cancel()

    def statistics(self) -> ServerStatistics:
        namespaces = dict(self._namespaces)
        for dynamic in self._dynamic:
            namespaces.update(dynamic.namespaces)
        return ServerStatistics(
            connections=len(self._connections),
            sockets={name: len(namespace.sockets) for name, namespace in namespaces.items()},
            queued=sum(connection.queued for connection in self._connections),
            faults=self._faults,
        )

    # The engine's side

    def _opened(self, session: Session) -> Connection:
        if self._nursery is None:
            raise RuntimeError("a session for a server that does not run")
        connection = Connection(session, self)
        self._connections.add(connection)
        self._nursery.start_soon(self._live, connection)
        return connection

    async def _live(self, connection: Connection) -> None:
        try:
            await connection.run()
        except* Exception as group:  # the connection's boundary: a fault of ours
            self._faults += 1
            self._log_fault(group, None, "connection")
            connection.session.end("forced close", INTERNAL)

    async def _allows(self, request: Request) -> str | None:
        if self._draining:
            # Another instance may take it.
            later = refusal(503, "Closing; come back in a while.", [("Retry-After", "5")])
            raise HttpRefused(later)
        allow_request = self.options.allow_request
        return None if allow_request is None else await allow_request(request)

    # The connections' side

    async def find_namespace(self, name: str, auth: dict[str, Any], /) -> Namespace | None:
        """Find a namespace, or make it where a pattern allows it."""
        namespace = self._namespaces.get(name)
        if namespace is not None:
            return namespace
        for dynamic in self._dynamic:
            if await dynamic.allows(name, auth):
                return dynamic.namespace(name)
        return None

    async def report(self, error: Exception, socket: Socket | None, event: str, /) -> None:
        """Tell who hears of errors, or the log. Raises nothing."""
        self._faults += 1
        if not self._on_errors:
            self._log_fault(error, socket, event)
        for handler in tuple(self._on_errors):
            try:
                await call(handler, error, socket, event)
            except Exception as another:  # a handler's boundary
                self._log_fault(error, socket, event)
                self._log_fault(another, socket, "on_error")

    def forget(self, connection: Connection, /) -> None:
        """Hear that a connection is no more."""
        self._connections.discard(connection)
        if not self._connections:
            self._emptied.set()

    def _log_fault(self, error: Exception, socket: Socket | None, event: str) -> None:
        self._log.emit(
            "fault",
            connection=None if socket is None else socket.id,
            address=None if socket is None else socket.handshake.address,
            transport=None if socket is None else socket.session.transport,
            detail=event if socket is None else f"{event} in {socket.namespace}",
            error=repr(error),
            traceback="".join(traceback.format_exception(error)),
        )
