"""``Server``: Socket.IO on Engine.IO, with its own listeners or in another table of routes.

::

    serve
    ├── listeners, and one task for each TCP connection      engineio.serve
    └── run
        ├── the engine: heartbeats, ends                     engineio.Engine
        └── the tasks of each Engine.IO session: connection.py
            ├── one for each CONNECT until it is answered; the first that is admitted runs the
            │   handlers from then on
            ├── one for the ``disconnect`` handlers
            └── the tasks of socket.start_soon
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Unpack, overload

import trio
from msgspec import Struct
from msgspec.structs import replace

from chatd import engineio
from chatd.changed import Changed
from chatd.engineio import Engine, Session
from chatd.engineio.checks import check_folder, check_log, check_settings, parse_options
from chatd.engineio.hooks import call
from chatd.engineio.serving import check_trio
from chatd.logs import Log, open_log
from chatd.model import INTERNAL
from chatd.settings import Settings
from chatd.socketio.broadcast import Broadcast
from chatd.socketio.connection import Connection
from chatd.socketio.files import Folder, client_routes
from chatd.socketio.handlers import H, Handler, Handlers, Listening, check_handler
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
"""The default location of the browser client."""


class ServerStatistics(Struct, frozen=True):
    """Counters of a server.

    Attributes:
        connections: Connections now.
        sockets: Sockets now, by namespace.
        queued: Events that wait for a handler now, in all connections.
        faults: Exceptions of handlers since the server was made.
    """

    connections: int
    sockets: dict[str, int]
    queued: int
    faults: int


class Server(Broadcast, Listening):
    """A Socket.IO server: protocol revision 5, and 4 with ``allow_eio3``.

    It is a `Broadcast` to all sockets of ``/``, and handlers and middleware that are registered on
    it are those of ``/``. Other namespaces are ``server.of(name)``.

    Args:
        settings: The limits and the certificate of the listeners, for ``serve``; default: those of
            `chatd.settings.Settings`.
        timers: Timers that the caller runs, for heartbeats; by default the server runs its own.
        log: Where addresses and faults are logged; default: everything from ``info`` on to stderr.
        options: The fields of `Options`, as keyword arguments. Some of python-socketio's names for
            them are accepted too: ``cors_allowed_origins``, ``max_http_buffer_size``,
            ``http_compression`` and ``socketio_path``.

    Attributes:
        options: Its options. ``tune`` replaces some of them.
        engine: The Engine.IO engine; ``engine.statistics()`` counts sessions.

    Raises:
        TypeError: An option is unknown, or has the wrong type.
        ValueError: An option has a value that cannot be used, such as a folder that does not exist.
    """

    def __init__(
        self,
        *,
        settings: Settings | None = None,
        timers: Timers | None = None,
        log: Log | None = None,
        **options: Unpack[OptionsDict],
    ) -> None:
        others = ("settings", "timers", "log")
        self.options = parse_options(Options, options, owner="socketio.Server", others=others)
        self._settings = check_settings(settings)
        self.log = check_log(log) or open_log()
        self.engine = Engine(
            self._opened,
            replace(self.options, allow_request=self._allows),
            log=self.log,
            timers=timers,
            hosts=self._settings.http.hosts,
        )
        recovery = parse_recovery(self.options.recovery)
        self.skip_middleware = recovery is not None and recovery.skip_middleware
        self._recovery_log: RecoveryLog | None = None
        if recovery is not None:
            self._recovery_log = recovery.log or MemoryLog(recovery.seconds)
        self._folder: Folder | None = None
        if self.options.static is not None:
            if self.options.path == "/":
                raise ValueError('static is served at "/", so path must be another one.')
            self._folder = Folder(check_folder("static", self.options.static))
        self._client_folder = CLIENT_FOLDER
        if self.options.client_files is not None:
            self._client_folder = check_folder("client_files", self.options.client_files)
        self.on_connections: list[Handler] = []
        self._on_errors: list[Handler] = []
        self._namespaces: dict[str, Namespace] = {}
        self._dynamic: list[DynamicNamespace] = []
        self._main = self.of("/")
        super().__init__(self._main.delivery, self.options.ack_timeout)
        self._connections: set[Connection] = set()
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self.draining = False
        # Notified, while it drains, when a connection has no more handlers to run.
        self.settled = Changed()
        self._emptied = Changed()
        self._faults = 0

    def tune(self, **changes: Unpack[Tunable]) -> None:
        """Replace options while the server serves.

        Open connections keep their heartbeat and their ``connect_timeout``.

        Args:
            changes: The fields of `Tunable`, as keyword arguments.

        Raises:
            TypeError: A change is not in `Tunable`, or has the wrong type.
            ValueError: A change has a value that cannot be used.
        """
        if unknown := changes.keys() - Tunable.__annotations__.keys():
            raise TypeError(f"{min(unknown)} cannot be changed while the server serves.")
        self.options = replace(self.options, **changes)
        self.engine.options = replace(self.options, allow_request=self._allows)

    # Namespaces, handlers

    @property
    def _handlers(self) -> Handlers:
        return self._main.handlers

    @property
    def sockets(self) -> Mapping[str, Socket]:
        """The connected sockets of ``/``, by id."""
        return self._main.sockets

    @property
    def namespaces(self) -> Mapping[str, Namespace]:
        """The namespaces with a fixed name, by name."""
        return MappingProxyType(self._namespaces)

    @overload
    def of(self, name: str, /) -> Namespace: ...

    @overload
    def of(self, pattern: Pattern, /) -> DynamicNamespace: ...

    def of(self, name: str | Pattern, /) -> Namespace | DynamicNamespace:
        """Return a namespace, or the namespaces of a pattern.

        Args:
            name: A name: the namespace is made if it is new; a missing slash is added. Or a
                pattern: a regular expression that must match the whole name, or ``function(name,
                auth)``, async or plain, which returns whether the namespace exists. A namespace of
                a pattern is made when its first client connects. Fixed names come before patterns,
                and patterns are tried in the order in which they were given.

        Returns:
            A `Namespace` for a name, also for one that a pattern has made and that still exists; a
            `DynamicNamespace` for a pattern.

        Raises:
            ValueError: The name has a comma, which ends a name in the protocol.
            TypeError: ``name`` is neither a name nor a pattern.
        """
        if not isinstance(name, str):
            if not isinstance(name, re.Pattern):
                check_handler("the pattern of a namespace", name)
            dynamic = DynamicNamespace(
                name,
                log=self._recovery_log,
                ack_timeout=self.options.ack_timeout,
                enc_hook=self.options.enc_hook,
            )
            self._dynamic.append(dynamic)
            return dynamic
        if not name.startswith("/"):
            name = f"/{name}"
        if "," in name:
            raise ValueError(f"a namespace cannot be called {name!r}: a comma ends the name")
        namespace = self._namespaces.get(name) or next(
            (dynamic.namespaces[name] for dynamic in self._dynamic if name in dynamic.namespaces),
            None,
        )
        if namespace is None:
            namespace = self._namespaces[name] = Namespace(
                name,
                Handlers(),
                log=self._recovery_log,
                ack_timeout=self.options.ack_timeout,
                enc_hook=self.options.enc_hook,
            )
        return namespace

    def use_connection(self, middleware: H) -> H:
        """Register middleware that runs once for each connection, before any namespace's.

        To refuse the HTTP request itself there is ``allow_request``.

        Args:
            middleware: Called as ``middleware(connection)`` with a `Connection`. It raises
                `Refused` to refuse every namespace of the connection.

        Returns:
            The middleware.
        """
        check_handler("the middleware", middleware)
        self.on_connections.append(middleware)
        return middleware

    def on_error(self, handler: H) -> H:
        """Register a handler of exceptions. Without one they are logged.

        Args:
            handler: Called as ``handler(error, socket, event)``. ``socket`` is None if there is
                none yet; ``event`` is the event's name, or ``"connect"``, ``"disconnect"``,
                ``"connection"`` (of ``use_connection``), ``"task"`` (of ``start_soon``) or
                ``"recovery"``.

        Returns:
            The handler.
        """
        check_handler("the handler of exceptions", handler)
        self._on_errors.append(handler)
        return handler

    # Serving

    @property
    def routes(self) -> Routes:
        """A table of routes that serves ``path``, the browser client, and ``static`` at ``/``.

        Every response has the CORS headers that ``cors_origins`` and ``cors_credentials`` ask for.
        """
        paths, prefixes = self.mounts()
        if self._folder is not None:
            prefixes.update(self._with_preflight(self._folder.routes))
        return Routes(paths, prefixes, {"": self.engine.complete})

    def mounts(self) -> tuple[dict[str, Methods], dict[str, Methods]]:
        """Return whole paths and path prefixes for another table of routes; ``run`` serves them.

        That table completes every response under ``path`` with ``engine.complete``.
        """
        path = self.engine.options.path.rstrip("/")
        paths = self._with_preflight(client_routes(f"{path}/", self._client_folder))
        if path:
            paths[path] = self.engine.methods
        return paths, {f"{path}/": self.engine.methods}

    def _with_preflight(self, routes: dict[str, Methods]) -> dict[str, Methods]:
        """Return routes of files, at which browsers can ask for CORS first if it is on."""
        if self.options.cors_origins is None:
            return routes
        preflight = {"OPTIONS": self.engine.preflight}
        return {path: {**methods, **preflight} for path, methods in routes.items()}

    async def serve(
        self, *addresses: str, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen on these addresses and serve, until cancelled or drained.

        ``nursery.start`` returns the list of addresses that are bound, which are also logged
        (``listening``). When it is cancelled it
        closes all connections without DISCONNECT, so that clients reconnect, and ``disconnect``
        handlers have ``shutdown_timeout``.

        Args:
            addresses: At least one. Each is ``"127.0.0.1:3000"``, ``"localhost:3000"`` (both
                loopbacks), ``"[::]:3000"`` or ``"unix:/path"``. Port 0 is any free port.
            task_status: For ``nursery.start``.

        Raises:
            ValueError: There is no address.
            TypeError: An address is not a text.
            ListenError: An address cannot be bound.
            TlsError: The certificate in ``settings`` cannot be used.
            RuntimeError: The server runs already, or this is not Trio.
            KeyboardInterrupt: Ctrl-C ended it; never in an exception group.
        """
        check_trio('trio.run(io.serve, "127.0.0.1:3000")')
        with trio.CancelScope() as self._scope:
            await engineio.serve(
                self,
                *addresses,
                log=self.log,
                routes=self.routes,
                settings=self._settings,
                task_status=task_status,
            )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve connections that come by ``routes`` or ``mounts``, without listeners.

        Raises:
            RuntimeError: The server runs already, or this is not Trio.
        """
        check_trio("trio.run(io.run)")
        if self._nursery is not None:
            raise RuntimeError("the server runs already")
        self.draining = False
        try:
            async with trio.open_nursery() as self._nursery:
                await self._nursery.start(self._run_engine)
                task_status.started()
        finally:
            self._nursery = None

    async def _run_engine(self, *, task_status: trio.TaskStatus[None]) -> None:
        await self.engine.run(task_status=task_status)

    async def drain(self, seconds: float = 10.0) -> None:
        """Shut down gracefully: let handlers end, send what is queued, then close.

        New connections are refused (503), and new events are not handled. Events that have arrived
        are, and their acknowledgements are sent. Then all connections are closed, ``disconnect``
        handlers run, and ``serve`` returns. Clients get no DISCONNECT, so they reconnect. Do not
        call it in a handler, for which it waits.

        Args:
            seconds: The time that all this may take; default 10. Handlers that still run then are
                cancelled, and ``disconnect`` handlers have ``shutdown_timeout``.
        """
        self.draining = True
        with trio.move_on_after(seconds):
            for connection in list(self._connections):
                while not connection.settled:
                    await self.settled.wait()
            self.engine.end_all("server shutting down")
            while self._connections:
                await self._emptied.wait()
        self._scope.cancel()

    def statistics(self) -> ServerStatistics:
        """Return the counters."""
        namespaces = dict(self._namespaces)
        for dynamic in self._dynamic:
            namespaces.update(dynamic.namespaces)
        return ServerStatistics(
            connections=len(self._connections),
            sockets={name: len(namespace.sockets) for name, namespace in namespaces.items()},
            queued=sum(connection.queued for connection in self._connections),
            faults=self._faults,
        )

    # For the engine

    def _opened(self, session: Session) -> Connection:
        if self._nursery is None:
            raise RuntimeError("the server does not run")
        connection = Connection(session, self, self._nursery)
        self._connections.add(connection)
        connection.begin()
        return connection

    async def _allows(self, request: Request) -> str | None:
        if self.draining:
            # Another instance may accept it.
            message = "The server is shutting down. Try again in 5 seconds."
            later = refusal(503, message, [("Retry-After", "5")])
            raise HttpRefused(later)
        allow_request = self.options.allow_request
        answer: str | None = None
        if allow_request is not None:
            answer = await call(allow_request, request)
        return answer

    # For the connections

    async def find_namespace(self, name: str, auth: dict[str, Any], /) -> Namespace | None:
        """Return a namespace, made now if a pattern allows it; None if there is none."""
        namespace = self._namespaces.get(name)
        if namespace is not None:
            return namespace
        for dynamic in self._dynamic:
            if await dynamic.allows(name, auth):
                return dynamic.namespace(name)
        return None

    async def report(self, error: Exception, socket: Socket | None, event: str, /) -> None:
        """Pass an exception to the ``on_error`` handlers, or log it. Raises nothing."""
        self._faults += 1
        if not self._on_errors:
            self._log_fault(error, socket, event)
        for handler in tuple(self._on_errors):
            try:
                await call(handler, error, socket, event)
            except Exception as another:  # a handler's boundary
                self._log_fault(error, socket, event)
                self._log_fault(another, socket, "on_error")

    def failed(self, connection: Connection, error: Exception, /) -> None:
        """Log an exception of the library's own in a connection's task, and end the connection."""
        self._faults += 1
        self._log_fault(error, None, "connection")
        connection.session.end("forced close", INTERNAL)

    def forget(self, connection: Connection, /) -> None:
        """Remove a connection that is over."""
        self._connections.discard(connection)
        if not self._connections:
            self._emptied.notify()

    def _log_fault(self, error: Exception, socket: Socket | None, event: str) -> None:
        self.log.fault(
            error,
            connection=None if socket is None else socket.id,
            address=None if socket is None else socket.handshake.address,
            transport=None if socket is None else socket.session.transport,
            detail=event if socket is None else f"{event} in {socket.namespace}",
        )
