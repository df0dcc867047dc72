"""The client's side of Engine.IO 4, on a WebSocket or by HTTP long polling.

The transports do not look into messages, and do not end by themselves when no ping comes: tests are
about the daemon's own timeouts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol
from urllib.parse import quote

import h11
import msgspec
import trio
from msgspec import Struct

from chatd.client import Address, ConnectError, Ending
from chatd.client.connection import Connection
from chatd.client.errors import may_reconnect
from chatd.engineio import packets, payloads
from chatd.engineio.packets import Packet
from chatd.model import LOST
from chatd.testing.buffer import DEADLINES
from chatd.testing.cable import Cable, Plug

__all__ = ["Frame", "PollingTransport", "Transport", "WebSocketTransport"]

_HOST: Final = "localhost"
_TARGET: Final = "/socket.io/?EIO=4&transport={}"


class Transport(Protocol):
    """One connection. `converse` is called once and runs all of it."""

    def send(self, packet: str) -> None:
        """Send a text packet, which begins with its type, after those before it."""

    def end(self, code: int, reason: str) -> None:
        """Drop the connection without a Close frame or packet; the first reason counts."""

    async def converse(
        self, received: Callable[[Packet], None], beside: Callable[[], Awaitable[None]]
    ) -> Ending:
        """Connect, then pass every packet to ``received`` and run ``beside`` until the end.

        Returns:
            Why the connection ended.

        Raises:
            chatd.client.ConnectError: The connection could not be made.
        """
        ...


class Frame(Struct):
    """A text frame on its way to the daemon."""

    frame: str
    withdrawn: bool = False


class WebSocketTransport:
    """A session that is on a WebSocket from the start."""

    def __init__(self, plug: Plug) -> None:
        target = _TARGET.format("websocket")
        address = Address(plug, _HOST, target)
        self._connection = Connection(address, target, DEADLINES, subprotocol=None)

    def send(self, packet: str) -> None:
        self._connection.send(Frame(packet))

    def end(self, code: int, reason: str) -> None:
        self._connection.end(code, reason)

    async def converse(
        self, received: Callable[[Packet], None], beside: Callable[[], Awaitable[None]]
    ) -> Ending:
        def framed(frame: str | bytes) -> None:
            received(packets.decode_frame(frame, 4))

        return await self._connection.converse(framed, beside)


class _Opened(Struct, rename="camel"):
    """The fields of the open packet that the client needs."""

    sid: str
    max_payload: int


class _Failed(Struct):
    """The body of a response that is not 200."""

    message: str = ""


class PollingTransport:
    """A session on polling that does not upgrade: a GET that waits, and POSTs beside it."""

    def __init__(self, plug: Plug) -> None:
        # Engine.IO allows one GET and one POST at a time: each has its own connection.
        plug.renew()
        self._gets = _HttpClient(plug.another)
        self._posts = _HttpClient(plug.another)
        self._target = _TARGET.format("polling")
        self._most = 0
        self._packets: deque[str] = deque()
        self._more = trio.Event()
        self._ending: Ending | None = None
        self._scope = trio.CancelScope()

    def send(self, packet: str) -> None:
        self._packets.append(packet)
        self._more.set()

    def end(self, code: int, reason: str) -> None:
        if self._ending is None:
            self._ending = Ending(code, reason, may_reconnect(code))
        self._scope.cancel()

    async def converse(
        self, received: Callable[[Packet], None], beside: Callable[[], Awaitable[None]]
    ) -> Ending:
        try:
            with self._scope:
                await self._open(received)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._guarded, partial(self._poll, received))
                    nursery.start_soon(self._guarded, self._post)
                    nursery.start_soon(beside)
        finally:
            await trio.aclose_forcefully(self._gets)
            await trio.aclose_forcefully(self._posts)
        if self._ending is None:
            raise ConnectError("the connection was dropped while it was made")
        return self._ending

    async def _open(self, received: Callable[[Packet], None]) -> None:
        seconds = DEADLINES.connect
        try:
            with trio.fail_after(seconds):
                status, body = await self._gets.ask("GET", self._target)
        except trio.TooSlowError:
            raise ConnectError(f"no answer of {_HOST} in {seconds:g} s") from None
        except (OSError, *_GONE) as error:
            raise ConnectError(f"no connection to {_HOST}: {error}") from error
        if status != 200:
            text = f"refused with {status}: {_message(body)}"
            raise ConnectError(text, status=status, hopeless=status < 500)
        greeting, *rest = payloads.decode(body, 4)
        opened = msgspec.json.decode(greeting.data, type=_Opened)
        self._target += f"&sid={quote(opened.sid, safe='')}"
        self._most = opened.max_payload
        for packet in (greeting, *rest):
            received(packet)

    async def _guarded(self, run: Callable[[], Awaitable[None]]) -> None:
        try:
            await run()
        except (OSError, *_GONE):
            self.end(LOST.code, LOST.reason)

    async def _poll(self, received: Callable[[Packet], None]) -> None:
        while True:
            status, body = await self._gets.ask("GET", self._target)
            if status != 200:
                self.end(LOST.code, _message(body))
                return
            for packet in payloads.decode(body, 4):
                if packet.type == packets.CLOSE:
                    self.end(LOST.code, "the daemon closed the session")
                    return
                received(packet)

    async def _post(self) -> None:
        while True:
            while self._packets:
                status, body = await self._posts.ask("POST", self._target, self._payload())
                if status != 200:
                    self.end(LOST.code, _message(body))
                    return
            self._more = trio.Event()
            await self._more.wait()

    def _payload(self) -> bytes:
        """Return as many of the waiting packets as one POST may carry, at least one."""
        payload = self._packets.popleft().encode()
        while self._packets:
            packet = self._packets[0].encode()
            if len(payload) + 1 + len(packet) > self._most:
                break
            payload += b"\x1e" + packet
            self._packets.popleft()
        return payload


_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError)


class _HttpClient(trio.abc.AsyncResource):
    """Requests one after another, on a cable that is opened again if the daemon closed it."""

    def __init__(self, dial: Callable[[], Awaitable[Cable]]) -> None:
        self._dial = dial
        self._cable: Cable | None = None
        self._h11 = h11.Connection(h11.CLIENT)
        self._answered = False

    async def ask(self, method: str, target: str, body: bytes = b"") -> tuple[int, bytes]:
        """Return the response's status and body, or raise one of `_GONE` or OSError."""
        if self._cable is not None:
            try:
                return await self._exchange(self._cable, method, target, body)
            except _GONE:
                if self._answered:
                    raise
            # The daemon closed it while it was idle (RFC 9112 section 9.3.1).
            await self.aclose()
        self._cable = await self._dial()
        self._h11 = h11.Connection(h11.CLIENT)
        return await self._exchange(self._cable, method, target, body)

    async def _exchange(
        self, cable: Cable, method: str, target: str, body: bytes
    ) -> tuple[int, bytes]:
        self._answered = False
        headers = [("Host", _HOST)]
        if method == "POST":
            headers.append(("Content-Type", "text/plain;charset=UTF-8"))
            headers.append(("Content-Length", str(len(body))))
        request = h11.Request(method=method, target=target, headers=headers)
        data = b"".join(
            self._h11.send(event) or b""
            for event in (request, h11.Data(data=body), h11.EndOfMessage())
        )
        await cable.send_all(data)
        status = 0
        answer = b""
        while not isinstance(event := self._h11.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                received = await cable.receive_some()
                self._answered = self._answered or bool(received)
                self._h11.receive_data(bytes(received))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                answer += event.data
        if self._h11.our_state is h11.MUST_CLOSE:
            await self.aclose()
        else:
            self._h11.start_next_cycle()
        return status, answer

    async def aclose(self) -> None:
        cable, self._cable = self._cable, None
        if cable is not None:
            await trio.aclose_forcefully(cable)


def _message(body: bytes) -> str:
    """Return the message in a refusal's body: Engine.IO's are JSON, HTTP's are text."""
    try:
        return msgspec.json.decode(body, type=_Failed).message
    except msgspec.DecodeError:
        return body.decode("utf-8", "replace").strip()
