"""The daemon as it is administered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from chatd.admin.answers import Draining, Refused, Reloaded, ReloadState
from chatd.chat import Chat
from chatd.engineio.engine import EngineStatistics
from chatd.logs import Log
from chatd.wire.server import ServerStatistics

__all__ = ["Control"]


class Control(Protocol):
    """What the endpoints and the metrics read, and what they may do."""

    @property
    def chat(self) -> Chat: ...

    @property
    def log(self) -> Log: ...

    @property
    def now(self) -> Callable[[], int]:
        """The wall clock's milliseconds."""
        ...

    @property
    def began(self) -> float:
        """When it began, on Trio's clock."""
        ...

    @property
    def ready(self) -> bool:
        """Whether new clients are welcome."""
        ...

    @property
    def draining(self) -> bool: ...

    @property
    def reloads(self) -> ReloadState | None:
        """What became of the last reload."""
        ...

    def http(self) -> ServerStatistics:
        """Tell of the public port."""
        ...

    def engine(self) -> EngineStatistics:
        """Tell of Engine.IO's sessions."""
        ...

    async def reload(self) -> Reloaded | Refused:
        """Read the configuration again; return when it is in force, or refused."""
        ...

    def drain(self) -> Draining:
        """Begin to end, gently."""
        ...
