"""Many clients as a program: ``crowd.py HOST PORT NUMBER``.

They stay until the daemon closes their connections. Each speaks ``chatd.v1`` on a plain socket: a
thousand clients of a library would be slower than the daemon. The program prints ``ready``, and at
the end the ``bye`` of each client.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import trio

LIMIT_SECONDS = 60  # ends a hang
ARRIVING = 64  # at once

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chatd.v1\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
JOIN = b'{"do": "join", "id": 1, "room": "lobby", "limit": 0}'
CLOSE_1001 = b"\x88\x82\x00\x00\x00\x00\x03\xe9"  # masked with zeros


class Member:
    """One client."""

    def __init__(self, host: str, port: int) -> None:
        self._where = (host, port)
        self.heard = b""

    async def arrive(self) -> None:
        self._socket = trio.socket.socket()
        await self._socket.connect(self._where)
        await self._socket.send(HANDSHAKE)
        await self._until(b'"on":"hello"')
        await self._socket.send(bytes((0x81, 0x80 | len(JOIN), 0, 0, 0, 0)) + JOIN)
        await self._until(b'"re":1')

    async def leave(self) -> None:
        """Answer the daemon's Close frame."""
        await self._until(b'"on":"bye"')
        await self._socket.send(CLOSE_1001)
        while data := await self._socket.recv(65536):
            self.heard += data
        self._socket.close()

    async def _until(self, words: bytes) -> None:
        while words not in self.heard:
            data = await self._socket.recv(65536)
            if not data:
                raise SystemExit(f"gone without {words!r}: {self.heard[-200:]!r}")
            self.heard += data

    @property
    def bye(self) -> dict[str, Any]:
        found = re.search(rb'\{"on":"bye".*?\}', self.heard)
        assert found is not None
        return dict(json.loads(found[0]))


async def main(host: str, port: int, number: int) -> None:
    members = [Member(host, port) for _ in range(number)]
    with trio.fail_after(LIMIT_SECONDS):
        limiter = trio.CapacityLimiter(ARRIVING)

        async def arrive(member: Member) -> None:
            async with limiter:
                await member.arrive()

        async with trio.open_nursery() as nursery:
            for member in members:
                nursery.start_soon(arrive, member)
        print("ready", flush=True)  # noqa: T201  this program's output
        async with trio.open_nursery() as nursery:
            for member in members:
                nursery.start_soon(member.leave)
    print(json.dumps([member.bye for member in members]), flush=True)  # noqa: T201  this program's output


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
