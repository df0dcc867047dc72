"""A daemon in memory with its administration, and requests to it by raw bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import trio

from chatd.admin import Administration, DaemonControl
from chatd.daemon import Daemon
from chatd.journal import Journal
from chatd.reload import Configuration, Reload, fixed
from chatd.settings import Settings
from chatd.systemd import Notifier
from chatd.testing import Harness, open_chat
from chatd.testing.cable import PIPE_BYTES, pipe
from chatd.wire.server import HttpServer
from chatd.wire.transport import Peer, StreamTransport
from tests.gateways.raw import Raw

UNIX = Peer("unix", "unix", loopback=False)


class AdministeredDaemon:
    """A daemon with its administration; ``stop`` is set by a drain."""

    def __init__(
        self, daemon: Daemon, nursery: trio.Nursery, configuration: Configuration | None = None
    ) -> None:
        self.stop = trio.Event()
        self.reload = Reload(
            configuration or fixed(daemon.settings),
            daemon.settings,
            log=daemon.log,
            notifier=Notifier({}),
            now=lambda: 0,
        )
        self.reload.apply = daemon.apply
        control = DaemonControl(daemon, self.reload, self.stop)
        self.administration = Administration(control, admin=(), metrics=())
        self._nursery = nursery

    def dial(self, server: HttpServer | None = None) -> Raw:
        """Connect to the admin socket, or to another server of the administration."""
        near, far = pipe(PIPE_BYTES)
        transport = StreamTransport(far, UNIX, listener_loopback=False)
        self._nursery.start_soon((server or self.administration.admin).handle, transport)
        return Raw(near)

    async def raw(
        self, line: str, body: bytes = b"", host: str = "chatd", kind: str = "application/json"
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request on a new connection; return status, headers and body."""
        client = self.dial()
        head = f"{line} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
        typed = f"Content-Type: {kind}\r\n" if kind else ""
        await client.send(f"{head}{typed}Connection: close\r\n\r\n".encode() + body)
        try:
            status, headers, answer = await client.answer()
            if headers.get("transfer-encoding") == "chunked":
                answer = _joined(answer + await client.rest())
            return status, headers, answer
        finally:
            await client.aclose()

    async def ask(self, line: str, arguments: Any = None) -> tuple[int, Any]:
        """Send a request; return the status and the decoded JSON."""
        body = b"" if arguments is None else json.dumps(arguments).encode()
        status, headers, answer = await self.raw(line, body)
        assert headers["content-type"] == "application/json"
        return status, json.loads(answer)

    async def done(self, line: str, arguments: Any = None) -> Any:
        """Send a request that must succeed."""
        status, answer = await self.ask(line, arguments)
        assert status == 200, answer
        return answer

    async def refused(self, line: str, arguments: Any = None) -> tuple[int, str]:
        """Send a request that must be refused; return the status and the code."""
        status, answer = await self.ask(line, arguments)
        assert status >= 400
        assert answer["error"]["message"]
        return status, answer["error"]["code"]


class Administered(AdministeredDaemon):
    """``chat`` is the daemon in memory."""

    def __init__(
        self, chat: Harness, nursery: trio.Nursery, configuration: Configuration | None
    ) -> None:
        super().__init__(chat.daemon, nursery, configuration)
        self.chat = chat


@asynccontextmanager
async def administered(
    settings: Settings | None = None,
    configuration: Configuration | None = None,
    journal: Journal | None = None,
) -> AsyncGenerator[Administered]:
    async with open_chat(settings, journal=journal) as chat, trio.open_nursery() as nursery:
        yield Administered(chat, nursery, configuration)
        nursery.cancel_scope.cancel()


def _joined(chunked: bytes) -> bytes:
    """Return the body of these chunks (RFC 9112 section 7.1)."""
    body = b""
    while chunked:
        size, _, chunked = chunked.partition(b"\r\n")
        body += chunked[: int(size, 16)]
        chunked = chunked[int(size, 16) + 2 :]
    return body
