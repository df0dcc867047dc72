"""Engine.IO for Trio: messages over HTTP polling and WebSocket, protocol revisions 4 and 3.

::

    import trio
    from chatd import engineio

    async def echo(session):
        async for message in session:
            await session.send(message)

    trio.run(engineio.Server(echo).serve, "127.0.0.1:3000")

`Server` listens by itself and calls a handler with each `Session`. `Engine` is for protocols on top
of Engine.IO and for servers with a table of routes of their own: it calls a function with each
session, which returns a `Receiver` for its messages. `Options` says what can be set.

The protocol is that of https://socket.io/docs/v4/engine-io-protocol/ (revision 4) and, with
``allow_eio3``, revision 3, which Socket.IO's clients 1.x and 2.x speak.
"""

from chatd.engineio.block import Block
from chatd.engineio.close_reasons import CLOSES, Reason, SessionClosed
from chatd.engineio.engine import Engine, EngineStatistics, Opened
from chatd.engineio.handshake import Handshake
from chatd.engineio.options import AllowRequest, Cookie, Options, OptionsDict, Origins, Tunable
from chatd.engineio.packets import Revision
from chatd.engineio.server import Handler, Server
from chatd.engineio.serving import Served, serve
from chatd.engineio.session import Receiver, Session

__all__ = [
    "CLOSES",
    "AllowRequest",
    "Block",
    "Cookie",
    "Engine",
    "EngineStatistics",
    "Handler",
    "Handshake",
    "Opened",
    "Options",
    "OptionsDict",
    "Origins",
    "Reason",
    "Receiver",
    "Revision",
    "Served",
    "Server",
    "Session",
    "SessionClosed",
    "Tunable",
    "serve",
]
