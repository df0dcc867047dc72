"""The keys that an operator may set: type, range, default and explanation of each, once.

``chatd config`` prints its documentation from here, ``chatd.settings`` reads files by it.
"""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta, Struct

__all__ = [
    "CREDENTIAL",
    "ENVELOPE_BYTES",
    "Admin",
    "Auth",
    "Chat",
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

# Beside a key whose change counts from the next start on: all others change with a reload.
_RESTART: Final = {"restart": True}

# What stands around a text on the wire, and each of its bytes as JSON may escape it: an emoji's
# 4 bytes become 12 (\ud83d\ude00), so 4 for 1 leaves room.
_ESCAPED: Final = 4
ENVELOPE_BYTES: Final = 4096

CREDENTIAL: Final = "credential:"
"""Before the name of a file that systemd hands over: systemd.exec(5), LoadCredential=."""

_HOST: Final = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
# sun_path holds 108 bytes with its end: unix(7).
_UNIX_PATH_BYTES: Final = 107


def _is_address(text: str) -> bool:
    if text == "systemd:":
        return True
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        return (
            path.startswith("/") and "\0" not in path and len(os.fsencode(path)) <= _UNIX_PATH_BYTES
        )
    host, _, port = text.rpartition(":")
    if re.fullmatch(r"[0-9]{1,5}", port) is None or int(port) > 65535:
        return False
    if host.startswith("[") and host.endswith("]"):
        return _is_ip(host[1:-1], 6)
    if re.fullmatch(r"[0-9.]+", host):
        return _is_ip(host, 4)
    return re.fullmatch(_HOST, host) is not None


def _is_ip(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def _is_mode(text: str) -> bool:
    return re.fullmatch(r"0?[0-7]{3}", text) is not None


def _is_origin(text: str) -> bool:
    if text in ("same", "loopback", "file"):
        return True
    return re.fullmatch(rf"[a-z][a-z0-9+.-]*://{_HOST}(?::[0-9]{{1,5}})?", text) is not None


def _is_host(text: str) -> bool:
    return re.fullmatch(rf"{_HOST}(?::[0-9]{{1,5}})?", text) is not None


def _is_proxy(text: str) -> bool:
    if text == "unix":
        return True
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def _is_key_file(text: str) -> bool:
    # A credential's name is a file's in one folder: systemd.exec(5).
    if text.startswith(CREDENTIAL):
        return re.fullmatch(r"(?!\.)[A-Za-z0-9_.-]+", text.removeprefix(CREDENTIAL)) is not None
    return _is_file(text)


def _is_secret_file(text: str) -> bool:
    return text == "off" or _is_key_file(text)


def _is_greeting(text: str) -> bool:
    return set(re.findall(r"\{(\w*)\}", text)) <= {"nick", "room"}


def _is_room(text: str) -> bool:
    return re.fullmatch(r"(?!/)[^\s*:@#,\x00-\x1f\x7f]{1,64}", text) is not None


def _is_room_rule(text: str) -> bool:
    who = r"(?:everybody|users|operators|[^\s*:@#,/=]{1,32}(?:,[^\s*:@#,/=]{1,32})*)"
    return (
        re.fullmatch(rf"(?!/)[^\s:@#,]{{1,64}}(?: read={who})?(?: write={who})?", text) is not None
        and " " in text
    )


def _is_user(text: str) -> bool:
    return re.fullmatch(r"[^\s*:@#,/\x00-\x1f\x7f]{1,32}", text) is not None


def _is_cookie(text: str) -> bool:
    # RFC 6265 section 4.1.1: a token of RFC 9110.
    return re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}", text) is not None


def _is_admin_socket(text: str) -> bool:
    return text in ("auto", "off") or _is_address(f"unix:{text}")


def _is_metrics_address(text: str) -> bool:
    return text == "off" or _is_address(text)


def _is_history_path(text: str) -> bool:
    return text == "auto" or _is_file(text)


def _is_file(text: str) -> bool:
    return text.startswith("/") and not text.endswith("/") and "\0" not in text


_Address: TypeAlias = Annotated[
    str,
    Meta(
        title='"HOST:PORT", "[IPV6]:PORT", "unix:/PATH" or "systemd:"',
        extra={"check": _is_address},
    ),
]
_Mode: TypeAlias = Annotated[
    str, Meta(title='a mode in octal such as "0660"', extra={"check": _is_mode})
]
_Origin: TypeAlias = Annotated[
    str,
    Meta(
        title='"same", "loopback", "file" or an origin such as "https://chat.example.org"',
        extra={"check": _is_origin, "words": ("same", "loopback", "file")},
    ),
]
_HostName: TypeAlias = Annotated[
    str, Meta(title='"HOST" or "HOST:PORT"', extra={"check": _is_host})
]
_Proxy: TypeAlias = Annotated[
    str,
    Meta(
        title='"unix", an IP address or a network such as "10.1.0.0/16"',
        extra={"check": _is_proxy, "words": ("unix",)},
    ),
]
_SecretFile: TypeAlias = Annotated[
    str,
    Meta(
        title='"off", a file\'s absolute path or "credential:NAME"',
        extra={"check": _is_secret_file, "words": ("off",)},
    ),
]
_Greeting: TypeAlias = Annotated[
    str, Meta(title="a text; {nick} and {room} are filled in", extra={"check": _is_greeting})
]
_RoomName: TypeAlias = Annotated[
    str,
    Meta(
        title="1 to 64 characters, no spaces and none of * : @ # , nor / at the start",
        extra={"check": _is_room},
    ),
]
_RoomRule: TypeAlias = Annotated[
    str,
    Meta(
        title='"PATTERN read=WHO write=WHO", such as "news write=operators"',
        extra={"check": _is_room_rule},
    ),
]
_User: TypeAlias = Annotated[
    str,
    Meta(
        title="a user's name: 1 to 32 characters, no spaces and none of * : @ # , /",
        extra={"check": _is_user},
    ),
]
_KeyFile: TypeAlias = Annotated[
    str,
    Meta(
        title='a file\'s absolute path or "credential:NAME"',
        extra={"check": _is_key_file},
    ),
]
_Cookie: TypeAlias = Annotated[
    str,
    Meta(
        title='"off" or a cookie\'s name, such as "token"',
        extra={"check": _is_cookie, "words": ("off",)},
    ),
]
_HistoryPath: TypeAlias = Annotated[
    str, Meta(title='"auto" or a file\'s absolute path', extra={"check": _is_history_path})
]

_AdminSocket: TypeAlias = Annotated[
    str,
    Meta(
        title='"auto", "off" or a socket\'s absolute path',
        extra={"check": _is_admin_socket, "words": ("auto", "off")},
    ),
]
_MetricsAddress: TypeAlias = Annotated[
    str,
    Meta(
        title='"off", "HOST:PORT", "[IPV6]:PORT" or "unix:/PATH"',
        extra={"check": _is_metrics_address, "words": ("off",)},
    ),
]


class Listen(Struct, frozen=True, kw_only=True):
    addresses: Annotated[
        tuple[_Address, ...],
        Meta(
            min_length=1,
            description="Where clients come in; several may be given. localhost is 127.0.0.1 and, "
            "where the machine has IPv6, [::1]. For everybody: [::]:3000 (IPv6 and IPv4) or "
            "0.0.0.0:3000 (IPv4 alone). systemd: takes the sockets of a .socket unit.",
            extra=_RESTART,
        ),
    ] = ("localhost:3000",)
    socket_mode: Annotated[
        _Mode,
        Meta(
            description="The permissions of a Unix socket: who may connect to it.", extra=_RESTART
        ),
    ] = "0666"

    @property
    def socket_mode_bits(self) -> int:
        """``socket_mode`` as chmod(2) takes it."""
        return int(self.socket_mode, 8)


class Http(Struct, frozen=True, kw_only=True):
    origins: Annotated[
        tuple[_Origin, ...],
        Meta(
            description="Which web pages may connect. same: a page from the very host and port "
            "that it connects to. loopback: a page from this machine. file: a page opened from a "
            "file. The last two count only where listener, client and Host are all loopback. A "
            "request without Origin is no browser's, and passes.",
        ),
    ] = ("same", "loopback", "file")
    hosts: Annotated[
        tuple[_HostName, ...],
        Meta(
            description="The names this server goes by. Set it where browsers come from other "
            "machines: a page of another name that was made to point here is then no longer "
            '"same". Empty: any name.',
        ),
    ] = ()
    trusted_proxies: Annotated[
        tuple[_Proxy, ...],
        Meta(
            description="Who may say for whom it asks: by X-Forwarded-For, -Host and -Proto, by "
            "Forwarded, or by the PROXY protocol. unix: whoever comes by a Unix socket. From "
            "anybody else such headers are ignored, and the PROXY protocol is refused.",
        ),
    ] = ("unix",)


class Tls(Struct, frozen=True, kw_only=True):
    certificate_file: Annotated[
        _SecretFile,
        Meta(
            description="The certificate, in PEM, with the chain behind it. With it, and its key, "
            "https and wss are spoken wherever chatd listens on TCP; Unix sockets stay plain. "
            "credential:NAME is a file that systemd hands over (LoadCredential=).",
        ),
    ] = "off"
    key_file: Annotated[
        _SecretFile,
        Meta(description="Its private key, in PEM, without a passphrase. Both are given, or none."),
    ] = "off"


class Chat(Struct, frozen=True, kw_only=True):
    greeting: Annotated[
        _Greeting, Meta(description="The first line that a plain text client gets.")
    ] = "Hello, I am chatd. You are {nick} in #{room}."
    default_room: Annotated[
        _RoomName, Meta(description="The room of clients that ask for none.")
    ] = "lobby"
    backlog: Annotated[
        int,
        Meta(
            ge=0,
            le=500,
            description="How many of a room's last messages a plain text client is shown when "
            "it comes in.",
        ),
    ] = 20
    create_rooms: Annotated[
        bool,
        Meta(
            description="Whether joining a room that is not there makes it. Where not, there are "
            "the default room and those that have history.",
        ),
    ] = True
    rules: Annotated[
        tuple[_RoomRule, ...],
        Meta(
            description="Who may read and who may write in rooms of a name; * stands for anything. "
            'Each is "PATTERN read=WHO write=WHO", where WHO is everybody, users (not guests), '
            "operators, or users' names with commas between. Left out, everybody may read, and "
            "who may read may write. The first that fits counts. Operators may always.",
        ),
    ] = ()
    topics: Annotated[
        Literal["operators", "members"],
        Meta(description="Who may set a room's topic: operators alone, or everybody in it."),
    ] = "operators"
    presence_grace_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="How long a lost client may stay away before the others are told that it "
            "left. Who is back in time is told neither gone nor come.",
        ),
    ] = 10.0
    nick_hold_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=604_800,
            description="How long a nick is kept for its user after the last connection ended.",
        ),
    ] = 600.0
    operators: Annotated[
        tuple[_User, ...],
        Meta(
            description="Who may do everything: users as their tokens name them (sub), so that "
            'it takes auth.mode = "token". A token may also say of itself that its user is one.',
        ),
    ] = ()


