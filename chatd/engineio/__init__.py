"""Engine.IO for Trio: sessions over HTTP polling and WebSocket, revisions 4 and 3.

``Server`` stands alone and calls a handler for each session. ``Engine`` is what it is made of, for
protocols above: it hands each session to a function, which gives a receiver for its messages.
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
