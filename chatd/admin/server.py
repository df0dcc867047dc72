"""The listeners of the administration and the tasks behind them, until the end of a drain.

::

    Administration.run
    ├── lag              measures every two seconds how late the event loop is
    └── connections      one task for each
        ├── the admin socket     accept
        └── metrics.listen       accept
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from chatd.admin.control import DaemonControl
from chatd.admin.metrics import Metrics
from chatd.admin.routes import AdminRoutes
from chatd.histogram import Histogram
from chatd.settings import Http, Limits, Settings
from chatd.wire.listener import Listener
from chatd.wire.request import Request, Response, refusal
from chatd.wire.routes import Handler, Routes
from chatd.wire.server import HttpServer

__all__ = ["Administration"]

LAG_SECONDS: Final = 2.0
"""The time between two measurements of the lag. Each of them wakes up an idle daemon."""

LAST_SECONDS: Final = 1.0
"""How long answers that have begun may take when everything else has ended."""

_LIMITS: Final = Limits(connections=64, connections_per_address="off")
"""Enough for an operator's tools and a few scrapers, and within the spare file descriptors."""


class Administration:
    """The admin socket and the metrics listener of a daemon."""

    def __init__(
        self, control: DaemonControl, *, admin: Sequence[Listener], metrics: Sequence[Listener]
    ) -> None:
        lag = Histogram()
        metrics_handler = Metrics(control, lag)
        beside: dict[str, Handler] = {
            "/metrics": metrics_handler,
            "/healthz": _alive,
            "/readyz": self._ready,
        }
        http = Http(trusted_proxies=(), hosts=control.chat.settings.http.hosts)
        settings = Settings(limits=_LIMITS, http=http)
        self.admin = HttpServer(settings, AdminRoutes(control, beside), control.log, name="a")
        routes = Routes({path: {"GET": handler} for path, handler in beside.items()})
        self.metrics = HttpServer(settings, routes, control.log, name="m")
        self._served = ((self.admin, admin), (self.metrics, metrics))
        self._control = control
        self._lag = lag
        self._closing = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until ``close``, and then until the answers that have begun are sent."""
        async with trio.open_nursery() as measuring:
            measuring.start_soon(self._measure_lag)
            async with trio.open_nursery() as connections, trio.open_nursery() as listening:
                for server, listeners in self._served:
                    listening.start_soon(_serve, server, listeners, connections)
                task_status.started()
                await self._closing.wait()
                listening.cancel_scope.cancel()
                for server, _ in self._served:
                    server.retire()
                connections.cancel_scope.deadline = trio.current_time() + LAST_SECONDS
            measuring.cancel_scope.cancel()

    def close(self) -> None:
        """Stop accepting; ``run`` returns within `LAST_SECONDS`."""
        self._closing.set()

    async def _measure_lag(self) -> None:
        while True:
            due = trio.current_time() + LAG_SECONDS
            await trio.sleep_until(due)
            self._lag.observe(max(0.0, trio.current_time() - due))

    async def _ready(self, _request: Request) -> Response:
        if self._control.ready:
            return Response(200, b"ready\n")
        return refusal(503, self._control.store_problem or "not now")


async def _serve(
    server: HttpServer, listeners: Sequence[Listener], connections: trio.Nursery
) -> None:
    await server.serve(listeners, handlers=connections)


async def _alive(_request: Request) -> Response:
    return Response(200, b"alive\n")
