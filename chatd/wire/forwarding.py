"""For whom a proxy asks: what its headers say, believed only where it is trusted. Sans-IO.

The headers are X-Forwarded-For, -Host and -Proto, and where none of these is there the standard's
one, Forwarded (RFC 7239). A proxy adds its own words at the end, so all is read from there: what
stands before the first address that is no proxy's of ours may be anybody's invention.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

from msgspec.structs import replace

from chatd.wire.origins import is_loopback_name
from chatd.wire.transport import Peer

__all__ = ["FORWARDING", "Forwarded", "TrustedProxies", "client_address", "forwarded"]

FORWARDING: Final = frozenset(
    {"forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"}
)
"""The headers that are read here, by their lower-case names."""

# A chain of more proxies than this is a loop, or a flood of commas.
_HOPS: Final = 32

# One pair, and what ends it: token = token, or token = quoted-string.
_PAIR: Final = re.compile(
    r"""\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=("(?:[^"\\]|\\.)*"|[^\s;,"]*)\s*([;,]|$)"""
)

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class TrustedProxies:
    """Who may speak for others: ``http.trusted_proxies``, made ready to be asked."""

    def __init__(self, entries: Sequence[str]) -> None:
        self._unix = "unix" in entries
        self._networks: tuple[_Network, ...] = tuple(
            ipaddress.ip_network(entry) for entry in entries if entry != "unix"
        )

    def trusts(self, peer: Peer) -> bool:
        """Tell whether ``peer`` is one of them."""
        if peer.kind == "unix" and not peer.forwarded:
            return self._unix
        return self.has(peer.address)

    def has(self, address: str) -> bool:
        """Tell whether an address is one of theirs; ``unix:`` is how nginx writes a Unix peer's."""
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
    """What a trusted proxy says of a request; None where it says nothing of it."""

    peer: Peer
    host: str | None = None
    secure: bool | None = None


class _Hop(NamedTuple):
    address: str | None
    host: str | None
    proto: str | None


def forwarded(
    headers: Sequence[tuple[str, str]], proxy: Peer, trusted: TrustedProxies
) -> Forwarded:
    """Read the headers of a request that came from ``proxy``, which is trusted.

    The client is the last address that is no trusted proxy's; the first of all where all are. Where
    a proxy names none (``unknown``, a name it made up), it is itself whom the request counts for.
    """
    told = [(name, value) for name, value in headers if name in FORWARDING]
    customary = any(name != "forwarded" for name, _ in told)
    hops = _x_forwarded(told) if customary else _standard(told)
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
    """Read an IP address as proxies write one: bare, in brackets, with a port. None: it is none.

    An IPv4 address that is written as IPv6 comes out as IPv4.
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


def _x_forwarded(told: Sequence[tuple[str, str]]) -> Iterator[_Hop]:
    # Several headers of a name are one list: RFC 9110 section 5.3.
    host, proto = (_last(told, f"x-forwarded-{what}") for what in ("host", "proto"))
    addresses = ",".join(value for name, value in told if name == "x-forwarded-for")
    # What is left of the most hops stays one piece, and is no address.
    for address in reversed(addresses.rsplit(",", _HOPS)):
        yield _Hop(address.strip() or None, host, proto)


def _last(told: Sequence[tuple[str, str]], name: str) -> str | None:
    values = [value for key, value in told if key == name]
    return values[-1].rpartition(",")[2].strip() or None if values else None


def _standard(told: Sequence[tuple[str, str]]) -> Iterator[_Hop]:
    # Line by line: a proxy that adds one of its own is not to be spoilt by what it passes on.
    for _, line in reversed(told):
        elements = _elements(line)
        if elements is None:
            yield _Hop("malformed", None, None)
            return
        for element in elements[: -_HOPS - 1 : -1]:
            yield _Hop(element.get("for"), element.get("host"), element.get("proto"))


def _elements(line: str) -> list[dict[str, str]] | None:
    """Split one Forwarded header; None where it is malformed. RFC 7239 section 4."""
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
