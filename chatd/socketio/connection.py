"""A connection: one Engine.IO session, its sockets, and the worker that runs their handlers.

Theory of operation. Whoever reads from the client, such as the poller, calls ``received``:

| packet | handled at once | handled by the worker |
| --- | --- | --- |
| CONNECT | a task of its own admits the client (``admission``) and replies | ``connect`` |
| EVENT | if the worker is idle: all that does not wait | the rest of it; all of it if not idle |
| ACK | wakes whoever waits for it | |
| DISCONNECT | disconnects the socket | ``disconnect`` |

The worker is idle if it waits for an item of the inbox and there is none. So an event whose
middleware and handlers are plain functions needs no switch of tasks. The reader does not await a
handler, because it could not read the acknowledgement for which that handler may wait. What must be
awaited is the worker's next job, before all others.

The worker is no task of its own: the first task that has admitted the client to a namespace goes on
as the worker. All tasks of a connection run in the server's nursery, which costs less than one for
each connection. The connection is over when its session is, and its last task has ended.

Flow control, on top of that of the session: what waits for the worker is bounded in the memory that
it takes once it is decoded, and not in its number. Up to the bound everything is read, so that
acknowledgements, CONNECT, DISCONNECT and the end overtake the events that wait: a handler can call
its own client. Above it reading waits until there is room, and the log says so. The replies to
CONNECT and DISCONNECT never make a client too slow; instead CONNECT waits while more than
``send_queue_bytes`` are waiting to be sent. Events and acknowledgements from this side count in
full.

What MUST hold:

1. One worker runs what is in the inbox, in order, and nothing is handled at once while something
   is in the inbox or runs. So the handlers of one connection do not overlap, ``connect`` runs
   before a socket's events and ``disconnect`` after them, each once.
2. The end of the session cancels admissions and what ``start_soon`` started, but no handler until
   ``handler_grace`` later. Then the socket's events that still wait are dropped.
3. A cancellation from outside cancels the handler that runs. Then the ``disconnect`` handlers of
   all sockets have ``shutdown_timeout`` seconds together.
4. An exception in a handler ends that handler only.
5. While the server drains, no new event and no CONNECT is handled; acknowledgements still are.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVarTuple
from urllib.parse import parse_qsl

import trio

from chatd.budgets import SLICE_ITEMS
from chatd.changed import Changed
from chatd.engineio import Reason, Session
from chatd.engineio.hooks import Steps, call, go_on
from chatd.engineio.inbox import Inbox
from chatd.socketio.admission import admit
from chatd.socketio.errors import PacketError, Refused
from chatd.socketio.event import handle
from chatd.socketio.namespace import Namespace
from chatd.socketio.packets import Decoder, Packet, PacketType, encode, make_block, unsendable
from chatd.socketio.recovery import RECOVERABLE, Lost
from chatd.socketio.socket import Socket
from chatd.timers import Timer

if TYPE_CHECKING:
    from chatd.socketio.server import Server

__all__ = ["Connection"]

# What a packet takes in memory while it waits, besides its content, and what a socket takes.
_JOB_BYTES: Final = 64
_SOCKET_BYTES: Final = 4096

_BY_SERVER: Final = "server namespace disconnect"
# Of a name that is repeated in a refusal.
_NAME_CHARACTERS: Final = 255
_QUERY_FIELDS: Final = 64

Ts = TypeVarTuple("Ts")

_Job: TypeAlias = tuple[
    Callable[["Connection", Socket, Namespace, Any], Awaitable[None]], Socket, Namespace, Any
]
"""A method of the connection, and its arguments."""


class Connection:
    """One client's connection, which can be in several namespaces.

    Attributes:
        session: Its Engine.IO session; ``session.handshake`` is the request that opened it.
        data: A dict for the application, as ``use_connection`` middleware fills it.
        sockets: Its sockets, by the names of their namespaces.
    """

    def __init__(self, session: Session, server: Server, nursery: trio.Nursery) -> None:
        self.session = session
        self.server = server
        self._nursery = nursery
        self._tasks = 0
        self._has_worker = False
        self.data: dict[str, Any] = {}
        self.sockets: dict[str, Socket] = {}
        # Whether the connection's middleware has run, and what it raised.
        self._middleware_done = False
        self._refused: Refused | None = None
        options = server.options
        self._decoder = Decoder(options.max_attachments, options.max_values)
        self._inbox: Inbox[_Job] = Inbox(
            options.receive_queue_bytes or server.engine.max_unhandled_bytes,
            session.pause_reading,
        )
        self._admissions: dict[str, trio.CancelScope] = {}
        # Namespaces it has left: packets for them that were on their way are not an error.
        self._recently_left: dict[str, None] = {}
        self._leaving: dict[Socket, Namespace] = {}
        self._namespaces_of: dict[Socket, Namespace] = {}
        self._reason: str | None = None
        # The socket whose handlers run now, and the scope that can cancel them. One scope serves
        # until it is cancelled: to make one takes as long as a small handler.
        self._handled: Socket | None = None
        self._handling: trio.CancelScope | None = None
        # Notified when the middleware is done.
        self._changed = Changed()
        self._connect_timer = self._end_after(options.connect_timeout, "forced close")
        self._attachment_timer: Timer | None = None
        self._finish_by = math.inf
        self._finish_scope: trio.CancelScope | None = None

    @property
    def queued(self) -> int:
        """How many events wait for the worker."""
        return len(self._inbox)

    @property
    def settled(self) -> bool:
        """Whether no handler runs or waits, not even that of a CONNECT."""
        return self._handled is None and not self._inbox and not self._admissions

    # Its tasks

    def begin(self) -> None:
        """Begin. Called once, before the first message."""
        if self.server.on_connections:
            self._start(self._run_middleware)
        else:
            self._middleware_done = True
        if self.session.revision == 3:
            # socket.io-protocol v4: every client is in "/" without asking.
            self._connect("/", {})

    def _start(self, function: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> None:
        self._tasks += 1
        self._nursery.start_soon(self._run, function, args)

    async def _run(self, function: Callable[[*Ts], Awaitable[object]], args: tuple[*Ts]) -> None:
        try:
            await function(*args)
        except Exception as error:  # the connection's boundary
            self.server.failed(self, error)
        finally:
            self._tasks -= 1
            self._forget_if_over()

    def _forget_if_over(self) -> None:
        if self._reason is not None and not self._tasks:
            self.server.forget(self)

    async def _run_middleware(self) -> None:
        with trio.CancelScope() as scope:
            self._admissions[""] = scope
            try:
                for middleware in self.server.on_connections:
                    await call(middleware, self)
            except Refused as refused:
                self._refused = refused
            except Exception as error:  # a handler's boundary
                self._refused = Refused("internal error")
                await self.server.report(error, None, "connection")
        del self._admissions[""]
        self._middleware_done = True
        self._changed.notify()

    def _end_after(self, seconds: float, reason: Reason) -> Timer:
        due = trio.current_time() + seconds
        return self.server.engine.timers.add(due, lambda _now: self.end(reason))

    def _cancel_attachment_timer(self) -> None:
        if self._attachment_timer is not None:
            self._attachment_timer.cancel()
            self._attachment_timer = None

    def _stop(self) -> None:
        """Stop handling events, and start the deadline for ``disconnect`` handlers."""
        self._finish_by = trio.current_time() + self.server.options.shutdown_timeout
        if self._finish_scope is not None:
            self._finish_scope.deadline = min(self._finish_scope.deadline, self._finish_by)
        # A cancellation from outside also cancels the engine, which ends the session.
        self.ended("server shutting down")

    # For the engine

    def end(self, reason: Reason) -> None:
        """End the session, and with it the connection.

        Args:
            reason: Why.
        """
        self.session.end(reason)

    def ended(self, reason: str) -> None:
        """Disconnect every socket: the session is over. The first reason stands."""
        if self._reason is not None:
            return
        self._reason = reason
        self._connect_timer.cancel()
        self._cancel_attachment_timer()
        self._inbox.close()
        for scope in self._admissions.values():
            scope.cancel()
        for socket in list(self.sockets.values()):
            self._remove(socket, reason)
        self._forget_if_over()

    def received(self, message: str | bytes) -> Awaitable[None] | None:
        """Handle a message of the session. Return what must be awaited before the next one."""
        if self._reason is not None or self.session.reason is not None:
            return None
        try:
            packet = self._decoder.add(message)
        except PacketError as error:
            self._explain(message, error)
            self.end("parse error")
            return None
        if packet is None:
            # Each attachment has its own deadline, so that a slow client can send many.
            self._cancel_attachment_timer()
            seconds = self.server.options.attachment_timeout
            self._attachment_timer = self._end_after(seconds, "parse error")
            return None
        if self._attachment_timer is not None:
            self._cancel_attachment_timer()
        return self._dispatch(packet, self._decoder.size)

    def _dispatch(self, packet: Packet, size: int) -> Awaitable[None] | None:
        name, auth = packet.namespace, packet.data
        if self.session.revision == 3:
            # The query of the namespace follows its name.
            name, _, query = name.partition("?")
            auth = _read_query(query, self.server.options.max_auth) if query else None
        if packet.type is PacketType.CONNECT:
            # Repeated CONNECT and DISCONNECT fill both queues too.
            if self._inbox.full(_SOCKET_BYTES) or self.session.full:
                return self._connect_later(name, auth or {}, size)
            self._check_connect(name, auth or {}, size)
            return None
        socket = self.sockets.get(name)
        if socket is None or packet.type is PacketType.CONNECT_ERROR:
            if name not in self._recently_left:
                self.end("parse error")
        elif packet.type is PacketType.DISCONNECT:
            self._remove(socket, "client namespace disconnect")
        elif packet.type is PacketType.ACK:
            socket.received_ack(packet.id, packet.data)
        else:
            size += _JOB_BYTES
            if self._inbox.full(size):
                return self._take_event_later(socket, packet, size)
            self._take_event(socket, packet, size)
        return None

    def _take_event(self, socket: Socket, packet: Packet, size: int) -> None:
        namespace = self._namespaces_of.get(socket)
        if namespace is None or self.server.draining:
            return
        if not self._inbox.idle:
            self._inbox.put((Connection._event, socket, namespace, packet), size)
            return
        steps = handle(self.server, socket, namespace.handlers, packet)
        if (pending := next(steps, None)) is not None:
            begun = (Connection._rest_of_event, socket, namespace, (steps, pending))
            self._inbox.put_first(begun, size)

    async def _take_event_later(self, socket: Socket, packet: Packet, size: int) -> None:
        await self._inbox.room(size)
        self._take_event(socket, packet, size)

    # Connecting

    async def _connect_later(self, name: str, auth: dict[str, Any], size: int) -> None:
        await self._inbox.room(_SOCKET_BYTES)
        await self.session.has_room()
        self._check_connect(name, auth, size)

    def _check_connect(self, name: str, auth: dict[str, Any], size: int) -> None:
        if self.server.draining:
            return
        if size > self.server.options.max_auth:
            self.refuse(name[:_NAME_CHARACTERS], Refused("auth is too large"))
        else:
            self._connect(name, auth)

    def _connect(self, name: str, auth: dict[str, Any]) -> None:
        if self._reason is not None:
            return
        if name in self.sockets:
            self.end("parse error")
            return
        if name in self._admissions:
            # Node's client asks twice if its user calls connect() twice. One reply is enough.
            return
        if len(self.sockets) + len(self._admissions) >= self.server.options.max_namespaces:
            self.refuse(name, Refused("Too many namespaces"))
            return
        scope = self._admissions[name] = trio.CancelScope()
        self._start(self._admit, name, auth, scope)

    async def _admit(self, name: str, auth: dict[str, Any], scope: trio.CancelScope) -> None:
        try:
            with scope:
                await admit(self, name, auth)
        finally:
            del self._admissions[name]
            self._settle()
        if self._inbox and not self._has_worker:
            await self._work()

    async def wait_middleware(self) -> None:
        """Wait until the connection's middleware has run. Raises Refused if it did."""
        while not self._middleware_done:
            await self._changed.wait()
        if self._refused is not None:
            raise self._refused

    def refuse(self, name: str, refused: Refused) -> None:
        """Send a CONNECT_ERROR.

        Raises:
            TypeError: The data of ``refused`` has a value that cannot be sent.
            ValueError: The data has a string that is not valid Unicode, or contains itself.
        """
        if self.session.revision == 3:
            data = refused.message if refused.data is None else refused.data
        else:
            data = {"message": refused.message}
            if refused.data is not None:
                data["data"] = refused.data
        packet = Packet(PacketType.CONNECT_ERROR, name, data)
        try:
            messages = encode(packet, self.server.options.enc_hook)
        except (TypeError, ValueError) as error:
            raise unsendable(f"the data of a refusal in {name}", error) from error
        self.session.force(make_block(messages, self.session.revision))

    def enter(self, socket: Socket, namespace: Namespace, missed: list[str | bytes]) -> None:
        """Connect a socket: send what it missed and the CONNECT reply, all in one step."""
        if self.session.reason is not None:
            return
        reply = None
        if self.session.revision == 4:
            reply = {"sid": socket.id}
            if socket.pid is not None:
                reply["pid"] = socket.pid
        messages = missed + encode(Packet(PacketType.CONNECT, namespace.name, reply))
        self.session.force(make_block(messages, self.session.revision))
        self._connect_timer.cancel()
        self._recently_left.pop(namespace.name, None)
        self.sockets[namespace.name] = socket
        self._namespaces_of[socket] = namespace
        namespace.hold()
        namespace.add(socket)
        socket.enter()
        job = (Connection._run_connect_handlers, socket, namespace, None)
        self._inbox.put(job, _SOCKET_BYTES)

    # Disconnecting

    def _remove(self, socket: Socket, reason: str) -> None:
        """Disconnect a socket, and let its ``disconnect`` handlers run."""
        del self.sockets[socket.namespace]
        namespace = self._namespaces_of.pop(socket)
        self._recently_left[socket.namespace] = None
        if len(self._recently_left) > self.server.options.max_namespaces:
            del self._recently_left[next(iter(self._recently_left))]
        socket.mark_disconnected(reason)
        namespace.remove(socket)
        self._leaving[socket] = namespace
        if self._handled is socket and self._handling is not None:
            self._handling.deadline = socket.gone_at + self.server.options.handler_grace
        self._inbox.put((Connection._finish, socket, namespace, None), _JOB_BYTES)

    def disconnect_socket(self, socket: Socket) -> None:
        """Disconnect a socket, with a DISCONNECT to its client."""
        packet = Packet(PacketType.DISCONNECT, socket.namespace)
        self.session.force(make_block(encode(packet), self.session.revision))
        self._remove(socket, _BY_SERVER)

    def supersede(self) -> None:
        """End at once: the client has come back on another connection."""
        if self.session.reason is None:
            self.end("transport close")
        else:
            # It is ending already, but still waits for the client to read what is queued.
            self.session.finish()

    def disconnect_all(self) -> None:
        """Disconnect every socket, and end the connection."""
        for socket in list(self.sockets.values()):
            self.disconnect_socket(socket)
        self.end("forced close")

    # The worker

    async def _work(self) -> None:
        """Run what comes into the inbox until the session is over and every handler has run."""
        self._has_worker = True
        try:
            while not await self._run_jobs():
                pass
        except BaseException:
            self._stop()
            raise
        finally:
            with trio.CancelScope(shield=True):  # each has its own deadline
                for socket, namespace in list(self._leaving.items()):
                    await self._finish(socket, namespace)

    async def _run_jobs(self) -> bool:
        """Run what comes into the inbox until the session is over, and return True.

        If a handler is cancelled before, return False: the others need another scope.
        """
        jobs = 0
        grace = self.server.options.handler_grace
        with trio.CancelScope() as scope:
            self._handling = scope
            while (job := await self._next_job()) is not None:
                function, socket, namespace, packet = job
                if function is Connection._finish:
                    # In another task: it is shielded, and this one has to see a cancellation.
                    self._start(self._finish, socket, namespace)
                    await socket.wait_finished()
                    continue
                if socket.disconnect_reason is not None:
                    begun = function is Connection._rest_of_event
                    if not begun and trio.current_time() >= socket.gone_at + grace:
                        continue
                    scope.deadline = socket.gone_at + grace
                self._handled = socket
                await function(self, socket, namespace, packet)
                self._handled = None
                if scope.deadline != math.inf:
                    if scope.cancel_called:
                        break
                    scope.deadline = math.inf
                jobs += 1
                if jobs % SLICE_ITEMS == 0:
                    await trio.lowlevel.checkpoint()
        self._handling = None
        if self._handled is not None:
            self._warn_cut(self._handled)
            self._handled = None
        return not scope.cancel_called

    async def _next_job(self) -> _Job | None:
        """Wait for what is in the inbox next. Return None if the session is over."""
        while (job := self._inbox.take()) is None:
            if self._reason is not None:
                return None
            if self.server.draining:
                self._settle()
            await self._inbox.changed.wait()
        return job

    def _settle(self) -> None:
        if self.server.draining and self.settled:
            self.server.settled.notify()

    def _warn_cut(self, socket: Socket) -> None:
        self.server.log.emit(
            "warning",
            connection=socket.id,
            address=socket.handshake.address,
            detail="a handler was still running "
            f"{self.server.options.handler_grace:g} seconds after its client had gone, and was "
            "cancelled: a loop should end when socket.connected is false, or be a task of "
            "socket.start_soon",
            setting="handler_grace",
        )

    def _explain(self, message: str | bytes, error: PacketError) -> None:
        """Log why a client is closed that would otherwise come back for ever without a word."""
        address = self.session.handshake.address
        if isinstance(message, bytes) and not self.sockets and b"nsp" in message[:256]:
            self.server.engine.hints.warn(
                "parser",
                detail="a client uses another parser (socket.io-msgpack-parser), which this server "
                "does not speak: leave out the client's option parser",
                address=address,
            )
        else:
            self.server.engine.hints.warn(
                "packet",
                detail=f"a client sent what is not a Socket.IO packet, and was closed: {error}",
                address=address,
            )

    async def _run_connect_handlers(
        self, socket: Socket, namespace: Namespace, _packet: Packet | None
    ) -> None:
        if self.server.options.handshake_pause and self.session.transport == "websocket":
            await trio.sleep(self.server.options.handshake_pause)  # after the CONNECT reply
        socket.connect_began = True
        try:
            await namespace.handlers.lifecycle("connect", socket)
        except Exception as error:  # a handler's boundary
            await self.server.report(error, socket, "connect")

    async def _event(self, socket: Socket, namespace: Namespace, packet: Packet) -> None:
        if socket.disconnect_reason != _BY_SERVER:
            steps = handle(self.server, socket, namespace.handlers, packet)
            if (pending := next(steps, None)) is not None:
                await go_on(steps, pending)

    async def _rest_of_event(
        self, _socket: Socket, _namespace: Namespace, begun: tuple[Steps[None], Awaitable[Any]]
    ) -> None:
        await go_on(*begun)

    async def _finish(
        self, socket: Socket, namespace: Namespace, _packet: Packet | None = None
    ) -> None:
        if self._leaving.pop(socket, None) is None:
            return
        reason = socket.disconnect_reason or ""
        log = namespace.delivery.log
        try:
            with self._last_words() as scope:
                await socket.wait_tasks()
                if socket.connect_began:
                    await self._run_disconnect_handlers(socket, namespace, reason)
            if scope.cancelled_caught and self._finish_by == math.inf:
                self._warn_cut(socket)
            if log is not None and socket.pid is not None and reason in RECOVERABLE:
                lost = Lost(socket.pid, socket.id, sorted(socket.rooms), socket.data, socket.offset)
                with self._last_words():
                    await log.remember(namespace.name, lost)
        except Exception as error:  # the log's boundary
            await self.server.report(error, socket, "recovery")
        finally:
            if socket.pid is not None:
                del namespace.by_pid[socket.pid]
            socket.finish()
            namespace.release()

    def _last_words(self) -> trio.CancelScope:
        """Return the scope of what runs after a socket's end, which has its own deadline."""
        ends = min(self._finish_by, trio.current_time() + self.server.options.handler_grace)
        self._finish_scope = trio.CancelScope(shield=True, deadline=ends)
        return self._finish_scope

    async def _run_disconnect_handlers(
        self, socket: Socket, namespace: Namespace, reason: str
    ) -> None:
        try:
            await namespace.handlers.lifecycle("disconnect", socket, reason)
        except Exception as error:  # a handler's boundary
            await self.server.report(error, socket, "disconnect")

    # For the sockets

    def start_task(self, socket: Socket, job: Callable[[], Awaitable[object]]) -> None:
        """Run a task of a socket's."""
        self._start(self._run_task, socket, job)

    async def _run_task(self, socket: Socket, job: Callable[[], Awaitable[object]]) -> None:
        try:
            await job()
        except Exception as error:  # a handler's boundary
            await self.server.report(error, socket, "task")


def _read_query(query: str, most: int) -> dict[str, str]:
    """Return the fields of a namespace's query; none if it is longer than ``most`` or has many."""
    try:
        fields = parse_qsl(query[: most + 1], keep_blank_values=True, max_num_fields=_QUERY_FIELDS)
    except ValueError:
        fields = []
    return dict(fields) if len(query) <= most else {}
