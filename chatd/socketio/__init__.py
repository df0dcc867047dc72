"""Socket.IO for Trio: a server for clients of every version from 1.x to 4.x.

::

    import trio
    from chatd import socketio

    io = socketio.Server(static="public")

    @io.on("chat message")
    async def chat_message(socket, text):
        await io.emit("chat message", text)

    trio.run(io.serve, "127.0.0.1:3000")

A handler is called with the socket and the event's arguments; what it returns acknowledges the
event. The handlers of one connection run one after another, in the order of its events.

Begin with `Server`. `Options` says what can be set; `Socket`, `Namespace` and `Broadcast` say what
can be done. The protocol is that of https://socket.io/docs/v4/socket-io-protocol/ (revision 5:
clients 3.x and 4.x) and, with ``allow_eio3``, revision 4 (clients 1.x and 2.x).
"""

from chatd.engineio import Cookie
from chatd.socketio.acks import Answers
from chatd.socketio.broadcast import Broadcast
from chatd.socketio.connection import Connection
from chatd.socketio.errors import Disconnected, NotRecovered, PacketError, Refused
from chatd.socketio.handlers import Acknowledging
from chatd.socketio.namespace import DynamicNamespace, Namespace
from chatd.socketio.options import Options, OptionsDict, Tunable
from chatd.socketio.packets import encode_event, make_block, with_offset
from chatd.socketio.recovery import (
    RECOVERABLE,
    Logged,
    Lost,
    MemoryLog,
    Recovery,
    RecoveryLog,
)
from chatd.socketio.server import Server, ServerStatistics
from chatd.socketio.socket import Direct, Handshake, Socket

__all__ = [
    "RECOVERABLE",
    "Acknowledging",
    "Answers",
    "Broadcast",
    "Connection",
    "Cookie",
    "Direct",
    "Disconnected",
    "DynamicNamespace",
    "Handshake",
    "Logged",
    "Lost",
    "MemoryLog",
    "Namespace",
    "NotRecovered",
    "Options",
    "OptionsDict",
    "PacketError",
    "Recovery",
    "RecoveryLog",
    "Refused",
    "Server",
    "ServerStatistics",
    "Socket",
    "Tunable",
    "encode_event",
    "make_block",
    "with_offset",
]