class Auth(Struct, frozen=True, kw_only=True):
    mode: Annotated[
        Literal["open", "token"],
        Meta(
            description="open: whoever comes is a guest. token: a user is who a token names, a "
            "JWT that one of auth.key_files signed.",
        ),
    ] = "open"
    key_files: Annotated[
        tuple[_KeyFile, ...],
        Meta(
            description="The keys for tokens, one a file, as `chatd token --new-key` makes them. "
            "The first private one signs what `chatd token` issues; all verify, so that a new key "
            "goes in front while tokens of the old one run out. A public key (a JWK or PEM) "
            "verifies only.",
        ),
    ] = ()
    guests: Annotated[
        bool,
        Meta(description='Whether guests may come too, where auth.mode = "token".'),
    ] = False
    cookie: Annotated[
        _Cookie,
        Meta(
            description="The cookie in which browsers bring a token, where they are signed in by "
            "another site of yours. Have it set with HttpOnly, Secure and SameSite=Lax.",
        ),
    ] = "off"
    session_days: Annotated[
        int,
        Meta(
            ge=1,
            le=3650,
            description="How long a guest may stay away and still come back as the same user.",
        ),
    ] = 30


class History(Struct, frozen=True, kw_only=True):
    store: Annotated[
        Literal["sqlite", "memory"],
        Meta(
            description="Where the rooms' logs are kept. memory: gone when the daemon ends.",
            extra=_RESTART,
        ),
    ] = "sqlite"
    path: Annotated[
        _HistoryPath,
        Meta(
            description="The file of the sqlite store. auto: chatd.db in $STATE_DIRECTORY, which "
            "systemd sets, else in $XDG_STATE_HOME/chatd, else in ~/.local/state/chatd.",
            extra=_RESTART,
        ),
    ] = "auto"
    durability: Annotated[
        Literal["commit", "fsync"],
        Meta(
            description="What a message that was answered survives. commit: the daemon's death, "
            "kill -9 too; the loss of power may take the last moments. fsync: that too, slower.",
            extra=_RESTART,
        ),
    ] = "commit"
    keep_days: Annotated[
        Annotated[int, Meta(ge=1, le=36_500)] | Off,
        Meta(description="Messages older than this are deleted."),
    ] = 365
    keep_events: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000_000)] | Off,
        Meta(description="How many of its last events each room keeps; the older are deleted."),
    ] = "off"
    max_bytes: Annotated[
        Annotated[int, Meta(ge=1 << 20, le=1 << 50)] | Off,
        Meta(
            description="How large the store may grow. The oldest messages of all rooms go first; "
            "the log warns at nine tenths.",
        ),
    ] = 2 << 30
    purge_seconds: Annotated[
        int,
        Meta(
            ge=60,
            le=604_800,
            description="How long the files of the store may still hold the text of a message that "
            "was deleted, edited or too old. Shorter costs more: the whole index is written anew.",
        ),
    ] = 3600


