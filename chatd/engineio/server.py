"""``Server``: a handler for each session, and listeners. Engine.IO that stands alone."""

from __future__ import annotations

import traceback
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


class Server:
    """Calls ``handler`` with each session, in a task of its own; when it returns the session ends.

    ``async for message in session`` gives the messages and ends with the session. A handler is not
    cancelled by that. An exception out of it is logged, and costs its own session alone.
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
        """Give the table that answers at ``path``, with and without its slash."""
        return self.engine.routes

    @property
    def sessions(self) -> dict[str, Session]:
        """Give the sessions that are not over, by id."""
        return self.engine.sessions

    async def serve(
        self, *addresses: str, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen on these addresses and serve until cancelled; started with the addresses bound.

        Raises ListenError where an address cannot be had.
        """
        await serve(
            self, *addresses, log=self._log, settings=self._settings, task_status=task_status
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve sessions, without listeners, until cancelled."""
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
            self._log.emit(
                "fault",
                address=session.handshake.address,
                transport=session.transport,
                detail="engineio handler",
                error=repr(error),
                traceback=traceback.format_exc(),
            )
            session.end("forced close", INTERNAL)
        else:
            session.end("forced close")
