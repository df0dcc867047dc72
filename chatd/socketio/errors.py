"""What goes wrong between a server and its clients, as exceptions."""

from __future__ import annotations

from typing import Any

__all__ = ["Disconnected", "NotRecovered", "PacketError", "Refused"]


class PacketError(ValueError):
    """A packet breaks the protocol; what sent it is not to be trusted with another."""


class Refused(Exception):  # noqa: N818 - it is an answer, not an error
    """Raised by middleware: the client may not come in, or its event is not handled.

    To a client that asks for a namespace ``message`` and ``data`` are sent (CONNECT_ERROR); its
    ``connect_error`` listener gets them as ``err.message`` and ``err.data``. Clients of Socket.IO 1
    and 2 get ``data`` if there is any, else ``message``.
    """

    def __init__(self, message: str = "refused", data: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.data = data


class NotRecovered(Exception):  # noqa: N818 - it is an answer, not an error
    """Raised by middleware for a socket that recovered: its client is let in as somebody new.

    The middleware then runs again, for the new socket.
    """


class Disconnected(Exception):  # noqa: N818 - the protocol's word for it
    """The socket is gone, or went while an acknowledgement was waited for.

    ``reason`` is what its ``disconnect`` handlers are given.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