class Limits(Struct, frozen=True, kw_only=True):
    connections: Annotated[
        int,
        Meta(ge=1, le=1_000_000, description="How many connections there may be at a time."),
    ] = 10_000
    connections_per_address: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | Off,
        Meta(
            description="How many from one address, an IPv6 one by its /64. Loopback is not "
            "counted, nor who comes by a Unix socket and not through a proxy.",
        ),
    ] = 200
    message_bytes: Annotated[
        int,
        Meta(ge=16, le=16 << 20, description="The longest text of a message, in bytes of UTF-8."),
    ] = 16_384
    send_queue_bytes: Annotated[
        int,
        Meta(
            ge=4096,
            le=1 << 30,
            description="How much may wait for a client that reads slowly. Above half of it the "
            "client is told no more who comes and goes; at the bound its connection is closed "
            "(4001), and it may come back and resume. Four times limits.message_bytes, and 4096, "
            "at least.",
        ),
    ] = 1 << 20
    messages_per_second: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | Off,
        Meta(description="How many messages a user may say, on average."),
    ] = 5
    messages_burst: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | Off,
        Meta(description="How many at once after a pause. off: no limit of messages at all."),
    ] = 20
    bytes_per_second: Annotated[
        Annotated[int, Meta(ge=1, le=1 << 30)] | Off,
        Meta(description="How much text a user may say, on average."),
    ] = 32_768
    messages_per_second_per_address: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | Off,
        Meta(
            description="How many messages may come from one address, on average, over all its "
            "users: a whole office may be behind one. Loopback and Unix sockets are not counted."
        ),
    ] = 50
    messages_burst_per_address: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | Off,
        Meta(description="How many at once after a pause. off: no such limit at all."),
    ] = 200
    requests_per_second: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | Off,
        Meta(
            description="How often a user may join a room or ask for history, a search or a list, "
            "on average."
        ),
    ] = 20
    requests_burst: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | Off,
        Meta(description="How often at once after a pause. off: no such limit at all."),
    ] = 200
    operators_exempt: Annotated[
        bool, Meta(description="Whether the limits of messages and requests leave out operators.")
    ] = True
    handshake_seconds: Annotated[
        float,
        Meta(ge=0.1, le=600, description="How long a request's head, and signing in, may take."),
    ] = 10.0
    close_seconds: Annotated[
        float,
        Meta(
            ge=0.1,
            le=600,
            description="How long a connection that is being closed may take to read what waits.",
        ),
    ] = 5.0
    presence_members: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="A room with more members is told how many there are, at most once a "
            "second, and no more who comes and goes.",
        ),
    ] = 100
    rooms: Annotated[int, Meta(ge=1, le=1_000_000, description="How many rooms there may be.")] = (
        10_000
    )
    rooms_per_client: Annotated[
        int, Meta(ge=1, le=10_000, description="How many rooms a client may be in at a time.")
    ] = 50
    sessions: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="How many Socket.IO clients there may be at a time. Who polls has no"
            " connection between two polls, so limits.connections does not bound these.",
        ),
    ] = 20_000


