"""Admission: how a client enters a namespace, as a new socket or as the one it was.

In order: the connection's middleware; the namespace, which is made now if a pattern allows it; what
the client missed, if it can recover; the namespace's middleware; and then in one step, while
nothing is emitted, the rest of what it missed and the CONNECT reply.

A recovery that fails is not reported: the client enters as a new socket. It fails too where what
was missed exceeds half of the send queue, because then the client reads its state anew for less.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from chatd.engineio.hooks import call
from chatd.socketio.errors import NotRecovered, Refused
from chatd.socketio.namespace import Namespace
from chatd.socketio.packets import with_offset
from chatd.socketio.recovery import Logged, Lost
from chatd.socketio.socket import Handshake, Socket

if TYPE_CHECKING:
    from chatd.socketio.connection import Connection

__all__ = ["admit"]

_ID_BYTES: Final = 15  # 120 bits, 20 characters: as long as Node's ids are
_NAME_CHARACTERS: Final = 255
_PID_CHARACTERS: Final = 64


class _Missed:
    """A lost socket, and the events it missed, which follow the offset ``begin``."""

    def __init__(self, lost: Lost, begin: str, max_bytes: int) -> None:
        self.lost = lost
        self.begin = self._after = begin
        self.messages: list[str | bytes] = []
        self._room = max_bytes

    async def read(self, namespace: Namespace) -> bool:
        """Read on to the end of the log. Return False if an event is gone or they do not fit."""
        log = namespace.delivery.log
        while log is not None:
            events: Sequence[Logged] | None = await log.read(namespace.name, self._after, self.lost)
            if events is None:
                return False
            if not events:
                return True
            self._after = events[-1].offset
            for event in events:
                if self._concerns(event):
                    self._room -= sum(map(_size, event.messages))
                    self.messages += with_offset(event.messages, event.offset)
            if self._room < 0:
                return False
        return False

    def _concerns(self, event: Logged) -> bool:
        rooms = self.lost.rooms
        included = not event.rooms or any(room in event.rooms for room in rooms)
        return included and not any(room in event.but for room in rooms)


async def admit(connection: Connection, name: str, auth: dict[str, Any]) -> None:
    """Admit a client to a namespace, or refuse it. Raises only a cancellation."""
    server = connection.server
    namespace: Namespace | None = None
    try:
        await connection.wait_middleware()
        if len(name) <= _NAME_CHARACTERS:
            namespace = await server.find_namespace(name, auth)
        if namespace is None:
            message = "Invalid namespace"
            # Only here Node's server sends an object to clients of revision 3 too.
            data = {"message": message} if connection.session.revision == 3 else None
            raise Refused(message, data)
        namespace.hold()
        missed = await _recall(connection, namespace, auth)
        if missed is None or not await _enter(connection, namespace, auth, missed):
            await _enter(connection, namespace, auth, None)
    except Refused as refused:
        await _refuse(connection, name, refused)
    except Exception as error:  # a handler's boundary
        await server.report(error, None, "connect")
        await _refuse(connection, name, Refused("internal error"))
    finally:
        if namespace is not None:
            namespace.release()


async def _refuse(connection: Connection, name: str, refused: Refused) -> None:
    try:
        connection.refuse(name, refused)
    except Exception as error:  # its data cannot be sent
        await connection.server.report(error, None, "connect")
        connection.refuse(name, Refused("internal error"))


async def _enter(
    connection: Connection, namespace: Namespace, auth: dict[str, Any], missed: _Missed | None
) -> bool:
    """Admit a client. Return False if it cannot recover after all."""
    socket = _make_socket(connection, namespace, auth, missed)
    if missed is None or not connection.server.skip_middleware:
        try:
            for middleware in tuple(namespace.handlers.middleware):
                await call(middleware, socket)
        except NotRecovered:
            if missed is None:
                raise
            return False
    log = namespace.delivery.log
    if log is None:
        connection.enter(socket, namespace, [])
        return True
    async with namespace.delivery.lock:
        if missed is not None and not await _read(connection, namespace, missed):
            return False
        # What is sent now may be lost too, and then the client comes back as it came now.
        socket.offset = log.head(namespace.name) if missed is None else missed.begin
        connection.enter(socket, namespace, missed.messages if missed is not None else [])
    return True


def _make_socket(
    connection: Connection, namespace: Namespace, auth: dict[str, Any], missed: _Missed | None
) -> Socket:
    session = connection.session
    recovers = namespace.delivery.log is not None and session.revision == 4
    if missed is not None:
        socket_id = missed.lost.id
    elif session.revision == 4:
        socket_id = secrets.token_urlsafe(_ID_BYTES)
    else:
        # Clients of revision 3 derive their id by this rule; it is not sent to them.
        socket_id = session.id if namespace.name == "/" else f"{namespace.name}#{session.id}"
    socket = Socket(
        socket_id,
        connection,
        namespace.delivery,
        Handshake(session.handshake, auth),
        ack_timeout=connection.server.options.ack_timeout,
        pid=secrets.token_urlsafe(_ID_BYTES) if recovers else None,
    )
    if missed is not None:
        socket.pid = missed.lost.pid
        socket.data = missed.lost.data
        socket.recovered = True
        socket.join(*missed.lost.rooms)
    return socket


async def _recall(
    connection: Connection, namespace: Namespace, auth: dict[str, Any]
) -> _Missed | None:
    """Find the socket that the client was, and read what it missed so far."""
    log = namespace.delivery.log
    pid, offset = auth.get("pid"), auth.get("offset")
    if log is None or connection.session.revision == 3 or not isinstance(pid, str):
        return None
    if len(pid) > _PID_CHARACTERS or not isinstance(offset, str | None):
        return None
    former = namespace.by_pid.get(pid)
    if former is not None:
        # Either its old connection is dead, which was not noticed yet, or its last handler still
        # runs.
        former.supersede()
        await former.wait_finished()
    try:
        lost = await log.recall(namespace.name, pid)
        if lost is None:
            return None
        # A client that has received no event has no offset: it continues from where it entered.
        after = lost.offset if offset is None else offset
    except Exception as error:  # the log's boundary
        await connection.server.report(error, None, "recovery")
        return None
    missed = _Missed(lost, after, connection.server.options.send_queue_bytes // 2)
    return missed if await _read(connection, namespace, missed) else None


async def _read(connection: Connection, namespace: Namespace, missed: _Missed) -> bool:
    try:
        return await missed.read(namespace)
    except Exception as error:  # the log's boundary
        await connection.server.report(error, None, "recovery")
        return False


def _size(message: str | bytes) -> int:
    """Return the bytes of a message."""
    return len(message.encode()) if isinstance(message, str) else len(message)
