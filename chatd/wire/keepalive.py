"""Keep-alive of WebSockets: a silent peer is pinged, and one that stays silent is closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from chatd.model import SILENT
from chatd.settings import WebSocket as Options
from chatd.timers import check_due, ping_due

if TYPE_CHECKING:
    from chatd.wire.websocket import WebSocket

__all__ = ["KeepAlive"]


class KeepAlive:
    """The keep-alive of one connection; ``fire`` is its timer's callback.

    A peer that reads slowly gets the ping late. It is not silent as long as it takes what is sent
    before the ping.

    ``options`` is called each time, so that a reload reaches connections that are open.
    """

    __slots__ = ("_options", "_pinged", "_sent", "_waits", "_websocket")

    def __init__(self, websocket: WebSocket, options: Callable[[], Options]) -> None:
        self._websocket: Final = websocket
        self._options: Final = options
        self._pinged = float("-inf")
        # Whether the ping waited behind something else at the last look, and how much had been sent
        # then.
        self._waits = False
        self._sent = 0

    def fire(self, now: float) -> float | None:
        websocket, options = self._websocket, self._options()
        # While we are not reading, what the peer has sent is unknown.
        heard = now if websocket.busy else websocket.last_heard
        if (due := ping_due(heard, options.ping_interval_seconds)) > now:
            return due
        if self._pinged <= heard:
            self._pinged = now
            self._waits = websocket.ping()
        elif self._waits and websocket.outbox.sent_bytes != self._sent:
            self._waits = websocket.outbox.hastening
        else:
            websocket.end(SILENT)
            return None
        if self._waits:
            self._sent = websocket.outbox.sent_bytes
        return check_due(now, options.ping_timeout_seconds)
