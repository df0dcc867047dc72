"""The chat's commands and events in each protocol, and the routes of the public port."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from chatd.chat import Chat
from chatd.gateways import page
from chatd.gateways.admission import let_in
from chatd.gateways.credentials import refuse_origin
from chatd.gateways.http import PATH as ROOMS
from chatd.gateways.http import HttpGateway
from chatd.gateways.json import CODEC, SUBPROTOCOL, JsonGateway
from chatd.gateways.json import goodbye_frames as json_goodbye
from chatd.gateways.socketio import PATH, SocketIoGateway
from chatd.gateways.text import TextCodec, TextGateway
from chatd.gateways.text import goodbye_frames as text_goodbye
from chatd.gateways.websocket import Unwelcome, connect
from chatd.logs import Log
from chatd.model import GOING_AWAY, INTERNAL, Refused
from chatd.wire.heads import subprotocols
from chatd.wire.request import Refused as HttpRefused
from chatd.wire.request import Request, Response, refusal
from chatd.wire.routes import WEBSOCKET, Handler, Routes
from chatd.wire.websocket import Upgrade, WebSocket

__all__ = ["HttpGateway", "SocketIoGateway", "routes"]


def routes(
    chat: Chat,
    log: Log,
    socketio: SocketIoGateway,
    http: HttpGateway,
    ready: Callable[[], bool],
    refuses: Callable[[], str | None],
) -> Routes:
    """Return the routes of the public port.

    Args:
        chat: The chat.
        log: The operator's log.
        socketio: Serves the Socket.IO clients.
        http: Serves scripts.
        ready: Returns whether new clients should connect here, for ``/readyz``.
        refuses: Returns why new clients are refused; None while they are accepted.
    """
    websocket = _websocket(chat, log, refuses)
    pages = page.routes(lambda: chat.settings)
    paths, prefixes = socketio.io.mounts()
    rooms, each_room = http.mounts()
    return Routes(
        {
            **pages,
            **paths,
            **rooms,
            "/": {**pages["/"], WEBSOCKET: websocket},
            "/ws": {WEBSOCKET: websocket},
            "/healthz": {"GET": _alive},
            "/readyz": {"GET": _ready(ready, refuses)},
        },
        {**prefixes, **each_room},
        {PATH.rstrip("/"): socketio.io.engine.complete, ROOMS: http.complete},
    )


async def _alive(_request: Request) -> Response:
    return Response(200, b"alive\n")


def _ready(ready: Callable[[], bool], refuses: Callable[[], str | None]) -> Handler:
    async def handler(_request: Request) -> Response:
        return Response(200, b"ready\n") if ready() else refusal(503, refuses() or "not now")

    return handler


def _websocket(chat: Chat, log: Log, refuses: Callable[[], str | None]) -> Handler:
    async def open_json(websocket: WebSocket) -> JsonGateway | Unwelcome:
        try:
            connection = await connect(chat, websocket, CODEC, SUBPROTOCOL)
        except Refused as refused:
            return Unwelcome(websocket, refused.refusal, partial(json_goodbye, chat))
        return JsonGateway(chat, websocket, connection)

    codec = TextCodec(chat)

    async def open_text(websocket: WebSocket) -> TextGateway | Unwelcome:
        try:
            connection = await connect(chat, websocket, codec, "text")
        except Refused as refused:
            return Unwelcome(websocket, refused.refusal, partial(text_goodbye, codec))
        gateway = TextGateway(chat, websocket, codec, connection)
        try:
            await gateway.enter()
        except BaseException as error:
            # ended() is only called on the returned receiver, and the chat has the connection.
            close = INTERNAL if isinstance(error, Exception) else GOING_AWAY
            gateway.ended(*(websocket.closing or (close, close.reason)))
            raise
        return gateway

    async def handler(request: Request) -> Response | Upgrade:
        if refused := refuse_origin(request, chat.settings, log):
            return refused
        await let_in(chat, refuses)
        if request.header("sec-websocket-protocol") is None:
            return Upgrade(None, open_text)
        if SUBPROTOCOL in subprotocols(request):
            return Upgrade(SUBPROTOCOL, open_json)
        message = f"The subprotocol here is {SUBPROTOCOL}. Without one, plain text is spoken."
        raise HttpRefused(refusal(400, message))

    return handler
