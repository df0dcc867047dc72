"""A broadcast: some of a namespace's sockets, and what can be done with all of them at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from chatd.socketio.acks import Answers
from chatd.socketio.delivery import Delivery, Selection

if TYPE_CHECKING:
    from chatd.socketio.socket import Socket

__all__ = ["Broadcast"]


class Broadcast:
    """Some of a namespace's sockets, and what is sent to or done with all of them.

    ``Namespace`` and ``Server`` are broadcasts to everybody; ``to`` and ``except_`` make narrower
    ones, and ``socket.broadcast`` is everybody but that socket. A broadcast never changes: each
    method that narrows it returns a new one. The sockets are looked up when something is sent.
    """

    __slots__ = ("_delivery", "_seconds", "_selection", "_volatile")

    def __init__(
        self,
        delivery: Delivery,
        seconds: float,
        selection: Selection = Selection(),  # noqa: B008 - frozen
        *,
        volatile: bool = False,
    ) -> None:
        self._delivery = delivery
        self._seconds = seconds
        self._selection = selection
        self._volatile = volatile

    def __class_getitem__(cls, _item: object) -> type[Broadcast]:
        warnings.warn("Broadcast is not generic any more", DeprecationWarning, stacklevel=2)
        return cls

    def to(self, *rooms: str) -> Broadcast:
        """Return a broadcast to the members of any of these rooms.

        Args:
            rooms: Names of rooms; the id of a socket is the name of a room that it alone is in.
                They are added to the rooms that this broadcast has already; a socket that is in
                several of them gets an event once.
        """
        return self._narrowed(rooms)

    def except_(self, *rooms: str) -> Broadcast:
        """Return a broadcast without the members of any of these rooms."""
        return self._narrowed((), rooms)

    @property
    def volatile(self) -> Broadcast:
        """The same broadcast, skipping sockets that still have something waiting to be sent.

        A volatile event is not logged for recovery.
        """
        return Broadcast(self._delivery, self._seconds, self._selection, volatile=True)

    def timeout(self, seconds: float) -> Broadcast:
        """Return the same broadcast with another time limit for ``call``."""
        return Broadcast(self._delivery, seconds, self._selection, volatile=self._volatile)

    async def emit(self, event: str, *args: Any) -> None:
        """Send an event to all of them.

        Returns when the event is logged (where the server has ``recovery``) and in the send queue
        of each socket. It never waits for a client.

        Args:
            event: The event's name.
            args: Its arguments: what JSON has, and bytes anywhere in it. What ``json.dumps`` takes
                is sent as that writes it, numpy.float64 for example; dataclasses, dates, enums and
                so on as msgspec converts them; a tuple as an array; NaN as null. Other types need
                the server's ``enc_hook``.

        Raises:
            TypeError: An argument is of a type that cannot be sent.
            ValueError: The name is reserved (see `chatd.socketio.packets.RESERVED`), a string is
                not valid Unicode, or an argument contains itself.
        """
        await self._delivery.emit(self._selection, event, args, volatile=self._volatile)

    async def call(self, event: str, *args: Any) -> Answers:
        """Send an event to all of them and wait for their acknowledgements.

        Args:
            event: The event's name.
            args: Its arguments, as for ``emit``.

        Returns:
            ``(socket_id, value)`` pairs in the order in which they arrived, each value as
            `Socket.call` returns it. Its attribute ``missing`` has the ids of the sockets that did
            not answer in time (the server's ``ack_timeout``, or that of ``timeout``) or left.

        Raises:
            TypeError: As ``emit``.
            ValueError: As ``emit``.
        """
        return await self._delivery.call_all(self._selection, event, args, self._seconds)

    def fetch_sockets(self) -> list[Socket]:
        """Return the sockets, in the order in which they connected or joined the room."""
        return self._delivery.select(self._selection)

    def sockets_join(self, *rooms: str) -> None:
        """Add all of them to these rooms."""
        for socket in self.fetch_sockets():
            self._delivery.rooms.join(socket, rooms)

    def sockets_leave(self, *rooms: str) -> None:
        """Remove all of them from these rooms."""
        for socket in self.fetch_sockets():
            self._delivery.rooms.leave(socket, rooms)

    def disconnect_sockets(self, close: bool = False) -> None:
        """Disconnect all of them.

        Args:
            close: False: from the namespace; True: close their connections. See
                `Socket.disconnect`.
        """
        for socket in self.fetch_sockets():
            socket.disconnect(close)

    def _narrowed(self, rooms: Iterable[str] = (), exclude: Iterable[str] = ()) -> Broadcast:
        selection = Selection(
            self._selection.rooms.union(rooms), self._selection.exclude.union(exclude)
        )
        return Broadcast(self._delivery, self._seconds, selection, volatile=self._volatile)
