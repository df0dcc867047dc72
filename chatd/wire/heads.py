"""What a request's head must be before anybody answers it: sizes, line ends, framing, upgrades.

Sans-IO, and stricter than h11: what h11 does not bound or is lenient in has been a way to smuggle.
Everything here raises ``Refused`` with the answer.
"""

from __future__ import annotations

import base64
import binascii
import re
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
    "tokens",
]

# RFC 9112 section 3 asks for at least 8,000 bytes of request line; nothing chatd serves is longer.
_LINE_BYTES: Final = 8192
# Node's bound of a whole head, and twice Tomcat's.
HEAD_BYTES: Final = 16384
_HEADERS: Final = 100

# Bare LF, bare CR, and obsolete folding: each has been a way to smuggle (RFC 9112 2.2 and 5.2).
_UNSOUND: Final = re.compile(rb"(?<!\r)\n|\r[^\n]|\r\n[ \t]")
# h11 makes one of equal lengths; here a second one is refused, on a line of its own or in a list.
_LENGTHS: Final = re.compile(rb"\r\ncontent-length:|(?<=\r\ncontent-length:)[^\r]*,", re.IGNORECASE)
# The second is without the empty lines with which it begins, for which HTTP has a use.
_PROXY_HEADERS: Final = tuple(signature.lstrip(b"\r\n") for signature in SIGNATURES)
_HOST: Final = re.compile(r"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")
_VERSION: Final = "13"


def malformed(reason: str, status: int = 400) -> Refused:
    """Make the refusal of bytes that are not HTTP/1.1."""
    return Refused(refusal(status, f"Not HTTP as it should be: {reason}."))


def check_head(buffer: bytearray, end: int, scanned: int) -> None:
    """Refuse a head, or what there is of one (``end`` -1), for its size and its lines' ends."""
    line = buffer.find(b"\r\n")
    if line > _LINE_BYTES or (line < 0 and len(buffer) > _LINE_BYTES):
        raise Refused(refusal(414, f"A request line has at most {_LINE_BYTES} bytes."))
    size = len(buffer) if end < 0 else end
    if size > HEAD_BYTES or buffer.count(b"\r\n", 0, size) > _HEADERS:
        reason = f"A head has at most {HEAD_BYTES} bytes and {_HEADERS} fields."
        raise Refused(refusal(431, reason))
    if buffer.startswith(_PROXY_HEADERS):
        raise Refused(refusal(400, "The PROXY protocol is taken from http.trusted_proxies alone."))
    if buffer and not buffer[:1].isalpha():
        raise malformed("no method")
    # With the last line's own end: a bare CR may stand right before it.
    if _UNSOUND.search(buffer, max(0, scanned - 2), size if end < 0 else end + 2) is not None:
        raise malformed("a line that does not end in CRLF, or a folded one")


def body_length(head: bytes, headers: Sequence[tuple[str, str]], version: bytes) -> int:
    """Find the length that a head declares, -1 for chunked. RFC 9112 section 6.3, strictly."""
    lengths = [value for name, value in headers if name == "content-length"]
    encodings = [value for name, value in headers if name == "transfer-encoding"]
    if not version.startswith(b"1."):
        raise Refused(refusal(505, "HTTP/1.1 is spoken here."))
    if len(_LENGTHS.findall(head)) > 1:
        raise malformed("more than one Content-Length")
    if lengths and encodings:
        raise malformed("both Content-Length and Transfer-Encoding")
    if encodings:
        if version == b"1.0" or len(encodings) > 1:
            raise malformed("Transfer-Encoding where there is none")
        return -1
    return int(lengths[0]) if lengths else 0


def check_host(host: str) -> None:
    """Refuse what cannot be a host and a port."""
    if _HOST.fullmatch(host) is None:
        raise malformed("an impossible Host")


def check_upgrade(request: Request, version: bytes | None) -> None:
    """Hold RFC 6455 section 4.2.1, but for Host, which every request has, and Origin."""
    if request.method != "GET" or version != b"1.1":
        raise _no_websocket("GET and HTTP/1.1")
    if "upgrade" not in tokens(request.header("connection")):
        raise _no_websocket("Connection: Upgrade")
    if request.header("sec-websocket-version") != _VERSION:
        reason = f"WebSocket's version is {_VERSION} here."
        raise Refused(refusal(426, reason, [("Sec-WebSocket-Version", _VERSION)]))
    if request.header("content-length") or request.header("transfer-encoding"):
        raise _no_websocket("no body")
    try:
        key = base64.b64decode(request.header("sec-websocket-key") or "", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 16:
        raise _no_websocket("a Sec-WebSocket-Key of 16 bytes")


def _no_websocket(wanted: str) -> Refused:
    return Refused(refusal(400, f"A WebSocket handshake needs {wanted}."))


def tokens(value: str | None) -> list[str]:
    """Split a list of tokens, in lower case."""
    return [token.strip().lower() for token in (value or "").split(",")]
