"""The engine: the sessions that exist, and the checks before a request reaches one.

The checks are in Node's order (``Server.verify`` and ``handshake`` of engine.io 6.6): clients and
the official test suites distinguish their outcomes.
"""

from __future__ import annotations

import inspect
import re
import secrets
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeAlias

import msgspec
import trio
from msgspec import Struct

from chatd import model
from chatd.changed import Changed
from chatd.engineio import cors, polling
from chatd.engineio.block import Block
from chatd.engineio.close_reasons import Reason
from chatd.engineio.handshake import Handshake
from chatd.engineio.hints import Hints
from chatd.engineio.hooks import call
from chatd.engineio.inbox import MessageInbox
from chatd.engineio.options import Options
from chatd.engineio.packets import Revision
from chatd.engineio.polling import Collector
from chatd.engineio.session import Receiver, Session
from chatd.engineio.websocket import RejectedUpgrade, UpgradeProbe, WebSocketTransport
from chatd.logs import Log
from chatd.timers import Fire, Timer, Timers
from chatd.wire import websocket as wire
from chatd.wire.heads import subprotocols
from chatd.wire.request import Refused, Request, Response, refusal
from chatd.wire.routes import ANY, WEBSOCKET, Methods, Routes
from chatd.wire.websocket import Upgrade, WebSocket

__all__ = ["Engine", "EngineStatistics", "Opened"]

Opened: TypeAlias = Callable[[Session], Receiver | None]
"""Called with each new session. Messages that it sends arrive after the open packet.

Returns the receiver of the session's messages, or None to keep them for ``async for``.
"""

# 120 random bits in 20 characters, as in Node: the id is the client's secret.
_ID_BYTES: Final = 15
_RETRY: Final = (("Retry-After", "10"),)
# How many times ``max_payload`` may wait for a session's receiver.
_UNHANDLED_PAYLOADS: Final = 4
# Node's ``INVALID_HEADER_CHARACTERS``.
_INVALID_IN_HEADER: Final = re.compile(r"[^\t\x20-\x7e\x80-\xff]")


class EngineStatistics(Struct, frozen=True):
    """Counters of an engine.

    Attributes:
        polling: Sessions on polling now.
        websocket: Sessions on a WebSocket now.
        opened: Sessions opened since the engine was made.
        ended: Sessions that ended since then, by reason.
        refused: Refused requests since then, by Node's message: ``"Session ID unknown"``.
        waiting: Bytes that are queued now, in all sessions.
    """

    polling: int
    websocket: int
    opened: int
    ended: dict[str, int]
    refused: dict[str, int]
    waiting: int


class _Open(Struct, frozen=True):
    sid: str
    upgrades: tuple[str, ...]
    pingInterval: int  # noqa: N815 - the protocol's names
    pingTimeout: int  # noqa: N815
    maxPayload: int  # noqa: N815


