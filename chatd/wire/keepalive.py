"""Keep-alive of WebSockets: a silent peer is pinged, and one that stays silent is closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from chatd.model import SILENT
from chatd.settings import WebSocket as Options

if TYPE_CHECKING:
    from chatd.wire.websocket import WebSocket

__all__ = ["KeepAlive"]


class KeepAlive:
    """The keep-alive of one connection; ``fire`` is its timer's callback.

    ``options`` is called each time, so that a reload reaches connections that are open.
    """

    __slots__ = ("_options", "_pinged", "_websocket")

    def __init__(self, websocket: WebSocket, options: Callable[[], Options]) -> None:
        self._websocket: Final = websocket
        self._options: Final = options
        self._pinged = float("-inf")

    def fire(self, now: float) -> float | None:
        websocket, options = self._websocket, self._options()
        # While we are not reading, what the peer has sent is unknown.
        heard = now if websocket.busy else websocket.last_heard
        if heard + options.ping_interval_seconds > now:
            return heard + options.ping_interval_seconds
        if self._pinged <= heard:
            self._pinged = now
            websocket.ping()
            return now + options.ping_timeout_seconds
        websocket.end(SILENT)
        return None
