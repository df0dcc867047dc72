"""The options of a Socket.IO server: those of its engine, and its own."""

from __future__ import annotations

from pathlib import Path

from chatd import engineio
from chatd.engineio import options as engine_options
from chatd.engineio.checks import Check, count, instance, seconds
from chatd.socketio.packets import MAX_ATTACHMENTS, MAX_VALUES, EncHook
from chatd.socketio.recovery import Recovery, parse_recovery

__all__ = ["Options", "OptionsDict", "Tunable"]


class Options(engineio.Options, frozen=True, kw_only=True):
    """The options of a `Server`: those of `chatd.engineio.Options`, and the following.

    Times are in seconds, sizes in bytes.

    Attributes:
        path: Where the protocol is served; default ``"/socket.io/"``.
        static: A folder whose files `Server.serve` serves at ``/``; default none.
        client_files: The folder with Socket.IO's browser client (``socket.io.js`` and so on),
            which is served under ``path``; default the one that ``chatd fetch-client`` fills.
        connect_timeout: Time that a connection may take to join its first namespace; default 45.
        ack_timeout: Time that ``call`` waits for an acknowledgement, unless ``timeout(seconds)``
            sets another; default 30.
        attachment_timeout: Time that each attachment of a binary packet may take; default 45.
        shutdown_timeout: Time that ``disconnect`` handlers have when ``serve`` or ``run`` is
            cancelled; default 5.
        max_attachments: Attachments of one packet from a client; default 10, as in
            socket.io-parser 4.2.6.
        max_values: JSON values of one packet from a client; default 100,000, which take up to
            50 ms of the event loop. A packet with more ends the connection as ``"parse error"``.
        max_auth: The memory that one namespace's ``auth`` may take, in bytes, with 128 for each
            JSON value; default 16 KiB. A client that sends more is refused.
        max_namespaces: Namespaces of one connection; default 100.
        receive_queue_bytes: How much of what a client sent may wait for the handlers of its
            connection, in bytes of memory once it is decoded; default None: four times
            ``max_payload``. While it is full, the server does not read from that connection.
        enc_hook: Called with a value of a type that cannot be sent, in an event or an
            acknowledgement; returns what to send in its place, as msgspec's ``enc_hook``; default
            None.
        recovery: True, a number of seconds or a `Recovery` lets clients recover a lost connection;
            default None: off.
    """

    path: str = "/socket.io/"
    static: str | Path | None = None
    client_files: str | Path | None = None
    connect_timeout: float = 45.0
    ack_timeout: float = 30.0
    attachment_timeout: float = 45.0
    shutdown_timeout: float = 5.0
    max_attachments: int = MAX_ATTACHMENTS
    max_values: int = MAX_VALUES
    max_auth: int = 16384
    max_namespaces: int = 100
    receive_queue_bytes: int | None = None
    enc_hook: EncHook | None = None
    recovery: Recovery | float | bool | None = None

    @classmethod
    def checks(cls) -> dict[str, Check]:
        """Return the checks of fields for which their type is not enough."""
        folder = instance((str, Path), "the path of a folder")
        return {
            **super().checks(),
            "static": folder,
            "client_files": folder,
            "connect_timeout": seconds(0.001),
            "attachment_timeout": seconds(0.001),
            "max_attachments": count(0),
            "recovery": lambda _name, value: parse_recovery(value),
        }


class Tunable(engine_options.Tunable, total=False):
    """The options that `Server.tune` can replace while the server serves; see `Options`."""

    connect_timeout: float


class OptionsDict(Tunable, engine_options.OptionsDict, total=False):
    """`Options` as keyword arguments."""

    path: str
    static: str | Path | None
    client_files: str | Path | None
    ack_timeout: float
    attachment_timeout: float
    shutdown_timeout: float
    max_attachments: int
    max_values: int
    max_auth: int
    max_namespaces: int
    receive_queue_bytes: int | None
    enc_hook: EncHook | None
    recovery: Recovery | float | bool | None
