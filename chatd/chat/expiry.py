"""The end of a token, and of the connection that was opened with it: a callback of a timer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from chatd.chat.tokens import Grant
from chatd.model import UNAUTHORIZED
from chatd.protocol import events

if TYPE_CHECKING:
    from chatd.chat.connection import Connection

__all__ = ["Expiry"]

NOTICE_SECONDS: Final = 60.0
NOTICE_SHARE: Final = 0.1
"""Warn this long before expiry, but at most this fraction of the token's lifetime."""

LOOK_SECONDS: Final = 60.0
"""The wall clock is read at least this often, because it may be set."""

CLOCK_SECONDS: Final = 0.001
"""The resolution of the wall clock. A shorter wait would not be seen to have passed."""


class Expiry:
    """Warns a connection before its token expires, and ends it then."""

    def __init__(self, connection: Connection, grant: Grant) -> None:
        self._connection = connection
        self._expires = grant.expires
        self._notice = min(NOTICE_SECONDS, grant.lifetime / 1000 * NOTICE_SHARE)
        self._warned = False

    def fire(self, now: float) -> float | None:
        connection = self._connection
        left = (self._expires - connection.chat.now()) / 1000
        if left <= 0:
            connection.end(UNAUTHORIZED, "your token has expired")
            return None
        if left > self._notice:
            return now + min(max(left - self._notice, CLOCK_SECONDS), LOOK_SECONDS)
        if not self._warned:
            self._warned = True
            when = "a second" if left < 1.5 else f"{left:.0f} seconds"
            text = f"Your token expires in {when}. Send a new one with auth."
            connection.notify(events.Notice(text, do="auth"))
        return now + min(left, LOOK_SECONDS)
