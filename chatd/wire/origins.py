"""Which web pages may connect: the Origin of a request against the operator's list. Sans-IO."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final, Protocol
from urllib.parse import urlsplit

from msgspec import Struct

__all__ = ["Asker", "OriginRefusal", "check", "is_loopback_name"]

_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}

# A request that somebody forwarded only looks local.
_FORWARDED: Final = (
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
)


class _Peer(Protocol):
    @property
    def loopback(self) -> bool: ...

    @property
    def forwarded(self) -> bool: ...


class Asker(Protocol):
    """What is asked of a request here."""

    @property
    def peer(self) -> _Peer: ...

    @property
    def secure(self) -> bool: ...

    def header(self, name: str) -> str | None: ...


class OriginRefusal(Struct, frozen=True):
    """Why a page may not connect. ``message`` names the origin and ``setting`` the key to set."""

    origin: str
    host: str
    setting: str
    message: str


def check(
    request: Asker, origins: Sequence[str], hosts: Sequence[str], listener_loopback: bool
) -> OriginRefusal | None:
    """Give None where the request may pass: it names no Origin, or one ``origins`` allows.

    ``origins`` holds ``same``, ``loopback``, ``file`` and whole origins; ``hosts`` the names this
    server goes by (empty: any), which bounds ``same`` alone.
    """
    origin = request.header("origin")
    if origin is None:
        return None
    host = request.header("host") or ""
    setting = "http.origins"
    asked = _parts(origin)
    for allowed in origins:
        if allowed == "same":
            # Whether it came over TLS is known where it did: else a proxy may have ended it.
            scheme = "https" if request.secure else asked and asked[0]
            if asked is not None and _authority(host, scheme or "") == asked[1:]:
                if not hosts or any(_names(name, asked) for name in hosts):
                    return None
                setting = "http.hosts"
        elif allowed in ("loopback", "file"):
            wanted = origin == "null" if allowed == "file" else _is_local(asked)
            if wanted and listener_loopback and _came_locally(request, host):
                return None
        elif asked is not None and _parts(allowed) == asked:
            return None
    named = origin[:200]
    if setting == "http.hosts":
        message = f"{host[:200]} is not a name of this server: add it to http.hosts"
    else:
        message = f"a page of origin {named} may not connect: add it to http.origins"
    return OriginRefusal(named, host[:200], setting, message)


def is_loopback_name(host: str) -> bool:
    """Tell ``localhost``, what ends in it (RFC 6761 section 6.3), 127.0.0.0/8 and ::1."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _came_locally(request: Asker, host: str) -> bool:
    named = _authority(host, "http")
    return (
        request.peer.loopback
        and not request.peer.forwarded
        and named is not None
        and is_loopback_name(named[0])
        and all(request.header(name) is None for name in _FORWARDED)
    )


def _is_local(asked: tuple[str, str, int] | None) -> bool:
    return asked is not None and is_loopback_name(asked[1])


def _names(name: str, asked: tuple[str, str, int]) -> bool:
    scheme, host, port = asked
    named = _authority(name, scheme)
    if named is None or named[0] != host:
        return False
    # A name without a port stands for the host on every port.
    has_port = name.rpartition("]")[2].count(":") == 1
    return not has_port or named[1] == port


def _parts(origin: str) -> tuple[str, str, int] | None:
    """Split off scheme, host and port of a serialized origin (RFC 6454 section 6.2), or None."""
    scheme, separator, authority = origin.lower().partition("://")
    if not separator:
        return None
    named = _authority(authority, scheme)
    return None if named is None else (scheme, *named)


def _authority(authority: str, scheme: str) -> tuple[str, int] | None:
    """Split host and port (the scheme's where none is written); None where it is no authority."""
    if not authority or any(mark in authority for mark in "/?#@\\, \t"):
        return None
    try:
        parts = urlsplit("//" + authority.lower())
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname:
        return None
    if port is None:
        port = _PORTS.get(scheme, -1)
    return parts.hostname, port
