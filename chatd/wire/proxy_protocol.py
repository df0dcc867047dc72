r"""The header of the PROXY protocol, versions 1 and 2: haproxy's proxy-protocol.txt. Sans-IO.

A proxy sends it first, to name the client whose connection it forwards. Neither version can be the
beginning of an HTTP request or of a TLS handshake.

::

    1   PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT\r\n     (section 2.1; 107 bytes at most)
        PROXY UNKNOWN…\r\n
    2   12 bytes of signature, version and command, family and transport, length; then as many
        bytes: two addresses, two ports, and TLVs, which are skipped (section 2.2)
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from msgspec import Struct

__all__ = ["SIGNATURES", "Header", "ProxyError", "parse"]

_V1: Final = b"PROXY "
_V2: Final = b"\r\n\r\n\0\r\nQUIT\n"

SIGNATURES: Final = (_V1, _V2)
"""The beginning of the header, in either version."""

_LINE_BYTES: Final = 107
# The largest TLV is a client's certificate, of a few KiB.
_V2_BYTES: Final = 16384
_V2_FIXED: Final = 16

_PORT: Final = rb"(0|[1-9][0-9]{0,4})"
_TCP: Final = re.compile(
    rb"PROXY TCP([46]) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) " + _PORT + b" " + _PORT
)

_LOCAL: Final = 0x20
_PROXY: Final = 0x21
_UNSPEC, _INET, _INET6, _UNIX = range(4)
# The size of a family's two addresses and two ports.
_FAMILY_BYTES: Final = {_UNSPEC: 0, _INET: 12, _INET6: 36, _UNIX: 216}
_TRANSPORTS: Final = 3


class ProxyError(Exception):
    """The bytes begin like a PROXY header and are not one. The message says why."""


class Header(Struct, frozen=True):
    """A header.

    Attributes:
        size: Its length in bytes, 0 if there is no header.
        address: The client's IP address. None if the header has none, because the connection is
            the proxy's own, such as a health check, or came by another protocol.
    """

    size: int
    address: str | None = None


def parse(data: bytes) -> Header | None:
    """Parse the header in a connection's first bytes. Return None if more bytes are needed.

    Raises:
        ProxyError: The header is malformed.
    """
    if data.startswith(_V1):
        return _line(data)
    if data.startswith(_V2):
        return _binary(data)
    if any(signature.startswith(data) for signature in SIGNATURES):
        return None
    return Header(0)


def _line(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, _LINE_BYTES)
    if end < 0:
        if len(data) >= _LINE_BYTES:
            raise ProxyError(f"the line exceeds {_LINE_BYTES} bytes")
        return None
    line = data[:end]
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
        return Header(end + 2)
    fields = _TCP.fullmatch(line)
    if fields is None or max(int(fields[4]), int(fields[5])) > 65535:
        raise ProxyError("the line is not PROXY, a protocol, two addresses and two ports")
    kind = ipaddress.IPv4Address if fields[1] == b"4" else ipaddress.IPv6Address
    try:
        source, _ = (kind(fields[at].decode()) for at in (2, 3))
    except ValueError:
        raise ProxyError("the line has an invalid address") from None
    return Header(end + 2, _written(source))


def _binary(data: bytes) -> Header | None:
    if len(data) < _V2_FIXED:
        return None
    command, kind = data[12], data[13]
    size = _V2_FIXED + int.from_bytes(data[14:16], "big")
    family, transport = kind >> 4, kind & 0x0F
    if command not in (_LOCAL, _PROXY):
        raise ProxyError(f"unknown version or command {command:#04x}")
    if size > _V2_BYTES:
        raise ProxyError(f"the header has {size} bytes, more than {_V2_BYTES}")
    if command == _PROXY:
        if family not in _FAMILY_BYTES or transport >= _TRANSPORTS:
            raise ProxyError(f"unknown family or transport {kind:#04x}")
        if size - _V2_FIXED < _FAMILY_BYTES[family]:
            raise ProxyError(f"{size - _V2_FIXED} bytes of addresses are too few for their family")
    if len(data) < size:
        return None
    if command == _LOCAL or transport == 0:
        return Header(size)
    if family == _INET:
        return Header(size, _written(ipaddress.IPv4Address(data[16:20])))
    if family == _INET6:
        return Header(size, _written(ipaddress.IPv6Address(data[16:32])))
    return Header(size)


def _written(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Return an address as in ``Peer``: an IPv4 one is never written as IPv6."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
