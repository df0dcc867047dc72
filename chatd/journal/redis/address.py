"""Addresses of servers, and the URL that names the ones where the store may be."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Final

from msgspec import Struct

from chatd.journal import StoreError

__all__ = ["Address", "Source", "parse_url"]

PORT: Final = 6379
SENTINEL_PORT: Final = 26379

_SENTINELS: Final = ("sentinel", "sentinels")
_SECURED: Final = ("rediss", "sentinels")
_FORMS: Final = {
    "redis": "redis://HOST:PORT",
    "rediss": "rediss://HOST:PORT",
    "sentinel": "sentinel://HOST:PORT/NAME",
    "sentinels": "sentinels://HOST:PORT/NAME",
}
"""The URL of each scheme."""

_PLACE: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^][:,/?#\s]+))(?::([0-9]{1,5}))?")
"""A host, and perhaps a port."""


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


class Source(Struct, frozen=True):
    """The servers of a URL: the one with the store is among them, or they know it.

    Attributes:
        addresses: Their addresses, at least one.
        service: If they are Sentinels, the name by which they know the store's servers; else empty.
    """

    addresses: tuple[Address, ...]
    service: str = ""

    def __str__(self) -> str:
        return ", ".join(map(str, self.addresses))


def parse_url(url: str, ca_file: Path | None = None) -> Source:
    """Return the servers that a URL names.

    Args:
        url: ``redis://HOST[:PORT]`` with one or more hosts, separated by commas, of which one is
            the primary server or which belong to a Redis Cluster; ``sentinel://HOST[:PORT]/NAME``
            with one or more Sentinels; ``rediss:`` and ``sentinels:`` for the same with TLS; or
            ``unix:/PATH``.
        ca_file: The certificates that may sign the servers', in PEM; None for the system's.

    Raises:
        StoreError: chatd cannot use the URL, or cannot read ``ca_file``.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "unix":
        if not rest.startswith("/"):
            raise StoreError(f"history.url: {url}: write the socket's whole path, as unix:/PATH")
        return Source((Address(path=rest.removeprefix("//")),))
    if "@" in rest:  # before any error that repeats the URL
        raise StoreError(
            "history.url: do not write a user or a password in the URL: use history.user and "
            "history.password_file"
        )
    form = _FORMS.get(scheme)
    if form is None:
        raise StoreError(f"history.url: {url}: write {', '.join(_FORMS.values())} or unix:/PATH")
    places, _, service = rest.removeprefix("//").partition("/")
    if (scheme in _SENTINELS) != bool(service) or "/" in service:
        raise StoreError(f"history.url: {url}: write {form} and nothing else")
    tls = _context(ca_file) if scheme in _SECURED else None
    port = SENTINEL_PORT if scheme in _SENTINELS else PORT
    addresses: list[Address] = []
    for place in places.split(","):
        found = _PLACE.fullmatch(place)
        if found is None:
            raise StoreError(
                f"history.url: {url}: {place!r} is not HOST or HOST:PORT: write {form}"
            )
        try:
            host = str(found[1] or found[2])
            host.encode("idna")  # as connecting does
        except ValueError as error:
            raise StoreError(f"history.url: {url}: {error}") from error
        if not 0 < (number := int(found[3] or port)) < 65536:
            raise StoreError(f"history.url: {url}: there is no port {number}")
        addresses.append(Address(host, number, tls=tls))
    return Source(tuple(addresses), service)


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise StoreError(
            f"history.tls_ca_file: cannot read certificates from {ca_file}: {error}"
        ) from error
