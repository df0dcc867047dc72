"""Reading what was said: a room's log in pages, and finding words in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from chatd.chat.connection import Connection
from chatd.chat.direct import resolve
from chatd.chat.pages import fitting, last_messages, newest, page_size
from chatd.chat.replies import Reply
from chatd.chat.rights import check_may_read
from chatd.model import Event, Refused
from chatd.protocol import commands, events

__all__ = ["history", "search"]

QUERY_BYTES: Final = 256


class Log(Struct, frozen=True):
    """A room's log as far as it may be read: by its fold, how it is written, up to where."""

    fold: str
    name: str
    visible: int


async def _log(connection: Connection, spelled: str) -> Log:
    chat = connection.chat
    name = resolve(chat, connection.user, spelled)
    check_may_read(connection, name.fold)
    await connection.outbox.drained()
    if room := chat.rooms.get(name.fold):
        return Log(name.fold, room.name, room.feed.visible)
    if head := await chat.journal.head(name.fold):
        return Log(name.fold, head.name, head.seq)
    raise Refused("not_found", f"there is no room {name.shown}")


async def history(connection: Connection, command: commands.History) -> Reply[commands.Page]:
    """Read a page of a room's log, up to what is visible."""
    journal, limit = connection.chat.journal, page_size(command.limit)
    log = await _log(connection, command.room)
    queue_bytes = connection.chat.settings.limits.send_queue_bytes
    page: Sequence[Event]
    if command.after is not None:
        after = max(0, min(command.after, log.visible))
        page = fitting(await journal.read(log.fold, after, log.visible, limit), queue_bytes)
        seen = page[-1].seq if page else after
        more = seen < log.visible and bool(page or not limit)
    else:
        before = log.visible + 1
        if command.before is not None:
            before = min(command.before, before)
        found = await newest(journal, log.fold, before, limit + 1, messages=command.messages)
        tail = found[max(0, len(found) - limit) :]
        last = last_messages(found, limit) if command.messages else tail
        page = fitting(last, queue_bytes, back=True)
        more = len(page) < len(found)
    return Reply(
        commands.Page(journal.epoch, [events.shape(log.name, event) for event in page], more)
    )


async def search(connection: Connection, command: commands.Search) -> Reply[commands.Found]:
    """Find words in a room's messages, the newest first, once all that was said is findable."""
    chat, limit = connection.chat, page_size(command.limit)
    if len(command.query.encode()) > QUERY_BYTES:
        raise Refused("too_large", f"a query has {QUERY_BYTES} bytes at most")
    log = await _log(connection, command.room)
    await chat.bus.indexed()
    before = log.visible + 1
    if command.before is not None:
        before = max(0, min(command.before, before))
    found = await chat.journal.search(log.fold, command.query, before, limit + 1)
    page = fitting(found[:limit], chat.settings.limits.send_queue_bytes)
    return Reply(
        commands.Found([events.shape(log.name, event) for event in page], len(page) < len(found))
    )
