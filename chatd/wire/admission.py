"""How many connections there may be: in all, and from one address. Sans-IO.

A connection is counted when it is accepted. Where a proxy speaks for somebody, whom it counts for
is known only from its PROXY header or a request's head, and on a connection that a proxy keeps it
may be another one with each request: it is counted anew then.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from chatd.settings import Limits
from chatd.wire.request import Response, refusal
from chatd.wire.transport import Peer

__all__ = ["Admission", "Visit"]

_RETRY: Final = (("Retry-After", "10"),)


class Admission:
    """Counts who is there. ``limits`` may be replaced: who comes then is judged by the new ones."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.open = 0
        self._by_address: Counter[str] = Counter()

    def enter(self) -> Visit:
        """Count one connection more, for nobody yet."""
        return Visit(self, self._by_address)


class Visit:
    """One connection, from ``Admission.enter`` to ``leave``.

    ``refusal`` is the answer where it is one too many, and ``over`` by how many it is.
    """

    __slots__ = ("_address", "_admission", "_by_address", "over", "refusal")

    def __init__(self, admission: Admission, by_address: Counter[str]) -> None:
        self._admission = admission
        self._by_address = by_address
        self._address = ""
        admission.open += 1
        self.refusal: Response | None = None
        self.over = admission.open - admission.limits.connections
        if self.over > 0:
            message = "Too many connections; come back in a while."
            self.refusal = refusal(503, message, _RETRY)

    def count_for(self, peer: Peer) -> Response | None:
        """Count it for ``peer`` from now on, and for whom it was counted no more.

        Gives the answer where it is one too many.
        """
        address = peer.counted_as
        if address != self._address:
            self._uncount()
            self._address = address
            if address:
                self._by_address[address] += 1
                self._judge(self._by_address[address])
        return self.refusal

    def leave(self) -> None:
        """Count it no more."""
        self._admission.open -= 1
        self._uncount()

    def _judge(self, count: int) -> None:
        allowed = self._admission.limits.connections_per_address
        if self.refusal is None and allowed != "off" and count > allowed:
            self.over = count - allowed
            self.refusal = refusal(429, "Too many connections from your address.", _RETRY)

    def _uncount(self) -> None:
        if self._address:
            self._by_address[self._address] -= 1
            if not self._by_address[self._address]:
                del self._by_address[self._address]