class WebSocket(Struct, frozen=True, kw_only=True):
    max_message_bytes: Annotated[
        Annotated[int, Meta(ge=1024, le=1 << 30)] | Literal["auto"],
        Meta(
            description="The longest message that is read at all; a longer one closes the "
            "connection (1009). auto: four times limits.message_bytes, and 4096.",
        ),
    ] = "auto"
    ping_interval_seconds: Annotated[
        float,
        Meta(ge=0.1, le=3600, description="After this long without a word a client is pinged."),
    ] = 25.0
    ping_timeout_seconds: Annotated[
        float,
        Meta(
            ge=0.1,
            le=3600,
            description="A client that then stays silent for this long is closed (4002). Not more "
            "than ping_interval_seconds.",
        ),
    ] = 20.0


class EngineIo(Struct, frozen=True, kw_only=True):
    ping_interval_seconds: Annotated[
        float,
        Meta(ge=0.1, le=3600, description="How often a Socket.IO client is pinged, or pings."),
    ] = 25.0
    ping_timeout_seconds: Annotated[
        float,
        Meta(
            ge=0.1,
            le=3600,
            description="A client that then stays silent for this long is taken for gone.",
        ),
    ] = 20.0
    upgrade_timeout_seconds: Annotated[
        float,
        Meta(ge=0.1, le=3600, description="How long the way from polling to WebSocket may take."),
    ] = 10.0
    connect_timeout_seconds: Annotated[
        float,
        Meta(
            ge=0.1,
            le=3600,
            description="How long a connection may be open without joining the chat.",
        ),
    ] = 45.0
    max_payload_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=1 << 30,
            description="The longest message, or POST of several, that is read at all: a longer "
            "message closes the connection (1009), a longer POST is refused (413).",
        ),
    ] = 1_000_000
    recovery_seconds: Annotated[
        Annotated[float, Meta(ge=1, le=86_400)] | Off,
        Meta(
            description="How long a client of Socket.IO 4 that was lost may come back as the same "
            "socket, with what it missed; a restart between does not matter. off: as somebody new.",
            extra=_RESTART,
        ),
    ] = 3600.0
    allow_eio3: Annotated[
        bool, Meta(description="Whether clients of Socket.IO 1 and 2 may come too.")
    ] = True


