"""The options of an engine, with their defaults: Node's, in seconds and bytes."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, TypedDict

from chatd.engineio.checks import (
    Check,
    Checked,
    check_origins,
    check_path,
    count,
    fail,
    one_of,
    seconds,
)
from chatd.wire.request import Request

__all__ = ["AllowRequest", "Cookie", "Options", "OptionsDict", "Origins", "Tunable"]

AllowRequest: TypeAlias = Callable[[Request], Awaitable[str | None] | str | None]
"""Called before a session opens, async or plain. Returns None to allow it, or the message of the
refusal."""

Origins: TypeAlias = Sequence[str] | Callable[[Request], Awaitable[bool] | bool]
"""Other origins whose pages may connect: a sequence of whole origins (``"https://a.example"``),
``"*"`` for any, ``"same"``, ``"loopback"`` or ``"file"``; or a function of the request, async or
plain."""

# RFC 6265 section 4.1.1: a token, and any characters but controls and semicolons.
_COOKIE_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_COOKIE_PATH: Final = re.compile(r"/[ -:<-~]*")


def _matching(pattern: re.Pattern[str], wanted: str) -> Check:
    def check(name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise fail(name, wanted, value)
        if pattern.fullmatch(value) is None:
            raise fail(name, wanted, value, kind=ValueError)
        return value

    return check


class Cookie(Checked, frozen=True, kw_only=True):
    """A cookie that holds the session's id, so that a load balancer can be sticky.

    Attributes:
        name: The cookie's name; ``"io"`` as in Node.
        path: Its ``Path``; default ``"/"``.
        http_only: Whether scripts cannot read it; default True.
        same_site: ``"Strict"``, ``"Lax"`` (the default) or ``"None"``.
        secure: Always set ``Secure``. By default it is set only for sessions opened over TLS.
        max_age: Lifetime in seconds; by default the cookie lasts as long as the browser.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A value cannot be in a cookie.
    """

    name: str = "io"
    path: str = "/"
    http_only: bool = True
    same_site: Literal["Strict", "Lax", "None"] = "Lax"
    secure: bool = False
    max_age: int | None = None

    @classmethod
    def checks(cls) -> dict[str, Check]:
        """Return the checks of fields for which their type is not enough."""
        return {
            "name": _matching(_COOKIE_NAME, 'the name of a cookie such as "io"'),
            "path": _matching(_COOKIE_PATH, 'a path such as "/"'),
            "same_site": one_of(("Strict", "Lax", "None")),
            "max_age": count(0),
        }

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


# By their names in Python, in Node's ``cookie`` and in python-engineio's.
_COOKIE_FIELDS: Final = {field.replace("_", ""): field for field in Cookie.__struct_fields__}


def _check_cookie(name: str, value: Any) -> Cookie | None:
    match value:
        case Cookie() | None:
            return value
        case bool():
            return Cookie() if value else None
        case str():
            return Cookie(name=value)
        case Mapping():
            fields = {}
            for key, of_key in value.items():
                field = _COOKIE_FIELDS.get(str(key).lower().replace("_", "").replace("-", ""))
                if field is None:
                    known = ", ".join(Cookie.__struct_fields__)
                    raise ValueError(f"{name} cannot have {key!r}. It has {known}.")
                fields[field] = of_key
            return Cookie(**fields)
        case _:
            raise fail(name, "a Cookie, or its name", value)


class Options(Checked, frozen=True, kw_only=True):
    """The options of an engine. Times are in seconds, sizes in bytes.

    They are checked when they are made. A path may lack its slashes, one origin or transport need
    not be in a list, and a cookie can be given by its name or as a dict.

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
        send_queue_bytes: Bytes that may wait for one client without consequence; default 1 MiB.
            While more is waiting, ``send`` waits, and the client has to take some of it in each
            ``send_timeout``.
        send_timeout: A client that takes nothing for this time while more than
            ``send_queue_bytes`` is waiting is closed as ``"too slow"``; default 10.
        max_send_queue_bytes: Bytes that may wait for one client at all, behind the message that is
            being sent; default 64 MiB. A client that would exceed it is closed as ``"too slow"``
            at once, so that a program that sends faster than its clients read does not use all
            memory.
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
        handler_grace: Time that a handler may go on running when its client has gone; default 30.
            Then it is cancelled, with a warning in the log.
        jsonp: Whether to answer JSONP polling; default True.
        allow_request: Called with the request before a session opens, async or plain; returns None
            to allow it, or the message of the refusal (status 403, code 4).
        handshake_pause: Pause before a message that follows a handshake on a WebSocket; default 0.
            Only for the official protocol test suites, which listen for one message at a time and
            lose the second of two that arrive in one segment; 0.005 is enough for them.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option has a value that cannot be used.
    """

    path: str = "/engine.io/"
    ping_interval: float = 25.0
    ping_timeout: float = 20.0
    upgrade_timeout: float = 10.0
    close_timeout: float = 30.0
    max_payload: int = 1_000_000
    max_message: int | None = None
    send_queue_bytes: int = 1 << 20
    send_timeout: float = 10.0
    max_send_queue_bytes: int = 64 << 20
    max_sessions: int = 20_000
    max_sessions_per_address: int | None = None
    allow_eio3: bool = False
    allow_upgrades: bool = True
    transports: Sequence[Literal["polling", "websocket"]] = ("polling", "websocket")
    cors_origins: Origins | None = None
    cors_credentials: bool = False
    cookie: Cookie | None = None
    compression_threshold: int | None = 1024
    handler_grace: float = 30.0
    jsonp: bool = True
    allow_request: AllowRequest | None = None
    handshake_pause: float = 0.0

    @classmethod
    def checks(cls) -> dict[str, Check]:
        """Return the checks of fields for which their type is not enough."""
        # The times after which a client is closed cannot be zero.
        positive = seconds(0.001)
        return {
            "path": check_path,
            "ping_interval": positive,
            "ping_timeout": positive,
            "upgrade_timeout": positive,
            "close_timeout": positive,
            "transports": one_of(("polling", "websocket"), several=True),
            "cors_origins": check_origins,
            "cookie": _check_cookie,
            "compression_threshold": count(0),
        }


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
    send_timeout: float
    max_send_queue_bytes: int
    allow_eio3: bool


class OptionsDict(Tunable, total=False):
    """`Options` as keyword arguments, without ``path``."""

    close_timeout: float
    allow_upgrades: bool
    transports: Sequence[Literal["polling", "websocket"]]
    cors_origins: Origins | None
    cors_credentials: bool
    cookie: Cookie | str | bool | Mapping[str, Any] | None
    compression_threshold: int | None
    handler_grace: float
    jsonp: bool
    allow_request: AllowRequest | None
    handshake_pause: float
