"""A scripted daemon on trio-websocket's server side."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import memory_stream_pair
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

HELLO: dict[str, Any] = {
    "on": "hello",
    "server": "script",
    "session": "secret-1",
    "user": "g1",
    "nick": "ann",
    "op": False,
    "limits": {"message_bytes": 16384, "messages_per_second": 5, "messages_burst": 20},
}


class Scripted:
    """The daemon's side of one connection."""

    def __init__(self, websocket: WebSocketConnection, stream: trio.abc.Stream, path: str) -> None:
        self._websocket = websocket
        self._stream = stream
        self.path = path

    async def say(self, frame: dict[str, Any] | str) -> None:
        await self._websocket.send_message(frame if isinstance(frame, str) else json.dumps(frame))

    async def hello(self, **fields: object) -> None:
        await self.say(HELLO | fields)

    async def asked(self, do: str) -> dict[str, Any]:
        """Read the next command, which must be ``do``."""
        with trio.fail_after(1000):
            frame: dict[str, Any] = json.loads(await self._websocket.get_message())
        assert frame["do"] == do, frame
        return frame

    async def answer(self, command: dict[str, Any], **ok: object) -> None:
        await self.say({"re": command["id"], "ok": ok})

    async def refuse(self, command: dict[str, Any], code: str, **fields: object) -> None:
        error = {"code": code, "message": f"it is {code}"} | fields
        await self.say({"re": command["id"], "error": error})

    async def let_in(
        self,
        seq: int = 0,
        events: list[dict[str, Any]] | None = None,
        *,
        room: str = "lobby",
        epoch: str = "e1",
        recovered: bool = False,
    ) -> dict[str, Any]:
        """Answer a join; gives the command."""
        command = await self.asked("join")
        await self.answer(
            command,
            room=room,
            epoch=epoch,
            seq=seq,
            topic="",
            members=[],
            member_count=1,
            events=events or [],
            recovered=recovered,
        )
        return command

    async def know(self, session: str = "secret-1", user: str = "g1", nick: str = "ann") -> None:
        """Answer an auth."""
        command = await self.asked("auth")
        assert command["session"] == session
        await self.answer(command, user=user, nick=nick, op=False, session=session)

    async def close(self, code: int, reason: str = "") -> None:
        with trio.move_on_after(5):
            await self._websocket.aclose(code, reason)

    async def drop(self) -> None:
        """End the stream without a Close frame."""
        await trio.aclose_forcefully(self._stream)

    async def closed(self) -> int:
        """Wait until the client has closed; gives its code."""
        with suppress(ConnectionClosed):
            while True:
                await self._websocket.get_message()
        reason = self._websocket.closed
        assert reason is not None
        return reason.code


class Script:
    """The clients' dial. While ``refusing`` is set, dialing raises it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._send, self._streams = trio.open_memory_channel[trio.abc.Stream](10)
        self.refusing: Exception | None = None
        self.dialed: list[float] = []

    async def dial(self) -> trio.abc.Stream:
        self.dialed.append(trio.current_time())
        if self.refusing is not None:
            await trio.lowlevel.checkpoint()
            raise self.refusing
        near, far = memory_stream_pair()
        await self._send.send(far)
        return near

    async def stream(self) -> trio.abc.Stream:
        """Return the next dialed stream, before any handshake."""
        with trio.fail_after(1000):
            return await self._streams.receive()

    async def accept(self, subprotocol: str | None = "chatd.v1") -> Scripted:
        """Return the next connection."""
        stream = await self.stream()
        request = await wrap_server_stream(self._nursery, stream)
        websocket = await request.accept(subprotocol=subprotocol)
        return Scripted(websocket, stream, request.path)

    async def greet(self, **fields: object) -> Scripted:
        """Return the next connection, after sending ``hello``."""
        daemon = await self.accept()
        await daemon.hello(**fields)
        return daemon

    def run(self, script: Callable[[], Awaitable[Any]]) -> None:
        """Run the daemon's part beside the test's."""
        self._nursery.start_soon(script)


@pytest.fixture
def script(nursery: trio.Nursery) -> Script:
    return Script(nursery)


def said(seq: int, text: str = "", room: str = "lobby", **fields: object) -> dict[str, Any]:
    """Make a message event."""
    return {
        "on": "message",
        "room": room,
        "seq": seq,
        "at": "2025-01-01T00:00:00.000Z",
        "from": "bob",
        "user": "g2",
        "text": text or f"message {seq}",
    } | fields


@pytest.fixture
def message() -> Callable[..., dict[str, Any]]:
    return said
