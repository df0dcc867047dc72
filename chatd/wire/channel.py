"""A connection after its HTTP request: a WebSocket, or a response that does not end.

Both have an outbox and tasks of their gateway, and end once, by `Channel.end`, which may be called
from anywhere. Closing has one deadline.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ClassVar

import trio

from chatd.logs import Log
from chatd.model import INTERNAL, LOST, TOO_SLOW, Close
from chatd.settings import Settings
from chatd.wire.outbox import Outbox
from chatd.wire.transport import Transport

if TYPE_CHECKING:
    from chatd.wire.limiter import ConnectionSlot

__all__ = ["Channel"]


class Channel(ABC):
    """One connection, as its gateway and the server see it.

    Attributes:
        kind: Its transport in the log.
        id: The connection's id in the log.
        received_bytes: How many bytes have been read.
        closing: None until `end` is called, then the close and its reason.
    """

    kind: ClassVar[str]

    __slots__ = (
        "_address",
        "_log",
        "_nursery",
        "_path",
        "_reading",
        "_settings",
        "_slot",
        "_transport",
        "closing",
        "id",
        "outbox",
        "received_bytes",
    )

    _nursery: trio.Nursery
    outbox: Outbox

    def __init__(
        self,
        transport: Transport,
        connection: str,
        address: str,
        path: str,
        *,
        slot: ConnectionSlot,
        settings: Settings,
        log: Log,
    ) -> None:
        self.id = connection
        self.received_bytes = 0
        self.closing: tuple[Close, str] | None = None
        self._address = address
        self._path = path
        self._transport = transport
        self._slot = slot if slot.limited else None
        self._settings = settings
        self._log = log
        self._reading: trio.CancelScope | None = None

    def end(self, close: Close, reason: str | None = None) -> None:
        """Close the connection. The first call counts. Returns at once."""
        if self.closing is None:
            self.closing = (close, close.reason if reason is None else reason)
            if self._reading is not None:
                self._reading.cancel()

    def start_soon(self, job: Callable[[], Awaitable[None]]) -> None:
        """Run a task of the gateway's until it returns or the connection ends.

        An exception that it raises is logged and closes the connection with 1011.
        """
        self._nursery.start_soon(self._guarded, job)

    def fault(self, error: BaseException) -> None:
        """Log an exception of the gateway's and close the connection with 1011."""
        self._log.fault(
            error,
            connection=self.id,
            address=self._address,
            transport=self.kind,
            detail=self._path,
        )
        self.end(INTERNAL)

    async def run(self) -> None:
        """Serve the connection. Its transport is closed when this returns."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.outbox = Outbox(
                    self._transport,
                    nursery,
                    self._send_queue_bytes(),
                    overflowed=self._overflowed,
                    lost=self._lost,
                )
                try:
                    await self._serve()
                    with trio.move_on_after(self._settings.limits.close_seconds):
                        await self._close()
                finally:
                    # Before the nursery closes: see the outbox's first MUST.
                    self.outbox.end()
                    nursery.cancel_scope.cancel()
        except* Exception as group:  # the connection's boundary
            self.fault(group)
        finally:
            try:
                await self._transport.aclose()
            finally:
                self._ended()

    def _send_queue_bytes(self) -> int:
        return self._settings.limits.send_queue_bytes

    @abstractmethod
    async def _serve(self) -> None:
        """Serve the connection until either side ends it."""

    @abstractmethod
    async def _close(self) -> None:
        """Say goodbye. This may be cancelled."""

    @abstractmethod
    def _ended(self) -> None:
        """Tell the gateway that the connection has ended. Called once and last."""

    def _overflowed(self) -> None:
        self.end(TOO_SLOW)

    def _lost(self) -> None:
        self.end(LOST)

    async def _guarded(self, job: Callable[[], Awaitable[None]]) -> None:
        try:
            await job()
        except Exception as error:  # the connection's boundary
            self.fault(error)
