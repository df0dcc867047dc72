"""The exceptions of a Socket.IO server."""

from __future__ import annotations

from typing import Any

__all__ = ["Disconnected", "NotRecovered", "PacketError", "Refused"]


class PacketError(ValueError):
    """A packet breaks the protocol. The connection that sent it is closed."""


class Refused(Exception):  # noqa: N818 - it is an answer, not an error
    """Raise it in middleware to refuse a connection or a socket, or to drop an event.

    A client that is refused gets a CONNECT_ERROR: its ``connect_error`` listener is called with
    ``err.message`` and ``err.data``. Clients 1.x and 2.x get an ``error`` with ``data`` if there is
    any, else with ``message``. A client whose event is dropped is not notified.

    Args:
        message: Sent as ``err.message``; default ``"refused"``.
        data: Sent as ``err.data``: what JSON has; default None: none.
    """

    def __init__(self, message: str = "refused", data: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.data = data


class NotRecovered(Exception):  # noqa: N818 - it is an answer, not an error
    """Raise it in middleware for a socket that has recovered, to let it in as a new socket instead.

    The middleware then runs again, for the new socket.
    """


class Disconnected(Exception):  # noqa: N818 - the protocol's word for it
    """Raised by ``call`` if the socket is disconnected, before or during the wait.

    Attributes:
        reason: Why, as its ``disconnect`` handlers get it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
