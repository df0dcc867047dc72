"""Where the daemon is: URLs to streams, and how long to wait before trying again."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias
from urllib.parse import quote, urlsplit

import trio
from msgspec import Struct

__all__ = ["Address", "Backoff", "Dial", "dial_url"]

Dial: TypeAlias = Callable[[], Awaitable[trio.abc.Stream]]
"""Opens a stream to the daemon. Raises OSError, or `ConnectError`, where there is none."""


class Address(Struct, frozen=True):
    """A daemon: how its stream is opened, what to call it, and the request target."""

    dial: Dial
    host: str = "localhost"
    target: str = "/ws"

    def beginning(self, nick: str | None) -> str:
        """Give the request target with a starting nick."""
        if nick is None:
            return self.target
        mark = "&" if "?" in self.target else "?"
        return f"{self.target}{mark}nick={quote(nick, safe='')}"


def dial_url(url: str) -> Address:
    """Read ``ws://host:port/path``, ``wss://…`` or ``unix:/path/of/the/socket``.

    Raises ValueError, in one line.
    """
    if url.startswith("unix:"):
        path = url.removeprefix("unix:").removeprefix("//")
        if not path:
            raise ValueError("a Unix socket is written unix:/path/of/the/socket")
        return Address(partial(trio.open_unix_socket, path))
    parts = urlsplit(url)
    if parts.scheme not in {"ws", "wss"} or not parts.hostname:
        raise ValueError(f"{url!r} is not ws://host:port, wss://host:port or unix:/path")
    secure = parts.scheme == "wss"
    port = parts.port or (443 if secure else 80)
    dial: Dial = (
        partial(_open_secure, parts.hostname, port)
        if secure
        else partial(trio.open_tcp_stream, parts.hostname, port)
    )
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(dial, parts.netloc.rpartition("@")[2], target)


async def _open_secure(host: str, port: int) -> trio.abc.Stream:
    stream = await trio.open_ssl_over_tcp_stream(
        host, port, ssl_context=ssl.create_default_context(), https_compatible=True
    )
    try:
        await stream.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


class Backoff(Struct, frozen=True):
    """How long to wait before each attempt: doubling, and spread so that no herd comes at once."""

    first_seconds: float = 0.5
    most_seconds: float = 30.0

    def seconds(self, attempt: int, chance: float) -> float:
        """Give the wait before attempt 0, 1, 2 …; ``chance`` is drawn evenly from 0 to 1."""
        # 2 ** 16 is past every cap anybody means; without a bound the power overflows.
        most = min(self.most_seconds, self.first_seconds * 2.0 ** min(attempt, 16))
        return most * (0.5 + 0.5 * chance)

    def after(self, retry_ms: int, chance: float) -> float:
        """Give the wait where the daemon named one: that, and up to a tenth more."""
        return retry_ms / 1000 * (1 + 0.1 * chance)
