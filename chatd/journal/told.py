"""What a store tells the operator, and how."""

from __future__ import annotations

from typing import Literal, Protocol

__all__ = ["OperatorLog"]


class OperatorLog(Protocol):
    """Hears what the operator should know of a store. Called in the loop, never in a thread.

    ``store`` comes with ``state`` (``slow``, ``quick``, ``failed``, ``recovered``, ``renewed`` or
    ``filling``) and ``detail`` for people; ``retention`` with what went and the size before.
    """

    def __call__(
        self,
        event: Literal["store", "retention"],
        /,
        *,
        state: str | None = None,
        detail: str | None = None,
        seconds: float | None = None,
        events: int | None = None,
        store_bytes: int | None = None,
    ) -> None: ...
