"""One event of a client: its middleware, its handlers and its acknowledgement."""

from __future__ import annotations

from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING

from chatd.engineio.hooks import Steps
from chatd.socketio.errors import Refused
from chatd.socketio.handlers import Acknowledging, Handlers
from chatd.socketio.packets import Packet
from chatd.socketio.socket import Socket

if TYPE_CHECKING:
    from chatd.socketio.server import Server

__all__ = ["handle"]


def handle(server: Server, socket: Socket, handlers: Handlers, packet: Packet) -> Steps[None]:
    """Handle an event. Exceptions of the application's functions are reported, not raised."""
    name, *args = packet.data
    event = name if isinstance(name, str) else str(name)
    ack = Acknowledging(None if packet.id is None else partial(socket.send_ack, packet.id, event))
    try:
        for middleware in (*handlers.on_events, *socket.middleware):
            try:
                result = middleware(socket, event, args)
                if isawaitable(result):
                    yield result
            except Refused:
                return
        passed = yield from handlers.event(socket, event, args, ack)
        if ack.wanted and not passed:
            _warn_unanswered(server, socket, handlers, event)
    except Exception as error:  # a handler's boundary
        yield server.report(error, socket, event)


def _warn_unanswered(server: Server, socket: Socket, handlers: Handlers, event: str) -> None:
    known = handlers.has(event)
    what = f"the handler of {event!r} returned None" if known else f"{event[:64]!r} has no handler"
    server.engine.hints.warn(
        f"unanswered {event if known else ''}",
        detail=f"{what}, and a client waits for its acknowledgement: return a value, or () for "
        "an acknowledgement without arguments",
        address=socket.handshake.address,
    )