class _RequestError(Exception):
    """A request that is answered with one of Node's error codes."""

    def __init__(self, code: int, message: str | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.message = message


class Engine:
    """Serves sessions, and no listeners: it is made for tables of routes.

    A protocol on top of Engine.IO uses it directly; `Server` calls a handler with each session.

    Args:
        opened: Called with each new session; see `Opened`.
        options: Its options. They may be replaced while it runs: open sessions keep their
            heartbeat.
        log: Where faults and refused origins are logged.
        timers: Timers that the caller runs; by default the engine runs its own.
        hosts: The names of the server (``http.hosts``), which limit the pages of its own origin.
            Default: none, any name.

    Attributes:
        options: Its options.
        sessions: The sessions that are not over, by id.
        methods: Its handlers by HTTP method, for a route at ``options.path``. The table of routes
            adds ``headers`` to what they return.
        routes: A table with that route only, with and without its last slash.

    Raises:
        TypeError: ``opened`` is an async function.
    """

    def __init__(
        self,
        opened: Opened,
        options: Options,
        *,
        log: Log,
        timers: Timers | None = None,
        hosts: Sequence[str] = (),
    ) -> None:
        if inspect.iscoroutinefunction(opened):
            raise TypeError("opened must be a plain function: it returns the session's receiver.")
        self.options = options
        self.sessions: dict[str, Session] = {}
        self.methods: Methods = {ANY: self._http, WEBSOCKET: self._websocket}
        path = options.path.rstrip("/")
        self.routes = Routes(
            {path: self.methods} if path else {},
            {f"{path}/": self.methods},
            {path: self.complete},
        )
        self._hosts = hosts
        self._opened = opened
        self._log = log
        self.hints = Hints(log)
        self.collector = Collector()
        self.timers = Timers(log) if timers is None else timers
        self._own_timers = timers is None
        self._running = False
        self._ended: deque[Session] = deque()
        self._someone_ended = Changed()
        self._count = 0
        self._reasons: dict[str, int] = {}
        self._refused = Counter(dict.fromkeys(polling.ERRORS.values(), 0))
        # Sessions of addresses that limits apply to.
        self._by_address: Counter[str] = Counter()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve sessions until cancelled.

        Before and after, requests for new sessions are refused with 503. When it is cancelled, all
        sessions end as ``"server shutting down"``, and each receiver has been notified when it
        returns.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._running = True
                nursery.start_soon(self.collector.run)
                if self._own_timers:
                    nursery.start_soon(self.timers.run)
                task_status.started()
                while True:
                    self._notify_ended()
                    await self._someone_ended.wait()
        finally:
            self._running = False
            for session in list(self.sessions.values()):
                session.end_now("server shutting down")
            self._notify_ended()

    def end_all(self, reason: Reason = "server shutting down") -> None:
        """End every session, gracefully if the reason is. Returns at once.

        Args:
            reason: Why; default ``"server shutting down"``.
        """
        for session in list(self.sessions.values()):
            session.end(reason)

    def statistics(self) -> EngineStatistics:
        """Return the counters."""
        on_websocket = sum(session.transport == "websocket" for session in self.sessions.values())
        return EngineStatistics(
            polling=len(self.sessions) - on_websocket,
            websocket=on_websocket,
            opened=self._count,
            ended=dict(self._reasons),
            refused=dict(self._refused),
            waiting=sum(session.waiting for session in self.sessions.values()),
        )

    # For the sessions

    def time(self, session: Session, due: float, fire: Fire) -> None:
        """Replace the session's timer by one that calls ``fire`` at ``due``."""
        if session.timer is not None:
            session.timer.cancel()
        session.timer = self.timers.add(due, fire, partial(self._failed, session))

    def watch(self, session: Session, due: float, fire: Fire) -> Timer:
        """Return another timer of the session's, which calls ``fire`` at ``due``."""
        return self.timers.add(due, fire, partial(self._failed, session))

    def forget(self, session: Session) -> None:
        """Remove a session that is over. Its receiver is notified from ``run``."""
        del self.sessions[session.id]
        if address := session.handshake.request.peer.limit_key:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]
        if session.timer is not None:
            session.timer.cancel()
        self._reasons[str(session.reason)] = self._reasons.get(str(session.reason), 0) + 1
        self._ended.append(session)
        self._someone_ended.notify()

    def _notify_ended(self) -> None:
        while self._ended:
            session = self._ended.popleft()
            try:
                session.receiver.ended(session.reason or "forced close")
            except Exception as error:  # the session's boundary
                self._fault(session, error)
            session.release()

    def _failed(self, session: Session, error: Exception) -> None:
        self._fault(session, error)
        session.end("transport error", model.INTERNAL)

    def _fault(self, session: Session, error: Exception) -> None:
        self._log.fault(
            error,
            address=session.handshake.address,
            transport=session.transport,
            detail=session.handshake.path,
        )

    # Opening a session

    @property
    def max_unhandled_bytes(self) -> int:
        """How much of what a client sent may wait for its receiver, in bytes of memory."""
        return _UNHANDLED_PAYLOADS * self.options.max_payload

    def warn_unread(self) -> None:
        """Warn that nothing more is read from a client."""
        self.hints.warn(
            "unread",
            detail="a client sends faster than its messages are handled: nothing more is read from "
            "it, acknowledgements included, until there is room; let the handler return earlier, "
            "and start a task for long work",
        )

    def _open(
        self, request: Request, revision: Revision, websocket: WebSocket | None
    ) -> tuple[Session, Block]:
        """Return a new session and its open packet, which is sent here if it is on a WebSocket."""
        options = self.options
        session = Session(secrets.token_urlsafe(_ID_BYTES), revision, Handshake(request), self)
        upgrades = (
            websocket is None and options.allow_upgrades and "websocket" in options.transports
        )
        handshake = msgspec.json.encode(
            _Open(
                session.id,
                ("websocket",) if upgrades else (),
                round(options.ping_interval * 1000),
                round(options.ping_timeout * 1000),
                options.max_payload,
            )
        )
        greeting = Block.control(f"0{handshake.decode()}", revision)
        self.sessions[session.id] = session
        if address := request.peer.limit_key:
            self._by_address[address] += 1
        if websocket is not None:
            websocket.outbox.offer(greeting.frames, 0)
            session.use_websocket(websocket)
        self._count += 1
        session.receiver = inbox = MessageInbox(self.max_unhandled_bytes, session.pause_reading)
        try:
            receiver = self._opened(session)
            session.receiver = inbox if receiver is None else receiver
        except BaseException:
            session.end("transport error", model.INTERNAL)
            raise
        due = session.fire(session.opened)
        if due is not None:
            self.time(session, due, session.fire)
        return session, greeting

    # Checking a request

    def _find_session(self, request: Request, *, upgrade: bool) -> Session | None:
        """Return the session that a request is for; None if it is to open one."""
        query = request.query
        transport = query.get("transport")
        if transport not in self.options.transports:
            raise _RequestError(0)
        if _INVALID_IN_HEADER.search(request.header("origin") or ""):
            raise _RequestError(3)
        sid = query.get("sid")
        if sid:
            session = self.sessions.get(sid)
            if session is None or not session.alive(trio.current_time()):
                raise _RequestError(1)
            if (transport == "websocket") is not upgrade:
                raise _RequestError(3)
            if not upgrade and session.transport != "polling":
                raise _RequestError(3)
            if "EIO" in query and _revision(query) != session.revision:
                raise _RequestError(3)
            session.peer = request.peer
            return session
        if request.method != "GET":
            raise _RequestError(2)
        if (transport == "websocket") is not upgrade:
            raise _RequestError(3)
        return None

    async def _ask_application(self, request: Request) -> None:
        """Ask ``allow_request`` about a request that would open a session."""
        if self.options.allow_request is not None:
            message = await call(self.options.allow_request, request)
            if message is not None and not isinstance(message, str):
                wanted = "None to allow a request, or the message of the refusal"
                raise TypeError(f"allow_request must return {wanted}, not {message!r}")
            if message is not None:
                raise _RequestError(4, message)

    def _check_admission(self, request: Request) -> Revision:
        """Return the revision of a session that may be opened."""
        revision = _revision(request.query)
        if revision == 3 and not self.options.allow_eio3:
            self.hints.warn(
                "eio3",
                detail="a client of Socket.IO 1.x or 2.x was refused, and tries again and again; "
                "the option allow_eio3 admits it",
                address=request.peer.address,
                setting="allow_eio3",
            )
            raise _RequestError(5)
        if not self._running or len(self.sessions) >= self.options.max_sessions:
            message = "There are too many sessions. Try again in 10 seconds."
            raise Refused(refusal(503, message, _RETRY))
        most, address = self.options.max_sessions_per_address, request.peer.limit_key
        if most is not None and address and self._by_address[address] >= most:
            message = "Too many connections from your address. Close some, then try again."
            raise Refused(refusal(429, message, _RETRY))
        return revision

    # HTTP

    async def _http(self, request: Request) -> Response:
        options = self.options
        if request.method == "OPTIONS" and options.cors_origins is not None:
            return await self.preflight(request)
        try:
            session = self._find_session(request, upgrade=False)
            if session is None:
                response = await self._open_by_polling(request)
            elif request.method == "GET":
                await session.yield_to_io()
                if session.transport != "polling":
                    raise _RequestError(3)
                response = await polling.get(request, session, options)
            elif request.method == "POST":
                response = await polling.post(request, session, options)
            else:
                response = polling.error(3)
        except _RequestError as error:
            self._report(request, error, 403 if error.code == 4 else 400)
            response = polling.error(error.code, error.message)
        except Refused as refused:
            response = refused.response
        return response

    async def complete(self, request: Request, response: Response) -> Response:
        """Return a response with the CORS headers that all have, for a table of routes."""
        added = await cors.headers(request, self.options)
        return msgspec.structs.replace(response, headers=[*response.headers, *added])

    async def preflight(self, request: Request) -> Response:
        """Answer OPTIONS, to which a table of routes adds the CORS headers."""
        return cors.preflight(request)

    async def _open_by_polling(self, request: Request) -> Response:
        await self._ask_application(request)
        revision = self._check_admission(request)
        # The session keeps the request, and must not keep its connection alive with it.
        request.release()
        session, greeting = self._open(request, revision, None)
        base64 = session.polling.base64
        response = await polling.answer(request, [greeting], revision, self.options, base64=base64)
        if self.options.cookie is not None:
            cookie = self.options.cookie.written(session.id, over_tls=request.secure)
            headers = [*response.headers, ("Set-Cookie", cookie)]
            response = msgspec.structs.replace(response, headers=headers)
        return response

    # WebSocket

    async def _websocket(self, request: Request) -> Response | Upgrade:
        try:
            session = self._find_session(request, upgrade=True)
            if session is None:
                await self._ask_application(request)
            if not await cors.allowed(request, self.options, self._hosts):
                raise _RequestError(4)
            if session is None:
                opener = self._session_opener(self._check_admission(request))
            elif self.options.allow_upgrades:
                opener = self._upgrade_opener(session)
            else:
                raise _RequestError(3)
        except _RequestError as error:
            self._report(request, error, 400)
            # In Node's form. Browsers do not show it.
            message = error.message or polling.ERRORS[error.code]
            return Response(400, message.encode(), "text/html")
        except Refused as refused:
            return refused.response
        offered = subprotocols(request)
        return Upgrade(
            # Engine.IO has none of its own. A browser closes a WebSocket of which none is selected.
            offered[0] if offered else None,
            opener,
            max_message_bytes=self.options.max_message or self.options.max_payload,
            send_queue_bytes=self.options.send_queue_bytes,
            keep_alive=False,
            send_timeout=self.options.send_timeout,
        )

    def _session_opener(self, revision: Revision) -> wire.Opener:
        def opener(websocket: WebSocket) -> wire.Receiver:
            session, _ = self._open(websocket.request, revision, websocket)
            return WebSocketTransport(session, websocket)

        async def pausing_opener(websocket: WebSocket) -> wire.Receiver:
            # The official suite listens for the open packet only once it has seen the 101.
            await trio.sleep(self.options.handshake_pause)
            return opener(websocket)

        return pausing_opener if revision == 3 and self.options.handshake_pause else opener

    def _upgrade_opener(self, session: Session) -> wire.Opener:
        async def opener(websocket: WebSocket) -> wire.Receiver:
            if session.upgrading or session.reason is not None:
                return RejectedUpgrade(websocket)
            # The session's handshake is the request that opened it.
            websocket.request.headers = ()
            return UpgradeProbe(session, websocket, self.timers, self.options.upgrade_timeout)

        return opener

    def _report(self, request: Request, error: _RequestError, status: int) -> None:
        """Count a refused request, and log it: somebody may be guessing the ids of sessions."""
        reason = polling.ERRORS[error.code]
        self._refused[reason] += 1
        foreign = error.code == 4 and error.message is None
        self._log.emit(
            "refused",
            connection=request.connection,
            address=request.peer.address,
            method=request.method,
            path=request.path,
            status=status,
            reason=reason,
            origin=request.header("origin") if foreign else None,
            host=request.header("host") if foreign else None,
            setting="cors_origins" if foreign else None,
        )


def _revision(query: Mapping[str, str]) -> Revision:
    """Return the revision that a request asks for, as Node's server does: 3 unless it says 4.

    Clients in Swift up to 15.2 say nothing, and browser bundles before 1.1 say 2.
    """
    return 4 if query.get("EIO") == "4" else 3
