"""``Server``: Engine.IO by itself, with listeners and a handler for each session."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias, Unpack

import trio

from chatd.engineio.engine import Engine
from chatd.engineio.options import Options, OptionsDict
from chatd.engineio.serving import serve
from chatd.engineio.session import Session
from chatd.logs import Log, open_log
from chatd.model import INTERNAL
from chatd.settings import Settings
from chatd.wire.routes import Routes

__all__ = ["Handler", "Server"]

Handler: TypeAlias = Callable[[Session], Awaitable[None]]
"""Called with each session. The session ends when it returns."""


class Server:
    """An Engine.IO server that calls a handler with each session, in a separate task.

    ``async for message in session`` gives the messages, and ends with the session. The end of the
    session does not cancel the handler. When the handler returns, the session ends as ``"forced
    close"``; if it raises an `Exception`, that is logged and only its session ends (close code
    1011).

    Args:
        handler: Called with each `Session`.
        path: Where the protocol is served; default ``"/engine.io/"``.
        settings: The limits and the certificate of the listeners, for ``serve``; default: those of
            `chatd.settings.Settings`.
        log: Where faults are logged; default: warnings and worse to stderr.
        options: The other fields of `Options`, as keyword arguments.

    Attributes:
        engine: The engine; ``engine.statistics()`` counts sessions.
    """

    def __init__(
        self,
        handler: Handler,
        path: str = "/engine.io/",
        *,
        settings: Settings | None = None,
        log: Log | None = None,
        **options: Unpack[OptionsDict],
    ) -> None:
        self._handler = handler
        self._settings = settings
        self._log = log or open_log(level="warning")
        self._handlers: trio.Nursery | None = None
        self.engine = Engine(self._opened, Options(path=path, **options), log=self._log)

    @property
    def routes(self) -> Routes:
        """A table of routes that serves ``path``, with and without its last slash."""
        return self.engine.routes

    @property
    def sessions(self) -> dict[str, Session]:
        """The sessions that are not over, by id."""
        return self.engine.sessions

    async def serve(
        self, *addresses: str, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen on these addresses and serve until cancelled. Then every client is notified.

        ``nursery.start`` returns the list of addresses that are bound.

        Args:
            addresses: Each is ``"127.0.0.1:3000"``, ``"localhost:3000"``, ``"[::]:3000"`` or
                ``"unix:/path"``. Port 0 is any free port.
            task_status: For ``nursery.start``.

        Raises:
            ListenError: An address cannot be bound.
            TlsError: The certificate in ``settings`` cannot be used.
            KeyboardInterrupt: Ctrl-C ended it; never in an exception group.
        """
        await serve(
            self, *addresses, log=self._log, settings=self._settings, task_status=task_status
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve sessions that come by ``routes``, without listeners, until cancelled."""
        async with trio.open_nursery() as handlers:
            self._handlers = handlers
            await handlers.start(self.engine.run)
            task_status.started()

    def _opened(self, session: Session) -> None:
        if self._handlers is not None:
            self._handlers.start_soon(self._handle, session)

    async def _handle(self, session: Session) -> None:
        try:
            await self._handler(session)
        except Exception as error:  # the session's boundary
            self._log.fault(
                error,
                address=session.handshake.address,
                transport=session.transport,
                detail="engineio handler",
            )
            session.end("forced close", INTERNAL)
        else:
            session.end("forced close")
