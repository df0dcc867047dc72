"""An audience: some of a namespace's sockets, and what can be said to and done with all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, Protocol, TypeVar

from chatd.socketio.acks import Answers
from chatd.socketio.delivery import Delivery, Member, Selection

__all__ = ["Audience", "Broadcast", "Listener"]


class Listener(Member, Protocol):
    """A member that can be sent away."""

    def disconnect(self, close: bool = False) -> None: ...


S = TypeVar("S", bound=Listener)


class Audience(Generic[S]):
    """Whom an event is for. Narrowing gives a new audience, this one stays as it is."""

    def _all(self) -> Broadcast[S]:
        """Give everybody here: what a subclass says."""
        raise NotImplementedError

    def to(self, *rooms: str) -> Broadcast[S]:
        """Mean the members of any of these rooms, beside those already meant.

        A socket's id is a room of its own.
        """
        return self._all().to(*rooms)

    def except_(self, *rooms: str) -> Broadcast[S]:
        """Leave out who is in any of these rooms."""
        return self._all().except_(*rooms)

    @property
    def volatile(self) -> Broadcast[S]:
        """Mean only those for whom nothing waits to be sent; nor is the event logged."""
        return self._all().volatile

    def timeout(self, seconds: float) -> Broadcast[S]:
        """Wait so long for acknowledgements."""
        return self._all().timeout(seconds)

    async def emit(self, event: str, *args: Any) -> None:
        """Send an event to everybody meant.

        Returns when it is logged (where sockets recover) and handed to every outbox; never waits
        for a client. ``args`` are what JSON takes and bytes, anywhere in them; dataclasses, dates
        and the like become what msgspec makes of them. Raises TypeError for anything else, and
        ValueError for a reserved name or text that is no Unicode.
        """
        await self._all().emit(event, *args)

    async def call(self, event: str, *args: Any) -> Answers:
        """Send an event to everybody meant and gather their acknowledgements.

        Gives ``(socket_id, value)`` pairs in the order they came, a value as ``Socket.call`` gives
        it, and in ``.missing`` the ids of who did not answer within the time (``timeout``; else
        the server's ``ack_timeout``) or went. Raises only what is wrong with ``args``, as ``emit``.
        """
        return await self._all().call(event, *args)

    def fetch_sockets(self) -> list[S]:
        """List everybody meant."""
        return self._all().fetch_sockets()

    def sockets_join(self, *rooms: str) -> None:
        """Make everybody meant join rooms."""
        self._all().sockets_join(*rooms)

    def sockets_leave(self, *rooms: str) -> None:
        """Make everybody meant leave rooms."""
        self._all().sockets_leave(*rooms)

    def disconnect_sockets(self, close: bool = False) -> None:
        """Disconnect everybody meant; ``close`` as in ``Socket.disconnect``."""
        self._all().disconnect_sockets(close)


class Broadcast(Audience[S]):
    """Some of a namespace's sockets."""

    __slots__ = ("_delivery", "_seconds", "_selection", "_volatile")

    def __init__(
        self,
        delivery: Delivery[S],
        seconds: float,
        selection: Selection = Selection(),  # noqa: B008 - frozen
        *,
        volatile: bool = False,
    ) -> None:
        self._delivery = delivery
        self._seconds = seconds
        self._selection = selection
        self._volatile = volatile

    def _all(self) -> Broadcast[S]:
        return self

    def _narrowed(self, rooms: Iterable[str] = (), but: Iterable[str] = ()) -> Broadcast[S]:
        selection = Selection(self._selection.rooms.union(rooms), self._selection.but.union(but))
        return Broadcast(self._delivery, self._seconds, selection, volatile=self._volatile)

    def to(self, *rooms: str) -> Broadcast[S]:
        return self._narrowed(rooms)

    def except_(self, *rooms: str) -> Broadcast[S]:
        return self._narrowed((), rooms)

    @property
    def volatile(self) -> Broadcast[S]:
        return Broadcast(self._delivery, self._seconds, self._selection, volatile=True)

    def timeout(self, seconds: float) -> Broadcast[S]:
        return Broadcast(self._delivery, seconds, self._selection, volatile=self._volatile)

    async def emit(self, event: str, *args: Any) -> None:
        await self._delivery.emit(self._selection, event, args, volatile=self._volatile)

    async def call(self, event: str, *args: Any) -> Answers:
        return await self._delivery.gather(self._selection, event, args, self._seconds)

    def fetch_sockets(self) -> list[S]:
        return self._delivery.select(self._selection)

    def sockets_join(self, *rooms: str) -> None:
        for socket in self.fetch_sockets():
            self._delivery.rooms.join(socket, rooms)

    def sockets_leave(self, *rooms: str) -> None:
        for socket in self.fetch_sockets():
            self._delivery.rooms.leave(socket, rooms)

    def disconnect_sockets(self, close: bool = False) -> None:
        for socket in self.fetch_sockets():
            socket.disconnect(close)
