"""Which web pages may connect: a request's Origin and Host, and the operator's lists. Sans-IO."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from msgspec import Struct

from chatd.wire.request import Request

__all__ = ["OriginRefusal", "check", "check_local_host", "is_loopback_name", "is_origin"]

_USUAL: Final = frozenset({"localhost", "127.0.0.1"})
"""How most requests of this machine name it: these are not parsed."""

_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}

# A forwarded request only looks local.
_FORWARDED: Final = (
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
)
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")
# A name, in its ASCII form (xn--), or an address.
_ORIGIN_HOST: Final = re.compile(r"[a-z0-9._:-]+")
# How much of a header a refusal repeats.
_SHOWN_CHARACTERS: Final = 200


class OriginRefusal(Struct, frozen=True):
    """Why a page may not connect. ``message`` names the origin, ``setting`` the key to set."""

    origin: str
    host: str
    setting: str
    message: str


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int


def check(
    request: Request, origins: Sequence[str], hosts: Sequence[str], listener_loopback: bool
) -> OriginRefusal | None:
    """Return None if the page that sent the request may connect.

    A request without an Origin is not a page's and passes.

    Args:
        request: The request.
        origins: ``http.origins``: ``same``, ``loopback``, ``file`` and whole origins.
        hosts: ``http.hosts``: the names of this server, which limit ``same``. Empty allows any.
        listener_loopback: Whether the request's listener is bound to loopback.
    """
    written = request.header("origin")
    if written is None:
        return None
    host = request.header("host") or ""
    origin = _parsed(written)
    local = listener_loopback and _is_local(request, host)
    same = "same" in origins and origin is not None and _is_same(request, host, origin)
    if same and origin is not None and _is_ours(origin, hosts):
        return None
    if local and "file" in origins and written == "null":
        return None
    if origin is not None:
        if local and "loopback" in origins and is_loopback_name(origin.host):
            return None
        if any(_parsed(allowed) == origin for allowed in origins):
            return None
    shown, host = written[:_SHOWN_CHARACTERS], host[:_SHOWN_CHARACTERS]
    if same:
        message = f"{host} is not a name of this server. Add it to http.hosts."
        return OriginRefusal(shown, host, "http.hosts", message)
    message = f"Pages of the origin {shown} may not connect. Add it to http.origins."
    return OriginRefusal(shown, host, "http.origins", message)


def check_local_host(request: Request, hosts: Sequence[str]) -> OriginRefusal | None:
    """Return None unless a request of this machine names a host that could be anywhere.

    A page of another site can have its own name resolved to 127.0.0.1 (DNS rebinding). Its requests
    then come from this machine, with an Origin that is the same as their Host. It cannot do that to
    ``localhost`` or to an IP address, so where the server is reached by loopback, without a proxy,
    only these are accepted.

    Args:
        request: The request.
        hosts: ``http.hosts``. If it is set it limits ``same`` instead.
    """
    written = request.header("host")
    # Every browser sends a Host. Some monitoring programs speak HTTP/1.0, and do not.
    if hosts or written is None or not request.listener_loopback or request.peer.kind != "tcp":
        return None
    name, colon, port = written.partition(":")
    if name in _USUAL and (not colon or (port.isdecimal() and len(port) < 6 and int(port) < 65536)):
        return None
    if not _is_direct(request):
        return None
    named = _authority(written, "http")
    if named is not None and (is_loopback_name(named[0]) or _address(named[0]) is not None):
        return None
    host = written[:_SHOWN_CHARACTERS]
    message = f'"{host}" is not a name of this server. Use localhost, or add it to http.hosts.'
    return OriginRefusal("", host, "http.hosts", message)


def is_loopback_name(host: str) -> bool:
    """Return whether this is ``localhost`` or below (RFC 6761 section 6.3), 127.0.0.0/8 or ::1."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def is_origin(text: str) -> bool:
    """Return whether this is an origin as browsers send it, except for ``null``."""
    origin = _parsed(text)
    return origin is not None and bool(
        _SCHEME.fullmatch(origin.scheme) and _ORIGIN_HOST.fullmatch(origin.host)
    )


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a host is, an IPv4 one also if it is written as IPv6, or None."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_same(request: Request, host: str, origin: _Origin) -> bool:
    # Without TLS here the page may still have been loaded over TLS, from a proxy that ended it.
    scheme = "https" if request.secure else origin.scheme
    return _authority(host, scheme) == (origin.host, origin.port)


def _is_ours(origin: _Origin, hosts: Sequence[str]) -> bool:
    return not hosts or any(_names(name, origin) for name in hosts)


def _names(name: str, origin: _Origin) -> bool:
    named = _authority(name, origin.scheme)
    if named is None or named[0] != origin.host:
        return False
    # A name without a port means the host on every port.
    has_port = name.rpartition("]")[2].count(":") == 1
    return not has_port or named[1] == origin.port


def _is_local(request: Request, host: str) -> bool:
    named = _authority(host, "http")
    return _is_direct(request) and named is not None and is_loopback_name(named[0])


def _is_direct(request: Request) -> bool:
    """Return whether a request comes from this machine, and not by a proxy on it."""
    return (
        request.peer.loopback
        and not request.peer.forwarded
        and all(request.header(name) is None for name in _FORWARDED)
    )


def _parsed(origin: str) -> _Origin | None:
    """Parse a serialized origin (RFC 6454 section 6.2). Return None if it is not one."""
    scheme, separator, authority = origin.lower().partition("://")
    if not separator:
        return None
    named = _authority(authority, scheme)
    return None if named is None else _Origin(scheme, *named)


def _authority(authority: str, scheme: str) -> tuple[str, int] | None:
    """Return host and port, by default the scheme's. Return None if it is not an authority.

    Hosts are compared: without the dot that may end a complete name, and addresses in one form.
    """
    if not authority or any(mark in authority for mark in "/?#@\\, \t"):
        return None
    try:
        parts = urlsplit("//" + authority.lower())
        port = parts.port
    except ValueError:
        return None
    host = (parts.hostname or "").removesuffix(".")
    if not host:
        return None
    if port is None:
        port = _PORTS.get(scheme, -1)
    address = _address(host)
    return host if address is None else str(address), port