class Log(Struct, frozen=True, kw_only=True):
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="The least that is logged."),
    ] = "info"
    format: Annotated[
        Literal["auto", "console", "json", "journal"],
        Meta(
            description="auto: journal under systemd, console on a terminal, else json, a line "
            "for each event.",
            extra=_RESTART,
        ),
    ] = "auto"
    messages: Annotated[
        bool, Meta(description="Whether each message said has its line, without its text.")
    ] = True
    bodies: Annotated[
        bool, Meta(description="Whether that line has the text too. Mind whose words they are.")
    ] = False
    addresses: Annotated[
        Literal["full", "prefix", "off"],
        Meta(
            description="How clients' addresses are logged. prefix: their /24, of IPv6 their /64."
        ),
    ] = "full"


class Admin(Struct, frozen=True, kw_only=True):
    socket: Annotated[
        _AdminSocket,
        Meta(
            description="Where chatd ctl reaches the daemon. auto: admin.sock in "
            "$RUNTIME_DIRECTORY, which systemd sets, else in $XDG_RUNTIME_DIR/chatd, else nowhere.",
            extra=_RESTART,
        ),
    ] = "auto"
    socket_mode: Annotated[
        _Mode,
        Meta(
            description="Its permissions. Who may write to it may do all that chatd ctl does.",
            extra=_RESTART,
        ),
    ] = "0600"

    @property
    def socket_mode_bits(self) -> int:
        """``socket_mode`` as chmod(2) takes it."""
        return int(self.socket_mode, 8)


