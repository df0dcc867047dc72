"""Reading a room's log in pages, and searching it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from chatd.chat.connection import Connection
from chatd.chat.direct import resolve
from chatd.chat.pages import fitting, last_messages, page_size, read_latest
from chatd.chat.replies import Reply
from chatd.chat.rights import check_may_read
from chatd.model import Event, Refused
from chatd.protocol import commands, events

__all__ = ["history", "search"]

QUERY_BYTES: Final = 256


class Log(Struct, frozen=True):
    """A room's log as far as it is visible: its key, its name as written, its last number."""

    key: str
    name: str
    visible: int


async def _log(connection: Connection, written_name: str) -> Log:
    chat = connection.chat
    # First, because a slow client may be banned while this waits.
    await connection.outbox.drained()
    name = resolve(chat, connection.user, written_name)
    check_may_read(connection, name.key)
    if room := chat.rooms.get(name.key):
        return Log(name.key, room.name, room.feed.visible)
    if head := await chat.journal.head(name.key):
        return Log(name.key, head.name, head.seq)
    raise Refused("not_found", f"There is no room named {name.display}.")


async def history(connection: Connection, command: commands.History) -> Reply[commands.Page]:
    """Read a page of a room's log, up to its visible head."""
    journal, limit = connection.chat.journal, page_size(command.limit)
    log = await _log(connection, command.room)
    queue_bytes = connection.chat.settings.limits.send_queue_bytes
    page: Sequence[Event]
    if command.after is not None:
        after = max(0, min(command.after, log.visible))
        page = fitting(await journal.read(log.key, after, log.visible, limit), queue_bytes)
        seen = page[-1].seq if page else after
        more = seen < log.visible and bool(page or not limit)
    else:
        before = log.visible + 1
        if command.before is not None:
            before = min(command.before, before)
        found = await read_latest(journal, log.key, before, limit + 1, messages=command.messages)
        tail = found[max(0, len(found) - limit) :]
        last = last_messages(found, limit) if command.messages else tail
        page = fitting(last, queue_bytes, back=True)
        more = len(page) < len(found)
    return Reply(
        commands.Page(journal.epoch, [events.shape(log.name, event) for event in page], more)
    )


async def search(connection: Connection, command: commands.Search) -> Reply[commands.Found]:
    """Find messages by their words, the newest first, once all of them are indexed."""
    chat, limit = connection.chat, page_size(command.limit)
    if len(command.query.encode()) > QUERY_BYTES:
        raise Refused("too_large", f"Queries can have at most {QUERY_BYTES} bytes.")
    log = await _log(connection, command.room)
    await chat.bus.indexed()
    before = log.visible + 1
    if command.before is not None:
        before = max(0, min(command.before, before))
    async with chat.flood.searching(connection):
        found = await chat.journal.search(log.key, command.query, before, limit + 1)
    page = fitting(found[:limit], chat.settings.limits.send_queue_bytes)
    return Reply(
        commands.Found([events.shape(log.name, event) for event in page], len(page) < len(found))
    )
