"""Serving an engine by itself: its listeners, its connections, and the tasks that own them.

::

    serve
    ├── run          the engine: ends of sessions; the handlers, if it has any
    ├── timers       pings of WebSockets that have no session
    ├── listeners    accept
    └── connections  one task for each connection; they outlive the others by the time that it takes
                     to notify a waiting GET or a WebSocket of the end
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
from chatd.wire.server import HttpServer
from chatd.wire.tls import tls_context

__all__ = ["Served", "check_trio", "serve"]

# Time for connections to notify their clients: a round trip, and more on a busy machine.
_GOODBYE_SECONDS: Final = 0.5


class Served(Protocol):
    """What `serve` serves: `chatd.engineio.Server` or `chatd.socketio.Server`."""

    @property
    def routes(self) -> Routes:
        """The table of routes."""
        raise NotImplementedError

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve sessions until cancelled."""


def check_trio(call: str) -> None:
    """Raise RuntimeError outside of Trio, where the first wait would fail with a riddle.

    Args:
        call: The call that runs the server on Trio.
    """
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError(f"This server runs on Trio, not on asyncio. Start it with {call}.")


async def serve(
    served: Served,
    *addresses: str,
    log: Log,
    routes: Routes | None = None,
    settings: Settings | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen on these addresses and serve until cancelled.

    ``nursery.start`` returns the list of addresses that are bound.

    Args:
        served: The server.
        addresses: As for `HttpServer.serve`.
        log: Where refusals and faults of connections are logged.
        routes: The table of routes; default: that of ``served``.
        settings: The limits and the certificate of the listeners; default: those of `Settings`.
        task_status: For ``nursery.start``.

    Raises:
        ValueError: There is no address.
        TypeError: An address is not a text.
        ListenError: An address cannot be bound.
        TlsError: The certificate cannot be used.
        RuntimeError: This is not Trio.
        KeyboardInterrupt: Ctrl-C ended it; never in an exception group.
    """
    check_trio('trio.run(server.serve, "127.0.0.1:3000")')
    if not addresses:
        raise ValueError('serve() needs an address, such as "127.0.0.1:3000".')
    for address in addresses:
        if not isinstance(address, str):
            raise TypeError(f'An address is a text such as "127.0.0.1:3000", not {address!r}.')
    settings = settings or Settings()
    timers = Timers(log)
    routes = routes or served.routes
    server = HttpServer(settings, routes, log, tls=tls_context(settings), timers=timers)
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
                # Not earlier: a start that is cancelled waits for the end of its task.
                goodbye.shield = True
                await nursery.start(partial(server.serve, listeners, handlers=connections))
                for address in bound:
                    log.emit("listening", listener=address)
                task_status.started(bound)
                await trio.sleep_forever()
            finally:
                server.retire()
                goodbye.deadline = trio.current_time() + _GOODBYE_SECONDS
                ending.set()
    except BaseExceptionGroup as group:
        if group.split(KeyboardInterrupt)[1] is None:
            # A program that runs nothing else ends by Ctrl-C as any program does.
            raise KeyboardInterrupt from None
        raise
    finally:
        for listener in listeners:
            listener.close()
