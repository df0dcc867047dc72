"""Checks of a request's head: sizes, line ends, framing, upgrades. Sans-IO.

Stricter than h11, whose missing limits and leniencies have been ways of request smuggling. Every
check raises ``Refused`` with the response.
"""

from __future__ import annotations

import base64
import binascii
import re
import sys
from collections.abc import Sequence
from typing import Final

from chatd.wire.proxy_protocol import SIGNATURES
from chatd.wire.request import Refused, Request, refusal

__all__ = [
    "HEAD_BYTES",
    "body_length",
    "check_head",
    "check_host",
    "check_upgrade",
    "malformed",
    "parse_upgrade",
    "subprotocols",
    "tokens",
]

# RFC 9112 section 3 asks for 8,000 bytes at least. No path that chatd serves is longer.
_LINE_BYTES: Final = 8192
# Node's limit of a whole head, and twice Tomcat's.
HEAD_BYTES: Final = 16384
_HEADERS: Final = 100

# Bare LF, bare CR and obsolete folding: RFC 9112 sections 2.2 and 5.2.
_UNSOUND: Final = re.compile(rb"(?<!\r)\n|\r[^\n]|\r\n[ \t]")
# h11 merges equal lengths. Here a second one is refused, on a separate line or in a list.
_LENGTHS: Final = re.compile(rb"\r\ncontent-length:|(?<=\r\ncontent-length:)[^\r]*,", re.IGNORECASE)
# Without the empty lines at the beginning of the second, which HTTP allows.
_PROXY_HEADERS: Final = tuple(signature.lstrip(b"\r\n") for signature in SIGNATURES)
_HOST: Final = re.compile(r"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")
_VERSION: Final = "13"
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UPGRADE_LINE: Final = re.compile(r"GET ([!-~]+) HTTP/1\.1")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_FRAMING: Final = frozenset({"content-length", "transfer-encoding"})


def malformed(reason: str, status: int = 400) -> Refused:
    """Return the refusal of a malformed request. ``reason`` is a clause for people."""
    return Refused(refusal(status, f"Malformed request: {reason}."))


def check_head(buffer: bytearray, end: int, scanned: int) -> None:
    """Check the size and the line ends of a head, or of its beginning if ``end`` is -1."""
    line = buffer.find(b"\r\n")
    if line > _LINE_BYTES or (line < 0 and len(buffer) > _LINE_BYTES):
        raise Refused(
            refusal(414, f"The request line is too long. Send at most {_LINE_BYTES} bytes.")
        )
    size = len(buffer) if end < 0 else end
    if size > HEAD_BYTES or buffer.count(b"\r\n", 0, size) > _HEADERS:
        reason = f"The head is too large. Send at most {HEAD_BYTES} bytes and {_HEADERS} fields."
        raise Refused(refusal(431, reason))
    if buffer.startswith(_PROXY_HEADERS):
        reason = "PROXY headers are accepted from http.trusted_proxies only. Add your proxy there."
        raise Refused(refusal(400, reason))
    if buffer and not buffer[:1].isalpha():
        raise malformed("it does not begin with a method")
    # Including the end of the last line: a bare CR may precede it.
    if _UNSOUND.search(buffer, max(0, scanned - 2), size if end < 0 else end + 2) is not None:
        raise malformed("a line is folded or does not end in CRLF")


def parse_upgrade(head: bytes) -> tuple[str, list[tuple[str, str]]] | None:
    """Return the target and the headers of an upgrade without a body, which `check_head` accepted.

    h11 would return the same, in four times the time. None: h11 has to parse this head. It is
    another request, or has anything that needs more than the plain grammar of RFC 9112.
    """
    if _CONTROL.search(head) is not None:
        return None
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    request = _UPGRADE_LINE.fullmatch(first)
    if request is None:
        return None
    headers: list[tuple[str, str]] = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or _TOKEN.fullmatch(name) is None:
            return None
        # Names are interned because an upgraded request is kept as long as its WebSocket.
        headers.append((sys.intern(name.lower()), value.strip(" \t")))
    names = [name for name, _ in headers]
    if "upgrade" not in names or names.count("host") != 1 or not _FRAMING.isdisjoint(names):
        return None
    return request[1], headers


def body_length(head: bytes, headers: Sequence[tuple[str, str]], version: bytes) -> int:
    """Return the length that a head declares, -1 for chunked. RFC 9112 section 6.3, strictly."""
    lengths = [value for name, value in headers if name == "content-length"]
    encodings = [value for name, value in headers if name == "transfer-encoding"]
    if not version.startswith(b"1."):
        raise Refused(refusal(505, "Use HTTP/1.1."))
    if len(_LENGTHS.findall(head)) > 1:
        raise malformed("it has more than one Content-Length")
    if lengths and encodings:
        raise malformed("it has both Content-Length and Transfer-Encoding")
    if encodings:
        if version == b"1.0" or len(encodings) > 1:
            raise malformed("Transfer-Encoding is repeated, or sent in HTTP/1.0")
        return -1
    return int(lengths[0]) if lengths else 0


def check_host(host: str) -> None:
    """Check that a Host header can be a host and a port."""
    if _HOST.fullmatch(host) is None:
        raise malformed("the Host header is invalid")


def check_upgrade(request: Request, version: bytes | None, *, has_body: bool) -> None:
    """Check RFC 6455 section 4.2.1, without Host, which every request has, and Origin."""
    if request.method != "GET" or version != b"1.1":
        raise _no_websocket("GET and HTTP/1.1")
    if "upgrade" not in tokens(request.header("connection")):
        raise _no_websocket("Connection: Upgrade")
    if request.header("sec-websocket-version") != _VERSION:
        reason = f"Use version {_VERSION} of WebSocket."
        raise Refused(refusal(426, reason, [("Sec-WebSocket-Version", _VERSION)]))
    if has_body:
        raise _no_websocket("no body")
    try:
        key = base64.b64decode(request.header("sec-websocket-key") or "", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 16:
        raise _no_websocket("a Sec-WebSocket-Key of 16 bytes")


def _no_websocket(wanted: str) -> Refused:
    return Refused(refusal(400, f"A WebSocket handshake must have {wanted}."))


def tokens(value: str | None) -> list[str]:
    """Return the tokens of a list, in lower case."""
    return [token.strip().lower() for token in (value or "").split(",")]


def subprotocols(request: Request) -> list[str]:
    """Return the valid subprotocols (RFC 6455 section 4.1: tokens) that a client offers."""
    offered = (request.header("sec-websocket-protocol") or "").split(",")
    return [name for name in map(str.strip, offered) if _TOKEN.fullmatch(name)]
