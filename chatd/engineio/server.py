"""``Server``: Engine.IO by itself, with listeners and a handler for each session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias, Unpack

import trio

from chatd.engineio.checks import check_function, check_log, check_settings, parse_options
from chatd.engineio.engine import Engine
from chatd.engineio.hooks import call
from chatd.engineio.inbox import MessageInbox
from chatd.engineio.options import Options, OptionsDict
from chatd.engineio.serving import check_trio, serve
from chatd.engineio.session import Session
from chatd.logs import Log, open_log
from chatd.model import INTERNAL
from chatd.settings import Settings
from chatd.wire.routes import Routes

__all__ = ["Handler", "Server"]

Handler: TypeAlias = Callable[[Session], object]
"""Called with each session, async or plain. The session ends when it returns."""


class Server:
    """An Engine.IO server that calls a handler with each session, in a separate task.

    ``async for message in session`` gives the messages, and ends with the session. The end of the
    session does not cancel the handler, unless that is still running ``handler_grace`` later. When
    the handler returns, the session ends as ``"forced close"``; if it raises an `Exception`, that
    is logged and only its session ends (close code 1011).

    Args:
        handler: Called with each `Session`.
        path: Where the protocol is served; default ``"/engine.io/"``.
        settings: The limits and the certificate of the listeners, for ``serve``; default: those of
            `chatd.settings.Settings`.
        log: Where addresses and faults are logged; default: everything from ``info`` on to stderr.
        options: The other fields of `Options`, as keyword arguments.

    Attributes:
        engine: The engine; ``engine.statistics()`` counts sessions.

    Raises:
        TypeError: An option is unknown, or has the wrong type.
        ValueError: An option has a value that cannot be used.
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
        self._handler = check_function("handler", handler)
        self._settings = check_settings(settings)
        self._log = check_log(log) or open_log()
        self._handlers: trio.Nursery | None = None
        named = {"path": path, **options}
        others = ("handler", "settings", "log")
        self.engine = Engine(
            self._opened,
            parse_options(Options, named, owner="engineio.Server", others=others),
            log=self._log,
            hosts=self._settings.http.hosts,
        )

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

        ``nursery.start`` returns the list of addresses that are bound, which are also logged
        (``listening``).

        Args:
            addresses: Each is ``"127.0.0.1:3000"``, ``"localhost:3000"``, ``"[::]:3000"`` or
                ``"unix:/path"``. Port 0 is any free port.
            task_status: For ``nursery.start``.

        Raises:
            ValueError: There is no address.
            TypeError: An address is not a text.
            ListenError: An address cannot be bound.
            TlsError: The certificate in ``settings`` cannot be used.
            RuntimeError: This is not Trio.
            KeyboardInterrupt: Ctrl-C ended it; never in an exception group.
        """
        await serve(
            self, *addresses, log=self._log, settings=self._settings, task_status=task_status
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve sessions that come by ``routes``, without listeners, until cancelled.

        Raises:
            RuntimeError: This is not Trio.
        """
        check_trio("trio.run(server.run)")
        async with trio.open_nursery() as handlers:
            self._handlers = handlers
            await handlers.start(self.engine.run)
            task_status.started()

    def _opened(self, session: Session) -> MessageInbox | None:
        if self._handlers is None:
            return None
        inbox = _HandlersInbox(self.engine, session)
        self._handlers.start_soon(self._handle, session, inbox.handling)
        return inbox

    async def _handle(self, session: Session, handling: trio.CancelScope) -> None:
        try:
            with handling:
                await call(self._handler, session)
            if handling.cancelled_caught:
                self._log.emit(
                    "warning",
                    address=session.handshake.address,
                    detail="the handler was still running "
                    f"{self.engine.options.handler_grace:g} seconds after its client had gone, and "
                    "was cancelled",
                    setting="handler_grace",
                )
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


class _HandlersInbox(MessageInbox):
    """The messages for a handler, which it may go on handling for a while after the end."""

    __slots__ = ("_engine", "handling")

    def __init__(self, engine: Engine, session: Session) -> None:
        super().__init__(engine.max_unhandled_bytes, session.pause_reading)
        self._engine = engine
        self.handling: Final = trio.CancelScope()

    def ended(self, reason: str) -> None:
        super().ended(reason)
        self.handling.deadline = trio.current_time() + self._engine.options.handler_grace
