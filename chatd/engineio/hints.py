"""Warnings that name a cause which somebody can remove, each at most once a minute."""

from __future__ import annotations

from typing import Final, Unpack

import trio

from chatd.logs import Fields, Log

__all__ = ["Hints"]

# A client that fails connects again every few seconds, and there may be thousands of them.
_SECONDS: Final = 60.0


class Hints:
    """The warnings of one server.

    Args:
        log: Where they are written.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        # When a cause was last named, on Trio's clock.
        self._named: dict[str, float] = {}

    def warn(self, cause: str, **fields: Unpack[Fields]) -> None:
        """Write a warning, unless this cause was named less than a minute ago.

        Args:
            cause: Identifies the cause. Never taken from what a client sends: causes are kept.
            fields: The fields of the warning. ``detail`` says what happens, why, and what to do.
        """
        now = trio.current_time()
        if now - self._named.get(cause, -_SECONDS) >= _SECONDS:
            self._named[cause] = now
            self._log.emit("warning", **fields)
