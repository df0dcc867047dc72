"""What is too long for one answer: exports, imports and backups, over the admin socket."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Final, TypeAlias

import msgspec

from chatd.admin.answers import Failure, Imported
from chatd.admin.control import Control
from chatd.admin.transfer import Importing, export_room, export_user
from chatd.chat.names import Name, room_name
from chatd.journal import Unavailable
from chatd.model import Operation, Outcome, Refusal, Refused, Restore
from chatd.wire.request import Request, Response

__all__ = ["LINES_TYPE", "Stream", "streams"]

LINES_TYPE: Final = "application/jsonl"
"""No form of a web page can send this."""


Stream: TypeAlias = Callable[[Request], Awaitable[Response | Failure]]


class _Streams:
    def __init__(self, control: Control) -> None:
        self._control = control

    async def export(self, request: Request) -> Response | Failure:
        journal, query = self._control.chat.journal, request.query
        match query:
            case {"user": user}:
                lines = export_user(journal, user)
            case {"room": spelled}:
                try:
                    name = Name(spelled, spelled) if spelled.startswith("@") else room_name(spelled)
                except Refused as refused:
                    return Failure(400, refused.refusal.code, refused.refusal.message)
                if await journal.head(name.fold) is None:
                    return Failure(404, "not_found", f"there is no room {name.shown}")
                lines = export_room(journal, name.fold)
            case _:
                return Failure(400, "bad_request", "export what? a room or a user")
        self._control.log.emit("export", room=query.get("room"), target=query.get("user"))
        return Response(200, content_type=LINES_TYPE, stream=lines)

    async def take(self, request: Request) -> Response | Failure:
        kind = (request.header("content-type") or "").partition(";")[0].strip().lower()
        if kind != LINES_TYPE:
            return Failure(415, "bad_request", f"history comes as {LINES_TYPE}")
        importing = Importing(self._ask)
        async with aclosing(request.pieces()) as pieces:
            refusal = await importing.take(pieces)
        self._control.log.emit("import", events=importing.taken)
        if refusal is not None:
            message = f"{refusal.message}; {importing.taken} lines before it are taken up"
            return Failure(422, refusal.code, message)
        answer = Imported(importing.taken, self._control.chat.journal.epoch)
        return Response(200, msgspec.json.encode(answer) + b"\n", "application/json")

    async def _ask(self, operation: Operation) -> Outcome:
        chat = self._control.chat
        if isinstance(operation, Restore) and chat.rooms.get(operation.room) is not None:
            name = operation.entries[0].room
            return Refusal("forbidden", f"somebody is in {name}: import it when nobody is")
        return await chat.bus.commit(operation)

    async def backup(self, _request: Request) -> Response | Failure:
        pieces = self._control.chat.journal.backup()
        try:
            # What cannot be begun is said in time.
            first = await anext(pieces)
        except Unavailable as error:
            return Failure(503, "unavailable", str(error))
        self._control.log.emit("backup")
        return Response(200, content_type="application/vnd.sqlite3", stream=_all(first, pieces))


async def _all(first: bytes, pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(pieces):
        yield first  # noqa: ASYNC119  who sends it closes it
        async for piece in pieces:
            yield piece  # noqa: ASYNC119  as above


def streams(control: Control) -> Mapping[str, Mapping[str, Stream]]:
    """Give what answers, by path and method."""
    served = _Streams(control)
    return {
        "/export": {"GET": served.export},
        "/import": {"POST": served.take},
        "/backup": {"GET": served.backup},
    }
