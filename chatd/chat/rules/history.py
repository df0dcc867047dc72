"""Reading a room's log in pages, and searching it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct

from chatd.chat.chat import Chat
from chatd.chat.connection import Connection
from chatd.chat.direct import DIRECT, resolve
from chatd.chat.names import nick_name
from chatd.chat.pages import fitting, last_messages, page_size, read_latest
from chatd.chat.replies import Reply
from chatd.chat.rights import check_may_read, may_read
from chatd.journal import Sender
from chatd.model import Event, Refused
from chatd.protocol import commands, events

__all__ = ["history", "search"]

QUERY_BYTES: Final = 256

MAX_CONVERSATIONS: Final = 200
"""Rooms of direct messages that are searched together with the rooms of a user."""

MAX_SEQ: Final = 2**53
MAX_TIME: Final = 2**53
"""Above all numbers, and all times."""


class Log(Struct, frozen=True):
    """A room's log as far as it is visible: its key, its name as written, its last number."""

    key: str
    name: str
    visible: int


async def _log(connection: Connection, written_name: str) -> Log:
    chat = connection.chat
    # First, because a slow client may be banned while this waits.
    await connection.outbox.drained()
    name = await resolve(chat, connection.user, written_name)
    check_may_read(connection, name.key)
    if room := chat.rooms.get(name.key):
        return Log(name.key, room.name, room.feed.visible)
    head = await chat.journal.head(name.key)
    if head is not None and not head.empty:
        return Log(name.key, head.name, head.seq)
    if await chat.rooms.exists(name):
        return Log(name.key, name.display, 0)
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
    """Find messages by their words or by who sent them, the newest first."""
    chat, limit, before = connection.chat, page_size(command.limit), command.before
    if len(command.query.encode()) > QUERY_BYTES:
        raise Refused("too_large", f"Queries can have at most {QUERY_BYTES} bytes.")
    time = None
    if command.room is None:
        if before is None:
            time = MAX_TIME
        elif isinstance(before, int) or before.tzinfo is None:
            raise Refused("bad_request", "Without a room, before is a time: 2026-07-23T10:15:00Z.")
        else:
            time = round(before.timestamp() * 1000)
        logs = await _own_logs(connection)
        rooms = {log.key: log.visible + 1 for log in logs}
    else:
        if isinstance(before, datetime):
            raise Refused("bad_request", "In a room, before is the number of a message.")
        logs = [log := await _log(connection, command.room)]
        end = log.visible + 1
        rooms = {log.key: end if before is None else max(0, min(before, end))}
    sender = None if command.sender is None else await _sender(chat, command.sender)
    async with chat.flood.searching(connection):
        hits = await chat.bus.search(command.query, rooms, limit, sender=sender, before=time)
    page = fitting(hits.events, chat.settings.limits.send_queue_bytes)
    if time is not None and len(page) < len(hits.events):
        page = _whole_times(page, hits.events[len(page)].at)
    more = hits.more or len(page) < len(hits.events)
    names = {log.key: log.name for log in logs}
    return Reply(
        commands.Found(
            [events.shape(names[event.room], event) for event in page],
            more,
            incomplete=not (more or hits.complete),
        )
    )


async def _own_logs(connection: Connection) -> list[Log]:
    """Return the logs of the rooms that the user is in, with those of direct messages."""
    chat, user = connection.chat, connection.user
    await connection.outbox.drained()
    logs = {room.key: Log(room.key, room.name, room.feed.visible) for room in user.rooms}
    prefix = f"{user.id}\0"
    for record in await chat.journal.records(DIRECT, prefix, MAX_CONVERSATIONS):
        key = record.name.removeprefix(prefix)
        # Nobody is here who could add to a room that is not open.
        logs.setdefault(key, Log(key, key, MAX_SEQ))
    return [log for log in logs.values() if may_read(connection, log.key)]


async def _sender(chat: Chat, written: str) -> Sender:
    name = nick_name(written.removeprefix("@"))
    return Sender(name.display, await chat.roster.find(name))


def _whole_times(page: Sequence[Event], cut: int) -> Sequence[Event]:
    """Return a page without the last events if they have the time of one that does not fit."""
    whole = [event for event in page if event.at != cut]
    return whole or page
