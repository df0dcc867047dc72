"""The limits of connections, in all and from one address. Sans-IO.

A connection is counted when it is accepted. Behind a proxy the client's address is known only
after the PROXY header or a request's head, and on a connection that the proxy keeps open it may
change with each request, so the connection is then counted again.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from chatd.settings import Limits
from chatd.wire.request import Response, refusal
from chatd.wire.transport import Peer

__all__ = ["ConnectionLimiter", "ConnectionSlot"]

_RETRY: Final = (("Retry-After", "10"),)


class ConnectionLimiter:
    """Counts connections. ``limits`` may be replaced: later connections are held to the new ones.

    ``open`` is how many there are.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.open = 0
        self._by_key: Counter[str] = Counter()

    def take(self) -> ConnectionSlot:
        """Count one more connection, for no address yet."""
        return ConnectionSlot(self, self._by_key)


class ConnectionSlot:
    """One counted connection, until `release`.

    Attributes:
        refusal: The answer to its requests if it exceeds a limit, else None.
        excess: By how many connections the limit is exceeded.
    """

    __slots__ = ("_by_key", "_key", "_limiter", "excess", "refusal")

    def __init__(self, limiter: ConnectionLimiter, by_key: Counter[str]) -> None:
        self._limiter = limiter
        self._by_key = by_key
        self._key = ""
        limiter.open += 1
        self.refusal: Response | None = None
        self.excess = limiter.open - limiter.limits.connections
        if self.excess > 0:
            message = "Too many connections. Try again in 10 seconds."
            self.refusal = refusal(503, message, _RETRY)

    def count_for(self, peer: Peer) -> Response | None:
        """Count the connection for ``peer`` instead. Return `refusal`."""
        key = peer.limit_key
        if key != self._key:
            self._uncount()
            self._key = key
            if key:
                self._by_key[key] += 1
                self._check(self._by_key[key])
        return self.refusal

    def release(self) -> None:
        """Stop counting the connection."""
        self._limiter.open -= 1
        self._uncount()

    def _check(self, count: int) -> None:
        allowed = self._limiter.limits.connections_per_address
        if self.refusal is None and allowed != "off" and count > allowed:
            self.excess = count - allowed
            message = "Too many connections from your address. Close some, then try again."
            self.refusal = refusal(429, message, _RETRY)

    def _uncount(self) -> None:
        if self._key:
            self._by_key[self._key] -= 1
            if not self._by_key[self._key]:
                del self._by_key[self._key]
