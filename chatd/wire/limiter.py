"""The limits of connections, in all and from one address; how much an address takes of the loop.

A connection is counted when it is accepted. Behind a proxy the client's address is known only
after the PROXY header or a request's head, and on a connection that the proxy keeps open it may
change with each request, so the connection is then counted again.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

import trio

from chatd.budgets import Pace
from chatd.settings import Limits
from chatd.wire.request import Response, refusal
from chatd.wire.transport import Peer

__all__ = ["ConnectionLimiter", "ConnectionSlot"]

_RETRY: Final = (("Retry-After", "10"),)

# Addresses without connections are kept until they have paid for what they took: 200 bytes each.
_LEFT: Final = 10_000
_LOOKS: Final = 8


class _Address:
    """An address: its number of connections, and what they took of the loop's time."""

    __slots__ = ("connections", "pace")

    def __init__(self) -> None:
        self.connections = 0
        self.pace = Pace()


class ConnectionLimiter:
    """Counts connections. ``limits`` may be replaced: later connections are held to the new ones.

    ``open`` is how many there are.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.open = 0
        self._addresses: dict[str, _Address] = {}
        # Those without connections, the longest without first.
        self._left: dict[str, None] = {}

    def take(self) -> ConnectionSlot:
        """Count one more connection, for no address yet."""
        return ConnectionSlot(self)

    # For the slots

    def enter(self, key: str) -> _Address:
        """Count a connection of an address."""
        address = self._addresses.get(key)
        if address is None:
            self._forget()
            address = self._addresses[key] = _Address()
        self._left.pop(key, None)
        address.connections += 1
        return address

    def leave(self, key: str) -> None:
        """Stop counting a connection of an address."""
        address = self._addresses[key]
        address.connections -= 1
        if not address.connections:
            self._left[key] = None

    def _forget(self) -> None:
        for key in list(islice(self._left, _LOOKS)):
            if self._addresses[key].pace.idle or len(self._left) > _LEFT:
                del self._left[key], self._addresses[key]


class ConnectionSlot:
    """One counted connection, until `release`.

    Attributes:
        refusal: The answer to its requests if it exceeds a limit, else None.
        excess: By how many connections the limit is exceeded.
    """

    __slots__ = ("_address", "_key", "_limiter", "excess", "refusal")

    def __init__(self, limiter: ConnectionLimiter) -> None:
        self._limiter = limiter
        self._key = ""
        self._address: _Address | None = None
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
                self._address = self._limiter.enter(key)
                self._check(self._address.connections)
        return self.refusal

    @property
    def limited(self) -> bool:
        """Whether its client has an address that limits apply to."""
        return self._address is not None

    def charge(self, seconds: float) -> float:
        """Take this much of the loop's time, as `chatd.budgets` says what things cost.

        Return the seconds to wait first, because the client's address has taken more than its
        share; 0 for exempt clients.
        """
        if self._address is None:
            return 0
        pace = self._address.pace
        debt = pace.debt
        pace.spend(seconds, self._limiter.limits.share_per_address)
        return debt

    async def spend(self, seconds: float) -> None:
        """Take this much of the loop's time, once the address has paid for what it took before."""
        if debt := self.charge(seconds):
            await trio.sleep(debt)

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
            self._limiter.leave(self._key)
            self._key, self._address = "", None
