"""Being in rooms: join and resume, leave, and who and what is there."""

from __future__ import annotations

from functools import partial
from typing import Final

from msgspec.structs import replace

from chatd.chat.connection import Connection
from chatd.chat.direct import DIRECT, open_direct, other_of, require_membership, resolve
from chatd.chat.names import nick_name
from chatd.chat.pages import QUEUE_SHARE, catch, page_size
from chatd.chat.replies import Reply
from chatd.chat.rights import check_may_read, may_read, may_set_topic
from chatd.journal import Unavailable
from chatd.model import Refused
from chatd.protocol import commands, events

__all__ = ["join", "leave", "list_rooms", "who"]

MOST_UNREAD: Final = 1000
"""Nobody counts further; and nobody has to wait until that many are counted."""

MOST_ROOMS: Final = 1000
ENTRY_BYTES: Final = 300
"""A list of rooms has so many at most, and what its room in the send queue takes: a room's name
of 64 characters, doubled by escapes, and its numbers."""


async def join(connection: Connection, command: commands.Join) -> Reply[commands.Entered]:
    """Enter a room, or resume in it. The answer's page comes first, live events after it."""
    chat, limits = connection.chat, connection.chat.settings.limits
    name = resolve(chat, connection.user, command.room)
    check_may_read(connection, name.fold)
    memberships = connection.memberships
    direct = name.fold.startswith("@")
    if not direct and name.fold not in memberships and connection.joined >= limits.rooms_per_client:
        raise Refused("forbidden", f"{limits.rooms_per_client} rooms at once are enough")
    await connection.outbox.drained()
    room = await (open_direct(connection, name) if direct else chat.rooms.open(name))
    membership = memberships.get(name.fold)
    if membership is None:
        membership = connection.enter(room)
    membership.pause()
    try:
        caught = await catch(
            chat.journal,
            room.feed,
            command.since,
            page_size(command.limit),
            limits.send_queue_bytes,
            messages=command.messages,
        )
        read, unread = await _unread(connection, room.feed.key)
    except Unavailable:
        connection.exit(membership)
        raise
    return Reply(
        commands.Entered(
            room=room.name,
            epoch=chat.journal.epoch,
            seq=room.feed.visible,
            topic=room.about,
            may_set_topic=may_set_topic(connection, room.feed.key),
            members=room.member_list(),
            member_count=len(room.members),
            events=[events.shape(room.name, event) for event in caught.page],
            recovered=caught.recovered,
            read=read,
            unread=unread,
        ),
        partial(membership.start, caught.position),
    )


async def _unread(connection: Connection, room: str) -> tuple[int, int] | tuple[None, None]:
    """Give up to where the user has read a room, and how much of others is behind that."""
    user = connection.user
    read = user.marks.get(room)
    if read is None and not room.startswith("@"):
        return None, None
    unread = await connection.chat.journal.unread(room, user.id, read or 0, MOST_UNREAD)
    if read is None and not unread:  # nothing is kept between guests, who count for themselves
        return None, None
    return read or 0, unread


async def leave(connection: Connection, command: commands.Leave) -> Reply[commands.RoomLeft]:
    """Leave a room; nothing of it follows the answer."""
    # What the client said before is seen before.
    await connection.flushed()
    membership = await require_membership(connection, command.room)
    if membership.room.direct:
        raise Refused("bad_request", "direct messages are not joined and not left")
    return Reply(commands.RoomLeft(membership.room.name), partial(connection.exit, membership))


async def who(connection: Connection, command: commands.Who) -> Reply[commands.Members]:
    """Tell who is in a room, a page at a time."""
    chat = connection.chat
    name = resolve(chat, connection.user, command.room)
    after = None if command.after is None else nick_name(command.after)
    check_may_read(connection, name.fold)
    if room := chat.rooms.get(name.fold):
        members = room.member_list(after.fold if after else "", page_size(command.limit))
        return Reply(commands.Members(members, len(room.members)))
    if await chat.journal.head(name.fold) is None:
        raise Refused("not_found", f"there is no room {name.shown}")
    return Reply(commands.Members([], 0))


async def list_rooms(connection: Connection, command: commands.Rooms) -> Reply[commands.RoomList]:
    """Tell which rooms have members or events: direct messages' first, then the others by name."""
    chat, user = connection.chat, connection.user
    await connection.outbox.drained()
    after = None if command.after is None else resolve(chat, user, command.after)
    found = [*await _conversations(connection), *await chat.rooms.entries()]
    room = chat.settings.limits.send_queue_bytes // QUEUE_SHARE
    listed: list[commands.RoomInfo] = []
    more = False
    for fold, entry in found:
        if after is not None and _place(fold) <= _place(after.fold):
            continue
        if not may_read(connection, fold):
            continue
        room -= ENTRY_BYTES + len(entry.topic)
        if len(listed) == MOST_ROOMS or (room < 0 and listed):
            more = True
            break
        read, unread = await _unread(connection, fold)
        listed.append(replace(entry, read=read, unread=unread))
    return Reply(commands.RoomList(listed, more))


def _place(fold: str) -> tuple[bool, str]:
    """Give what the list of rooms is ordered by."""
    return not fold.startswith("@"), fold


async def _conversations(connection: Connection) -> list[tuple[str, commands.RoomInfo]]:
    """Give the rooms of the user's direct messages."""
    chat, user = connection.chat, connection.user
    prefix = f"{user.id}\0"
    kept = [
        record.name.removeprefix(prefix) for record in await chat.journal.records(DIRECT, prefix)
    ]
    live = [room.feed.key for room in chat.rooms.direct(user.id)]
    entries: list[tuple[str, commands.RoomInfo]] = []
    for fold in sorted({*kept, *live}):
        other = other_of(fold, user.id)
        here = chat.users.get(other)
        record = None if here else await chat.journal.user(other)
        nick = here.nick.shown if here else record.nick if record else None
        if room := chat.rooms.get(fold):
            entries.append((fold, replace(room.entry(), nick=nick)))
        elif head := await chat.journal.head(fold):
            entries.append((fold, commands.RoomInfo(fold, 0, head.seq, head.topic, nick)))
    return entries
