"""Why a session ends, and what a WebSocket is closed with for it."""

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
"""Why a session ended, in Node's words; "too slow", the bound of what waits, is ours alone."""

CLOSES: Final[dict[Reason, Close]] = {
    "transport error": model.PROTOCOL_ERROR,
    "transport close": model.NORMAL,
    "forced close": model.NORMAL,
    "ping timeout": model.SILENT,
    "parse error": model.PROTOCOL_ERROR,
    "server shutting down": model.GOING_AWAY,
    "too slow": model.TOO_SLOW,
}

GRACEFUL: Final = ("forced close", "server shutting down")
"""The client is there and did nothing wrong: it gets what waits before it is sent away."""

# What the wire ends a WebSocket for by itself.
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
    """There is nobody to send to any more; ``reason`` says why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def reason_of(close: Close, *, by_peer: bool) -> Reason:
    """Say why a session ends whose WebSocket ended so."""
    return "transport close" if by_peer else _REASONS.get(close.code, "forced close")
