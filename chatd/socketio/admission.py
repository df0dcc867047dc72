"""An admission: how a client comes into a namespace, or comes back as who it was.

In order: the connection's middleware, the namespace (made now where a pattern allows it), what can
be recovered, the namespace's middleware, and then in one step, while nothing is emitted, the rest
of what was missed and the CONNECT reply.

Recovery fails without a word: the client is let in as somebody new. It fails where what was missed
does not fit into half the queue to the client: then reading the state anew is cheaper than what
led to it.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Final, Protocol

from chatd.socketio.delivery import offset_appended
from chatd.socketio.errors import NotRecovered, Refused
from chatd.socketio.handlers import call
from chatd.socketio.handshake import Handshake
from chatd.socketio.namespace import Namespace
from chatd.socketio.options import Options
from chatd.socketio.recovery import Logged, Lost
from chatd.socketio.socket import Carrier, Socket

__all__ = ["Admission", "Door", "Guest"]

_ID_BYTES: Final = 15  # 120 bits, 20 characters: as long as Node's ids are
_NAME_CHARACTERS: Final = 255
_PID_CHARACTERS: Final = 64


class Door(Protocol):
    """The server as an admission sees it."""

    @property
    def options(self) -> Options: ...

    @property
    def skip_middleware(self) -> bool: ...

    async def find(self, name: str, auth: dict[str, Any], /) -> Namespace | None: ...

    async def failed(self, error: Exception, socket: Socket | None, event: str, /) -> None: ...


class Guest(Carrier, Protocol):
    """The connection as an admission sees it."""

    @property
    def host(self) -> Door: ...

    async def welcome(self) -> None:
        """Pass the connection's middleware, once. Raises Refused."""

    def refuse(self, name: str, refused: Refused, /) -> None: ...

    def enter(self, socket: Socket, namespace: Namespace, behind: list[str | bytes], /) -> None: ...


class _Missed:
    """A lost socket, and what it missed."""

    def __init__(self, lost: Lost, after: str, bound: int) -> None:
        self.lost = lost
        self.messages: list[str | bytes] = []
        self._after = after
        self._room = bound

    async def read(self, namespace: Namespace) -> bool:
        """Read on to the log's end; tell whether it is all there and fits."""
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
                    self._room -= sum(map(len, event.messages))
                    self.messages += offset_appended(event.messages, event.offset)
            if self._room < 0:
                return False
        return False

    def _concerns(self, event: Logged) -> bool:
        rooms = self.lost.rooms
        meant = not event.rooms or any(room in event.rooms for room in rooms)
        return meant and not any(room in event.but for room in rooms)


class Admission:
    """One client's way into one namespace."""

    def __init__(self, guest: Guest, name: str, auth: dict[str, Any]) -> None:
        self._guest = guest
        self._host = guest.host
        self._name = name
        self._auth = auth
        self._revision = guest.session.revision

    async def run(self) -> None:
        """Let the client in, or refuse it. Raises nothing but a cancellation."""
        namespace: Namespace | None = None
        try:
            await self._guest.welcome()
            if len(self._name) <= _NAME_CHARACTERS:
                namespace = await self._host.find(self._name, self._auth)
            if namespace is None:
                await self._refuse_name()
                return
            namespace.hold()
            missed = await self._missed(namespace)
            if missed is None or not await self._enter(namespace, missed):
                await self._enter(namespace, None)
        except Refused as refused:
            await self._refuse(refused)
        except Exception as error:  # a handler's boundary
            await self._host.failed(error, None, "connect")
            await self._refuse(Refused("internal error"))
        finally:
            if namespace is not None:
                namespace.release()

    async def _refuse_name(self) -> None:
        words = "Invalid namespace"
        # Here alone revision 3's clients are given an object too, as Node's server does.
        await self._refuse(Refused(words, {"message": words} if self._revision == 3 else None))

    async def _refuse(self, refused: Refused) -> None:
        try:
            self._guest.refuse(self._name, refused)
        except (TypeError, ValueError) as error:  # its data cannot be sent
            await self._host.failed(error, None, "connect")
            self._guest.refuse(self._name, Refused("internal error"))

    async def _enter(self, namespace: Namespace, missed: _Missed | None) -> bool:
        """Let it in; False where it could not be as who it was after all."""
        socket = self._socket(namespace, missed)
        if missed is None or not self._host.skip_middleware:
            try:
                for middleware in tuple(namespace.handlers.middleware):
                    await call(middleware, socket)
            except NotRecovered:
                if missed is None:
                    raise
                return False
        log = namespace.delivery.log
        if log is None:
            self._guest.enter(socket, namespace, [])
            return True
        async with namespace.delivery.turn:
            if missed is not None and not await self._read(missed, namespace):
                return False
            socket.offset = log.head(namespace.name)
            self._guest.enter(socket, namespace, missed.messages if missed is not None else [])
        return True

    def _socket(self, namespace: Namespace, missed: _Missed | None) -> Socket:
        session = self._guest.session
        recovers = namespace.delivery.log is not None and self._revision == 4
        if missed is not None:
            socket_id = missed.lost.id
        elif self._revision == 4:
            socket_id = secrets.token_urlsafe(_ID_BYTES)
        else:
            # How revision 3's clients know their id, which is not sent to them.
            socket_id = session.id if self._name == "/" else f"{self._name}#{session.id}"
        socket = Socket(
            socket_id,
            self._guest,
            namespace.delivery,
            Handshake(session.handshake, self._auth),
            ack_timeout=self._host.options.ack_timeout,
            pid=secrets.token_urlsafe(_ID_BYTES) if recovers else None,
        )
        if missed is not None:
            socket.pid = missed.lost.pid
            socket.data = missed.lost.data
            socket.recovered = True
            socket.join(*missed.lost.rooms)
        return socket

    async def _missed(self, namespace: Namespace) -> _Missed | None:
        """Find who the client was, and what it missed so far."""
        log = namespace.delivery.log
        pid, offset = self._auth.get("pid"), self._auth.get("offset")
        if log is None or self._revision == 3 or not isinstance(pid, str):
            return None
        if len(pid) > _PID_CHARACTERS or not isinstance(offset, str | None):
            return None
        former = namespace.by_pid.get(pid)
        if former is not None:
            # Its connection is dead and we have not heard, or its last handler still runs.
            former.supersede()
            await former.gone.wait()
        try:
            lost = await log.recall(namespace.name, pid)
            if lost is None:
                return None
            # Who has seen no event yet has no offset; then it goes on from where it came in.
            after = lost.offset if offset is None else offset
        except Exception as error:  # the log's boundary
            await self._host.failed(error, None, "recovery")
            return None
        missed = _Missed(lost, after, self._host.options.send_queue_bytes // 2)
        return missed if await self._read(missed, namespace) else None

    async def _read(self, missed: _Missed, namespace: Namespace) -> bool:
        try:
            return await missed.read(namespace)
        except Exception as error:  # the log's boundary
            await self._host.failed(error, None, "recovery")
            return False
