"""An engine that stands alone: its listeners, its connections, and who owns them.

::

    serve
    ├── run          the engine: heartbeats, and who hears of an end; handlers, where there are
    ├── timers       pings of WebSockets that are no session's
    ├── listeners    accept
    └── connections  one task for each connection; they outlive the others by the time it takes to
                     tell a waiting poll or a WebSocket that it is over
"""

from __future__ import annotations

from functools import partial
from typing import Final, Protocol

import trio

from chatd.logs import Log
from chatd.settings import Settings
from chatd.timers import Timers
from chatd.wire.listener import open_listeners
from chatd.wire.routes import Routes
from chatd.wire.server import Server
from chatd.wire.tls import tls_context

__all__ = ["Served", "serve"]

# What connections have to say that they are over: a round trip, and some for a busy machine.
_GOODBYE_SECONDS: Final = 0.5


class Served(Protocol):
    """What is served: an engine, or what is built on one."""

    @property
    def routes(self) -> Routes: ...

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve sessions until cancelled."""


async def serve(
    served: Served,
    *addresses: str,
    log: Log,
    routes: Routes | None = None,
    settings: Settings | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen on these addresses and serve until cancelled; started with the addresses bound.

    ``routes`` are ``served``'s own where they are None; ``settings`` are the wire's limits and
    its certificate. Raises ListenError where an address cannot be had, TlsError for a certificate
    that cannot be used, and KeyboardInterrupt, in no group, where Ctrl-C ends it.
    """
    settings = settings or Settings()
    timers = Timers(log)
    routes = routes or served.routes
    server = Server(settings, routes, log, tls=tls_context(settings), timers=timers)
    listeners = open_listeners(addresses)
    bound = [listener.address for listener in listeners]
    goodbye = trio.CancelScope()
    ending = trio.Event()

    async def hold(task_status: trio.TaskStatus[trio.Nursery]) -> None:
        with goodbye:
            async with trio.open_nursery() as connections:
                task_status.started(connections)
                await ending.wait()

    try:
        async with trio.open_nursery() as nursery:
            try:
                nursery.start_soon(timers.run)
                await nursery.start(served.run)
                connections = await nursery.start(hold)
                # Not before: a start that is cancelled waits for its task's end.
                goodbye.shield = True
                await nursery.start(partial(server.serve, listeners, handlers=connections))
                task_status.started(bound)
                await trio.sleep_forever()
            finally:
                server.retire()
                goodbye.deadline = trio.current_time() + _GOODBYE_SECONDS
                ending.set()
    except BaseExceptionGroup as group:
        if group.split(KeyboardInterrupt)[1] is None:
            # Where this is all that a program runs, it ends by Ctrl-C as any program does.
            raise KeyboardInterrupt from None
        raise
    finally:
        for listener in listeners:
            listener.close()
