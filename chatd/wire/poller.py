"""The poller: one task that calls a plain function for each socket that becomes readable.

With `trio.lowlevel.wait_readable` each message costs a change of Trio's epoll set, a task switch
and a turn of the scheduler: 7 of the 10 µs of a bare echo on 50 busy connections. Here a socket
stays in an epoll set of our own, and what it brings is handled without leaving the poller's task::

    connection's task                 poller's task
    ─────────────────                 ─────────────
    await watch(socket, ready) ─────► ready(now), whenever the socket is readable
    returns ◄──────────────────────── it returned False, or raised

These MUST hold:

1. No coroutine runs here. What has to wait is left to the connection's task, which `watch` then
   wakes, and nothing more is read until it calls `watch` again.
2. A socket is in the epoll set only while its task waits in `watch`: not after it was cancelled,
   woken or told that the socket closes. A descriptor that is used again brings no old event.
3. ``ready`` has the context variables of its connection's task, and an exception is raised there.
4. Other tasks run after 2 ms.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from time import perf_counter
from typing import Final, TypeAlias

import trio
from trio.lowlevel import Abort, RaiseCancelT, RunVar, Task

__all__ = ["Poller", "Ready", "current_poller"]

Ready: TypeAlias = Callable[[float], bool]
"""Called when the socket is readable, seldom when it is not. Returns whether to go on watching.

Its argument is the time on Trio's clock, which is read once for all sockets of a slice.
"""

_SLICE_SECONDS: Final = 0.002
# The most sockets that one call returns as readable.
_EVENTS: Final = 256


class _Watch:
    """A task that waits, and the function that is called meanwhile."""

    __slots__ = ("cancelled", "error", "ready", "task")

    def __init__(self, task: Task, ready: Ready) -> None:
        self.task = task
        self.ready = ready
        self.cancelled = False
        self.error: Exception | SystemExit | None = None


class Poller:
    """Watches sockets. `run` owns its task."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watches: dict[int, _Watch] = {}
        self._called: _Watch | None = None

    async def watch(self, descriptor: int, ready: Ready) -> None:
        """Call ``ready`` whenever a socket is readable or broken, until it returns False.

        If ``ready`` itself does something that cancels the task, this returns nevertheless, so that
        what is left to the task is not lost. The next checkpoint raises ``trio.Cancelled``.

        Raises:
            trio.BusyResourceError: Another task watches this socket.
            trio.ClosedResourceError: `notify_closing` was called.
            Exception: What ``ready`` raised.
        """
        if descriptor in self._watches:
            raise trio.BusyResourceError("another task watches this socket")
        watch = _Watch(trio.lowlevel.current_task(), ready)
        self._epoll.register(descriptor, select.EPOLLIN)
        self._watches[descriptor] = watch

        def abort(_: RaiseCancelT) -> Abort:
            if watch is self._called:
                # Its own function did something that cancels it.
                watch.cancelled = True
                return Abort.FAILED
            self._remove(descriptor)
            return Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        error, watch.error = watch.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame

    def notify_closing(self, descriptor: int) -> None:
        """Wake the task that watches a socket, which the caller closes in the same step."""
        watch = self._watches.get(descriptor)
        if watch is not None:
            watch.error = trio.ClosedResourceError("another task closed this socket")
            self._wake(descriptor, watch)

    async def run(self) -> None:
        """Call the functions of sockets that are readable, until cancelled."""
        with self._epoll:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                now, slice_ends = trio.current_time(), perf_counter() + _SLICE_SECONDS
                for descriptor, _ in self._epoll.poll(0, _EVENTS):
                    self._call(descriptor, now)
                    if perf_counter() > slice_ends:
                        await trio.lowlevel.checkpoint()
                        now, slice_ends = trio.current_time(), perf_counter() + _SLICE_SECONDS

    def _call(self, descriptor: int, now: float) -> None:
        watch = self._watches.get(descriptor)
        if watch is None:
            return  # it was ended meanwhile, by another socket's function for example
        self._called = watch
        try:
            goes_on = watch.task.context.run(watch.ready, now)
        except (Exception, SystemExit) as error:  # raised in the connection's task
            watch.error = error
            goes_on = False
        self._called = None
        ended = not goes_on or watch.cancelled
        if ended and self._watches.get(descriptor) is watch:  # unless it closed the socket itself
            self._wake(descriptor, watch)

    def _wake(self, descriptor: int, watch: _Watch) -> None:
        self._remove(descriptor)
        trio.lowlevel.reschedule(watch.task)

    def _remove(self, descriptor: int) -> None:
        del self._watches[descriptor]
        self._epoll.unregister(descriptor)


_poller: Final = RunVar[Poller]("poller")


def current_poller() -> Poller:
    """Return the poller of this run of Trio. Its task begins with the first call."""
    try:
        return _poller.get()
    except LookupError:
        poller = Poller()
        _poller.set(poller)
        trio.lowlevel.spawn_system_task(poller.run)
        return poller
