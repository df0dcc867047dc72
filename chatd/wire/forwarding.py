"""The client that a trusted proxy names in its headers. Sans-IO.

The headers are X-Forwarded-For, -Host and -Proto, or Forwarded (RFC 7239), as
``http.forwarded_header`` says: a proxy writes one kind, and passes on what a client invented in the
other. Each proxy appends to them, so they are read from the end, up to the first address that is
not a trusted proxy's. Whatever precedes that may be invented.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

from msgspec.structs import replace

from chatd.wire.origins import is_loopback_name
from chatd.wire.transport import Peer

__all__ = [
    "FORWARDING",
    "STANDARD",
    "Forwarded",
    "TrustedProxies",
    "client_address",
    "forwarded",
]

STANDARD: Final = "Forwarded"
"""The value of ``http.forwarded_header`` for RFC 7239; the other is X-Forwarded-For."""

FORWARDING: Final = frozenset(
    {"forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"}
)
"""The names of these headers, in lower case."""

# A longer chain of proxies is a loop, or a flood of commas.
_HOPS: Final = 32

# One pair and its end: token = token, or token = quoted-string.
_PAIR: Final = re.compile(
    r"""\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=("(?:[^"\\]|\\.)*"|[^\s;,"]*)\s*([;,]|$)"""
)

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class TrustedProxies:
    """The proxies that may name clients: ``http.trusted_proxies``, parsed."""

    def __init__(self, entries: Sequence[str]) -> None:
        self._unix = "unix" in entries
        self._networks: tuple[_Network, ...] = tuple(
            ipaddress.ip_network(entry) for entry in entries if entry != "unix"
        )

    def trusts(self, peer: Peer) -> bool:
        """Return whether ``peer`` is one of them."""
        if peer.kind == "unix" and not peer.forwarded:
            return self._unix
        return self.has(peer.address)

    def has(self, address: str) -> bool:
        """Return whether an address is trusted. nginx writes ``unix:`` for a Unix peer."""
        if address in ("unix", "unix:"):
            return self._unix
        if not self._networks:
            return False
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)


class Forwarded(NamedTuple):
    """A trusted proxy's information about a request. None where it says nothing."""

    peer: Peer
    host: str | None = None
    secure: bool | None = None


class _Hop(NamedTuple):
    address: str | None
    host: str | None
    proto: str | None


def forwarded(
    headers: Sequence[tuple[str, str]],
    proxy: Peer,
    trusted: TrustedProxies,
    *,
    standard: bool = False,
) -> Forwarded:
    """Parse the headers of a request from ``proxy``, which is trusted.

    With ``standard`` only Forwarded is read, without it only the others. The client is the last
    address that is not a trusted proxy's, or the first if all are. If a proxy names no address
    (``unknown``, or a made-up name), the request counts as the proxy's.
    """
    hops = _standard(headers) if standard else _x_forwarded(headers)
    peer = proxy
    host: str | None = None
    proto: str | None = None
    for index, hop in enumerate(hops):
        if index == 0:
            host, proto = hop.host, hop.proto
        if hop.address is None:
            break
        address = client_address(hop.address)
        if address is None and not trusted.has(hop.address):
            peer = replace(peer, forwarded=True)
            break
        if address is not None:
            peer = Peer(address, proxy.kind, loopback=is_loopback_name(address), forwarded=True)
        if not trusted.has(address or hop.address):
            break
    return Forwarded(peer, host, None if proto is None else proto.lower() in ("https", "wss"))


def client_address(text: str) -> str | None:
    """Parse an IP address as proxies write it: bare, in brackets, with a port, or as IPv6 for IPv4.

    Return None if it is not one.
    """
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def _x_forwarded(headers: Sequence[tuple[str, str]]) -> Iterator[_Hop]:
    # Several headers of a name form one list: RFC 9110 section 5.3.
    host, proto = (_last(headers, f"x-forwarded-{what}") for what in ("host", "proto"))
    addresses = ",".join(value for name, value in headers if name == "x-forwarded-for")
    # Beyond the limit the rest is one piece, which is not an address.
    for address in reversed(addresses.rsplit(",", _HOPS)):
        yield _Hop(address.strip() or None, host, proto)


def _last(headers: Sequence[tuple[str, str]], name: str) -> str | None:
    values = [value for key, value in headers if key == name]
    return values[-1].rpartition(",")[2].strip() or None if values else None


def _standard(headers: Sequence[tuple[str, str]]) -> Iterator[_Hop]:
    # Line by line, so that a malformed line does not spoil the one that a proxy adds after it.
    for line in reversed([value for name, value in headers if name == "forwarded"]):
        elements = _elements(line)
        if elements is None:
            yield _Hop("malformed", None, None)
            return
        for element in elements[: -_HOPS - 1 : -1]:
            yield _Hop(element.get("for"), element.get("host"), element.get("proto"))


def _elements(line: str) -> list[dict[str, str]] | None:
    """Parse one Forwarded header, RFC 7239 section 4. Return None if it is malformed."""
    elements: list[dict[str, str]] = [{}]
    at = 0
    while at < len(line):
        pair = _PAIR.match(line, at)
        if pair is None:
            return None
        value = pair[2]
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        elements[-1][pair[1].lower()] = value
        if pair[3] == ",":
            elements.append({})
        at = pair.end()
    return elements
