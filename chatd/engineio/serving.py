"""An engine that stands alone: its listeners, its connections, and who owns them.

::

    serve
    ├── run          the engine: heartbeats, and who hears of an end; handlers, where there are
    ├── sweeper      heartbeats of WebSockets that are no session's
    └── connections  one task for each connection
        └── listeners    accept
"""

from __future__ import annotations

from typing import Protocol

import trio

from chatd.logs import Log
from chatd.settings import Settings
from chatd.wire.listener import open_listeners
from chatd.wire.routes import Routes
from chatd.wire.server import Server
from chatd.wire.tls import tls_context

__all__ = ["Served", "serve"]


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
    that cannot be used.
    """
    settings = settings or Settings()
    server = Server(settings, routes or served.routes, log, tls=tls_context(settings))
    listeners = open_listeners(addresses)
    bound = [listener.address for listener in listeners]
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(served.run)
            nursery.start_soon(server.sweep)
            async with trio.open_nursery() as connections:

                async def accept(task_status: trio.TaskStatus[None]) -> None:
                    await server.serve(listeners, handlers=connections, task_status=task_status)

                await connections.start(accept)
                task_status.started(bound)
    finally:
        for listener in listeners:
            listener.close()
