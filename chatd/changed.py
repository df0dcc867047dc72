"""A wake-up for tasks that wait until a condition holds."""

from __future__ import annotations

from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

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
        # A connection has several, and no task ever waits for most of them. Trio's ParkingLot does
        # the same, but takes 5 µs to wake one task.
        self._waiting: dict[Task, None] | None = None

    @property
    def awaited(self) -> bool:
        """Whether a task waits and has been neither woken nor cancelled."""
        return bool(self._waiting)

    def notify(self) -> None:
        """Wake every task that is waiting now."""
        if self._waiting:
            woken, self._waiting = self._waiting, None
            for task in woken:
                reschedule(task)

    async def wait(self) -> None:
        """Wait for the next `notify`."""
        if self._waiting is None:
            self._waiting = {}
        task, waiting = current_task(), self._waiting
        waiting[task] = None

        def abort(_raise_cancel: object) -> Abort:
            del waiting[task]
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)
