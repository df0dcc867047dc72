"""Servers that answer with given bytes."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from chatd.journal.redis.address import Address

__all__ = ["HELLO", "scripted"]

HELLO = b"%1\r\n+proto\r\n:3\r\n"


@asynccontextmanager
async def scripted(*replies: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[Address]:
    """Return the address of a server that answers what it gets with these bytes, one each time."""
    waiting = list(replies)

    async def serve(stream: trio.abc.Stream) -> None:
        while waiting and await stream.receive_some():
            if (reply := waiting.pop(0)) == b"close":
                await stream.aclose()
                return
            await stream.send_all(reply)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        serving = listener if tls is None else trio.SSLListener(listener, tls)
        await nursery.start(trio.serve_listeners, serve, [serving])
        yield Address("127.0.0.1", listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()
