"""One WebSocket to the daemon, from the dial to the close: frames both ways, and keep-alive pings.

It does not look into the frames. trio-websocket answers the daemon's pings by itself. This adds a
deadline on every wait, notices the end of the stream during the handshake, and writes from a task
of its own, because a `send_message` that is cancelled leaves half a frame behind.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Protocol

import trio
from msgspec import Struct
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
)

from chatd.client.dialing import Address
from chatd.client.errors import ConnectError, Ending, Garbled, may_reconnect
from chatd.client.foreign import FIRST_BYTES, first_words, rejection, speaks_tls
from chatd.model import CLOSES, LOST, NORMAL, PROTOCOL_ERROR, SILENT
from chatd.protocol.codec import SUBPROTOCOL

__all__ = ["Connection", "Deadlines", "Outgoing"]

# A page of 500 messages of 16 KiB, with each byte written as \u00xx; in characters, not bytes.
_MOST_FRAME: Final = 64 << 20

# A few of these fill the receive buffer of a socket, by Linux's default.
_RECEIVE_BYTES: Final = 64 << 10

# Frames between trio-websocket's reader and ours. Ours never waits, so this only saves switches.
_FRAMES: Final = 64


class Deadlines(Struct, frozen=True):
    """How long each wait for the daemon may take, in seconds.

    Attributes:
        connect: For the stream, and then for the WebSocket handshake.
        answer: For the answer to a command, on a living connection.
        close: For the daemon's Close frame, when the client closes.
        ping: After this time without a byte from the daemon the client sends a ping; None: never.
        pong: For the answer to that ping; then the connection is lost.
    """

    connect: float = 10.0
    answer: float = 30.0
    close: float = 5.0
    ping: float | None = 30.0
    pong: float = 20.0


class Outgoing(Protocol):
    """A frame that waits to be sent; a ``withdrawn`` one is not sent."""

    @property
    def frame(self) -> str: ...

    @property
    def withdrawn(self) -> bool: ...


class Connection:
    """One connection. `converse` is called once and runs all of it.

    Without a ``subprotocol`` none is asked for. ``headers`` are added to the request.
    """

    def __init__(
        self,
        address: Address,
        target: str,
        deadlines: Deadlines,
        subprotocol: str | None = SUBPROTOCOL,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._address = address
        self._target = target
        self._deadlines = deadlines
        self._subprotocol = subprotocol
        self._headers = [(name.encode(), value.encode()) for name, value in headers]
        self._websocket: WebSocketConnection | None = None
        self._frames: deque[Outgoing] = deque()
        self._more = trio.Event()
        self._ending: Ending | None = None
        self._fault: Exception | None = None
        self._scope = trio.CancelScope()

    def send(self, frame: Outgoing) -> None:
        """Send a frame after those before it. The caller bounds how many may wait."""
        self._frames.append(frame)
        self._more.set()

    def end(self, code: int, reason: str) -> None:
        """Drop the connection without a Close frame; the first reason counts."""
        if self._ending is None:
            self._ending = Ending(code, reason, may_reconnect(code))
        self._scope.cancel()

    async def aclose(self) -> None:
        """Close with a Close frame, and wait for the daemon's (RFC 6455 section 7.1.2)."""
        if self._websocket is not None:
            if self._ending is None:
                self._ending = Ending(NORMAL.code, "left", reconnect=False)
            try:
                with trio.move_on_after(self._deadlines.close):
                    await self._websocket.aclose(NORMAL.code)
            finally:
                self._scope.cancel()
        self._scope.cancel()

    async def converse(
        self, received: Callable[[str | bytes], None], beside: Callable[[], Awaitable[None]]
    ) -> Ending:
        """Connect, then pass every frame to ``received`` and run ``beside`` until the end.

        Args:
            received: Called with each frame; it may raise `Garbled`.
            beside: Run in a separate task. The connection does not end with it.

        Returns:
            Why the connection ended.

        Raises:
            ConnectError: The connection could not be made.
        """
        stream: _MonitoredStream | None = None
        try:
            with self._scope:
                stream = await self._dial()
                await self._run(stream, received, beside)
        finally:
            if stream is not None:
                await trio.aclose_forcefully(stream)
        if self._fault is not None:
            raise self._fault
        if self._ending is None:
            raise ConnectError("The connection was dropped while it was made.")
        return self._ending

    async def _dial(self) -> _MonitoredStream:
        seconds = self._deadlines.connect
        try:
            with trio.fail_after(seconds):
                return _MonitoredStream(await self._address.dial())
        except trio.TooSlowError:
            text = f"There was no connection to {self._address.host} in {seconds:g} s."
            raise ConnectError(text) from None
        except (OSError, UnicodeError, trio.BrokenResourceError) as error:
            text = f"There is no connection to {self._address.host}: {_why(error)}."
            raise ConnectError(text) from error

    async def _run(
        self,
        stream: _MonitoredStream,
        received: Callable[[str | bytes], None],
        beside: Callable[[], Awaitable[None]],
    ) -> None:
        try:
            async with trio.open_nursery() as nursery:
                websocket = await self._open(nursery, stream)
                if websocket is not None:
                    self._websocket = websocket
                    nursery.start_soon(self._guarded, partial(self._write, websocket))
                    nursery.start_soon(self._guarded, partial(self._keep_alive, websocket, stream))
                    nursery.start_soon(self._guarded, beside)
                    await self._guarded(partial(self._read, websocket, stream, received))
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # From trio-websocket's reader: a rejection, or wsproto's error about a peer that speaks
            # something else.
            wire, rest = group.split(Exception)
            if wire is not None:
                self._fail(_refused(wire.exceptions[0], self._address.host, stream.first))
            if rest is not None:
                raise rest from None

    async def _open(
        self, nursery: trio.Nursery, stream: _MonitoredStream
    ) -> WebSocketConnection | None:
        websocket: WebSocketConnection | None = None
        with trio.move_on_after(self._deadlines.connect):
            async with trio.open_nursery() as race:
                # trio-websocket waits for ever if the stream ends before the answer.
                race.start_soon(stream.cancel_when_gone, race.cancel_scope)
                websocket = await wrap_client_stream(
                    nursery,
                    stream,  # type: ignore[arg-type]  # any Stream does: it is only written and read
                    self._address.host,
                    self._target,
                    subprotocols=[] if self._subprotocol is None else [self._subprotocol],
                    extra_headers=self._headers,
                    message_queue_size=_FRAMES,
                    max_message_size=_MOST_FRAME,
                    receive_buffer_size=_RECEIVE_BYTES,
                )
                race.cancel_scope.cancel()
        if websocket is None:
            host, seconds = self._address.host, self._deadlines.connect
            text = f"{host} did not answer in {seconds:g} s."
            if stream.first:
                text = _misunderstood(host, stream.first, "")
            elif stream.gone.is_set():
                text = f"{host} hung up without an answer. If it expects TLS, use wss://."
            self._fail(ConnectError(text))
        elif websocket.subprotocol != self._subprotocol:
            text = f"{self._address.host} does not speak {self._subprotocol}."
            self._fail(ConnectError(text, hopeless=True))
            return None
        return websocket

    async def _guarded(self, run: Callable[[], Awaitable[None]]) -> None:
        try:
            await run()
        except Exception as error:
            self._fail(error)

    def _fail(self, fault: Exception) -> None:
        if self._fault is None:
            self._fault = fault
        self._scope.cancel()

    async def _read(
        self,
        websocket: WebSocketConnection,
        stream: _MonitoredStream,
        received: Callable[[str | bytes], None],
    ) -> None:
        try:
            while True:
                received(await websocket.get_message())
        except Garbled as garbled:
            self.end(
                PROTOCOL_ERROR.code, f"the daemon sent what is not {self._subprotocol}: {garbled}"
            )
        except ConnectionClosed as closed:
            if self._ending is not None:
                await trio.sleep_forever()  # until `aclose` is through with it
            code = LOST.code if closed.reason is None else closed.reason.code
            reason = None if closed.reason is None else closed.reason.reason
            if reason is None:
                reason = CLOSES[code].reason if code in CLOSES else ""
            self._ending = Ending(code, reason, may_reconnect(code))
            # RFC 6455 section 7.1.1: the daemon closes the stream, the client waits for it.
            with trio.move_on_after(self._deadlines.close):
                await stream.gone.wait()

    async def _write(self, websocket: WebSocketConnection) -> None:
        while True:
            while self._frames:
                outgoing = self._frames.popleft()
                if not outgoing.withdrawn:
                    try:
                        await websocket.send_message(outgoing.frame)
                    except ConnectionClosed:
                        return
            self._more = trio.Event()
            await self._more.wait()

    async def _keep_alive(self, websocket: WebSocketConnection, stream: _MonitoredStream) -> None:
        if self._deadlines.ping is None:
            return
        while True:
            due = stream.heard_at + self._deadlines.ping
            if trio.current_time() < due:
                await trio.sleep_until(due)
                continue
            with trio.move_on_after(self._deadlines.pong) as waiting:
                try:
                    await websocket.ping()
                except ConnectionClosed:
                    return
            if waiting.cancelled_caught and stream.heard_at < due:
                self.end(LOST.code, SILENT.reason)


