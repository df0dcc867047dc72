"""What an engine can be told, with its defaults: Node's, in seconds and bytes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from chatd.wire.request import Request

__all__ = ["AllowRequest", "Cookie", "Options", "Origins"]

AllowRequest: TypeAlias = Callable[[Request], Awaitable[str | None]]
"""Asked before a session begins: None where it may, else why not (403, code 4, those words)."""

Origins: TypeAlias = Sequence[str] | Callable[[Request], bool]
"""Which pages of other origins may connect: whole origins, ``"*"`` for any, and the words of
``wire.origins`` (``"same"``, ``"loopback"``, ``"file"``); or what decides."""


class Cookie(Struct, frozen=True, kw_only=True):
    """The cookie that names the session, for a balancer's stickiness.

    ``secure`` always; without it a session that begins over TLS has it all the same.
    """

    name: str = "io"
    path: str = "/"
    http_only: bool = True
    same_site: Literal["Strict", "Lax", "None"] = "Lax"
    secure: bool = False
    max_age: int | None = None

    def written(self, value: str, *, over_tls: bool = False) -> str:
        """Give the Set-Cookie field: RFC 6265 section 4.1."""
        fields = [f"{self.name}={value}", f"Path={self.path}"]
        if self.max_age is not None:
            fields.append(f"Max-Age={self.max_age}")
        if self.http_only:
            fields.append("HttpOnly")
        if self.secure or over_tls:
            fields.append("Secure")
        return "; ".join([*fields, f"SameSite={self.same_site}"])


class Options(Struct, frozen=True, kw_only=True):
    """How an engine behaves; times in seconds, sizes in bytes.

    ``cors_origins`` None sends no CORS headers at all. A WebSocket of another origin than the
    server's own is then refused, as it is where the list does not have it: CORS does not bind
    WebSockets. ``compression_threshold`` None never compresses answers. ``close_timeout`` is how
    long a session that was sent away waits for the GET that tells it.
    """

    path: str = "/engine.io/"
    ping_interval: float = 25.0
    ping_timeout: float = 20.0
    upgrade_timeout: float = 10.0
    close_timeout: float = 30.0
    max_payload: int = 1_000_000
    send_queue_bytes: int = 1 << 20
    max_sessions: int = 20_000
    allow_eio3: bool = False
    allow_upgrades: bool = True
    transports: Sequence[Literal["polling", "websocket"]] = ("polling", "websocket")
    cors_origins: Origins | None = None
    cors_credentials: bool = False
    cookie: Cookie | None = None
    compression_threshold: int | None = 1024
    jsonp: bool = True
    allow_request: AllowRequest | None = None
