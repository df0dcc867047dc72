"""The options of an engine, with their defaults: Node's, in seconds and bytes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, TypeAlias, TypedDict

from msgspec import Struct

from chatd.wire.request import Request

__all__ = ["AllowRequest", "Cookie", "Options", "OptionsDict", "Origins", "Tunable"]

AllowRequest: TypeAlias = Callable[[Request], Awaitable[str | None]]
"""Called before a session opens. Returns None to allow it, or the message of the refusal."""

Origins: TypeAlias = Sequence[str] | Callable[[Request], bool]
"""Other origins whose pages may connect: a sequence of whole origins (``"https://a.example"``),
``"*"`` for any, ``"same"``, ``"loopback"`` or ``"file"``; or a function of the request."""


class Cookie(Struct, frozen=True, kw_only=True):
    """A cookie that holds the session's id, so that a load balancer can be sticky.

    Attributes:
        name: The cookie's name; ``"io"`` as in Node.
        path: Its ``Path``; default ``"/"``.
        http_only: Whether scripts cannot read it; default True.
        same_site: ``"Strict"``, ``"Lax"`` (the default) or ``"None"``.
        secure: Always set ``Secure``. By default it is set only for sessions opened over TLS.
        max_age: Lifetime in seconds; by default the cookie lasts as long as the browser.
    """

    name: str = "io"
    path: str = "/"
    http_only: bool = True
    same_site: Literal["Strict", "Lax", "None"] = "Lax"
    secure: bool = False
    max_age: int | None = None

    def written(self, value: str, *, over_tls: bool = False) -> str:
        """Return the value of the Set-Cookie header (RFC 6265 section 4.1)."""
        fields = [f"{self.name}={value}", f"Path={self.path}"]
        if self.max_age is not None:
            fields.append(f"Max-Age={self.max_age}")
        if self.http_only:
            fields.append("HttpOnly")
        if self.secure or over_tls:
            fields.append("Secure")
        return "; ".join([*fields, f"SameSite={self.same_site}"])


class Options(Struct, frozen=True, kw_only=True):
    """The options of an engine. Times are in seconds, sizes in bytes.

    Attributes:
        path: Where the protocol is served; default ``"/engine.io/"``. The path without its last
            slash is served too.
        ping_interval: Time between two pings; default 25. Revision 4: the server pings; revision
            3: the client does.
        ping_timeout: Time that a ping's answer may take; default 20.
        upgrade_timeout: Time that a WebSocket may take to replace polling; default 10.
        close_timeout: Time that a polling client which the server closed has to send one more GET
            and learn of it; default 30.
        max_payload: The largest message, and the largest POST body; default 1,000,000. A larger
            WebSocket message ends the session (close code 1009), a larger POST is answered 413.
        max_message: The largest message, in bytes, if less than ``max_payload``, the bound of a
            POST with several. A larger one ends the session on either transport (1009). Default
            None: as ``max_payload``.
        send_queue_bytes: Bytes that may wait for one client; default 1 MiB. A client that would
            exceed it is closed as ``"too slow"``.
        max_sessions: Sessions at a time; default 20,000. At the limit, new ones are refused with
            503 and ``Retry-After``.
        max_sessions_per_address: Sessions at a time of one address (IPv6: of one /64), except
            loopback's; default None: no limit. At the limit, new ones are refused with 429.
        allow_eio3: Accept revision 3 (Socket.IO clients 1.x and 2.x) too; default False.
        allow_upgrades: Whether a polling session may change to a WebSocket; default True.
        transports: The transports to serve; default both.
        cors_origins: Origins whose pages may connect besides the server's own, see `Origins`. By
            default, None, no CORS headers are sent and a WebSocket from another origin is refused
            (browsers do not apply CORS to WebSockets).
        cors_credentials: Allow requests with credentials; default False.
        cookie: A `Cookie` to send with the first response; default none.
        compression_threshold: Compress polling responses of at least this size, where the client
            accepts it; default 1024. None: never.
        jsonp: Whether to answer JSONP polling; default True.
        allow_request: Called with the request before a session opens; returns None to allow it, or
            the message of the refusal (status 403, code 4).
        handshake_pause: Pause before a message that follows a handshake on a WebSocket; default 0.
            Only for the official protocol test suites, which listen for one message at a time and
            lose the second of two that arrive in one segment; 0.005 is enough for them.
    """

    path: str = "/engine.io/"
    ping_interval: float = 25.0
    ping_timeout: float = 20.0
    upgrade_timeout: float = 10.0
    close_timeout: float = 30.0
    max_payload: int = 1_000_000
    max_message: int | None = None
    send_queue_bytes: int = 1 << 20
    max_sessions: int = 20_000
    max_sessions_per_address: int | None = None
    allow_eio3: bool = False
    allow_upgrades: bool = True
    transports: Sequence[Literal["polling", "websocket"]] = ("polling", "websocket")
    cors_origins: Origins | None = None
    cors_credentials: bool = False
    cookie: Cookie | None = None
    compression_threshold: int | None = 1024
    jsonp: bool = True
    allow_request: AllowRequest | None = None
    handshake_pause: float = 0.0


class Tunable(TypedDict, total=False):
    """The options that can be replaced while an engine serves; see `Options`."""

    ping_interval: float
    ping_timeout: float
    upgrade_timeout: float
    max_payload: int
    max_message: int | None
    max_sessions: int
    max_sessions_per_address: int | None
    send_queue_bytes: int
    allow_eio3: bool


class OptionsDict(Tunable, total=False):
    """`Options` as keyword arguments, without ``path``."""

    close_timeout: float
    allow_upgrades: bool
    transports: Sequence[Literal["polling", "websocket"]]
    cors_origins: Origins | None
    cors_credentials: bool
    cookie: Cookie | None
    compression_threshold: int | None
    jsonp: bool
    allow_request: AllowRequest | None
    handshake_pause: float
