"""The listeners of the administration, and the tasks behind them, to the very end of a drain.

::

    Administration.run
    ├── lag              looks twice a second how late the event loop is
    └── connections      one task for each
        ├── the admin socket     accept
        └── metrics.listen       accept
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from chatd.admin.control import Control
from chatd.admin.metrics import Metrics
from chatd.admin.routes import AdminRoutes
from chatd.histogram import Histogram
from chatd.settings import Http, Limits, Settings
from chatd.wire.listener import Listener
from chatd.wire.request import Request, Response, refusal
from chatd.wire.routes import Handler, Routes
from chatd.wire.server import Server

__all__ = ["Administration"]

LAG_SECONDS: Final = 0.5

LAST_SECONDS: Final = 1.0
"""What answers that are begun have when all else has ended."""

_LIMITS: Final = Limits(connections=64, connections_per_address="off")
"""An operator's tools and a few scrapers; within the descriptors that clients leave."""


class Administration:
    """The admin socket and the metrics' port of one daemon."""

    def __init__(
        self, control: Control, *, admin: Sequence[Listener], metrics: Sequence[Listener]
    ) -> None:
        lag = Histogram()
        figures = Metrics(control, lag)
        beside: dict[str, Handler] = {
            "/metrics": figures,
            "/healthz": _alive,
            "/readyz": self._ready,
        }
        settings = Settings(limits=_LIMITS, http=Http(trusted_proxies=()))
        self.admin = Server(settings, AdminRoutes(control, beside), control.log, name="a")
        ported = Routes({path: {"GET": handler} for path, handler in beside.items()})
        self.metrics = Server(settings, ported, control.log, name="m")
        self._served = ((self.admin, admin), (self.metrics, metrics))
        self._control = control
        self._lag = lag
        self._closing = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until ``close``, and then to the end of what is being answered."""
        async with trio.open_nursery() as looking:
            looking.start_soon(self._look)
            async with trio.open_nursery() as connections, trio.open_nursery() as listening:
                for server, listeners in self._served:
                    listening.start_soon(_serve, server, listeners, connections)
                task_status.started()
                await self._closing.wait()
                listening.cancel_scope.cancel()
                for server, _ in self._served:
                    server.retire()
                connections.cancel_scope.deadline = trio.current_time() + LAST_SECONDS
            looking.cancel_scope.cancel()

    def close(self) -> None:
        """Take nobody more; ``run`` returns in a second at most."""
        self._closing.set()

    async def _look(self) -> None:
        while True:
            due = trio.current_time() + LAG_SECONDS
            await trio.sleep_until(due)
            self._lag.observe(max(0.0, trio.current_time() - due))

    async def _ready(self, _request: Request) -> Response:
        return Response(200, b"ready\n") if self._control.ready else refusal(503, "not now")


async def _serve(server: Server, listeners: Sequence[Listener], connections: trio.Nursery) -> None:
    await server.serve(listeners, handlers=connections)


async def _alive(_request: Request) -> Response:
    return Response(200, b"alive\n")
