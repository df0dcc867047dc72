"""The end of a token, and of the connection that was opened with it: a callback of a timer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from chatd.chat.tokens import Grant
from chatd.model import UNAUTHORIZED, Close
from chatd.protocol import events

__all__ = ["Expiry"]

NOTICE_SECONDS: Final = 60.0
NOTICE_SHARE: Final = 0.1
"""So long before its end, but not more than this part of its life, a token's end is told."""

LOOK_SECONDS: Final = 60.0
"""At least this often it is looked at: a token ends by the wall clock, which may be set."""


class Bearer(Protocol):
    """A connection, as far as its end is concerned."""

    @property
    def end(self) -> Callable[[Close, str], None]: ...

    def tell(self, *items: Any) -> None: ...


class Expiry:
    """Tells a connection that its token is about to end, and ends it with it.

    ``wall`` gives the time in ms since 1970.
    """

    def __init__(self, bearer: Bearer, grant: Grant, wall: Callable[[], int]) -> None:
        self._bearer = bearer
        self._expires = grant.expires
        self._notice = min(NOTICE_SECONDS, grant.lifetime / 1000 * NOTICE_SHARE)
        self._told = False
        self._wall = wall

    def fire(self, now: float) -> float | None:
        left = (self._expires - self._wall()) / 1000
        if left <= 0:
            self._bearer.end(UNAUTHORIZED, "your token has expired")
            return None
        if left > self._notice:
            return now + min(left - self._notice, LOOK_SECONDS)
        if not self._told:
            self._told = True
            when = "a second" if left < 1.5 else f"{left:.0f} seconds"
            text = f"your token expires in {when}; give a new one by auth"
            self._bearer.tell(events.Notice(text, do="auth"))
        return now + min(left, LOOK_SECONDS)
