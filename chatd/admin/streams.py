"""Requests with long bodies: export, import and backup, over the admin socket."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Final

import msgspec

from chatd.admin.control import DaemonControl
from chatd.admin.errors import AdminError
from chatd.admin.importing import Importing
from chatd.admin.transfer import export_all, export_room, export_user, has_written
from chatd.chat.names import Name, log_name
from chatd.journal.shared import SharedJournal
from chatd.model import Refused
from chatd.wire.request import Request, Response
from chatd.wire.routes import Handler

__all__ = ["LINES_TYPE", "streams"]

LINES_TYPE: Final = "application/jsonl"
"""No form of a web page can send this."""


class _Streams:
    def __init__(self, control: DaemonControl) -> None:
        self._control = control

    async def export(self, request: Request) -> Response:
        journal, query = self._control.chat.journal, request.query
        match query:
            case {"user": user}:
                if await journal.user(user) is None and not await has_written(journal, user):
                    raise AdminError(404, "not_found", f"There is no user {user}.")
                lines = export_user(journal, user)
            case {"room": room}:
                name = log_name(room)
                head = await journal.head(name.key)
                if head is None or head.empty:
                    raise AdminError(404, "not_found", f"There is no room named {name.display}.")
                lines = export_room(journal, name.key)
            case {"all": _}:
                lines = export_all(journal)
            case _:
                raise AdminError(400, "bad_request", "Name a room or a user to export, or all.")
        self._control.log.emit("export", room=query.get("room"), target=query.get("user"))
        return Response(200, content_type=LINES_TYPE, stream=lines)

    async def import_(self, request: Request) -> Response:
        kind = (request.header("content-type") or "").partition(";")[0].strip().lower()
        if kind != LINES_TYPE:
            raise AdminError(415, "bad_request", f"Send history as {LINES_TYPE}.")
        chat, check = self._control.chat, "check" in request.query
        await self._check_alone()
        importing = Importing(
            chat.journal,
            chat.bus.submit_and_wait,
            self._enter,
            settings=chat.settings,
            now=chat.now(),
            check=check,
        )
        try:
            async with aclosing(request.pieces()) as pieces:
                imported = await importing.take(pieces)
            if not check:
                await chat.users.load_subjects()
                await chat.sanctions.load(chat.journal, chat.damage)
        except Refused as refused:
            raise AdminError(422, refused.refusal.code, importing.explain(refused)) from None
        finally:
            if not check:
                self._control.log.emit("import", events=importing.taken)
        return Response(200, msgspec.json.encode(imported) + b"\n", "application/json")

    @asynccontextmanager
    async def _enter(self, room: Name) -> AsyncGenerator[None]:
        """Keep everybody out of a room. Raise Refused if it has members."""
        async with self._control.chat.rooms.importing(room):
            await self._check_alone()
            yield

    async def _check_alone(self) -> None:
        """Raise AdminError if other daemons share the store: their clients can enter any room."""
        journal = self._control.chat.journal
        if not isinstance(journal, SharedJournal):
            return
        others = [each for each in await journal.nodes() if each.node != journal.node]
        if others:
            now = journal.steady_now()
            seconds = math.ceil((max(each.lease_until for each in others) - now) / 1000)
            raise AdminError(
                409,
                "conflict",
                "Other daemons share this store, and their clients could enter the rooms: "
                f"{', '.join(each.node for each in others)} (see `chatd ctl nodes`). Stop them, "
                f"then import. One that was stopped or killed counts for {seconds} s more.",
            )

    async def backup(self, _request: Request) -> Response:
        pieces = self._control.chat.journal.backup()
        # Read now, so that a backup that cannot start is an error and not a torn answer.
        first = await anext(pieces)
        self._control.log.emit("backup")
        return Response(200, content_type="application/vnd.sqlite3", stream=_all(first, pieces))


async def _all(first: bytes, pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(pieces):
        yield first  # noqa: ASYNC119  the server closes the generator
        async for piece in pieces:
            yield piece  # noqa: ASYNC119  as above


def streams(control: DaemonControl) -> Mapping[str, Mapping[str, Handler]]:
    """Return the handlers by path and method."""
    served = _Streams(control)
    return {
        "/export": {"GET": served.export},
        "/import": {"POST": served.import_},
        "/backup": {"GET": served.backup},
    }
