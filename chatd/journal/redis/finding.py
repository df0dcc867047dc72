"""The address of the Redis server that holds the store.

It is one server at a fixed address. Sentinel, which names the primary one of several servers, and
Redis Cluster are not supported.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from chatd.journal import StoreError

__all__ = ["Address", "find"]

PORT: Final = 6379


class Address(Struct, frozen=True):
    """The address of a server.

    Attributes:
        host: A name or an IP address; empty for a Unix socket.
        port: The TCP port.
        path: The path of a Unix socket; empty for TCP.
        tls: For TLS, the context with which the server's certificate is checked.
    """

    host: str = ""
    port: int = PORT
    path: str = ""
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def find(url: str, ca_file: Path | None = None) -> Address:
    """Return the address that a URL names.

    Args:
        url: ``redis://HOST[:PORT]``, ``rediss://HOST[:PORT]`` (with TLS) or ``unix:/PATH``.
        ca_file: The certificates that may sign the server's, in PEM; None for the system's.

    Raises:
        StoreError: chatd cannot use the URL, or cannot read ``ca_file``.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "unix":
        if not rest.startswith("/"):
            raise StoreError(f"history.url: {url}: write the socket's whole path, as unix:/PATH")
        return Address(path=rest.removeprefix("//"))
    if "@" in rest:  # before any error that repeats the URL
        raise StoreError(
            "history.url: do not write a user or a password in the URL: use history.user and "
            "history.password_file"
        )
    if scheme in ("sentinel", "redis+sentinel", "cluster", "redis+cluster"):
        raise StoreError(
            f"history.url: {url}: chatd supports neither Sentinel nor Redis Cluster: name one "
            "server, as redis://HOST:PORT"
        )
    if scheme not in ("redis", "rediss"):
        raise StoreError(
            f"history.url: {url}: write redis://HOST:PORT, rediss://HOST:PORT or unix:/PATH"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or PORT
        host.encode("idna")  # as connecting does
    except ValueError as error:
        raise StoreError(f"history.url: {url}: {error}") from error
    if not host or parts.path not in ("", "/", "/0") or parts.query or parts.fragment:
        raise StoreError(f"history.url: {url}: write {scheme}://HOST:PORT and nothing else")
    return Address(host, port, tls=_context(ca_file) if scheme == "rediss" else None)


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise StoreError(
            f"history.tls_ca_file: cannot read certificates from {ca_file}: {error}"
        ) from error
