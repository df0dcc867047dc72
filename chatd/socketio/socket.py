"""A socket: one client in one namespace."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVarTuple

import trio

from chatd import engineio
from chatd.changed import Changed
from chatd.engineio.hooks import call
from chatd.socketio.acks import Reply
from chatd.socketio.broadcast import Broadcast
from chatd.socketio.delivery import Delivery, Selection
from chatd.socketio.handlers import Handler, check_handler
from chatd.socketio.packets import Packet, PacketType, encode, encode_event, make_block, unsendable

if TYPE_CHECKING:
    from chatd.socketio.connection import Connection

__all__ = ["Direct", "Handshake", "Socket"]

NOT_YET: Final = "not connected yet"
"""The ``disconnect_reason`` of a socket that is still in middleware."""

Ts = TypeVarTuple("Ts")


class Handshake(engineio.Handshake):
    """The request that opened the connection, and the ``auth`` of one namespace.

    Attributes:
        auth: What the client gave for this namespace: a dict, empty if it gave nothing. For clients
            1.x and 2.x it is the namespace's own query.
        issued: When it was made, in seconds since 1970.
    """

    __slots__ = ("auth", "issued")

    def __init__(self, opening: engineio.Handshake, auth: dict[str, Any]) -> None:
        super().__init__(opening.request)
        self.auth = auth
        self.issued = time.time()


class Socket:
    """One client in one namespace.

    Attributes:
        id: Its public id, and the name of a room that it alone is in. New with each connection,
            unless it recovers.
        namespace: The namespace's name.
        handshake: The request that opened the connection, and ``auth``.
        session: Its Engine.IO session. ``session.id`` is a secret of the client's.
        data: A dict for the application; kept by a recovery.
        recovered: Whether it has recovered from a lost connection.
        pid: The secret id with which it can recover; None if it cannot.
        offset: Where a recovery begins if the client has received no event yet. Set on connecting.
        disconnect_reason: Why it is disconnected; None while it is connected.
        gone_at: When it was disconnected, on Trio's clock.
    """

    __slots__ = (
        "_ack_timeout",
        "_changed",
        "_connection",
        "_delivery",
        "_finished",
        "_replies",
        "_saved_rooms",
        "_tasks",
        "connect_began",
        "data",
        "disconnect_reason",
        "gone_at",
        "handshake",
        "id",
        "middleware",
        "namespace",
        "offset",
        "pid",
        "recovered",
        "session",
    )

    def __init__(
        self,
        socket_id: str,
        connection: Connection,
        delivery: Delivery,
        handshake: Handshake,
        *,
        ack_timeout: float,
        pid: str | None = None,
    ) -> None:
        self.id = socket_id
        self.namespace = delivery.name
        self.handshake = handshake
        self.session = connection.session
        self.data: dict[str, Any] = {}
        self.recovered = False
        self.pid = pid
        self.offset = ""
        self.middleware: list[Handler] = []
        self.disconnect_reason: str | None = NOT_YET
        self.gone_at = math.inf
        # Whether its first handler has begun, so that its last one must run.
        self.connect_began = False
        # Whether the last handler has run.
        self._finished = False
        self._connection = connection
        self._delivery = delivery
        self._ack_timeout = ack_timeout
        self._replies: dict[int, Reply] = {}
        # Its rooms before it is connected, and after it is disconnected.
        self._saved_rooms = frozenset((socket_id,))
        self._tasks: set[trio.CancelScope] = set()
        # Notified when a task ends, or ``_finished`` is set.
        self._changed = Changed()

    def __repr__(self) -> str:
        state = self.disconnect_reason or "connected"
        return f"<Socket {self.id} in {self.namespace}: {state}>"

    @property
    def connected(self) -> bool:
        """Whether it is connected."""
        return self.disconnect_reason is None

    # Rooms

    @property
    def rooms(self) -> frozenset[str]:
        """The rooms it is in; once it is disconnected, those it was in."""
        if self.disconnect_reason is not None:
            return self._saved_rooms
        return frozenset(self._delivery.rooms.of(self))

    def join(self, *rooms: str) -> None:
        """Add it to rooms. Does nothing once it is disconnected.

        Args:
            rooms: Names of rooms.
        """
        if self.disconnect_reason is NOT_YET:
            self._saved_rooms = self._saved_rooms.union(rooms)
        else:
            self._delivery.rooms.join(self, rooms)

    def leave(self, *rooms: str) -> None:
        """Remove it from rooms: nothing more is sent to it for them.

        Args:
            rooms: Names of rooms.
        """
        if self.disconnect_reason is NOT_YET:
            self._saved_rooms = self._saved_rooms.difference(rooms)
        else:
            self._delivery.rooms.leave(self, rooms)

    # Sending

    async def emit(self, event: str, *args: Any) -> None:
        """Send it an event. Dropped if it is disconnected and cannot recover.

        Returns when the event is logged (where the server has ``recovery``) and in its send queue.
        It never waits for the client.

        Args:
            event: The event's name.
            args: Its arguments: what JSON has, and bytes anywhere in it; see `Broadcast.emit`.

        Raises:
            TypeError: An argument is of a type that cannot be sent.
            ValueError: The name is reserved, a string is not valid Unicode, or an argument contains
                itself.
        """
        await self._delivery.send(self, event, args)

    def emit_nowait(self, event: str, *args: Any, offset: str | None = None) -> None:
        """Put an event into its send queue at once. Dropped if it is disconnected.

        Unlike ``emit`` it does not wait for broadcasts that are in progress, and is not logged for
        recovery.

        Args:
            event: The event's name.
            args: Its arguments, as for ``emit``.
            offset: An offset of the recovery log, appended as the last argument: a recovery after
                this event begins there. Default: none. With ``recovery``, an event whose last
                argument is a string needs one, because the client takes a last string for the
                offset.

        Raises:
            TypeError: An argument is of a type that cannot be sent.
            ValueError: The name is reserved, a string is not valid Unicode, or an argument contains
                itself.
        """
        messages = encode_event(
            event,
            args,
            namespace=self.namespace,
            offset=offset,
            enc_hook=self._delivery.enc_hook,
        )
        if self.disconnect_reason is None:
            self.session.offer(make_block(messages, self.session.revision))

    async def call(self, event: str, *args: Any) -> Any:
        """Send it an event, and wait for its acknowledgement.

        A handler may call its own client: acknowledgements do not wait for handlers. But the
        client's other events wait until the handler returns, and once they fill
        ``receive_queue_bytes``, the acknowledgement is not read either.

        Args:
            event: The event's name.
            args: Its arguments, as for ``emit``.

        Returns:
            None if the client's callback got no argument, one argument by itself, several as a
            tuple.

        Raises:
            trio.TooSlowError: There was no acknowledgement within the server's ``ack_timeout`` (or
                that of ``timeout``).
            Disconnected: It is disconnected, or was during the wait.
            TypeError: As ``emit``.
            ValueError: As ``emit``.
        """
        return await self._delivery.call(self, event, args, self._ack_timeout)

    def timeout(self, seconds: float) -> Direct:
        """Return the socket with another time limit: ``await socket.timeout(5).call("event")``.

        Args:
            seconds: How long ``call`` waits.
        """
        return Direct(self, self._delivery, seconds)

    @property
    def volatile(self) -> Direct:
        """The socket, for events that are dropped while something waits to be sent to it.

        They are not logged for recovery.
        """
        return Direct(self, self._delivery, self._ack_timeout, volatile=True)

    @property
    def broadcast(self) -> Broadcast:
        """A broadcast to all other sockets of the namespace."""
        return Broadcast(
            self._delivery, self._ack_timeout, Selection(exclude=frozenset((self.id,)))
        )

    def to(self, *rooms: str) -> Broadcast:
        """Return a broadcast to the members of any of these rooms, without this socket.

        Args:
            rooms: Names of rooms.
        """
        return self.broadcast.to(*rooms)

    def except_(self, *rooms: str) -> Broadcast:
        """Return a broadcast to all other sockets that are in none of these rooms.

        Args:
            rooms: Names of rooms.
        """
        return self.broadcast.except_(*rooms)

    # Middleware, tasks, the end

    def use(self, middleware: Handler) -> Handler:
        """Register middleware for the events of this socket; see `Server.use_event`.

        Returns:
            The middleware.
        """
        check_handler("the middleware", middleware)
        self.middleware.append(middleware)
        return middleware

    def start_soon(self, async_fn: Callable[[*Ts], object], /, *args: *Ts) -> None:
        """Run a task while it is connected, in the nursery of its connection.

        The task is cancelled when the socket is disconnected, before its ``disconnect`` handlers
        run. An `Exception` in it goes to ``on_error`` or the log. Does nothing once it is
        disconnected.

        Args:
            async_fn: An async function, or a plain one if it never waits.
            args: Its arguments.

        Raises:
            TypeError: ``async_fn`` is not a function.
        """
        check_handler("the task", async_fn)
        if self.disconnect_reason is None:
            scope = trio.CancelScope()
            self._tasks.add(scope)
            self._connection.start_task(self, lambda: self._task(scope, async_fn, args))

    def disconnect(self, close: bool = False) -> None:
        """Disconnect it. Returns at once; its ``disconnect`` handlers run next.

        The client gets a DISCONNECT, and does not reconnect by itself.

        Args:
            close: False: leave this namespace only. True: leave every namespace and close the
                connection. Default False.
        """
        if self.disconnect_reason is None:
            if close:
                self._connection.disconnect_all()
            else:
                self._connection.disconnect_socket(self)

    # For the library

    def expect_ack(self, packet_id: int, reply: Reply) -> None:
        """Pass acknowledgements with this id to ``reply``, and notify it of the end."""
        if self.disconnect_reason is None:
            self._replies[packet_id] = reply
        else:
            reply.lost(self.id, self.disconnect_reason)

    def forget_ack(self, packet_id: int) -> None:
        """Ignore acknowledgements with this id."""
        self._replies.pop(packet_id, None)

    def received_ack(self, packet_id: int | None, args: Sequence[Any]) -> None:
        """Handle an acknowledgement; ignore one that is not awaited."""
        reply = None if packet_id is None else self._replies.pop(packet_id, None)
        if reply is not None:
            reply.received(self.id, args)

    def send_ack(self, packet_id: int, event: str, args: Sequence[Any]) -> None:
        """Send the acknowledgement of an event, if it is connected."""
        if self.disconnect_reason is not None:
            return
        packet = Packet(PacketType.ACK, self.namespace, list(args), packet_id)
        try:
            messages = encode(packet, self._delivery.enc_hook)
        except (TypeError, ValueError) as error:
            raise unsendable(f"the acknowledgement of {event!r}", error) from error
        self.session.offer(make_block(messages, self.session.revision))

    def enter(self) -> None:
        """Connect it, with the rooms that it has from middleware or from before its recovery."""
        self.disconnect_reason = None
        self._delivery.rooms.add(self)
        self._delivery.rooms.join(self, sorted(self._saved_rooms))

    def supersede(self) -> None:
        """End its connection: the client has come back on another one."""
        if self.disconnect_reason is None:
            self._connection.supersede()

    def mark_disconnected(self, reason: str) -> None:
        """Disconnect it: leave all rooms, cancel its tasks, end its calls."""
        self._saved_rooms = self.rooms
        self.disconnect_reason = reason
        self.gone_at = trio.current_time()
        self._delivery.rooms.remove(self)
        for scope in self._tasks:
            scope.cancel()
        replies, self._replies = self._replies, {}
        for reply in replies.values():
            reply.lost(self.id, reason)

    async def wait_tasks(self) -> None:
        """Wait until its tasks have ended."""
        while self._tasks:
            await self._changed.wait()

    def finish(self) -> None:
        """Note that its last handler has run."""
        self._finished = True
        self._changed.notify()

    async def wait_finished(self) -> None:
        """Wait until its last handler has run."""
        while not self._finished:
            await self._changed.wait()

    async def _task(
        self,
        scope: trio.CancelScope,
        async_fn: Callable[[*Ts], object],
        args: tuple[*Ts],
    ) -> None:
        try:
            with scope:
                await call(async_fn, *args)
        finally:
            self._tasks.discard(scope)
            self._changed.notify()


class Direct:
    """One socket with a time limit for ``call``, or for volatile events.

    Returned by `Socket.timeout` and `Socket.volatile`.
    """

    __slots__ = ("_delivery", "_seconds", "_socket", "_volatile")

    def __init__(
        self,
        socket: Socket,
        delivery: Delivery,
        seconds: float,
        *,
        volatile: bool = False,
    ) -> None:
        self._socket = socket
        self._delivery = delivery
        self._seconds = seconds
        self._volatile = volatile

    @property
    def volatile(self) -> Direct:
        """The same, for volatile events; see `Socket.volatile`."""
        return Direct(self._socket, self._delivery, self._seconds, volatile=True)

    def timeout(self, seconds: float) -> Direct:
        """Return the same with another time limit; see `Socket.timeout`."""
        return Direct(self._socket, self._delivery, seconds, volatile=self._volatile)

    async def emit(self, event: str, *args: Any) -> None:
        """Send an event; see `Socket.emit`."""
        await self._delivery.send(self._socket, event, args, volatile=self._volatile)

    async def call(self, event: str, *args: Any) -> Any:
        """Send an event, and wait for its acknowledgement; see `Socket.call`."""
        return await self._delivery.call(self._socket, event, args, self._seconds)