class Metrics(Struct, frozen=True, kw_only=True):
    listen: Annotated[
        _MetricsAddress,
        Meta(
            description="Where Prometheus finds /metrics, and /healthz and /readyz to the very end "
            "of a drain. For everybody who reaches it: not to be open to the world. The admin "
            "socket has them always.",
            extra=_RESTART,
        ),
    ] = "off"


class Drain(Struct, frozen=True, kw_only=True):
    seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="How long ending may take: clients are told, and get what waits for them.",
        ),
    ] = 10.0
    delay_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="How long new clients are served still, while /readyz says 503 already: "
            "for a balancer to notice.",
        ),
    ] = 0.0


class Settings(Struct, frozen=True, kw_only=True):
    """The whole configuration; ``Settings()`` is the defaults. Sections stand by their weight."""

    listen: Annotated[Listen, Meta(description="Where chatd listens.")] = Listen()
    http: Annotated[Http, Meta(description="Browsers, and proxies.")] = Http()
    chat: Annotated[Chat, Meta(description="The chat itself.")] = Chat()
    history: Annotated[History, Meta(description="What is kept, where and how long.")] = History()
    limits: Annotated[Limits, Meta(description="Bounds, so that nobody can take it all.")] = (
        Limits()
    )
    log: Annotated[Log, Meta(description="The log, on standard error.")] = Log()
    auth: Annotated[Auth, Meta(description="Who somebody is.")] = Auth()
    tls: Annotated[Tls, Meta(description="Encryption, where no proxy does it.")] = Tls()
    websocket: Annotated[WebSocket, Meta(description="WebSocket connections.")] = WebSocket()
    engineio: Annotated[EngineIo, Meta(description="Socket.IO clients.")] = EngineIo()
    admin: Annotated[Admin, Meta(description="The daemon under control.")] = Admin()
    metrics: Annotated[Metrics, Meta(description="Figures for Prometheus.")] = Metrics()
    drain: Annotated[Drain, Meta(description="The end, by SIGTERM.")] = Drain()

    @property
    def max_message_bytes(self) -> int:
        """``websocket.max_message_bytes``, with "auto" resolved."""
        given = self.websocket.max_message_bytes
        return self.message_wire_bytes if given == "auto" else given

    @property
    def message_wire_bytes(self) -> int:
        """How much a message of ``limits.message_bytes`` may take on the wire."""
        return _ESCAPED * self.limits.message_bytes + ENVELOPE_BYTES
