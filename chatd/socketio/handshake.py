"""How a socket came: its connection's first request, and what it gave to be let in."""

from __future__ import annotations

import time
from typing import Any

from chatd import engineio

__all__ = ["Handshake"]


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