class _MonitoredStream(trio.abc.Stream):
    """A stream that notes what came first, when something came last, and when it ends."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.first = b""
        self.heard_at = trio.current_time()
        self.gone = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.gone.set()
            raise

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            data = await self._stream.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.gone.set()
            raise
        self.heard_at = trio.current_time()
        if len(self.first) < FIRST_BYTES:
            self.first += data[: FIRST_BYTES - len(self.first)]
        if not data:
            self.gone.set()
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def cancel_when_gone(self, scope: trio.CancelScope) -> None:
        await self.gone.wait()
        scope.cancel()


def _refused(error: Exception, host: str, first: bytes) -> ConnectError:
    """Return the `ConnectError` for what trio-websocket's reader raised.

    ``first`` are the first bytes of the answer of ``host``.
    """
    if not isinstance(error, ConnectionRejected):
        return ConnectError(_misunderstood(host, first, str(error)))
    status = error.status_code
    wait = next((value for name, value in error.headers if name.lower() == b"retry-after"), b"")
    words = rejection(status, error.headers, error.body)
    return ConnectError(
        f"{host} refused with {words}" if status >= 400 else f"{host} answered with {words}",
        status=status,
        # A wrong request stays wrong, but 408 and 429 pass with time.
        hopeless=300 <= status < 500 and status not in {408, 429},
        retry_ms=int(wait) * 1000 if wait.isdigit() else None,
    )


def _misunderstood(host: str, first: bytes, why: str) -> str:
    """Return that the answer of ``host``, whose first bytes are ``first``, is no WebSocket's."""
    if speaks_tls(first):
        return f"{host} speaks TLS. Use wss:// instead of ws://."
    if why and first.startswith(b"HTTP/"):
        return f"{host} does not speak WebSocket: {why.rstrip('.')}."
    return f"{host} does not speak WebSocket. It answered with {first_words(first)}."


def _why(error: BaseException) -> str:
    """Return an error's text. The errors of several addresses are a group, as the cause of one."""
    if isinstance(group := error.__cause__, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(map(_why, group.exceptions)))
    if isinstance(error, socket.gaierror):
        return str(error.strerror or error).lower()
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__
