"""A socket: one client in one namespace."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVarTuple

import trio

from chatd import engineio
from chatd.socketio.acks import Reply
from chatd.socketio.broadcast import Broadcast
from chatd.socketio.delivery import Delivery, Selection
from chatd.socketio.handlers import Handler
from chatd.socketio.packets import Packet, PacketType, encode, encode_event, make_block

if TYPE_CHECKING:
    from chatd.socketio.connection import Connection

__all__ = ["Direct", "Handshake", "Socket"]

NOT_YET: Final = "not connected yet"
"""Why a socket that is still in middleware is not there."""

Ts = TypeVarTuple("Ts")


class Handshake(engineio.Handshake):
    """The request that opened the connection, and one namespace's ``auth``.

    ``auth`` is what the client gave for it: a dict, empty where it gave nothing; of clients of
    Socket.IO 1 and 2 it is the namespace's own query. ``issued`` is the wall clock's time, in
    seconds since 1970. ``headers``, ``query``, ``address``, ``secure``, ``method`` and ``path`` are
    the request's.
    """

    __slots__ = ("auth", "issued")

    def __init__(self, opening: engineio.Handshake, auth: dict[str, Any]) -> None:
        super().__init__(opening.request)
        self.auth = auth
        self.issued = time.time()


class Socket:
    """One client in one namespace.

    ``id`` names it to others, and is a room it is in. ``namespace`` is the namespace's name,
    ``handshake`` how it came, ``data`` what its handlers keep with it. ``recovered`` tells whether
    it came back as who it was. ``session`` is its Engine.IO session, whose id is secret, and so is
    ``pid``: who knows it can recover as this client; None where sockets do not recover.
    """

    __slots__ = (
        "_ack_timeout",
        "_connection",
        "_delivery",
        "_replies",
        "_saved_rooms",
        "_tasks",
        "_tasks_ended",
        "connect_began",
        "data",
        "disconnect_reason",
        "finished",
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
        # Where the log stood when it came.
        self.offset = ""
        # What its events pass: see ``use``.
        self.middleware: list[Handler] = []
        # Why it is not there; None while it is.
        self.disconnect_reason: str | None = NOT_YET
        # Whether its first handler has connect_began, and so its last one is to run.
        self.connect_began = False
        # Set when its last handler has run.
        self.finished = trio.Event()
        self._connection = connection
        self._delivery = delivery
        self._ack_timeout = ack_timeout
        self._replies: dict[int, Reply] = {}
        # Its rooms before it is in, and after.
        self._saved_rooms = frozenset((socket_id,))
        self._tasks: set[trio.CancelScope] = set()
        self._tasks_ended: trio.Event | None = None

    def __repr__(self) -> str:
        state = self.disconnect_reason or "connected"
        return f"<Socket {self.id} in {self.namespace}: {state}>"

    @property
    def connected(self) -> bool:
        """Whether the client is there."""
        return self.disconnect_reason is None

    # Rooms

    @property
    def rooms(self) -> frozenset[str]:
        """The rooms it is in; in ``disconnect`` handlers and after, those it was in."""
        if self.disconnect_reason is not None:
            return self._saved_rooms
        return frozenset(self._delivery.rooms.of(self))

    def join(self, *rooms: str) -> None:
        """Enter rooms. Does nothing where the client is gone."""
        if self.disconnect_reason is NOT_YET:
            self._saved_rooms = self._saved_rooms.union(rooms)
        else:
            self._delivery.rooms.join(self, rooms)

    def leave(self, *rooms: str) -> None:
        """Leave rooms; nothing of them is sent to it after this."""
        if self.disconnect_reason is NOT_YET:
            self._saved_rooms = self._saved_rooms.difference(rooms)
        else:
            self._delivery.rooms.leave(self, rooms)

    # Sending

    async def emit(self, event: str, *args: Any) -> None:
        """Send it an event; returns and raises as ``Broadcast.emit``. Dropped where it is gone."""
        await self._delivery.send(self, event, args)

    def emit_nowait(self, event: str, *args: Any, offset: str | None = None) -> None:
        """Put an event into the socket's send queue at once; drop it where the client is gone.

        Unlike ``emit`` it does not wait for broadcasts that are under way and is not logged for
        recovery.

        Args:
            event: The event's name.
            args: Its arguments, as for ``emit``.
            offset: Where a recovery begins that follows this event, appended as its last argument.
                Default: none. With ``recovery``, an event whose last argument is a string needs
                one: the client takes a last string for the offset.

        Raises:
            TypeError: An argument is of a type that cannot be sent.
            ValueError: The name is reserved, or a string is not valid Unicode.
        """
        messages = encode_event(event, args, namespace=self.namespace, offset=offset)
        if self.disconnect_reason is None:
            self.session.offer(make_block(messages, self.session.revision))

    async def call(self, event: str, *args: Any) -> Any:
        """Send it an event and give its acknowledgement: None, a value, or a tuple of several.

        Raises trio.TooSlowError after the server's ``ack_timeout`` (``timeout(seconds)`` sets
        another), Disconnected where the client is gone or goes, else as ``emit``. In a handler,
        events that came before the acknowledgement wait for this one to return; more of them than
        the connection's queue takes keep the acknowledgement from being read.
        """
        return await self._delivery.call(self, event, args, self._ack_timeout)

    def timeout(self, seconds: float) -> Direct:
        """Wait so long for an acknowledgement: ``await socket.timeout(5).call("event")``."""
        return Direct(self, self._delivery, seconds)

    @property
    def volatile(self) -> Direct:
        """Send what is dropped where anything still waits to be sent, and is not logged."""
        return Direct(self, self._delivery, self._ack_timeout, volatile=True)

    @property
    def broadcast(self) -> Broadcast:
        """Everybody in the namespace but this one."""
        return Broadcast(
            self._delivery, self._ack_timeout, Selection(exclude=frozenset((self.id,)))
        )

    def to(self, *rooms: str) -> Broadcast:
        """Mean the members of any of these rooms, but not this one."""
        return self.broadcast.to(*rooms)

    def except_(self, *rooms: str) -> Broadcast:
        """Mean everybody but this one and who is in any of these rooms."""
        return self.broadcast.except_(*rooms)

    # Its life

    def use(self, middleware: Handler) -> Handler:
        """Let this socket's events pass ``middleware(socket, event, args)``; see ``use_event``."""
        self.middleware.append(middleware)
        return middleware

    def start_soon(self, async_fn: Callable[[*Ts], Awaitable[object]], /, *args: *Ts) -> None:
        """Run a task for as long as the client is there, in its connection's nursery.

        It is cancelled when the client goes; what it raises is treated as a handler's. Does
        nothing where the client is gone.
        """
        if self.disconnect_reason is None:
            scope = trio.CancelScope()
            self._tasks.add(scope)
            self._connection.start_task(self, lambda: self._task(scope, async_fn, args))

    def disconnect(self, close: bool = False) -> None:
        """Send the client away from this namespace, or, with ``close``, from the server.

        It does not come back by itself. Returns at once; its ``disconnect`` handlers run next.
        """
        if self.disconnect_reason is None:
            if close:
                self._connection.disconnect_all()
            else:
                self._connection.disconnect_socket(self)

    # The library's side

    def expect_ack(self, packet_id: int, reply: Reply) -> None:
        if self.disconnect_reason is None:
            self._replies[packet_id] = reply
        else:
            reply.lost(self.id, self.disconnect_reason)

    def forget_ack(self, packet_id: int) -> None:
        self._replies.pop(packet_id, None)

    def received_ack(self, packet_id: int | None, args: Sequence[Any]) -> None:
        """Take a client's acknowledgement; one that nobody waits for is nothing."""
        reply = None if packet_id is None else self._replies.pop(packet_id, None)
        if reply is not None:
            reply.received(self.id, args)

    def send_ack(self, packet_id: int, args: Sequence[Any]) -> None:
        """Send an acknowledgement, to a client that is there."""
        if self.disconnect_reason is None:
            packet = Packet(PacketType.ACK, self.namespace, list(args), packet_id)
            self.session.offer(make_block(encode(packet), self.session.revision))

    def enter(self) -> None:
        """Be there, in the rooms that middleware or an earlier life put it in."""
        self.disconnect_reason = None
        self._delivery.rooms.add(self)
        self._delivery.rooms.join(self, sorted(self._saved_rooms))

    def supersede(self) -> None:
        if self.disconnect_reason is None:
            self._connection.supersede()

    def mark_disconnected(self, reason: str) -> None:
        """Be gone: out of all rooms, heard and sent to no more; tasks and calls end."""
        self._saved_rooms = self.rooms
        self.disconnect_reason = reason
        self._delivery.rooms.remove(self)
        for scope in self._tasks:
            scope.cancel()
        replies, self._replies = self._replies, {}
        for reply in replies.values():
            reply.lost(self.id, reason)

    async def wait_tasks(self) -> None:
        """Wait until no task of this socket's runs any more."""
        if self._tasks:
            self._tasks_ended = self._tasks_ended or trio.Event()
            await self._tasks_ended.wait()

    async def _task(
        self,
        scope: trio.CancelScope,
        async_fn: Callable[[*Ts], Awaitable[object]],
        args: tuple[*Ts],
    ) -> None:
        try:
            with scope:
                await async_fn(*args)
        finally:
            self._tasks.discard(scope)
            if not self._tasks and self._tasks_ended is not None:
                self._tasks_ended.set()


class Direct:
    """One socket, with a time limit of its own or volatile."""

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
        return Direct(self._socket, self._delivery, self._seconds, volatile=True)

    def timeout(self, seconds: float) -> Direct:
        return Direct(self._socket, self._delivery, seconds, volatile=self._volatile)

    async def emit(self, event: str, *args: Any) -> None:
        """Send an event; returns and raises as ``Socket.emit``."""
        await self._delivery.send(self._socket, event, args, volatile=self._volatile)

    async def call(self, event: str, *args: Any) -> Any:
        """Give the acknowledgement of an event; raises as ``Socket.call``."""
        return await self._delivery.call(self._socket, event, args, self._seconds)
