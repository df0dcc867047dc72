"""A connection: one Engine.IO session, its sockets, and the worker that runs their handlers.

Theory of operation. The task that reads from the client calls ``received``, and never runs a
handler:

| packet | handled at once | handled by the worker |
| --- | --- | --- |
| CONNECT | a separate task admits the client (``admission``) and replies | ``connect`` |
| EVENT | waits for room in the inbox | middleware, handlers, acknowledgement |
| ACK | wakes whoever waits for it | |
| DISCONNECT | disconnects the socket | ``disconnect`` |

What MUST hold:

1. One worker runs what is in the inbox, in order. So the handlers of one connection do not overlap,
   ``connect`` runs before a socket's events and ``disconnect`` after them, each once.
2. The end of the session cancels admissions and what ``start_soon`` started, but no handler.
3. A cancellation from outside cancels the handler that runs. Then the ``disconnect`` handlers of
   all sockets have ``shutdown_timeout`` seconds together.
4. An exception in a handler ends that handler only.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

import trio

from chatd.changed import Changed
from chatd.engineio import Reason, Session
from chatd.engineio.hooks import call
from chatd.engineio.inbox import Inbox
from chatd.socketio.admission import admit
from chatd.socketio.errors import PacketError, Refused
from chatd.socketio.handlers import Acknowledging
from chatd.socketio.namespace import Namespace
from chatd.socketio.packets import Decoder, Packet, PacketType, encode, make_block
from chatd.socketio.recovery import RECOVERABLE, Lost
from chatd.socketio.socket import Socket
from chatd.timers import Timer

if TYPE_CHECKING:
    from chatd.socketio.server import Server

__all__ = ["Connection"]

_BY_SERVER: Final = "server namespace disconnect"
# Of a name that is repeated in a refusal.
_NAME_CHARACTERS: Final = 255
_QUERY_FIELDS: Final = 64


class Connection:
    """One client's connection, which can be in several namespaces.

    Attributes:
        session: Its Engine.IO session; ``session.handshake`` is the request that opened it.
        data: A dict for the application, as ``use_connection`` middleware fills it.
        sockets: Its sockets, by the names of their namespaces.
    """

    def __init__(self, session: Session, server: Server) -> None:
        self.session = session
        self.server = server
        self.data: dict[str, Any] = {}
        self.sockets: dict[str, Socket] = {}
        # Whether the connection's middleware has run, and what it raised.
        self._middleware_done = False
        self._refused: Refused | None = None
        options = server.options
        self._decoder = Decoder(options.max_attachments, options.max_values)
        self._inbox: Inbox[Callable[[], Awaitable[None]]] = Inbox(
            options.receive_queue_packets, options.receive_queue_bytes
        )
        self._admissions: dict[str, trio.CancelScope] = {}
        # Namespaces it has left: packets for them that were on their way are not an error.
        self._recently_left: dict[str, None] = {}
        self._leaving: dict[Socket, Namespace] = {}
        self._namespaces_of: dict[Socket, Namespace] = {}
        self._reason: str | None = None
        self._running = False
        self._nursery: trio.Nursery
        self._working = False
        # Notified when the middleware is done, when the connection runs, when it ends, and when the
        # worker stops after that.
        self._changed = Changed()
        self._connect_timer = self._end_after(options.connect_timeout, "forced close")
        self._attachment_timer: Timer | None = None
        self._finish_by = math.inf
        self._finish_scope: trio.CancelScope | None = None

    @property
    def queued(self) -> int:
        """How many events wait for the worker."""
        return len(self._inbox)

    # Its own task

    async def run(self) -> None:
        """Run until the session is over and every handler has run."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    self._begin()
                    while self._reason is None or self._working:
                        await self._changed.wait()
                except BaseException:
                    self._stop()
                    raise
        finally:
            self.server.forget(self)
            with trio.CancelScope(shield=True):  # each has its own deadline
                for socket in list(self._leaving):
                    await self._finish(socket)

    def _begin(self) -> None:
        if self.server.on_connections:
            self._nursery.start_soon(self._run_middleware)
        else:
            self._middleware_done = True
        if self.session.revision == 3:
            # socket.io-protocol v4: every client is in "/" without asking.
            self._connect("/", {})
        self._running = True
        self._changed.notify()

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
            self._finish_scope.deadline = self._finish_by
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
        self._changed.notify()
        self._connect_timer.cancel()
        self._cancel_attachment_timer()
        self._inbox.close()
        for scope in self._admissions.values():
            scope.cancel()
        for socket in list(self.sockets.values()):
            self._remove(socket, reason)

    async def received(self, message: str | bytes) -> None:
        """Handle a message of the session, in the task that reads from the client."""
        while not self._running:
            await self._changed.wait()
        if self._reason is not None or self.session.reason is not None:
            return
        try:
            packet = self._decoder.add(message)
        except PacketError:
            self.end("parse error")
            return
        if packet is None:
            # Each attachment has its own deadline, so that a slow client can send many.
            self._cancel_attachment_timer()
            seconds = self.server.options.attachment_timeout
            self._attachment_timer = self._end_after(seconds, "parse error")
            return
        if self._attachment_timer is not None:
            self._cancel_attachment_timer()
        await self._dispatch(packet, self._decoder.size)

    async def _dispatch(self, packet: Packet, size: int) -> None:
        name, auth = packet.namespace, packet.data
        if self.session.revision == 3:
            # The query of the namespace follows its name.
            name, _, query = name.partition("?")
            auth = _read_query(query, self.server.options.max_auth) if query else None
        if packet.type is PacketType.CONNECT:
            if self._inbox.full(0):
                # Repeated CONNECT and DISCONNECT fill the inbox too.
                await self._inbox.room(0)
            if size > self.server.options.max_auth:
                self.refuse(name[:_NAME_CHARACTERS], Refused("auth is too large"))
            else:
                self._connect(name, auth or {})
            return
        socket = self.sockets.get(name)
        if socket is None or packet.type is PacketType.CONNECT_ERROR:
            if name not in self._recently_left:
                self.end("parse error")
        elif packet.type is PacketType.DISCONNECT:
            self._remove(socket, "client namespace disconnect")
        elif packet.type is PacketType.ACK:
            socket.received_ack(packet.id, packet.data)
        else:
            if self._inbox.full(size):
                await self._inbox.room(size)
                if socket not in self._namespaces_of:
                    return
            self._inbox.put(partial(self._event, socket, self._namespaces_of[socket], packet), size)
            if not self._working:
                self._wake()

    # Connecting

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
        self._nursery.start_soon(self._admit, name, auth, scope)

    async def _admit(self, name: str, auth: dict[str, Any], scope: trio.CancelScope) -> None:
        try:
            with scope:
                await admit(self, name, auth)
        finally:
            del self._admissions[name]

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
            ValueError: The data has a string that is not valid Unicode.
        """
        if self.session.revision == 3:
            data = refused.message if refused.data is None else refused.data
        else:
            data = {"message": refused.message}
            if refused.data is not None:
                data["data"] = refused.data
        messages = encode(Packet(PacketType.CONNECT_ERROR, name, data))
        self.session.offer(make_block(messages, self.session.revision))

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
        self.session.offer(make_block(messages, self.session.revision))
        self._connect_timer.cancel()
        self._recently_left.pop(namespace.name, None)
        self.sockets[namespace.name] = socket
        self._namespaces_of[socket] = namespace
        namespace.hold()
        namespace.add(socket)
        socket.enter()
        self._inbox.put(partial(self._run_connect_handlers, socket, namespace))
        self._wake()

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
        self._inbox.put(partial(self._finish, socket))
        self._wake()

    def disconnect_socket(self, socket: Socket) -> None:
        """Disconnect a socket, with a DISCONNECT to its client."""
        packet = Packet(PacketType.DISCONNECT, socket.namespace)
        self.session.offer(make_block(encode(packet), self.session.revision))
        self._remove(socket, _BY_SERVER)

    def supersede(self) -> None:
        """End: the client has come back on another connection."""
        self.end("transport close")

    def disconnect_all(self) -> None:
        """Disconnect every socket, and end the connection."""
        for socket in list(self.sockets.values()):
            self.disconnect_socket(socket)
        self.end("forced close")

    # The worker

    def _wake(self) -> None:
        if not self._working and self._finish_by == math.inf:
            self._working = True
            self._nursery.start_soon(self._work)

    async def _work(self) -> None:
        # The task exists only while there is something to do: it would be a third of the memory of
        # an idle connection.
        try:
            while self._finish_by == math.inf and (job := self._inbox.take()) is not None:
                await job()
        finally:
            self._working = False
            if self._reason is not None:
                self._changed.notify()

    async def _run_connect_handlers(self, socket: Socket, namespace: Namespace) -> None:
        if self.server.options.handshake_pause and self.session.transport == "websocket":
            await trio.sleep(self.server.options.handshake_pause)  # after the CONNECT reply
        socket.connect_began = True
        try:
            await namespace.handlers.lifecycle("connect", socket)
        except Exception as error:  # a handler's boundary
            await self.server.report(error, socket, "connect")

    async def _event(self, socket: Socket, namespace: Namespace, packet: Packet) -> None:
        if socket.disconnect_reason == _BY_SERVER:
            return
        handlers = namespace.handlers
        name, *args = packet.data
        event = name if isinstance(name, str) else str(name)
        ack = Acknowledging(None if packet.id is None else partial(socket.send_ack, packet.id))
        try:
            for middleware in (*handlers.on_events, *socket.middleware):
                try:
                    await call(middleware, socket, event, args)
                except Refused:
                    return
            await handlers.event(socket, event, args, ack)
        except Exception as error:  # a handler's boundary
            await self.server.report(error, socket, event)

    async def _finish(self, socket: Socket) -> None:
        namespace = self._leaving.pop(socket, None)
        if namespace is None:
            return
        reason = socket.disconnect_reason or ""
        try:
            with trio.CancelScope(shield=True, deadline=self._finish_by) as scope:
                self._finish_scope = scope
                await socket.wait_tasks()
                if socket.connect_began:
                    await self._run_disconnect_handlers(socket, namespace, reason)
                log = namespace.delivery.log
                if log is not None and socket.pid is not None and reason in RECOVERABLE:
                    lost = Lost(
                        socket.pid, socket.id, sorted(socket.rooms), socket.data, socket.offset
                    )
                    await log.remember(namespace.name, lost)
        except Exception as error:  # the log's boundary
            await self.server.report(error, socket, "recovery")
        finally:
            if socket.pid is not None:
                del namespace.by_pid[socket.pid]
            socket.finish()
            namespace.release()

    async def _run_disconnect_handlers(
        self, socket: Socket, namespace: Namespace, reason: str
    ) -> None:
        try:
            await namespace.handlers.lifecycle("disconnect", socket, reason)
        except Exception as error:  # a handler's boundary
            await self.server.report(error, socket, "disconnect")

    # For the sockets

    def start_task(self, socket: Socket, job: Callable[[], Awaitable[object]]) -> None:
        """Run a task of a socket's in the connection's nursery."""
        self._nursery.start_soon(self._run_task, socket, job)

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
