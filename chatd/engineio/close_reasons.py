"""Why a session ends, and what its WebSocket is closed with."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from chatd import model
from chatd.model import Close

__all__ = ["CLOSES", "GRACEFUL", "Reason", "SessionClosed", "reason_of"]

Reason: TypeAlias = Literal[
    "transport error",
    "transport close",
    "forced close",
    "ping timeout",
    "parse error",
    "server shutting down",
    "too slow",
]
"""Why a session ended, in Node's words. ``"too slow"`` is this server's own: the client did not
read, and its send queue was full."""

CLOSES: Final[dict[Reason, Close]] = {
    "transport error": model.PROTOCOL_ERROR,
    "transport close": model.NORMAL,
    "forced close": model.NORMAL,
    "ping timeout": model.SILENT,
    "parse error": model.PROTOCOL_ERROR,
    "server shutting down": model.GOING_AWAY,
    "too slow": model.TOO_SLOW,
}
"""The close code of a WebSocket, by the reason for which the session ends."""

GRACEFUL: Final = ("forced close", "server shutting down")
"""Reasons for which the send queue is still sent before the session is closed."""

# For the closes that the wire makes by itself.
_REASONS: Final[dict[int, Reason]] = {
    model.LOST.code: "transport close",
    model.TOO_SLOW.code: "too slow",
    model.SILENT.code: "ping timeout",
    model.GOING_AWAY.code: "server shutting down",
    model.PROTOCOL_ERROR.code: "transport error",
    model.INVALID_TEXT.code: "transport error",
    model.TOO_BIG.code: "transport error",
    model.INTERNAL.code: "transport error",
}


class SessionClosed(Exception):  # noqa: N818 - Trio's closed resources are named so too
    """Raised for a message that is sent to a session that has ended.

    Attributes:
        reason: Why the session ended.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def reason_of(close: Close, *, by_peer: bool) -> Reason:
    """Return the reason for which a session ends whose WebSocket was closed so."""
    return "transport close" if by_peer else _REASONS.get(close.code, "forced close")
