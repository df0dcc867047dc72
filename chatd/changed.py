"""A wake-up for tasks that wait until a condition holds."""

from __future__ import annotations

from trio.lowlevel import ParkingLot

__all__ = ["Changed"]


class Changed:
    """Wakes every waiting task each time that something has changed.

    A change is not remembered, so the waiting task looks again each time, without a checkpoint
    between looking and waiting::

        while not condition():
            await changed.wait()
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        # A connection has several, and no task ever waits for most of them.
        self._waiting: ParkingLot | None = None

    def notify(self) -> None:
        """Wake every task that is waiting now."""
        if self._waiting is not None:
            self._waiting.unpark_all()

    async def wait(self) -> None:
        """Wait for the next `notify`."""
        if self._waiting is None:
            self._waiting = ParkingLot()
        await self._waiting.park()
