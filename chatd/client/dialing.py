"""How to reach the daemon, and how long to wait between attempts."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias
from urllib.parse import quote, urlsplit

import trio
from msgspec import Struct

from chatd.client.errors import ConnectError
from chatd.client.foreign import FIRST_BYTES, first_words, speaks_tls

__all__ = ["Address", "Backoff", "Dial", "dial_url"]

Dial: TypeAlias = Callable[[], Awaitable[trio.abc.Stream]]
"""An async function that opens a stream to the daemon, or raises OSError or `ConnectError`."""


class Address(Struct, frozen=True):
    """The address of a daemon.

    Attributes:
        dial: An async function that opens a stream to it.
        host: The value of the Host header.
        target: The target of the HTTP request.
    """

    dial: Dial
    host: str = "localhost"
    target: str = "/ws"

    def beginning(self, nick: str | None) -> str:
        """Return the request target for a connection.

        Args:
            nick: The nick to start with; None leaves it to the daemon.
        """
        if nick is None:
            return self.target
        mark = "&" if "?" in self.target else "?"
        return f"{self.target}{mark}nick={quote(nick, safe='')}"


def dial_url(url: str) -> Address:
    """Return the address that a URL names.

    Args:
        url: ``ws://host:port/path``, ``wss://host:port/path`` (TLS, with the system's certificate
            authorities) or ``unix:/path/of/the/socket``. The ports are 80 and 443 by default.

    Raises:
        ValueError: It is no such URL. The message is one line for people.
    """
    if url.startswith("unix:"):
        path = url.removeprefix("unix:").removeprefix("//")
        if not path:
            raise ValueError("A Unix socket is written unix:/path/of/the/socket.")
        return Address(partial(_open_unix, path))
    parts = urlsplit(url)
    if parts.scheme not in {"ws", "wss"} or not parts.hostname:
        raise ValueError(f"{url!r} is not ws://host:port, wss://host:port or unix:/path.")
    secure = parts.scheme == "wss"
    port = parts.port or (443 if secure else 80)
    dial: Dial = (
        partial(_open_secure, parts.hostname, port)
        if secure
        else partial(trio.open_tcp_stream, parts.hostname, port)
    )
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(dial, parts.netloc.rpartition("@")[2], target)


async def _open_unix(path: str) -> trio.abc.Stream:
    try:
        return await trio.open_unix_socket(path)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise ConnectError(f"There is no connection to unix:{path}: {why}.") from error


async def _open_secure(host: str, port: int) -> trio.abc.Stream:
    carrier = _Overheard(await trio.open_tcp_stream(host, port))
    stream = trio.SSLStream(
        carrier, ssl.create_default_context(), server_hostname=host, https_compatible=True
    )
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(stream)
        raise ConnectError(_no_tls(f"{host}:{port}", error.__cause__, carrier.first)) from error
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


def _no_tls(where: str, cause: BaseException | None, first: bytes) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = cause.verify_message.rstrip(".")
        return f"The certificate of {where} was not accepted: {why}."
    if isinstance(cause, ssl.SSLError) and speaks_tls(first):
        reason = (cause.reason or str(cause)).replace("_", " ").lower()
        return f"The TLS handshake with {where} failed: {reason}."
    if words := first_words(first):
        hint = " Use ws:// instead of wss://." if first.startswith(b"HTTP/") else ""
        return f"{where} does not speak TLS. It answered with {words}.{hint}"
    return f"{where} closed the connection during the TLS handshake."


class _Overheard(trio.abc.Stream):
    """A stream that keeps the first bytes that came."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.first = b""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        if len(self.first) < FIRST_BYTES:
            self.first += data[: FIRST_BYTES - len(self.first)]
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class Backoff(Struct, frozen=True):
    """How long to wait before each attempt to connect. The wait doubles, and half of it is random.

    A wait that the daemon asks for (``retry_ms``) takes precedence.

    Attributes:
        first_seconds: The longest wait before the first attempt.
        most_seconds: The longest wait before any attempt.
    """

    first_seconds: float = 0.5
    most_seconds: float = 30.0

    def seconds(self, attempt: int, chance: float) -> float:
        """Return the seconds to wait before an attempt.

        Args:
            attempt: 0 for the first attempt after a connection was lost, then 1, 2 and so on.
            chance: A random number from 0 to 1.
        """
        # 2 ** 16 is beyond every sensible cap; without a bound the power overflows.
        most = min(self.most_seconds, self.first_seconds * 2.0 ** min(attempt, 16))
        return most * (0.5 + 0.5 * chance)

    def after(self, retry_ms: int, chance: float) -> float:
        """Return the seconds to wait where the daemon asks for a wait: that, and up to 10 % more.

        Args:
            retry_ms: The wait that it asks for, in milliseconds.
            chance: A random number from 0 to 1.
        """
        return retry_ms / 1000 * (1 + 0.1 * chance)
