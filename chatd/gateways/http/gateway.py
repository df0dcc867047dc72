"""The requests below ``/rooms``, each answered by a command of the chat."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec
import trio

from chatd.chat import Chat, Login
from chatd.chat.direct import resolve
from chatd.chat.rules import visit
from chatd.chat.user import User
from chatd.chat.visitor import visiting
from chatd.gateways.credentials import page_refusal, refuse
from chatd.gateways.http.identity import log_in
from chatd.gateways.http.problems import completed, preflight, problem
from chatd.gateways.http.requests import (
    EVENT_STREAM,
    BadRequest,
    body_kind,
    limit_of,
    message_of,
    position_of,
    read_position,
    room_of,
    since_of,
    wants_stream,
)
from chatd.gateways.http.stream import EventStreamCodec, RoomStream, page_end
from chatd.gateways.pages import encode_answer
from chatd.logs import Log
from chatd.model import Refusal, Refused
from chatd.protocol import commands
from chatd.protocol.codec import encode
from chatd.wire.request import Refused as HttpRefused
from chatd.wire.request import Request, Response, refusal
from chatd.wire.routes import ANY, Handler, Methods

__all__ = ["PATH", "HttpGateway"]

PATH: Final = "/rooms"

KICKED_SECONDS: Final = 60.0
"""How long a kicked user is refused. Otherwise an EventSource would reconnect at once."""

_JSON: Final = "application/json"
_LINES: Final = "application/x-ndjson"

_Answering: TypeAlias = Callable[[Request], Awaitable[Response]]


class HttpGateway:
    """Answers scripts.

    Args:
        chat: The chat.
        log: The operator's log.
        refuses: Returns why new clients are refused; None while they are accepted.
    """

    def __init__(self, chat: Chat, log: Log, refuses: Callable[[], str | None]) -> None:
        self._chat = chat
        self._log = log
        self._refuses = refuses
        self._codecs: Final = {
            chunked: EventStreamCodec(chat, chunked=chunked) for chunked in (True, False)
        }
        self._kicked: dict[tuple[str, str], float] = {}
        """Until when users who were kicked are refused, by user id and room key ("": the chat)."""

    def mounts(self) -> tuple[Mapping[str, Methods], Mapping[str, Methods]]:
        """Return whole paths and path prefixes for a table of routes."""
        return {PATH: self._methods({"GET": self._list})}, {
            f"{PATH}/": self._methods({"GET": self._get, "POST": self._post})
        }

    async def complete(self, request: Request, response: Response) -> Response:
        """Return a response with the headers that all have below `PATH`, for a table of routes."""
        return completed(request, response, self._chat.settings)

    def _methods(self, answering: Mapping[str, _Answering]) -> dict[str, Handler]:
        allowed = ", ".join(sorted({*answering, "HEAD", "OPTIONS"}))

        async def options(request: Request) -> Response:
            return Response(204, headers=[("Allow", allowed), *preflight(request)])

        async def other(_request: Request) -> Response:
            message = f"Method not allowed. Use {allowed}."
            raise HttpRefused(refusal(405, message, [("Allow", allowed)]))

        methods = {method: self._ready(each) for method, each in answering.items()}
        methods |= {"OPTIONS": options, ANY: other}
        return {method: self._checked(each) for method, each in methods.items()}

    def _checked(self, handler: _Answering) -> Handler:
        async def checked(request: Request) -> Response:
            refused = page_refusal(request, self._chat.settings)
            if refused is not None:
                return refuse(request, refused, self._log)
            return await handler(request)

        return checked

    def _ready(self, handler: _Answering) -> _Answering:
        async def ready(request: Request) -> Response:
            if (why := self._refuses()) is not None:
                return problem(Refusal("unavailable", f"{why[0].upper()}{why[1:]}.", 1000))
            try:
                return await handler(request)
            except Refused as refused:
                return problem(refused.refusal)
            except BadRequest as bad:
                self._chat.refusals["bad_request"] += 1
                self._chat.refused_commands["unknown", "bad_request"] += 1
                return problem(Refusal("bad_request", str(bad)), bad.status)

        return ready

    # ---- requests

    async def _list(self, request: Request) -> Response:
        command = commands.Rooms(after=request.query.get("after"))
        _, listed = await self._visit(request, command)
        return Response(200, encode(listed) + b"\n", _JSON)

    async def _post(self, request: Request) -> Response:
        room = _room(request)
        kind = body_kind(request)
        body = await request.body(self._chat.settings.max_message_bytes)
        command = message_of(request, room, kind, body)
        user, said = await self._visit(request, command)
        fields = msgspec.to_builtins(said)
        fields.update(user=user.id, nick=user.nick.display)
        return Response(200 if said.duplicate else 201, encode(fields) + b"\n", _JSON)

    async def _get(self, request: Request) -> Response:
        if wants_stream(request) and request.method != "HEAD":
            return await self._stream(request)
        since = since_of(request)
        command = commands.Join(room=_room(request), since=since, limit=limit_of(request))
        _, entered = await self._visit(request, command)
        end = page_end(entered, since)
        headers = [("Chatd-Position", position_of(entered.epoch, end))]
        if since is not None:
            headers.append(("Chatd-Recovered", str(entered.recovered).lower()))
        if end < entered.seq:
            headers.append(("Chatd-More", "true"))
        log = self._log.bind(connection=request.connection, transport="http")
        body = encode_answer(entered, _lines, log)
        return Response(200, body, _LINES, headers)

    async def _stream(self, request: Request) -> Response:
        chat = self._chat
        last = request.header("last-event-id")
        command = commands.Join(
            room=_room(request),
            since=read_position(last) if last else since_of(request),
            limit=limit_of(request, chat.settings.chat.backlog),
        )
        login = await self._log_in(request)
        await self._check_kicked(login, command.room)
        source = RoomStream(
            chat,
            self._codecs[request.chunked],
            request.connection,
            login,
            address=request.peer.address,
            limit_key=request.peer.limit_key,
            kicked=self._note_kicked,
        )
        await source.enter(command)
        # nginx must pass on each block at once.
        headers = [("X-Accel-Buffering", "no")]
        return Response(200, content_type=EVENT_STREAM, headers=headers, source=source)

    # ---- users

    async def _log_in(self, request: Request) -> Login:
        try:
            return await log_in(self._chat, request)
        except Refused as refused:
            self._chat.refusals[refused.refusal.code] += 1
            self._log.emit(
                "refused",
                connection=request.connection,
                address=request.peer.address,
                transport="http",
                path=request.path,
                code=refused.refusal.code,
                reason=refused.refusal.message,
            )
            raise

    async def _visit(
        self, request: Request, command: commands.Say | commands.Join | commands.Rooms
    ) -> tuple[User, Any]:
        """Carry out the command of a request, and return the user and the command's answer."""
        login = await self._log_in(request)
        room = None if isinstance(command, commands.Rooms) else command.room
        await self._check_kicked(login, room)
        with visiting(
            self._chat,
            request.connection,
            login,
            address=request.peer.address,
            limit_key=request.peer.limit_key,
            transport="http",
        ) as visitor:
            return login.user, await visit(visitor, command)

    def _note_kicked(self, user: str, room: str) -> None:
        now = trio.current_time()
        for key in [key for key, until in self._kicked.items() if until <= now]:
            del self._kicked[key]
        self._kicked[user, room] = now + KICKED_SECONDS

    async def _check_kicked(self, login: Login, room: str | None) -> None:
        """Raise Refused if a user was kicked from a room or from the chat a moment ago."""
        if not self._kicked:
            return
        places = {""}
        if room is not None:
            places.add((await resolve(self._chat, login.user, room)).key)
        until = max((self._kicked.get((login.user.id, each), 0.0) for each in places), default=0.0)
        left = until - trio.current_time()
        if left > 0:
            raise Refused("forbidden", "You were kicked.", round(left * 1000) + 1)


def _room(request: Request) -> str:
    room = room_of(request.path)
    if room is None:
        message = "Not found. A room's name is one part of the path: write %2F for a slash in it."
        raise HttpRefused(refusal(404, message))
    return room


def _lines(entered: commands.Entered) -> bytes:
    return b"".join(encode(event) + b"\n" for event in entered.events)
