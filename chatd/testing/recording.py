"""A sink of the log that keeps the lines in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

__all__ = ["Recording"]


class Recording:
    """A `chatd.logs.Sink` that keeps the JSON lines in ``lines``."""

    dropped = 0
    waiting = 0

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    @property
    def records(self) -> list[tuple[str, dict[str, Any]]]:
        """Each line as (name, fields), without its level and time."""
        found = []
        for line in self.lines:
            fields = msgspec.json.decode(line, type=dict[str, Any])
            del fields["level"], fields["at"]
            found.append((fields.pop("event"), fields))
        return found

    def write(self, entries: Sequence[bytes]) -> None:
        """Keep the lines."""
        self.lines += entries

    async def run(self) -> None:
        """Return at once: it never has to wait."""

    def close(self, seconds: float) -> None:
        """Do nothing."""
