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
    "ENVELOPE_BYTES",
    "Auth",
    "Chat",
    "Drain",
    "EngineIo",
    "History",
    "Http",
    "Limits",
    "Listen",
    "Log",
    "Settings",
    "WebSocket",
]

Off: TypeAlias = Literal["off"]

# What stands around a text on the wire, and each of its bytes as JSON may escape it: an emoji's
# 4 bytes become 12 (\ud83d\ude00), so 4 for 1 leaves room.
_ESCAPED: Final = 4
ENVELOPE_BYTES: Final = 4096

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


def _is_greeting(text: str) -> bool:
    return set(re.findall(r"\{(\w*)\}", text)) <= {"nick", "room"}


def _is_room(text: str) -> bool:
    return re.fullmatch(r"(?!/)[^\s*:@#,\x00-\x1f\x7f]{1,64}", text) is not None


def _is_history_path(text: str) -> bool:
    return text == "auto" or (text.startswith("/") and not text.endswith("/") and "\0" not in text)


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
_HistoryPath: TypeAlias = Annotated[
    str, Meta(title='"auto" or a file\'s absolute path', extra={"check": _is_history_path})
]


class Listen(Struct, frozen=True, kw_only=True):
    addresses: Annotated[
        tuple[_Address, ...],
        Meta(
            min_length=1,
            description="Where clients come in; several may be given. localhost is 127.0.0.1 and, "
            "where the machine has IPv6, [::1]. For everybody: [::]:3000 (IPv6 and IPv4) or "
            "0.0.0.0:3000 (IPv4 alone). systemd: takes the sockets of a .socket unit.",
        ),
    ] = ("localhost:3000",)
    socket_mode: Annotated[
        _Mode, Meta(description="The permissions of a Unix socket: who may connect to it.")
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


class Auth(Struct, frozen=True, kw_only=True):
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
        Meta(description="Where the rooms' logs are kept. memory: gone when the daemon ends."),
    ] = "sqlite"
    path: Annotated[
        _HistoryPath,
        Meta(
            description="The file of the sqlite store. auto: chatd.db in $STATE_DIRECTORY, which "
            "systemd sets, else in $XDG_STATE_HOME/chatd, else in ~/.local/state/chatd.",
        ),
    ] = "auto"
    durability: Annotated[
        Literal["commit", "fsync"],
        Meta(
            description="What a message that was answered survives. commit: the daemon's death, "
            "kill -9 too; the loss of power may take the last moments. fsync: that too, slower.",
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


class Limits(Struct, frozen=True, kw_only=True):
    connections: Annotated[
        int,
        Meta(ge=1, le=1_000_000, description="How many connections there may be at a time."),
    ] = 10_000
    connections_per_address: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | Off,
        Meta(description="How many from one address. Loopback and Unix sockets are not counted."),
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
    http: Annotated[Http, Meta(description="Browsers.")] = Http()
    chat: Annotated[Chat, Meta(description="The chat itself.")] = Chat()
    history: Annotated[History, Meta(description="What is kept, where and how long.")] = History()
    limits: Annotated[Limits, Meta(description="Bounds, so that nobody can take it all.")] = (
        Limits()
    )
    log: Annotated[Log, Meta(description="The log, on standard error.")] = Log()
    auth: Annotated[Auth, Meta(description="Who somebody is.")] = Auth()
    websocket: Annotated[WebSocket, Meta(description="WebSocket connections.")] = WebSocket()
    engineio: Annotated[EngineIo, Meta(description="Socket.IO clients.")] = EngineIo()
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
