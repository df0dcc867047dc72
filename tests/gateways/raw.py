"""Clients without a library: the daemon's bytes as they are, frame by frame."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import trio

from chatd.daemon import Daemon
from chatd.testing import Harness
from chatd.testing.cable import PIPE_BYTES, PipeEnd, pipe
from chatd.wire.transport import Peer, StreamTransport
from tests.wire.served import KEY, Client, masked

LOOPBACK = Peer("127.0.0.1", "tcp", loopback=True)

# Of the virtual clock, and less than the daemon's first ping takes.
SECONDS = 5


class Raw(Client):
    """A stream to the daemon, and what can be said on it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        # It is never half closed here.
        super().__init__(cast("trio.abc.HalfCloseableStream", stream))

    async def hear(self) -> str:
        with trio.fail_after(SECONDS):
            return await super().hear()

    async def closed(self) -> tuple[int, str]:
        with trio.fail_after(SECONDS):
            return await super().closed()


class Json(Raw):
    """One that speaks ``chatd.v1``; events that came before an answer are in ``events``."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream)
        self.events: list[dict[str, Any]] = []
        self._ids = 0

    async def next(self) -> dict[str, Any]:
        frame = json.loads(await self.hear())
        assert isinstance(frame, dict)
        return frame

    async def answer_to(self, frame: str) -> dict[str, Any]:
        """Send a frame as it is; give the next answer."""
        await self.text(frame)
        while "re" not in (answer := await self.next()):
            self.events.append(answer)
        return answer

    async def do(self, command: str, **fields: Any) -> dict[str, Any]:
        """Do it, and give the whole answer but ``re``."""
        self._ids += 1
        answer = await self.answer_to(json.dumps({"do": command, "id": self._ids, **fields}))
        assert answer.pop("re") == self._ids
        return answer

    async def event(self) -> dict[str, Any]:
        if self.events:
            return self.events.pop(0)
        frame = await self.next()
        assert "re" not in frame
        return frame


def masked_binary(payload: bytes) -> bytes:
    return masked(0x82, payload)


def handshake(target: str = "/ws", headers: Mapping[str, str] | None = None) -> bytes:
    fields = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": KEY,
        **(headers or {}),
    }
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode()


async def speak_text(
    chat: Harness, target: str = "/ws", headers: Mapping[str, str] | None = None
) -> Raw:
    """Connect by WebSocket without a subprotocol."""
    client = Raw(await chat.dial())
    await client.send(handshake(target, headers))
    assert (await client.answer())[0] == 101
    return client


async def speak_json(
    chat: Harness, target: str = "/ws", headers: Mapping[str, str] | None = None
) -> Json:
    """Connect with ``chatd.v1``, before its ``hello`` is read."""
    client = Json(await chat.dial())
    fields = {"Sec-WebSocket-Protocol": "chatd.v1", **(headers or {})}
    await client.send(handshake(target, fields))
    status, headers, _ = await client.answer()
    assert (status, headers["sec-websocket-protocol"]) == (101, "chatd.v1")
    return client


def attach(daemon: Daemon, size: int = PIPE_BYTES) -> PipeEnd:
    """Connect to a daemon that is in no harness; the pipe holds ``size`` bytes each way."""
    near, far = pipe(size)
    daemon.attach(StreamTransport(far, LOOPBACK, listener_loopback=True))
    return near


async def attached_user(daemon: Daemon, nick: str, *, size: int = PIPE_BYTES) -> Json:
    """Connect to a daemon that is in no harness with ``chatd.v1``, and join the lobby."""
    client = Json(attach(daemon, size))
    await client.send(handshake(f"/ws?nick={nick}", {"Sec-WebSocket-Protocol": "chatd.v1"}))
    assert (await client.answer())[0] == 101
    assert (await client.next())["on"] == "hello"
    assert "ok" in await client.do("join", room="lobby")
    return client


async def json_user(chat: Harness, nick: str, room: str | None = "lobby") -> Json:
    """Connect with ``chatd.v1`` and this nick, read ``hello`` and join this room."""
    client = await speak_json(chat, f"/ws?nick={nick}")
    assert (await client.next())["nick"] == nick
    if room is not None:
        assert "ok" in await client.do("join", room=room)
    return client
