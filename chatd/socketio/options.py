"""How a server's connections behave, as they see it; the engine's options are the engine's."""

from __future__ import annotations

from msgspec import Struct

from chatd.socketio.packets import MAX_ATTACHMENTS

__all__ = ["Options"]


class Options(Struct, frozen=True, kw_only=True):
    """Times in seconds, sizes in bytes. What each means stands at `Server`."""

    connect_timeout: float = 45.0
    ack_timeout: float = 30.0
    attachment_timeout: float = 45.0
    shutdown_timeout: float = 5.0
    max_attachments: int = MAX_ATTACHMENTS
    max_namespaces: int = 100
    receive_queue_packets: int = 256
    receive_queue_bytes: int = 1 << 20
    send_queue_bytes: int = 1 << 20
    skip_middleware: bool = True
