"""The keys of the configuration: the type, range, default and description of each.

``chatd.settings`` reads files by these classes, and ``chatd config`` prints them as documentation.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from msgspec import Meta, Struct

__all__ = [
    "CREDENTIAL",
    "ENVELOPE_BYTES",
    "RESTART",
    "Admin",
    "Auth",
    "Chat",
    "Cluster",
    "Drain",
    "EngineIo",
    "History",
    "Http",
    "Limits",
    "Listen",
    "Log",
    "Metrics",
    "Settings",
    "Tls",
    "WebSocket",
]

Off: TypeAlias = Literal["off"]

RESTART: Final = object()
"""Marks a key that takes effect at the next start. All others take effect on a reload."""

# The most that JSON's escapes and the fields around it add to a text: an emoji's 4 bytes become 12
# (\ud83d\ude00), so a factor of 4 leaves room.
_ESCAPED: Final = 4
ENVELOPE_BYTES: Final = 4096

CREDENTIAL: Final = "credential:"
"""The prefix of a file that systemd provides: systemd.exec(5), LoadCredential=."""

_HOST: Final = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
_FILE: Final = r"/[^\0]*[^/\0]"
# The name of a file in the credentials' folder: systemd.exec(5).
_KEY_FILE: Final = rf"{_FILE}|{CREDENTIAL}(?!\.)[A-Za-z0-9_.-]+"
# A token's sub, percent-encoded where it has a space, a comma, = or %.
_USER: Final = r"[^\s,=\x00-\x1f\x7f]{1,765}"
_WHO: Final = rf"{_USER}(?:,{_USER})*"  # everybody, users and operators among them
# sun_path holds 108 bytes with the NUL that ends it: unix(7).
_UNIX_PATH_BYTES: Final = 107


def _is_address(text: str) -> bool:
    if text.startswith("unix:"):
        return _is_socket_path(text.removeprefix("unix:"))
    host, _, port = text.rpartition(":")
    if re.fullmatch(r"[0-9]{1,5}", port) is None or int(port) > 65535:
        return False
    if host.startswith("[") and host.endswith("]"):
        return _is_ip(host[1:-1], 6)
    if re.fullmatch(r"[0-9.]+", host):
        return _is_ip(host, 4)
    return re.fullmatch(_HOST, host) is not None


def _is_socket_path(text: str) -> bool:
    return text.startswith("/") and "\0" not in text and len(os.fsencode(text)) <= _UNIX_PATH_BYTES


def _is_ip(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def _is_engine(text: str) -> bool:
    if text.startswith("unix:"):
        return _is_socket_path(text.removeprefix("unix:"))
    found = re.fullmatch(r"rediss?://([^/]+)|sentinels?://([^/]+)/[A-Za-z0-9._-]+", text)
    return found is not None and all(map(_is_place, (found[1] or found[2]).split(",")))


def _is_place(text: str) -> bool:
    found = re.fullmatch(rf"{_HOST}(?::([0-9]{{1,5}}))?", text)
    return found is not None and (found[1] is None or 0 < int(found[1]) < 65536)


def _is_https(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return (
            text.isascii()
            and text.isprintable()
            and " " not in text
            and parts.scheme == "https"
            and bool(parts.hostname)
            and parts.port != 0
            and not (parts.username or parts.password or parts.fragment)
        )
    except ValueError:  # no port, or half an IPv6 address
        return False


def _text(
    title: str,
    pattern: str | None = None,
    *,
    words: Sequence[str] = (),
    check: Callable[[str], bool] | None = None,
) -> Meta:
    """Return a constraint on texts: one of ``words``, or what ``pattern`` or ``check`` accepts.

    ``title`` is how the constraint is described to people.
    """
    if check is None:
        return Meta(
            title=title,
            pattern=rf"\A(?:{'|'.join([*words, pattern or ''])})\Z",
            extra={"words": words},
        )
    return Meta(
        title=title, extra={"words": words, "check": lambda text: text in words or check(text)}
    )


_Mode: TypeAlias = Annotated[str, _text('an octal mode such as "0660"', "0?[0-7]{3}")]
_SecretFile: TypeAlias = Annotated[
    str,
    _text('"off", the absolute path of a file, or "credential:NAME"', _KEY_FILE, words=("off",)),
]
_Origin: TypeAlias = Annotated[
    str,
    _text(
        '"same", "loopback", "file", or an origin such as "https://chat.example.org"',
        rf"[a-z][a-z0-9+.-]*://{_HOST}(?::[0-9]{{1,5}})?",
        words=("same", "loopback", "file"),
    ),
]
_Proxy: TypeAlias = Annotated[
    str,
    _text(
        '"unix", an IP address, or a network such as "10.1.0.0/16"',
        words=("unix",),
        check=_is_network,
    ),
]
_RoomRule: TypeAlias = Annotated[
    str,
    _text(
        '"PATTERN read=WHO write=WHO", such as "news write=operators"',
        rf"(?!/)[^\s:@#,]{{1,64}}(?= (?:read|write)=)(?: read={_WHO})?(?: write={_WHO})?",
    ),
]


class Listen(Struct, frozen=True, kw_only=True):
    addresses: Annotated[
        tuple[
            Annotated[
                str,
                _text(
                    '"HOST:PORT", "[IPV6]:PORT", "unix:/PATH" or "systemd:"',
                    words=("systemd:",),
                    check=_is_address,
                ),
            ],
            ...,
        ],
        Meta(min_length=1),
        RESTART,
        "The addresses that clients connect to. localhost is 127.0.0.1 and, if the machine has "
        "IPv6, [::1]. To accept everyone, use [::]:3000 (IPv6 and IPv4) or 0.0.0.0:3000 (IPv4 "
        "only). systemd: uses the sockets of a .socket unit.",
    ] = ("localhost:3000",)
    socket_mode: Annotated[
        _Mode, RESTART, "The permissions of Unix sockets: who may connect to them."
    ] = "0666"

    @property
    def socket_mode_bits(self) -> int:
        """``socket_mode`` as chmod(2) takes it."""
        return int(self.socket_mode, 8)


class Http(Struct, frozen=True, kw_only=True):
    origins: Annotated[
        tuple[_Origin, ...],
        "Which web pages may connect. same: pages served from the host and port that they connect "
        "to. loopback: pages served from this machine. file: pages opened from a file. loopback "
        "and file apply only if the listener, the client and the Host header are all loopback. "
        "Requests without an Origin header do not come from a browser and are always allowed.",
    ] = ("same", "loopback", "file")
    hosts: Annotated[
        tuple[
            Annotated[str, _text('"HOST" or "HOST:PORT"', rf"{_HOST}(?::[0-9]{{1,5}})?")],
            ...,
        ],
        "The names of this server. Set it if browsers connect from other machines: a page from "
        "another domain that was pointed at this server's address (DNS rebinding) then no longer "
        "counts as same. Empty: any name, but a request from this machine to a loopback listener, "
        "without a proxy, must name localhost or an IP address (else it is answered with 421).",
    ] = ()
    trusted_proxies: Annotated[
        tuple[_Proxy, ...],
        "The proxies that may report a client's address, in http.forwarded_header or by the PROXY "
        "protocol. unix: every peer on a Unix socket. From other peers the header is ignored and "
        "the PROXY protocol is refused.",
    ] = ("unix",)
    forwarded_header: Annotated[
        Literal["X-Forwarded-For", "Forwarded"],
        "The header in which trusted proxies report a client. X-Forwarded-For: together with "
        "X-Forwarded-Host and X-Forwarded-Proto. Forwarded: the header of RFC 7239. The other kind "
        "is ignored, because a proxy passes on what a client wrote there.",
    ] = "X-Forwarded-For"


class Tls(Struct, frozen=True, kw_only=True):
    certificate_file: Annotated[
        _SecretFile,
        "The certificate and its chain, in PEM. With a certificate and its key every TCP listener "
        "speaks https and wss; Unix sockets stay unencrypted. credential:NAME is a file that "
        "systemd provides (LoadCredential=).",
    ] = "off"
    key_file: Annotated[
        _SecretFile,
        "The certificate's private key, in PEM, without a passphrase. Set both keys or neither.",
    ] = "off"


class Chat(Struct, frozen=True, kw_only=True):
    greeting: Annotated[
        str,
        _text(
            "text in which {nick} and {room} are replaced",
            r"(?s:(?!.*\{(?!(?:nick|room)\})\w*\}).*)",
        ),
        "The first line that a plain text client receives.",
    ] = "Hello, I am chatd. You are {nick} in #{room}."
    default_room: Annotated[
        str,
        _text(
            "1 to 64 characters without spaces or * : @ #  or a leading /",
            r"(?!/)[^\s*:@#,\x00-\x1f\x7f]{1,64}",
        ),
        "The room of clients that do not ask for one.",
    ] = "lobby"
    backlog: Annotated[
        int,
        Meta(ge=0, le=500),
        "How many of a room's latest messages a plain text client receives when it joins.",
    ] = 20
    create_rooms: Annotated[
        bool,
        "Whether joining a room that does not exist creates it. If false, only the default room "
        "and rooms that have history exist.",
    ] = True
    rules: Annotated[
        tuple[_RoomRule, ...],
        "Who may read and who may write in which rooms. In PATTERN, * stands for any text. WHO is "
        "everybody, users (not guests), operators, or users' ids (sub) separated by commas; in an "
        "id a space, a comma, = and % are written %20, %2C, %3D and %25. Without "
        "read= everybody may read; without write= everybody who may read may write. The first "
        "rule whose pattern matches applies. Operators always may.",
    ] = ()
    topics: Annotated[
        Literal["operators", "members"],
        "Who may set a room's topic: only operators, or all of its members.",
    ] = "operators"
    presence_grace_seconds: Annotated[
        float,
        Meta(ge=0, le=3600),
        "How long a client that lost its connection has to return before the others are told that "
        "it left. If it returns in time, nobody is told anything.",
    ] = 10.0
    nick_hold_seconds: Annotated[
        float,
        Meta(ge=0, le=604_800),
        "How long a nick is reserved for its user after the user's last connection has ended.",
    ] = 600.0
    operators: Annotated[
        tuple[
            Annotated[str, _text("a user's id: 1 to 255 ASCII characters", r"[ -~]{1,255}")],
            ...,
        ],
        "Users who may do everything, by the id in their tokens (sub), so auth.mode must be "
        '"token". A token can also say that its user is an operator.',
    ] = ()


class Auth(Struct, frozen=True, kw_only=True):
    mode: Annotated[
        Literal["open", "token"],
        "open: everybody is a guest. token: clients identify themselves with a token, a signed JWT "
        "(RS256, ES256, EdDSA or HS256).",
    ] = "open"
    key_files: Annotated[
        tuple[
            Annotated[str, _text('the absolute path of a file or "credential:NAME"', _KEY_FILE)],
            ...,
        ],
        "The files with the keys for tokens, as `chatd token --new-key` makes them: a JWK, a set "
        "of JWKs, or PEM. `chatd token` signs with the first private key. Tokens of all keys are "
        "accepted, so put a new key first and keep the old one until its tokens have expired. A "
        "public key can only verify. The key's type fixes the algorithm.",
    ] = ()
    jwks_url: Annotated[
        str,
        _text('"off" or an https:// address', words=("off",), check=_is_https),
        "The address of the set of public keys (JWKS) of an identity provider, whose tokens are "
        "accepted. It is fetched again every ten minutes, and when a token names a new key. Set "
        "auth.issuer and auth.audience too.",
    ] = "off"
    issuer: Annotated[
        str,
        _text('"off" or the issuer\'s name, without spaces', r"[!-~]{1,512}", words=("off",)),
        "The issuer (iss) that every token must name, exactly as written here. off: any.",
    ] = "off"
    audience: Annotated[
        str,
        _text('"off" or the name of an audience, without spaces', r"[!-~]{1,512}", words=("off",)),
        "The audience (aud) that every token must include: the name of this chat at the identity "
        "provider. off: a token need not name any, but must include chatd if it does.",
    ] = "off"
    nick_claim: Annotated[
        str,
        _text("the name of a claim, without spaces", r"[!-~]{1,255}"),
        "The claim of a token that has the user's first nick, such as preferred_username. Of a "
        "mail address, the part before the @ is used.",
    ] = "nick"
    guests: Annotated[bool, 'Whether guests may connect too, with auth.mode = "token".'] = False
    cookie: Annotated[
        str,
        _text(
            '"off" or the name of a cookie, such as "token"',
            "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}",
            words=("off",),
        ),
        "The cookie that carries the token of browsers that signed in on another of your sites. "
        "Set it with HttpOnly, Secure and SameSite=Lax.",
    ] = "off"
    session_days: Annotated[
        int, Meta(ge=1, le=3650), "How long a guest can be away and still return as the same user."
    ] = 30


class History(Struct, frozen=True, kw_only=True):
    store: Annotated[
        Literal["sqlite", "memory", "redis"],
        RESTART,
        "Where the rooms' history is stored. memory: it is lost when the daemon stops. redis: in a "
        "Redis (7.0 or newer) or Valkey server at history.url; all daemons that share it form one "
        "chat. It needs `pip install 'chatd[redis]'`.",
    ] = "sqlite"
    path: Annotated[
        str,
        _text('"auto" or the absolute path of a file', _FILE, words=("auto",)),
        RESTART,
        "The file of the sqlite store. auto: chatd.db in $STATE_DIRECTORY, which systemd sets, "
        "else in $XDG_STATE_HOME/chatd, else in ~/.local/state/chatd.",
    ] = "auto"
    durability: Annotated[
        Literal["commit", "fsync"],
        RESTART,
        "What a message survives once it was acknowledged. commit: a crash of the daemon, kill -9 "
        "included; a power failure can lose the last moments. fsync: a power failure too, but it "
        "is slower. With redis, the server needs appendonly yes, and for fsync also appendfsync "
        "always.",
    ] = "commit"
    keep_days: Annotated[
        Annotated[int, Meta(ge=1, le=36_500)] | Off, "Messages older than this are deleted."
    ] = 365
    keep_events: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000_000)] | Off,
        "How many events each room keeps; older ones are deleted.",
    ] = "off"
    max_bytes: Annotated[
        Annotated[int, Meta(ge=1 << 20, le=1 << 50)] | Off,
        "The maximum size of the store. Above it the oldest messages of all rooms are deleted; "
        "the log warns at 90 %.",
    ] = 2 << 30
    purge_seconds: Annotated[
        int,
        Meta(ge=60, le=604_800),
        "How long the text of a message that was deleted, edited or removed for its age can "
        "remain in the store's files. A shorter time costs more: the whole search index is "
        "rewritten each time. A redis store replaces the text in memory at once.",
    ] = 3600
    url: Annotated[
        str,
        _text(
            '"redis://HOST:PORT", "sentinel://HOST:PORT,HOST:PORT/NAME" (rediss and sentinels with '
            'TLS) or "unix:/PATH", without a password',
            check=_is_engine,
        ),
        RESTART,
        "Where the server of the redis store is. One server: redis://HOST:PORT or unix:/PATH. "
        "Several servers with the primary among them, or a Redis Cluster: "
        "redis://HOST:PORT,HOST:PORT. Sentinels, with the name under which they know the server: "
        "sentinel://HOST:PORT,HOST:PORT/NAME. With TLS: rediss:// and sentinels://. Without a "
        "port: 6379, and 26379 for Sentinels.",
    ] = "redis://localhost:6379"
    replicas: Annotated[
        int,
        Meta(ge=0, le=10),
        RESTART,
        "How many replicas of that server must have a message before it is acknowledged or shown. "
        "With 0, a failover can lose the last messages. While fewer replicas are connected, the "
        "store is unavailable, so have at least one more than this.",
    ] = 0
    user: Annotated[
        str,
        _text("a name without spaces", r"[!-~]{1,255}"),
        RESTART,
        "The user (ACL) as which the daemon logs in to the redis store, if history.password_file "
        "is set.",
    ] = "default"
    password_file: Annotated[
        _SecretFile,
        RESTART,
        "The file whose first line is that user's password. It is read each time that the daemon "
        "connects to the store. off: no login. credential:NAME is a file that systemd provides "
        "(LoadCredential=).",
    ] = "off"  # noqa: S105  a file's name
    tls_ca_file: Annotated[
        _SecretFile,
        RESTART,
        "The certificates, in PEM, that may sign those of rediss:// and sentinels:// servers. off: "
        "those that this machine trusts.",
    ] = "off"
    prefix: Annotated[
        str,
        _text('a name in braces, such as "{chatd}"', r"\{[A-Za-z0-9_.:-]{1,64}\}"),
        RESTART,
        "The beginning of all keys of the redis store. Daemons with the same prefix on the same "
        "server are one chat.",
    ] = "{chatd}"
    timeout_seconds: Annotated[
        float,
        Meta(ge=0.1, le=60),
        RESTART,
        "How long the daemon waits to connect to the redis store, or for its answer, before it "
        "refuses a command with unavailable.",
    ] = 2.0


class Cluster(Struct, frozen=True, kw_only=True):
    lease_seconds: Annotated[
        float,
        Meta(ge=3, le=600),
        RESTART,
        "How long after its last sign of life a daemon counts as dead. Its users then leave their "
        "rooms. Set the same value on all daemons.",
    ] = 15.0
    patience_seconds: Annotated[
        float,
        Meta(ge=1, le=3600),
        RESTART,
        "How long a daemon that cannot reach the store keeps its clients. Then it closes them with "
        "1001, one after another within 30 seconds, so that they connect to another daemon.",
    ] = 30.0


class Limits(Struct, frozen=True, kw_only=True):
    connections: Annotated[int, Meta(ge=1, le=1_000_000), "The maximum number of connections."] = (
        10_000
    )
    connections_per_address: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | Off,
        "The maximum number of connections from one address (IPv6: from one /64). Connections "
        "from loopback, and by a Unix socket without a proxy, are not counted.",
    ] = 200
    message_bytes: Annotated[
        int, Meta(ge=16, le=16 << 20), "The maximum length of a message, in bytes of UTF-8."
    ] = 16_384
    send_queue_bytes: Annotated[
        int,
        Meta(ge=4096, le=1 << 30),
        "How much data may wait for a client that reads slowly. Above half of it the client is no "
        "longer told who joins and leaves. At the limit its connection is closed (4001); it can "
        "reconnect and resume. At least four times limits.message_bytes plus 4096.",
    ] = 1 << 20
    messages_per_second: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | Off,
        "How many messages a user may send per second, on average.",
    ] = 5
    messages_burst: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | Off,
        "How many messages a user may send at once after a pause. off: no limit on messages at "
        "all.",
    ] = 20
    bytes_per_second: Annotated[
        Annotated[int, Meta(ge=1, le=1 << 30)] | Off,
        "How many bytes of text a user may send per second, on average.",
    ] = 32_768
    messages_per_second_per_address: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | Off,
        "How many messages per second may come from one address, on average, from all of its "
        "users together: a whole office can share one address. Loopback and Unix sockets are not "
        "counted.",
    ] = 50
    messages_burst_per_address: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | Off,
        "How many messages may come from one address at once after a pause. off: no limit per "
        "address at all.",
    ] = 200
    requests_per_second: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | Off,
        "How often per second a user may join a room or request history, a search or a list, on "
        "average.",
    ] = 20
    requests_burst: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | Off,
        "How many such requests a user may make at once after a pause. off: no limit on requests "
        "at all.",
    ] = 200
    requests_per_second_per_address: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | Off,
        "How many such requests per second may come from one address, on average, from all of its "
        "users together. A search counts as five. Loopback and Unix sockets are not counted.",
    ] = 100
    requests_burst_per_address: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | Off,
        "How many such requests may come from one address at once after a pause. off: no limit per "
        "address at all.",
    ] = 1000
    new_guests_per_minute_per_address: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | Off,
        "How many new guests per minute one address may bring, on average, and as many as "
        "limits.connections_per_address at once after a pause. Above it, clients are asked to come "
        "back later (4503). Loopback and Unix sockets are not counted.",
    ] = 300
    new_rooms_per_minute: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | Off,
        "How many rooms per minute a user may create, on average, and five times as many at once "
        "after a pause.",
    ] = 10
    new_rooms_per_minute_per_address: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | Off,
        "How many rooms per minute may be created from one address, on average, by all of its "
        "users together, and five times as many at once after a pause. Loopback and Unix sockets "
        "are not counted.",
    ] = 30
    held_nicks: Annotated[
        int,
        Meta(ge=0, le=1_000_000),
        "How many nicks of guests who left are held for chat.nick_hold_seconds. Above it, those "
        "held the longest are free again.",
    ] = 10_000
    held_nicks_per_address: Annotated[
        Annotated[int, Meta(ge=0, le=1_000_000)] | Off,
        "How many of them may be of guests from one address. Loopback and Unix sockets are not "
        "counted.",
    ] = 100
    share_per_address: Annotated[
        Annotated[float, Meta(ge=0.01, le=1)] | Off,
        "The part of the daemon's time that one address may take with requests and messages of any "
        "kind. Above it, they are read more slowly. Loopback and Unix sockets are not counted.",
    ] = 0.25
    operators_exempt: Annotated[
        bool, "Whether operators are exempt from the limits on messages and requests."
    ] = True
    handshake_seconds: Annotated[
        float,
        Meta(ge=0.1, le=600),
        "How long a client may take to send the head of a request, and to authenticate, and how "
        "long it may pause in a body, which may take longer if at least 1 KiB arrives per second.",
    ] = 10.0
    idle_seconds: Annotated[
        float,
        Meta(ge=0.1, le=3600),
        "How long an HTTP connection is kept open between two requests. Behind a load balancer it "
        "must be longer than the balancer keeps its own connections idle.",
    ] = 75.0
    close_seconds: Annotated[
        float,
        Meta(ge=0.1, le=600),
        "How long a client has to read what is queued for it when its connection is being closed.",
    ] = 5.0
    presence_members: Annotated[
        int,
        Meta(ge=0, le=1_000_000),
        "Rooms with more members than this are told how many members there are, at most once per "
        "second, instead of who joins and leaves.",
    ] = 100
    rooms: Annotated[
        int,
        Meta(ge=1, le=1_000_000),
        "The maximum number of rooms. Rooms without members and events do not count, nor do direct "
        "messages, and the default room always lets in.",
    ] = 10_000
    rooms_per_client: Annotated[
        int, Meta(ge=1, le=10_000), "The maximum number of rooms that a client can be in at a time."
    ] = 50
    sessions: Annotated[
        int,
        Meta(ge=1, le=1_000_000),
        "The maximum number of Socket.IO clients. A client that polls has no connection between "
        "two polls, so limits.connections does not limit these.",
    ] = 20_000


class WebSocket(Struct, frozen=True, kw_only=True):
    max_message_bytes: Annotated[
        Annotated[int, Meta(ge=1024, le=1 << 30)] | Literal["auto"],
        "The maximum length of a WebSocket message; a longer one closes the connection (1009). "
        "auto: four times limits.message_bytes plus 4096.",
    ] = "auto"
    ping_interval_seconds: Annotated[
        float, Meta(ge=0.1, le=3600), "A client that has sent nothing for this long is sent a ping."
    ] = 25.0
    ping_timeout_seconds: Annotated[
        float,
        Meta(ge=0.1, le=3600),
        "How long a client has to answer a ping before its connection is closed (4002). At most "
        "ping_interval_seconds.",
    ] = 20.0


class EngineIo(Struct, frozen=True, kw_only=True):
    ping_interval_seconds: Annotated[
        float,
        Meta(ge=0.1, le=3600),
        "How often Socket.IO clients are sent a ping, or (Socket.IO 1 and 2) send one.",
    ] = 25.0
    ping_timeout_seconds: Annotated[
        float,
        Meta(ge=0.1, le=3600),
        "How long a ping may be overdue or unanswered before the client counts as gone.",
    ] = 20.0
    upgrade_timeout_seconds: Annotated[
        float, Meta(ge=0.1, le=3600), "How long the upgrade from polling to WebSocket may take."
    ] = 10.0
    connect_timeout_seconds: Annotated[
        float,
        Meta(ge=0.1, le=3600),
        "How long a Socket.IO connection may stay open without joining the chat, and after it has "
        "left it.",
    ] = 10.0
    max_payload_bytes: Annotated[
        int,
        Meta(ge=1024, le=1 << 30),
        "The maximum length of a message, and of a POST request with several. A longer message "
        "closes the connection (1009); a longer POST is refused (413).",
    ] = 1_000_000
    recovery_seconds: Annotated[
        Annotated[float, Meta(ge=1, le=86_400)] | Off,
        RESTART,
        "How long a client of Socket.IO 4 that lost its connection can return as the same socket "
        "and receive what it missed, across a restart too. off: every connection is a new socket.",
    ] = 3600.0
    allow_eio3: Annotated[bool, "Whether clients of Socket.IO 1 and 2 may connect too."] = True


class Log(Struct, frozen=True, kw_only=True):
    level: Annotated[
        Literal["debug", "info", "warning", "error"], "The lowest level that is logged."
    ] = "info"
    format: Annotated[
        Literal["auto", "console", "json", "journal"],
        RESTART,
        "auto: journal under systemd, console on a terminal, otherwise json, one line per event.",
    ] = "auto"
    messages: Annotated[bool, "Whether every message is logged, without its text."] = True
    bodies: Annotated[
        bool, "Whether the text of messages is logged too. Consider your users' privacy."
    ] = False
    addresses: Annotated[
        Literal["full", "prefix", "off"],
        "How clients' addresses are logged. prefix: only the /24, or /64 for IPv6.",
    ] = "full"


class Admin(Struct, frozen=True, kw_only=True):
    socket: Annotated[
        str,
        _text(
            '"auto", "off" or the absolute path of a socket',
            words=("auto", "off"),
            check=_is_socket_path,
        ),
        RESTART,
        "The socket that chatd ctl uses to control the daemon. auto: admin.sock in "
        "$RUNTIME_DIRECTORY, which systemd sets, else in $XDG_RUNTIME_DIR/chatd, else none.",
    ] = "auto"
    socket_mode: Annotated[
        _Mode,
        RESTART,
        "The permissions of that socket. Everybody who may write to it can do everything that "
        "chatd ctl does.",
    ] = "0600"

    @property
    def socket_mode_bits(self) -> int:
        """``socket_mode`` as chmod(2) takes it."""
        return int(self.socket_mode, 8)


class Metrics(Struct, frozen=True, kw_only=True):
    listen: Annotated[
        str,
        _text(
            '"off", "HOST:PORT", "[IPV6]:PORT" or "unix:/PATH"',
            words=("off",),
            check=_is_address,
        ),
        RESTART,
        "The address for Prometheus: /metrics, and /healthz and /readyz until the end of a drain. "
        "Everybody who can connect to it can read them, so do not open it to the world. The admin "
        "socket always serves them too.",
    ] = "off"


class Drain(Struct, frozen=True, kw_only=True):
    seconds: Annotated[
        float,
        Meta(ge=0, le=3600),
        "How long stopping may take: clients are told and receive what is queued for them.",
    ] = 10.0
    delay_seconds: Annotated[
        float,
        Meta(ge=0, le=3600),
        "How long new clients are still accepted while /readyz already answers 503, so that a "
        "load balancer can react.",
    ] = 0.0


class Settings(Struct, frozen=True, kw_only=True):
    """The whole configuration. ``Settings()`` is the defaults. Important sections come first."""

    listen: Annotated[Listen, "Where chatd listens."] = Listen()
    http: Annotated[Http, "Browsers and proxies."] = Http()
    chat: Annotated[Chat, "The chat itself."] = Chat()
    history: Annotated[History, "What is stored, where and how long."] = History()
    cluster: Annotated[Cluster, "Several daemons that share a redis store."] = Cluster()
    limits: Annotated[Limits, "Limits, so that no client can use up the server."] = Limits()
    log: Annotated[Log, "The log, on standard error."] = Log()
    auth: Annotated[Auth, "How clients identify themselves."] = Auth()
    tls: Annotated[Tls, "Encryption, if no proxy provides it."] = Tls()
    websocket: Annotated[WebSocket, "WebSocket connections."] = WebSocket()
    engineio: Annotated[EngineIo, "Socket.IO clients."] = EngineIo()
    admin: Annotated[Admin, "Controlling the daemon."] = Admin()
    metrics: Annotated[Metrics, "Metrics for Prometheus."] = Metrics()
    drain: Annotated[Drain, "Stopping, on SIGTERM."] = Drain()

    @property
    def jwks_url(self) -> str | None:
        """The address of the keys of tokens; None if there is none, or tokens are not accepted."""
        auth = self.auth
        return None if auth.mode == "open" or auth.jwks_url == "off" else auth.jwks_url

    @property
    def max_message_bytes(self) -> int:
        """``websocket.max_message_bytes``, with "auto" resolved."""
        given = self.websocket.max_message_bytes
        return self.message_wire_bytes if given == "auto" else given

    @property
    def message_wire_bytes(self) -> int:
        """The most that a message of ``limits.message_bytes`` can take on the wire."""
        return _ESCAPED * self.limits.message_bytes + ENVELOPE_BYTES
