"""Requests of scripts, and event streams, as bytes on a stream of the harness."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from msgspec import Struct

from chatd.testing import Harness
from chatd.wire.transport import Peer
from tests.gateways.raw import LOOPBACK, Raw

# A limit of a hang. The process of tests/e2e runs on a real clock.
SECONDS = 60

NEAR = Peer("192.0.2.7", "tcp", loopback=False)
FAR = Peer("198.51.100.9", "tcp", loopback=False)


class Answer(Struct):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def texts(self) -> list[str | None]:
        return [line.get("text") for line in self.lines]

    @property
    def code(self) -> str:
        """The code of a problem, whose form is checked."""
        assert self.headers["content-type"] == "application/problem+json"
        problem = self.json
        assert problem["type"] == "about:blank"
        assert (problem["status"], bool(problem["title"])) == (self.status, True)
        if "retry_ms" in problem:
            assert self.headers["retry-after"] == str(-(-problem["retry_ms"] // 1000))
        else:
            assert "retry-after" not in self.headers
        code: str = problem.get("code", "")
        return code


def head_of(
    line: str, headers: Mapping[str, str | bytes] | None = None, body: bytes | None = None
) -> bytes:
    fields: dict[str, str | bytes] = {"Host": "localhost:3000", **(headers or {})}
    if body is not None and "Transfer-Encoding" not in fields:
        fields.setdefault("Content-Length", str(len(body)))
    version = "" if " HTTP/" in line else " HTTP/1.1"
    lines = [f"{line}{version}".encode()]
    for name, value in fields.items():
        lines.append(
            name.encode() + b": " + (value if isinstance(value, bytes) else value.encode())
        )
    return b"\r\n".join([*lines, b"", b""])


async def ask(
    chat: Harness,
    line: str,
    body: bytes | str | None = None,
    headers: Mapping[str, str | bytes] | None = None,
    *,
    peer: Peer = LOOPBACK,
) -> Answer:
    """Send one request on a connection of its own, and return the answer."""
    client = Raw(await chat.dial(peer))
    content = body.encode() if isinstance(body, str) else body
    async with client.stream:
        await client.send(head_of(line, headers, content) + (content or b""))
        with trio.fail_after(SECONDS):
            if line.startswith("HEAD "):
                status, answered = await client.head()
                return Answer(status, answered, b"")
            return Answer(*await client.answer())


async def say(
    chat: Harness,
    text: str,
    room: str = "lobby",
    nick: str | None = None,
    headers: Mapping[str, str | bytes] | None = None,
    *,
    peer: Peer = LOOPBACK,
) -> Answer:
    query = "" if nick is None else f"?nick={nick}"
    return await ask(chat, f"POST /rooms/{room}{query}", text, headers, peer=peer)


class Events:
    """The client of one event stream."""

    def __init__(self, raw: Raw, *, chunked: bool) -> None:
        self._raw = raw
        self._chunked = chunked
        self._bytes = b""
        self.headers: dict[str, str] = {}
        self.ended = False
        """Whether the last chunk came."""
        self.last_id = ""
        self.retry: int | None = None
        self.comments = 0

    async def block(self) -> dict[str, str]:
        """Return the fields of the next block; a comment alone has none. EOFError at the end."""
        with trio.fail_after(SECONDS):
            while b"\n\n" not in self._bytes:
                await self._more()
        block, _, self._bytes = self._bytes.partition(b"\n\n")
        fields = {}
        for line in block.decode().split("\n"):
            name, _, value = line.partition(":")
            if not name:
                self.comments += 1
            else:
                assert name not in fields
                fields[name] = value.removeprefix(" ")
        self.last_id = fields.get("id", self.last_id)
        if "retry" in fields:
            self.retry = int(fields["retry"])
        return fields

    async def event(self) -> dict[str, Any]:
        """Return the next block's data, without blocks that have none."""
        while True:
            fields = await self.block()
            if "data" in fields:
                assert set(fields) <= {"id", "data", "retry"}
                event: dict[str, Any] = json.loads(fields["data"])
                return event

    async def comment(self) -> None:
        """Wait for a comment."""
        assert await self.block() == {}

    async def page(self) -> list[dict[str, Any]]:
        """Return the events up to the block that has an id alone."""
        page = []
        while True:
            fields = await self.block()
            if "data" in fields:
                page.append(json.loads(fields["data"]))
            elif "id" in fields:
                return page

    async def texts(self, count: int) -> list[str | None]:
        return [(await self.event()).get("text") for _ in range(count)]

    async def end(self) -> list[dict[str, Any]]:
        """Return what comes until the server closes."""
        rest: list[dict[str, Any]] = []
        try:
            while True:
                rest.append(await self.event())
        except EOFError:
            return rest

    async def aclose(self) -> None:
        await self._raw.aclose()

    async def _more(self) -> None:
        if not self._chunked:
            self._bytes += await self._raw.some()
            return
        size = int((await self._raw.line()).decode(), 16)
        data = await self._raw.exactly(size + 2)
        assert data.endswith(b"\r\n")
        self._bytes += data[:-2]
        if not size:
            self.ended = True
            raise EOFError


async def follow(
    chat: Harness,
    target: str = "/rooms/lobby",
    headers: Mapping[str, str | bytes] | None = None,
    *,
    peer: Peer = LOOPBACK,
    version: str = "HTTP/1.1",
) -> Events:
    """Open an event stream; its head must say that it is one."""
    raw = Raw(await chat.dial(peer))
    fields = {"Accept": "text/event-stream", **(headers or {})}
    await raw.send(head_of(f"GET {target} {version}", fields))
    with trio.fail_after(SECONDS):
        status, answered, body = await raw.answer()
    assert status == 200, body
    assert answered["content-type"] == "text/event-stream"
    chunked = answered.get("transfer-encoding") == "chunked"
    assert chunked is (version == "HTTP/1.1")
    events = Events(raw, chunked=chunked)
    events.headers = answered
    return events


async def refused_stream(
    chat: Harness,
    target: str = "/rooms/lobby",
    headers: Mapping[str, str | bytes] | None = None,
    *,
    peer: Peer = LOOPBACK,
) -> Answer:
    return await ask(
        chat, f"GET {target}", None, {"Accept": "text/event-stream", **(headers or {})}, peer=peer
    )


@asynccontextmanager
async def following(
    chat: Harness, targets: Sequence[str] = ("/rooms/lobby",)
) -> AsyncGenerator[list[Events]]:
    """Open streams whose first page has been read, and close them."""
    streams = [await follow(chat, target) for target in targets]
    for stream in streams:
        await stream.page()
    try:
        yield streams
    finally:
        for stream in streams:
            await stream.aclose()
